"""The score to beat in chapter 02's open exercise, and the solution's, after 400 steps, five seeds.

VAE(z_dim=8) with Adam at 2e-3, ConvVAE(z_dim=32) with Adam at 4e-3; batches of 128 MNIST images,
binarised afresh; the mean ELBO on the same 2,000 binarised test images. Held equal: the steps, the
batches of a seed, the test pictures.
"""

from __future__ import annotations

import torch

from aigc_helpers.models.vae import VAE, ConvVAE, binarise, mean_elbo, train_open

from ..experimenting import load_real_digits, spread

SEEDS = (0, 1, 2, 3, 4)
NUM_STEPS = 400


def run(progress):
    images = load_real_digits("train").images
    test = load_real_digits("test").images[:2000]
    x = binarise(test, torch.Generator().manual_seed(0))
    rivals = {
        "VAE(z_dim=8)": (lambda: VAE(z_dim=8), 2e-3),
        "the solution": (lambda: ConvVAE(z_dim=32), 4e-3),
    }
    return {name: five_runs(*rival, images, x, progress) for name, rival in rivals.items()}


def five_runs(make, lr, images, x, progress):
    """The row of one model: its ELBO over the seeds, in nats."""
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = make()
        opt = torch.optim.Adam(model.parameters(), lr=lr)
        found.append(mean_elbo(train_open(model, opt, images, NUM_STEPS, seed), x))
        progress(f"seed {seed}: {found[-1]:.2f}")
    return spread("ELBO", found, 2)
