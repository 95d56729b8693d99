"""Posterior collapse in chapter 02: a plain deep decoder, remedies and a control, four seeds each.

Each model is trained for 600 steps of 128 binarised MNIST images with Adam at 1e-3, and measured on
2,000 test images. Held equal: the encoder, the number of layers and their width, 20 latent numbers,
steps, learning rate, a weight of 1 for the rate at the end (but for the control, whose weight is 0),
and for each seed the batches. "D + R" is an upper bound on -log p(x). The last rows repeat four of
them with decoders of two more layers in place of six.
"""

from __future__ import annotations

import torch

from aigc_helpers.models.vae import (
    DEPTH,
    VAE,
    PlainVAE,
    SkipVAE,
    binarise,
    clinic,
    elbo_terms,
    mlp,
    train_small,
)

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2, 3)
NUM_STEPS = 600
DECIMALS = {"active, of 20": 1, "rate": 1, "D": 1, "D + R": 1}


class DeepVAE(VAE):
    """The decoder has DEPTH residual blocks: skips, LayerNorm and SiLU."""

    def __init__(self, z_dim=20, hidden=256):
        super().__init__(z_dim, hidden)
        self.decoder = mlp(z_dim, hidden, DEPTH, self.pixels)


class XavierPlainVAE(PlainVAE):
    """Larger first weights, made for Tanh (Glorot & Bengio 2010), in the layers before the last."""

    def __init__(self, z_dim=20, hidden=256):
        super().__init__(z_dim, hidden)
        gain = torch.nn.init.calculate_gain("tanh")
        for part in list(self.decoder.modules())[:-1]:
            if isinstance(part, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(part.weight, gain)


class ShortPlainVAE(PlainVAE):
    layers = 2


class ShortSkipVAE(SkipVAE):
    layers = 2


OTHERS = {  # name -> settings of train_small
    "plain, larger first weights": {"network": XavierPlainVAE},
    "residual blocks": {"network": DeepVAE},
    "two layers: plain": {"network": ShortPlainVAE},
    "two layers: plain, warm-up": {"network": ShortPlainVAE, "warmup": NUM_STEPS // 2},
    "two layers: plain, beta = 0": {"network": ShortPlainVAE, "beta": 0.0},
    "two layers: skip connections": {"network": ShortSkipVAE},
}


def run(progress):
    images = load_real_digits("train").images
    x = binarise(load_real_digits("test").images[:2000], torch.Generator().manual_seed(0))
    found = {}
    for seed in SEEDS:
        models = [(name, model) for name, model, _ in clinic(images, NUM_STEPS, seed)]
        for name, settings in OTHERS.items():
            model, _ = train_small(images, NUM_STEPS, z_dim=20, seed=seed, lr=1e-3, **settings)
            models.append((name, model))
        for name, model in models:
            found.setdefault(name, []).append(measure(model, x))
            progress(f"seed {seed}, {name}: {found[name][-1]}")
    return {name: summarize(rows, DECIMALS) for name, rows in found.items()}


@torch.no_grad()
def measure(model, x):
    """What the table shows of one model, in nats."""
    distortion, rate = elbo_terms(model, x, generator=torch.Generator().manual_seed(0))
    per_dimension = rate.mean(dim=0)
    D = distortion.mean().item()
    R = per_dimension.sum().item()
    active = (per_dimension > 0.1).sum().item()
    return {"active, of 20": active, "rate": R, "D": D, "D + R": D + R}
