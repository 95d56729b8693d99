"""Network evaluations against quality: chapter 04's network, DDIM and DDPM, three draws of noise.

The network whose weights are kept (`assets/diffusion.safetensors`) draws 2,000 digits for each row
and each draw of noise; a draw is the same for all rows. Measured against 2,000 held-out digits: FID,
the share that a classifier reads as ordered, recall.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, summarize
from .diffusion_targets import DECIMALS, floor, measure

SEEDS = (0, 1, 2)
SAMPLERS = {"DDIM": 0.0, "DDPM": 1.0}
EVALUATIONS = (5, 10, 20)


def run(progress):
    net = load_model("diffusion")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    label = torch.arange(judge.n) % 10
    plans = {}
    for name, eta in SAMPLERS.items():
        for k in EVALUATIONS:
            plans[f"{name}, {k}"] = (k, {"eta": eta})
    rows = {}
    for name, (k, settings) in plans.items():
        found = [measure(net, judge, label, k, seed, **settings) for seed in SEEDS]
        rows[name] = summarize(found, DECIMALS)
        progress(f"{name}: {rows[name]}")
    rows["real test digits (floor)"] = floor(judge, load_real_digits("train"))
    return rows
