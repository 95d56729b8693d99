"""Samplers of the long race's diffusion, chapter 06: DDPM and DDIM, few steps and more.

Nothing is trained: the averaged weights come from `long_race`, seed 0, after 90 s and after its last mark.
Without labels, so that there is no guidance. DDPM (eta = 1, new noise in every step) and DDIM (eta = 0),
5 and 20 evaluations (after 600 s also 50), the race's noise, one draw of n = 2,000 each. Of the GPT over
codes, where it is run: temperatures, and the five likeliest codes alone, three draws each. Means, with the
lowest and highest FID.
(The seconds on file are those of the scoring; pictures were kept from earlier, interrupted runs.)
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion
from aigc_helpers.models.gpt import generate

from . import long_race, side_by_side
from .side_by_side import NUM, K, Only, as_bytes, as_labels, kept_part, values_of

SEEDS = (0,)  # of the training
DRAWS = {"diffusion": (0,), "GPT over codes": (0, 1, 2)}  # seeds of the sampling
MARKS = {"diffusion": (90.0, 600.0)}  # add "GPT over codes" when `long_race` has its last mark
EVALUATIONS = {90.0: (5, 20), 600.0: (5, 20, 50)}
WRITING = {
    "temperature 0.7": {"temperature": 0.7},
    "temperature 0.85": {"temperature": 0.85},
    "temperature 1": {},
    "temperature 1.15": {"temperature": 1.15},
    "top-k 5": {"top_k": 5},
}
COLUMNS = ("FID", "precision", "recall", "coverage")


def run(progress):
    torch.set_num_threads(1)
    data = side_by_side.load_data()
    judge = DigitJudge.standard(NUM, data["all test digits"])
    rows = {}
    for name, marks in MARKS.items():
        part = long_race.train_or_load(name, SEEDS[0], data)
        for mark in marks:
            family = long_race.load_family(name, SEEDS[0], mark, part)
            for told, chosen in settings_of(name, mark).items():
                found = []
                for seed in DRAWS[name]:

                    def make(name=name, family=family, seed=seed, chosen=chosen):
                        random = torch.Generator().manual_seed(1000 + seed)  # the race's, for seed 0
                        return {"pictures": as_bytes(draw(name, family, random, **chosen))}

                    part_name = f"sampled, {name}, {mark:g} s, {told}, seed {seed}"
                    pictures = kept_part(part_name, make)["pictures"]
                    found.append(values_of(judge, pictures))
                row = summarize(found)
                rows[f"{name}, {mark:g} s, {told}"] = row
                progress(f"{name}, {mark:g} s, {told}: {row}")
    return rows


def settings_of(name, mark):
    return WRITING if name == "GPT over codes" else walks(EVALUATIONS[mark])


def draw(name, family, random, **settings):
    """NUM pictures, 250 at a time as in the race."""
    one = write if name == "GPT over codes" else walk
    parts = [one(family, label, random, **settings) for label in as_labels(NUM, None).split(250)]
    return torch.cat(parts)


def walks(evaluations):
    return {
        f"{name}, {num} evaluations": {"num_steps": num, "eta": eta}
        for name, eta in (("DDPM", 1.0), ("DDIM", 0.0))
        for num in evaluations
    }


def walk(family, label, random, **settings):
    return diffusion.draw_digits(family.averages[0], label, generator=random, **settings)


@torch.no_grad()
def write(family, label, random, **settings):
    """As `Codes.write_on` does, with settings of the sampler."""
    gpt = Only(family.averages[0], K)
    tokens = generate(gpt, K + label[:, None], 49, random, **settings)
    return family.decode(tokens[:, 1:])


def summarize(found):
    row = {column: sum(one[column] for one in found) / len(found) for column in COLUMNS}
    distances = [one["FID"] for one in found]
    return row | {
        "lowest FID": min(distances),
        "highest FID": max(distances),
        "draws": len(found),
    }
