"""A diffusion Transformer beside chapter 04's U-Net, at equal seconds of training on one core.

Both are trained by `train_flow` (rectified flow, 64 images a step, AdamW, the same average of the
weights) for 75 seconds of process time: a few steps are timed first, and the number of steps is set
by that, before the rate's schedule. The learning rate is the better of 1e-3 and 3e-3 with the first
seed, for each network its own. 2,000 digits by DDIM in 20 evaluations, without guidance, the same
noise for both networks. FID against 2,000 held-out digits (`DigitJudge.standard()`).
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion import UNet, draw_many
from aigc_helpers.models.diffusion_beyond import DiT, train_flow
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, mean_and_range

SEEDS = (0, 1, 2)
SECONDS = 75
RATES = (1e-3, 3e-3)
NETWORKS = {"U-Net": UNet, "DiT": DiT}


def run(progress):
    torch.set_num_threads(1)
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    rows = {}
    for name, make in NETWORKS.items():
        trial = {}
        num_steps = count_steps(make, digits)
        for rate in RATES:
            trial[rate] = measure(make, digits, judge, num_steps, rate, SEEDS[0])
            progress(f"{name}, rate {rate}, {num_steps} steps: {trial[rate]}")
        best = min(RATES, key=lambda rate: trial[rate][0])
        found = [trial[best]]
        for seed in SEEDS[1:]:
            found.append(measure(make, digits, judge, num_steps, best, seed))
            progress(f"{name}, seed {seed}: {found[-1]}")
        fids, seconds = zip(*found, strict=True)
        rows[name] = {
            "weights": f"{sum(weight.numel() for weight in make().parameters()):,}",
            "learning rate": f"{best:g}",
            "steps": f"{num_steps}",
            "seconds of training": mean_and_range(seconds, 0),
            "FID": mean_and_range(fids, 2),
            "FID at the other rate": f"{max(fid for fid, _ in trial.values()):.2f}",
        }
    chapter_04 = load_model("diffusion")
    rows["chapter 04's trained U-Net"] = {"FID": f"{score(chapter_04, judge, SEEDS[0]):.2f}"}
    return rows


def count_steps(make, digits, tried=16):
    """So many steps fit into SECONDS of this process's time."""
    torch.manual_seed(0)
    net = make()
    train_flow(net, digits, 4)
    began = time.process_time()
    train_flow(net, digits, tried)
    return round(SECONDS * tried / (time.process_time() - began))


def measure(make, digits, judge, num_steps, rate, seed):
    """FID and seconds of training."""
    torch.manual_seed(seed)
    net = make()
    began = time.process_time()
    average, _ = train_flow(net, digits, num_steps, rate, seed)
    seconds = time.process_time() - began
    return score(average, judge, seed), seconds


def score(net, judge, seed):
    """The FID of 2,000 samples."""
    label = torch.arange(judge.n) % 10
    noise = torch.randn(judge.n, 1, 28, 28, generator=torch.Generator().manual_seed(200 + seed))
    return judge.score(draw_many(net, label, noise, 20, eta=0.0)).fid.value
