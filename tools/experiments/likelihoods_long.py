"""The two trainings of `likelihoods` go on, chapter 06: ten times the seconds for the GPT and the VAE.

The same models, settings, data and 2,000 test digits; in one run of each the clock stops at 40, 120 and
400 s of processor time on one thread. Rates rise over 30 steps and then stay (none was tuned, and none falls
towards the end); scored are averages of the weights. "exact" and "bound" in nats for a picture of 196 bits.
"train": the same number for 2,000 training digits, binarised once, by which to see overfitting.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.models import vae

from ..experimenting import load_real_digits
from .likelihoods import NUM_TEST, PixelGpt, SmallVae, shrink

SEEDS = (0,)
MARKS = (40.0, 120.0, 400.0)
FAMILIES = {"GPT": PixelGpt, "VAE": SmallVae}


def run(progress):
    torch.set_num_threads(1)
    train = shrink(load_real_digits("train").images)
    random = torch.Generator().manual_seed(0)
    x = vae.binarise(shrink(load_real_digits("test").images)[:NUM_TEST], random)
    seen = vae.binarise(train[:NUM_TEST], random)
    rows = {}
    for seed in SEEDS:
        for name, kind in FAMILIES.items():
            family = kind(seed)
            for mark in train_to(family, train, seed):
                on_train = dict(family.nats(seen, seed))
                for what, nats in family.nats(x, seed):
                    row = {"nats": nats, "train": on_train[what], "steps": family.num_steps}
                    rows[f"{name}, {what}, {mark:g} s, seed {seed}"] = row
                    progress(f"{name}, {what}, {mark:g} s, seed {seed}: {row}")
    return rows


def train_to(family, train, seed):
    """Yields each mark when the clock passes it; the clock stands still while somebody else looks."""
    random = torch.Generator().manual_seed(seed)
    used = 0.0
    for mark in MARKS:
        while used < mark:
            began = time.process_time()
            chosen = torch.randint(len(train), (family.batch_size,), generator=random)
            family.step(vae.binarise(train[chosen], random), random)
            used += time.process_time() - began
        yield mark
