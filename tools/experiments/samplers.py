"""Samplers of the long race's diffusion and GPT, chapter 06: steps, noise, temperature, top-k.

Nothing is trained: the averaged weights come from `long_race` (after its last mark, and after 90 s),
seed 0. Diffusion without labels: DDPM (eta = 1, new noise in every step) and DDIM (eta = 0) with 5, 20 and
50 evaluations. GPT over codes: temperatures, and the five likeliest codes alone. Each is drawn with as many
sampling seeds as its row says; n = 2,000; means, with the lowest and highest FID. No guidance: these networks
have no labels to be led by.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion
from aigc_helpers.models.gpt import generate

from . import long_race, side_by_side
from .side_by_side import NUM, Only, K, as_bytes, as_labels, kept_part, values_of

SEEDS = (0, 1, 2)  # of sampling; diffusion: the first alone
TRAINED = 0  # the seed of the training
MARKS = (90.0, 600.0)
EVALUATIONS = (5, 20, 50)
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
    for name, draw, settings, seeds in (
        ("GPT over codes", write, WRITING, SEEDS),
        ("diffusion", walk, walks(), SEEDS[:1]),
    ):
        part = long_race.train_or_load(name, TRAINED, data)
        for mark in MARKS:
            family = long_race.load_family(name, TRAINED, mark, part)
            for told, chosen in settings.items():
                found = []
                for seed in seeds:

                    def make(draw=draw, family=family, seed=seed, chosen=chosen):
                        random = torch.Generator().manual_seed(1000 + seed)  # the race's, for seed 0
                        return {"pictures": as_bytes(draw(family, random, **chosen))}

                    part_name = f"sampled, {name}, {mark:g} s, {told}, seed {seed}"
                    pictures = kept_part(part_name, make)["pictures"]
                    found.append(values_of(judge, pictures))
                row = summarize(found)
                rows[f"{name}, {mark:g} s, {told}"] = row
                progress(f"{name}, {mark:g} s, {told}: {row}")
    return rows


def walks():
    return {
        f"{name}, {num} evaluations": {"num_steps": num, "eta": eta}
        for name, eta in (("DDPM", 1.0), ("DDIM", 0.0))
        for num in EVALUATIONS
    }


@torch.no_grad()
def walk(family, random, **settings):
    parts = as_labels(NUM, None).split(250)
    net = family.averages[0]
    drawn = [diffusion.draw_digits(net, part, generator=random, **settings) for part in parts]
    return torch.cat(drawn)


@torch.no_grad()
def write(family, random, **settings):
    """As `Codes.write_on` does, with settings of the sampler."""
    parts = []
    for part in as_labels(NUM, None).split(250):
        gpt = Only(family.averages[0], K)
        tokens = generate(gpt, K + part[:, None], 49, random, **settings)
        parts.append(family.decode(tokens[:, 1:]))
    return torch.cat(parts)


def summarize(found):
    row = {column: sum(one[column] for one in found) / len(found) for column in COLUMNS}
    FIDs = [one["FID"] for one in found]
    return row | {"lowest FID": min(FIDs), "highest FID": max(FIDs), "sampling seeds": len(found)}
