"""Five families on one density in the plane whose truth is known: equal seconds, three seeds each.

Each family of chapter 06 trains on the same 200,000 points of the truth for four seconds of one
processor core, the fall of its learning rate included: so many steps as fit in at the speed of its
first few hundred steps. Gradients are clipped to length 1. Tuning: three learning rates, at seed 9,
by the KL of eq. (3); the best is kept. R1, batch size and networks were not tuned. One row more:
the flow, one seed, with five times the steps. Scored with 20,000 samples; nats and energy
distance against 2,000 and 5,000 held-out points, the same for all. The floor is 20,000 points of
the truth. Not equal: weights, and steps.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.models import side_by_side
from aigc_helpers.models.side_by_side import PLANE_FAMILIES, TRUTH, draw_plane, score_plane, score_points

from ..experimenting import count_weights, mean_and_range

SEEDS = (0, 1, 2)
TUNING_SEED = 9
SECONDS = 4.0
RATES = (3e-3, 9e-3, 27e-3)
LONGER = 5
DECIMALS = {"KL": 3, "KL of 1": 3, "nats": 3, "energy": 2, "modes": 1, "between": 2}
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
            scores.append(race(family, points, held_out, num_steps, seed))
            progress(f"{family}, seed {seed}: {scores[-1]}")
        costs = {"weights": drawing_weights(family), "evaluations": EVALUATIONS[family]}
        rows[family] = summarize(scores) | costs | {
            "rate": f"{rate:g}",
            "tried": ", ".join(f"{rate:g}: {kl:.2f}" for rate, kl in tried.items()),
            "steps": f"{num_steps:,}",
        }
        if family == "flow":
            longer = race(family, points, held_out, LONGER * num_steps, 0)
            progress(f"flow, {LONGER} times the steps: {longer}")
            rows[f"flow, {LONGER} times the steps, one seed"] = summarize([longer]) | costs | {
                "rate": f"{rate:g}",
                "steps": f"{LONGER * num_steps:,}",
            }
    floors = [score_points(draw_truth(20_000, 10 + seed), held_out) for seed in SEEDS]
    rows["real data (floor)"] = summarize(floors)
    return rows


def draw_truth(n, seed):
    return TRUTH.sample(n, torch.Generator().manual_seed(seed)).float()


def race(family, points, held_out, num_steps, seed):
    """The measures of one training, with its seconds, and milliseconds for 1,000 points drawn."""
    began = time.process_time()
    model = side_by_side.train_plane(family, points, num_steps, seed)
    seconds = time.process_time() - began
    began = time.process_time()
    drawn = draw_plane(family, model, 20_000, torch.Generator().manual_seed(seed))
    drawing = 1000 * (time.process_time() - began) / 20
    score = score_plane(family, model, held_out, seed)
    other = side_by_side.grid_kl(drawn, start=1.0)  # eq. (3), each cell with a whole point
    return score | {"KL of 1": other, "seconds": seconds, "drawing": drawing}


def drawing_weights(family):
    """How many weights are needed to draw: of a VAE its decoder's, and the width."""
    model = side_by_side.make_plane(family)
    weights = count_weights(model)
    if family == "VAE":
        weights -= count_weights(model.encoder)
    return f"{weights:,}"


def steps_in(family, points, seconds):
    """How many steps fit into so many seconds of one core, from three hundred after fifty."""
    side_by_side.train_plane(family, points, 50)
    began = time.process_time()
    side_by_side.train_plane(family, points, 300)
    return round(300 * seconds / (time.process_time() - began))


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
            alone = len(scores) == 1
            row[name] = f"{values[0]:.{decimals}f}" if alone else mean_and_range(values, decimals)
    for name, decimals in (("seconds", 1), ("drawing", 2)):
        values = [score[name] for score in scores if name in score]
        if values:
            row[name] = f"{sum(values) / len(values):.{decimals}f}"
    return row
