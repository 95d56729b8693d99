"""Guidance against quality: chapter 04's network, four scales, three draws of noise.

The network whose weights are kept (`assets/diffusion.safetensors`) draws 2,000 digits for each scale
w and each draw of noise, in ten steps of DDPM with its estimates kept within [-1, 1]; a draw is the
same for all rows. Without guidance (w = 0) a step costs one network evaluation, with it two.
Measured against 2,000 held-out digits: FID, the share that a classifier reads as ordered, recall.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, summarize
from .diffusion_targets import DECIMALS, floor, measure

SEEDS = (0, 1, 2)
NUM_STEPS = 10
SCALES = (0.0, 0.5, 1.0, 3.0)


def run(progress):
    net = load_model("diffusion")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    label = torch.arange(judge.n) % 10
    rows = {}
    for w in SCALES:
        led = diffusion.guided(net, w) if w else net
        found = [measure(led, judge, label, NUM_STEPS, seed) for seed in SEEDS]
        rows[f"w = {w:g}"] = summarize(found, DECIMALS)
        progress(f"w = {w:g}: {rows[f'w = {w:g}']}")
    rows["real test digits (floor)"] = floor(judge, load_real_digits("train"))
    return rows
