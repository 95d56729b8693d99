"""A VAE, and the same without its noise, without its rate, and without both: chapter 02, three seeds.

Each model is trained for 600 steps of 128 binarised MNIST images with Adam at 2e-3. Held equal: the
networks, eight latent numbers, steps, learning rate, and for each seed the first weights and the
batches. Measured: what the encoder does with 2,000 test digits, and the FID (2,000 samples against
2,000 held-out digits), precision and coverage of pictures decoded from N(0, I), and the FID of those
decoded from a Gaussian fitted to the codes of 2,000 training digits, and half-way between the codes
of 2,000 pairs of training digits.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.vae import binarise, habits_of, take_away

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 600
DECIMALS = {
    "D + R, z drawn": 1,
    "FID": 1,
    "precision": 2,
    "coverage": 2,
    "FID, fitted": 1,
    "FID, half-way": 1,
}


def run(progress):
    images = load_real_digits("train").images
    test = load_real_digits("test")
    judge = DigitJudge.standard(2000, test)
    x = binarise(test.images[:2000], _seeded(0))
    found = {}
    for seed in SEEDS:
        for name, model in take_away(images, NUM_STEPS, seed):
            row = habits_of(model, x) | measure(model, images, judge, seed)
            found.setdefault(name, []).append(row)
            progress(f"seed {seed}, {name}: {row}")
    return {name: summarize(rows, DECIMALS) for name, rows in found.items()}


@torch.no_grad()
def measure(model, images, judge, seed):
    """The three FIDs of one model."""
    first, _ = model.encode(binarise(images[: judge.n], _seeded(2)))
    second, _ = model.encode(binarise(images[-judge.n :], _seeded(3)))
    u = torch.randn(judge.n, 8, generator=_seeded(seed))
    factor = torch.linalg.cholesky(torch.cov(first.T))
    codes = {
        "FID": u,
        "FID, fitted": first.mean(dim=0) + u @ factor.T,
        "FID, half-way": (first + second) / 2,
    }
    found = {}
    for column, z in codes.items():
        score = judge.score(torch.sigmoid(model.decode(z)) * 2 - 1)
        found[column] = score.fid.value
        if column == "FID":
            found["precision"] = score.precision.value
            found["coverage"] = score.coverage.value
    return found


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
