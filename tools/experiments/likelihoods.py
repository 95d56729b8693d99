"""Nats of small binary digits: a VAE's bounds and a GPT's exact cost, chapter 06, three seeds.

MNIST at 14x14: means of 2x2 pixels, each binarised by its grey value, the training digits afresh for every
batch. Each model has 40 s of processor time on one thread: 02's VAE (16 latent numbers, Adam at 2e-3,
batches of 128) and 03's GPT over 49 tokens, row by row, each one of the 16 patterns of 2x2 pixels (width 96,
three blocks, AdamW at 3e-3, batches of 64); neither had its settings tuned. Rates rise over 30 steps and then
stay; scored are averages of the weights. 2,000 test digits, binarised once: nats for a picture of 196 bits.
K: draws of z for each picture.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F

from aigc_helpers.models import vae
from aigc_helpers.models.gpt import GPT, next_token_loss
from aigc_helpers.models.vae_beyond import log_weights

from ..experimenting import load_real_digits, take_step
from .side_by_side import Family, Only

SEEDS = (0, 1, 2)
SECONDS = 40.0
NUM_TEST = 2000
START = 16  # the token before the first of the 16 patterns; its own logit is cut off
DRAWS = (1, 10, 200)


def run(progress):
    torch.set_num_threads(1)
    train = shrink(load_real_digits("train").images)
    random = torch.Generator().manual_seed(0)
    x = vae.binarise(shrink(load_real_digits("test").images)[:NUM_TEST], random)
    rows = {"each pixel by itself": {"nats": by_pixel(train, x), "kind": "exact"}}
    for seed in SEEDS:
        for name, family in (("VAE", SmallVae(seed)), ("GPT", PixelGpt(seed))):
            train_for(family, train, seed)
            for kind, nats in family.nats(x, seed):
                rows[f"{name}, {kind}, seed {seed}"] = {"nats": nats, "steps": family.num_steps}
                progress(f"{name}, {kind}, seed {seed}: {nats:.2f} after {family.num_steps} steps")
    return rows


def shrink(images):
    """Grey levels (N, 196) in [0, 1] of images (N, 1, 28, 28) in bytes."""
    return F.avg_pool2d(images.float() / 255, 2).flatten(1)


def by_pixel(train, x):
    """Nats of x when every pixel is white with its own frequency in the training digits."""
    p = train.mean(dim=0).clamp(1e-4, 1 - 1e-4)
    return -vae.bernoulli_log_likelihood(torch.logit(p), x).mean().item()


def train_for(family, train, seed):
    random = torch.Generator().manual_seed(seed)
    began = time.process_time()
    while time.process_time() - began < SECONDS:
        chosen = torch.randint(len(train), (family.batch_size,), generator=random)
        family.step(vae.binarise(train[chosen], random), random)


class SmallVae(Family):
    batch_size = 128

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.model = vae.VAE(z_dim=16, pixels=196)
        self.opt = torch.optim.Adam(self.model.parameters(), lr=2e-3, fused=True)
        self.start([self.model], [self.opt])

    def step(self, x, random):
        self.begin_step()
        distortion, rate = vae.elbo_terms(self.model, x, generator=random)
        take_step([self.opt], (distortion + rate.sum(dim=1)).mean())
        self.end_step()

    @torch.no_grad()
    def nats(self, x, seed):
        """Yields (name, minus a bound): of the same draws, the first one, the first few, all."""
        random = torch.Generator().manual_seed(seed)
        parts = [log_weights(self.averages[0], part, max(DRAWS), random) for part in x.split(50)]
        log_w = torch.cat(parts, dim=1)
        for k in DRAWS:
            bound = torch.logsumexp(log_w[:k], dim=0) - math.log(k)
            yield f"bound, K = {k}", -bound.mean().item()


class PixelGpt(Family):
    batch_size = 64

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.gpt = GPT(17, 49, 96, num_heads=4, num_blocks=3)
        self.opt = torch.optim.AdamW(
            self.gpt.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.start([self.gpt], [self.opt])

    def step(self, x, random):
        self.begin_step()
        take_step([self.opt], next_token_loss(Only(self.gpt, START), as_tokens(x)))
        self.end_step()

    @torch.no_grad()
    def nats(self, x, seed):
        gpt = Only(self.averages[0], START)
        losses = [next_token_loss(gpt, part) for part in as_tokens(x).split(100)]
        yield "exact", 49 * torch.stack(losses).mean().item()


def as_tokens(x):
    """(N, 50): the start, then the patterns of 2x2 pixels as numbers 0 to 15, row by row."""
    pixels = F.pixel_unshuffle(x.reshape(-1, 1, 14, 14), 2).long()
    worth = torch.tensor([8, 4, 2, 1]).reshape(1, 4, 1, 1)
    return F.pad((worth * pixels).sum(dim=1).flatten(1), (1, 0), value=START)
