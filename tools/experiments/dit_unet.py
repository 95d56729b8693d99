"""A two-block DiT and a U-Net (width 32) as chapter 04's denoiser, 25 seconds of training each, three seeds.

Held equal: the seconds on one thread (each network's own number of steps, from its measured speed),
batches of 64 MNIST digits, AdamW with its rate falling along half a cosine, moving average, rectified
flow with times mostly from the middle, a tenth of the labels dropped, and for each seed the digits and
the noise of the samples. The rate is the better of two for each network (1e-3 and 3e-3), chosen on seed
3, which is not among the three. Scores: 2,000 samples, 10 evaluations of DDIM, by `DigitJudge.standard()`.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion import UNet, draw_many
from aigc_helpers.models.diffusion_beyond import DiT, train_flow

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
SECONDS = 25
RATES = (1e-3, 3e-3)
NETS = {"U-Net, width 32": lambda: UNet(c=32), "DiT, 2 blocks of width 96": lambda: DiT()}
DECIMALS = {"FID": 2, "precision": 2, "recall": 2}


def run(progress):
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    rows = {}
    for name, make in NETS.items():
        num_steps = round(SECONDS * speed_of(make, digits))
        found = {rate: measure(make, digits, judge, num_steps, rate, 3)["FID"] for rate in RATES}
        rate = min(found, key=found.get)
        progress(f"{name}: {num_steps} steps, rates {found}")
        measured = []
        for seed in SEEDS:
            measured.append(measure(make, digits, judge, num_steps, rate, seed))
            progress(f"{name}, seed {seed}: {measured[-1]}")
        size = sum(weight.numel() for weight in make().parameters())
        rows[name] = {"weights": f"{size:,}", "steps": f"{num_steps:,}", "rate": f"{rate:g}"}
        rows[name] |= summarize(measured, DECIMALS)
    return rows


def speed_of(make, digits, num_steps=12):
    """Steps a second, after some to warm up."""
    train_flow(make(), digits, 4)
    began = time.perf_counter()
    train_flow(make(), digits, num_steps)
    return num_steps / (time.perf_counter() - began)


def measure(make, digits, judge, num_steps, rate, seed):
    """The scores of one training."""
    torch.manual_seed(seed)
    net, _ = train_flow(make(), digits, num_steps, rate, seed)
    label = torch.arange(judge.n) % 10
    x = torch.randn(judge.n, 1, 28, 28, generator=torch.Generator().manual_seed(100 + seed))
    scores = judge.score(draw_many(net, label, x, 10, eta=0.0)).row()
    return {key: scores[key].value for key in DECIMALS}
