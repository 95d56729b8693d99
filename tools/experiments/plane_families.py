"""Five families on one density in the plane whose truth is known: equal seconds, three seeds each.

Each family of chapter 06 trains on the same 200,000 points of the truth for four seconds of one
processor core, the fall of its learning rate included: so many steps as fit in at the speed of its
first hundred steps. Tuning: three learning rates, at seed 9, by the KL of eq. (6); the best is
kept. R1, batch size and networks were not tuned. Scored with 20,000 samples; nats and energy
distance against 2,000 and 5,000 held-out points, the same for all. The floor is 20,000 points of
the truth. Not equal: weights, and steps.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.models import side_by_side
from aigc_helpers.models.side_by_side import PLANE_FAMILIES, TRUTH, draw_plane, score_plane, score_points

from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
TUNING_SEED = 9
SECONDS = 4.0
RATES = (1e-3, 3e-3, 9e-3)
DECIMALS = {"KL": 3, "nats": 3, "energy": 2, "modes": 1, "between": 2}
EVALUATIONS = {"GAN": "1", "VAE": "1", "autoregressive": "2", "flow": "1", "diffusion": "40"}


def run(progress):
    torch.set_num_threads(1)
    points = draw_truth(200_000, 1)
    held_out = draw_truth(5000, 2)
    rows = {}
    for family in PLANE_FAMILIES:
        num_steps = steps_in(family, points, SECONDS)
        tried = {rate: tune(family, points, num_steps, rate) for rate in RATES}
        rate = min(tried, key=tried.get)
        progress(f"{family}: {num_steps} steps, KL by rate {tried}")
        side_by_side.PLANE_RATES[family] = rate
        scores = []
        for seed in SEEDS:
            began = time.process_time()
            model = side_by_side.train_plane(family, points, num_steps, seed)
            seconds = time.process_time() - began
            began = time.process_time()
            draw_plane(family, model, 20_000, torch.Generator().manual_seed(seed))
            drawing = 1000 * (time.process_time() - began) / 20
            score = score_plane(family, model, held_out, seed)
            scores.append(score | {"seconds": seconds, "drawing": drawing})
            progress(f"{family}, seed {seed}: {scores[-1]}")
        rows[family] = summarize(scores) | {
            "rate": f"{rate:g}",
            "steps": f"{num_steps:,}",
            "weights": f"{sum(w.numel() for w in model.parameters()):,}",
            "evaluations": EVALUATIONS[family],
        }
    floors = [score_points(draw_truth(20_000, 10 + seed), held_out) for seed in SEEDS]
    rows["real data (floor)"] = summarize(floors)
    return rows


def draw_truth(n, seed):
    return TRUTH.sample(n, torch.Generator().manual_seed(seed)).float()


def steps_in(family, points, seconds):
    """How many steps fit into so many seconds of one core, from a hundred after twenty."""
    side_by_side.train_plane(family, points, 20)
    began = time.process_time()
    side_by_side.train_plane(family, points, 100)
    return round(100 * seconds / (time.process_time() - began))


def tune(family, points, num_steps, rate):
    """The KL of eq. (6) after training at this rate."""
    side_by_side.PLANE_RATES[family] = rate
    model = side_by_side.train_plane(family, points, num_steps, TUNING_SEED)
    drawn = draw_plane(family, model, 20_000, torch.Generator().manual_seed(TUNING_SEED))
    return side_by_side.grid_kl(drawn)


def summarize(scores):
    """Mean and range over the seeds of each measure; seconds and drawing as means alone."""
    row = {}
    for name, decimals in DECIMALS.items():
        values = [score[name] for score in scores if name in score]
        if values:
            row[name] = mean_and_range(values, decimals)
    for name, decimals in (("seconds", 1), ("drawing", 2)):
        values = [score[name] for score in scores if name in score]
        if values:
            row[name] = f"{sum(values) / len(values):.{decimals}f}"
    return row
