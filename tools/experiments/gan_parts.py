"""The digit GAN of chapter 01 without one of its parts a row, three seeds each.

Each row is trained for 1,500 steps of 64 MNIST images, at the chapter's learning rate (2e-3, chosen
with all the parts in place) unless it says otherwise, and scored by `DigitJudge.standard()` at
n = 2,000. Held equal: networks, steps, batch size, and for each seed the first weights, the order
of the batches and the noise of training and of the samples. The row without the average scores the
generator itself, of the very runs of the first row. The bare loop has neither average nor fading
rate, R1 or spread, and no momentum.
"""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aigc_helpers.data import to_signed
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.gan import (
    DigitDiscriminator,
    DigitGenerator,
    discriminator_objective,
    generator_loss,
    init_weights,
    r1_penalty,
)
from aigc_helpers.training import autocast, seed_everything, steps

from ..experimenting import load_real_digits
from . import gan_mends

SEEDS = (0, 1, 2)
NUM_STEPS = 1500
BATCH = 64
R1_EVERY = 8
LR = 2e-3
DECIMALS = {"FID": 2, "precision": 2, "recall": 2, "coverage": 2}
ROWS = {  # what differs from the chapter's loop
    "all parts": {},
    "without the average": {"average": False},
    "without the fading rate": {"fade": False},
    "without the spread of the batch": {"spread": False},
    "without R1": {"r1": 0.0},
    "the bare loop": {"average": False, "fade": False, "spread": False, "r1": 0.0},
    "with momentum 0.5": {"beta1": 0.5},
    "with momentum 0.9": {"beta1": 0.9},
    "with momentum 0.9, a tenth of the rate": {"beta1": 0.9, "lr": 2e-4},
    "with the minimax loss": {"loss": "minimax"},
}


class Alone(DigitDiscriminator):
    """The discriminator without the spread of its batch: the last feature is always 0."""

    def logits(self, features):
        nothing = features.new_zeros(len(features), 1)
        return self.head(torch.cat([features, nothing], dim=1)).squeeze(1).float()


def run(progress):
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    scores = {name: [] for name in ROWS}
    for seed in SEEDS:
        for name, settings in ROWS.items():
            if name == "without the average":
                continue  # it comes with the first row
            settings = dict(settings)
            with_average = settings.pop("average", True)
            G, averaged = train_digits(digits, seed, **settings)
            best = averaged if with_average else G
            scores[name].append(judge.score(draw(best, judge.n, seed)).row())
            if name == "all parts":
                scores["without the average"].append(judge.score(draw(G, judge.n, seed)).row())
            progress(f"seed {seed}, {name}: {scores[name][-1]['FID'].value:.3f}")
    rows = {
        name: {column: gan_mends.summarize(found, column, DECIMALS) for column in DECIMALS}
        for name, found in scores.items()
    }
    floor = scores["all parts"][0]
    rows["real digits (floor)"] = {column: f"{floor[column].floor:.2f}" for column in DECIMALS}
    return rows


def train_digits(
    digits, seed, loss="non-saturating", r1=1.0, fade=True, spread=True, beta1=0.0, lr=LR
):
    """(generator, its average) after the chapter's training with these changes."""
    seed_everything(seed)
    layout = torch.channels_last
    G = DigitGenerator().apply(init_weights).to(memory_format=layout)
    D = (DigitDiscriminator if spread else Alone)().apply(init_weights).to(memory_format=layout)
    g_opt = torch.optim.Adam(G.parameters(), lr, betas=(beta1, 0.99), fused=True)
    d_opt = torch.optim.Adam(D.parameters(), lr, betas=(beta1, 0.99), fused=True)
    update = get_ema_multi_avg_fn(decay=1 - 1 / round(0.15 * NUM_STEPS))
    average = AveragedModel(G, multi_avg_fn=update, use_buffers=True)
    noise = torch.Generator().manual_seed(seed)
    for step, (x, _) in steps(digits, NUM_STEPS, BATCH, seed=seed):
        if fade:
            for opt in (g_opt, d_opt):
                opt.param_groups[0]["lr"] = lr * min(1.0, (1 - step / NUM_STEPS) / 0.4)
        real = to_signed(x).contiguous(memory_format=layout)
        z = torch.randn(BATCH, 64, generator=noise)
        with autocast("cpu"):
            fake = G(z)
            d_loss = discriminator_objective(D, real, fake, loss)
        if r1 > 0 and step % R1_EVERY == 0:
            d_loss = d_loss + R1_EVERY * r1 * r1_penalty(D, real)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        D.requires_grad_(False)
        with autocast("cpu"):
            g_loss = generator_loss(D(fake), loss)
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        average.update_parameters(G)
    return G, average.module


def draw(G, n, seed):
    z = torch.randn(n, 64, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        return G.float().eval()(z)
