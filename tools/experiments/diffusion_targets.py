"""What a diffusion network is asked for, and on which schedule: chapter 04, four pairs, three seeds.

A U-Net of 24 channels is trained on MNIST for 600 steps of 32 images with Adam at 3e-3 (its rate
falls along half a cosine), averaged over the last fifth, and draws 2,000 digits by DDPM in 20
network evaluations from time 0.98, with its estimates kept within [-1, 1]. Held equal: the network,
the steps, the rate, the sampler, and for each seed the first weights, the images, the times and the
noise. Measured against 2,000 held-out digits: FID, the share that a classifier reads as ordered,
recall.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 600
PAIRS = {
    "eps, linear (Ho 2020)": ("eps", "linear"),
    "eps, cosine": ("eps", "cosine"),
    "v, cosine": ("v", "cosine"),
    "velocity, rectified flow": ("velocity", "rectified flow"),
}
DECIMALS = {"FID": 2, "accuracy": 3, "recall": 3}


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
    rows["real test digits (floor)"] = floor(judge, digits)
    return rows


def floor(judge, digits):
    """The row of real digits that are held out too."""
    score = judge.score(digits.images)
    return {"FID": f"{score.fid.floor:.2f}", "recall": f"{score.recall.floor:.3f}"}


def measure(net, judge, label, num_steps, seed, **settings):
    """FID, accuracy and recall of digits drawn from noise of this seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(judge.n, 1, 28, 28, generator=generator)
    schedule = settings.get("schedule", diffusion.RECTIFIED_FLOW)
    x = schedule.sigma(settings.get("start", 1.0)) * x  # as noisy as a mixture at that time
    drawn = diffusion.draw_many(net, label, x, num_steps, generator=generator, **settings)
    score = judge.score(drawn)
    with torch.no_grad():
        seen = torch.cat([judge.net(part).argmax(dim=1) for part in drawn.split(500)])
    accuracy = (seen == label).float().mean().item()
    return {"FID": score.fid.value, "accuracy": accuracy, "recall": score.recall.value}
