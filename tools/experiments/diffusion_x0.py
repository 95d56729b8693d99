"""One more row beside `diffusion_targets`, by its recipe: a network that is asked for the data.

As there: a U-Net of 24 channels, 600 steps of 32 images, the same rate, the same sampler, three
seeds, each with the same first weights, images, times and noise as that seed's rows there. Measured
against 2,000 held-out digits.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion

from ..experimenting import load_real_digits, summarize
from .diffusion_targets import DECIMALS, NUM_STEPS, SEEDS, measure

PAIRS = {"x0, cosine": ("x0", "cosine")}


def run(progress):
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    label = torch.arange(judge.n) % 10
    rows = {}
    for name, (target, schedule_name) in PAIRS.items():
        schedule = diffusion.make_schedule(schedule_name)
        found = []
        for seed in SEEDS:
            net = diffusion.train_denoiser(digits, target, schedule, NUM_STEPS, seed)
            settings = {"schedule": schedule, "target": target, "start": 0.98}
            found.append(measure(net, judge, label, 20, seed, **settings))
            progress(f"{name}, seed {seed}: {found[-1]}")
        rows[name] = summarize(found, DECIMALS)
    return rows
