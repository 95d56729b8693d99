"""Why 06's live VAE scores otherwise than the stored race: one thing changed at a time, three seeds.

The race's VAE after 500 steps (some 15 seconds), trained on the race's 50,000 digits (drawn from all 60,000)
or on the first 50,000 (the page's live run), and after 450 and 550 steps. Its 2,000 pictures are drawn
with the race's noise (seed 1000 + s), with the live run's (seed 1), and with eight others; and scored
as the race does, rounded to 256 grey levels, or as they come, as the live run does.
FID by `DigitJudge.standard()`, n = 2,000. The page's own loop, with the race's digits: its weights
are compared with the race's after the same number of steps.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import side_by_side as page

from ..experimenting import load_real_digits
from . import side_by_side

SEEDS = (0, 1, 2)
STEPS = (450, 500, 550)
MIDDLE = 500
LIVE_NOISE = 1  # the seed of the page's `draw_vae`
OTHER_NOISES = tuple(range(2000, 2008))
NUM = 2000


def run(progress):
    torch.set_num_threads(1)
    data = side_by_side.load_data()
    judge = DigitJudge.standard(NUM, data["all test digits"])
    splits = {
        "race's digits": data["images"],
        "first 50,000": load_real_digits("train").images[:50_000],
    }
    rows = {}
    for seed in SEEDS:
        for split, images in splits.items():
            for family in train(images, seed):
                row = score(judge, family, seed)
                rows[f"{split}, {family.num_steps} steps, seed {seed}"] = row
                progress(f"{split}, {family.num_steps} steps, seed {seed}: {row}")
    row = compare_loops(data["images"])
    rows["page's loop against the race's, 3 s"] = row
    progress(f"the loops: {row}")
    return rows


def train(images, seed, marks=STEPS):
    """The race's VAE: yields it whenever it has taken so many steps."""
    family = side_by_side.Vae(seed)
    random = torch.Generator().manual_seed(seed)
    for mark in marks:
        while family.num_steps < mark:
            chosen = torch.randint(len(images), (family.batch_size,), generator=random)
            family.step(images[chosen], None, random)
        yield family


def score(judge, family, seed):
    row = {}
    for name, noise in (("race's noise", 1000 + seed), ("live noise", LIVE_NOISE)):
        images = family.draw(NUM, torch.Generator().manual_seed(noise))
        row[f"{name}, rounded"] = fid(judge, side_by_side.as_bytes(images))
        row[f"{name}, as drawn"] = fid(judge, images)
    if family.num_steps == MIDDLE:
        others = []
        for noise in OTHER_NOISES:
            images = family.draw(NUM, torch.Generator().manual_seed(noise))
            others.append(fid(judge, side_by_side.as_bytes(images)))
        row |= {"other noise, lowest": min(others), "other noise, highest": max(others)}
    return row


def fid(judge, images):
    return judge.score(images).fid.value


def compare_loops(images):
    """The largest difference of any weight between the page's loop and the race's, equal steps."""
    average, num_steps = page.train_vae_for(images, 3, 0)
    (family,) = train(images, 0, (num_steps,))
    pairs = zip(average.parameters(), family.averages[0].parameters(), strict=True)
    return {"steps": num_steps, "largest difference": max((a - b).abs().max().item() for a, b in pairs)}
