"""A two-block DiT beside a U-Net of width 32 like chapter 04's: 25 seconds each, three seeds.

Held equal: the processor's seconds on one thread (each network's number of steps follows from its
measured speed), batches of 64 MNIST digits, AdamW with its rate falling along half a cosine, moving
average, rectified flow with times mostly from the middle, a tenth of the labels dropped, and for each
seed the digits and the noise of the samples. The rate of each network is the one of 1e-3, 2e-3 and 4e-3
with the lower loss after 7 seconds of seed 3, which is not among the three. Scores: 2,000 samples, 10
evaluations of DDIM, by `DigitJudge.standard()`; read as asked: by the judge's own classifier.
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
SECONDS_TO_CHOOSE = 7
RATES = (1e-3, 2e-3, 4e-3)
NETS = {"U-Net, width 32": lambda: UNet(c=32), "DiT, 2 blocks of width 96": lambda: DiT()}
DECIMALS = {"FID": 2, "precision": 2, "recall": 2, "read as asked, %": 1}


def run(progress):
    torch.set_num_threads(1)
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    rows = {}
    for name, make in NETS.items():
        speed = speed_of(make, digits)
        num_steps = round(SECONDS * speed)
        few = round(SECONDS_TO_CHOOSE * speed)
        found = {rate: loss_of(make, digits, few, rate) for rate in RATES}
        rate = min(found, key=found.get)
        progress(f"{name}: {num_steps} steps; losses after {few}: {found}")
        measured = []
        for seed in SEEDS:
            measured.append(measure(make, digits, judge, num_steps, rate, seed))
            progress(f"{name}, seed {seed}: {measured[-1]}")
        size = sum(weight.numel() for weight in make().parameters())
        rows[name] = {"weights": f"{size:,}", "steps": f"{num_steps:,}", "rate": f"{rate:g}"}
        rows[name] |= summarize(measured, DECIMALS)
    return rows


def speed_of(make, digits, num_steps=30):
    """Steps a second, after some to warm up."""
    train_flow(make(), digits, 4)
    began = time.process_time()
    train_flow(make(), digits, num_steps)
    return num_steps / (time.process_time() - began)


def loss_of(make, digits, num_steps, rate, seed=3):
    """The mean loss of the last third of a short training."""
    torch.manual_seed(seed)
    _, losses = train_flow(make(), digits, num_steps, rate, seed)
    last = losses[-(num_steps // 3) :]
    return sum(last) / len(last)


def measure(make, digits, judge, num_steps, rate, seed):
    """The scores of one training."""
    torch.manual_seed(seed)
    net, _ = train_flow(make(), digits, num_steps, rate, seed)
    label = torch.arange(judge.n) % 10
    x = torch.randn(judge.n, 1, 28, 28, generator=torch.Generator().manual_seed(100 + seed))
    drawn = draw_many(net, label, x, 10, eta=0.0)
    scores = judge.score(drawn).row()
    row = {key: scores[key].value for key in ("FID", "precision", "recall")}
    with torch.no_grad():
        read = torch.cat([judge.net(part).argmax(dim=1) for part in drawn.split(500)])
    return row | {"read as asked, %": 100 * (read == label).float().mean().item()}
