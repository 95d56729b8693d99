"""Three widths for the pixels of a small VAE on grey digits (chapter 02b), three seeds each.

600 steps of 128 MNIST images with Adam at 2e-3, a VAE of 16 latent numbers, Gaussian pixels of width s
(eq. (4)): s squared is 1/2 (the sum of squares, plus the KL), 784/2 (the mean of squares, plus the KL),
or learnt. Held equal: network, steps, learning rate, and for each seed first weights and batches.
Measured on 2,000 test images: the root of the mean squared error at a draw of z, the rate, and how many
latent dimensions have a rate above a tenth of a nat.
"""

from __future__ import annotations

import math

import torch

from aigc_helpers.data import as_unit
from aigc_helpers.models.vae import gaussian_kl, reparameterise
from aigc_helpers.models.vae_beyond import train_grey

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 600
WIDTHS = {
    "mean of squares + KL": math.sqrt(784 / 2),
    "sum of squares + KL": math.sqrt(1 / 2),
    "width learnt": None,
}
DECIMALS = {"width s": 3, "error (root mean square)": 3, "rate": 1, "alive, of 16": 0}


def run(progress):
    images = load_real_digits("train").images
    x = as_unit(load_real_digits("test").images[:2000]).flatten(1)
    found = {name: [] for name in WIDTHS}
    for seed in SEEDS:
        for name, width in WIDTHS.items():
            model, s = train_grey(images, NUM_STEPS, width, seed)
            mu, logvar = model.encode(x)
            z = reparameterise(mu, logvar, torch.Generator().manual_seed(0))
            rate = gaussian_kl(mu, logvar).mean(dim=0)
            row = {
                "width s": s,
                "error (root mean square)": (x - model.decode(z)).square().mean().sqrt().item(),
                "rate": rate.sum().item(),
                "alive, of 16": (rate > 0.1).sum().item(),
            }
            found[name].append(row)
            progress(f"seed {seed}, {name}: {row}")
    return {name: summarize(rows, DECIMALS) for name, rows in found.items()}
