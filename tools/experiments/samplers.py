"""Samplers of the long race's diffusion, chapter 06: DDPM and DDIM, few steps and more.

Nothing is trained: the averaged weights come from `long_race`, seed 0, after 90 s and after its last mark.
Without labels, so that there is no guidance. DDPM (eta = 1, new noise in every step) and DDIM (eta = 0),
5 and 20 evaluations (after 600 s also 50), the race's noise, one draw of n = 2,000 each.
(The seconds on file are those of the scoring; pictures were kept from earlier, interrupted runs.)
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion

from . import long_race, side_by_side
from .side_by_side import NUM, as_bytes, as_labels, kept_part, values_of

SEEDS = (0,)  # of the training
DRAWS = (0,)  # seeds of the sampling
EVALUATIONS = {90.0: (5, 20), 600.0: (5, 20, 50)}  # after so many seconds of training
COLUMNS = ("FID", "precision", "recall", "coverage")


def run(progress):
    torch.set_num_threads(1)
    data = side_by_side.load_data()
    judge = DigitJudge.standard(NUM, data["all test digits"])
    part = long_race.train_or_load("diffusion", SEEDS[0], data)
    rows = {}
    for mark, evaluations in EVALUATIONS.items():
        family = long_race.load_family("diffusion", SEEDS[0], mark, part)
        for told, settings in settings_of(evaluations).items():
            name = f"diffusion, {mark:g} s, {told}"
            found = []
            for seed in DRAWS:

                def make(family=family, seed=seed, settings=settings):
                    return {"pictures": draw(family, seed, **settings)}

                pictures = kept_part(f"sampled, {name}, seed {seed}", make)["pictures"]
                found.append(values_of(judge, pictures))
            rows[name] = summarize(found)
            progress(f"{name}: {rows[name]}")
    return rows


def settings_of(evaluations):
    return {
        f"{name}, {num} evaluations": {"num_steps": num, "eta": eta}
        for name, eta in (("DDPM", 1.0), ("DDIM", 0.0))
        for num in evaluations
    }


def draw(family, seed, **settings):
    """NUM pictures as bytes, 250 at a time as in the race."""
    random = torch.Generator().manual_seed(1000 + seed)  # the race's, for seed 0
    images = [
        diffusion.draw_digits(family.averages[0], label, generator=random, **settings)
        for label in as_labels(NUM, None).split(250)
    ]
    return as_bytes(torch.cat(images))


def summarize(found):
    """Means over the draws, with the lowest and the highest FID."""
    row = {column: sum(one[column] for one in found) / len(found) for column in COLUMNS}
    distances = [one["FID"] for one in found]
    return row | {
        "lowest FID": min(distances),
        "highest FID": max(distances),
        "draws": len(found),
    }
