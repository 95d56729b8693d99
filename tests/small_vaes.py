"""Small untrained VAEs, and black and white noise for them: used by the tests of 02 and 02b."""

import torch

from aigc_helpers.models import vae


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_binary(num, pixels=784, seed=0):
    return torch.bernoulli(torch.full((num, pixels), 0.2), generator=seeded(seed))


def make_vae(z_dim=3, **sizes):
    torch.manual_seed(0)
    return vae.VAE(z_dim, **({"hidden": 8, "blocks": 1} | sizes)).eval()
