"""Told the labels, the other two families: a conditional GAN and a conditional VAE, 30 s.

Two rows beside "with labels" of `side_by_side`, measured as there: the same 50,000 digits, 30 s of processor
time on one thread, rates that rise over 30 steps and then stay, an average of the weights that draws, the
same drawing noise and judge, n = 2,000. "right digit": the share that the judge's classifier reads as the
digit asked for. "conditional GAN": 01b's networks and losses (pairs, R1 in every eighth step) at its rate of
0.001. "conditional VAE": the race's VAE whose decoder is told the label beside z (its encoder is not), at
the race's rate of 0.004. Neither was tuned for this; the GPT and the diffusion were for the race without labels.
(The seconds on file are those of the scoring; the trainings were kept from earlier runs.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from aigc_helpers.data import to_signed
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import gan, gan_beyond, vae
from aigc_helpers.training import autocast

from ..experimenting import take_step
from . import side_by_side
from .side_by_side import LABEL_SECONDS, NUM, kept_part

SEEDS = (0, 1, 2)


def run(progress):
    torch.set_num_threads(1)
    data = side_by_side.load_data()
    judge = DigitJudge.standard(NUM, data["all test digits"])
    rows = {}
    for seed in SEEDS:
        for name, kind in FAMILIES.items():

            def make(kind=kind, seed=seed):
                return train(kind(seed), data, seed)

            part = kept_part(f"{name}, seed {seed}", make)
            row = side_by_side.measure(judge, part, part, kind.evaluations)
            asked = torch.arange(NUM) % 10
            row["right digit"] = side_by_side.share_read(judge, part["pictures"], asked)
            rows[f"{name}, {LABEL_SECONDS:g} s, seed {seed}"] = row
            progress(f"{name}, seed {seed}: {row}")
    return rows


def train(family, data, seed):
    clock = side_by_side.train(family, data["images"], data["labels"], seed, (LABEL_SECONDS,))
    _, prepared = next(clock)
    asked = torch.arange(NUM) % 10
    return side_by_side.snapshot(family, prepared, seed, NUM, asked) | side_by_side.count_parts(family)


class ConditionalGan(side_by_side.Gan):
    """01b, section 7: pairs of the same label, R1 in every eighth step."""

    def __init__(self, seed, rate=1e-3):
        super().__init__(seed, rate)

    def make_networks(self):
        return gan_beyond.ConditionalGenerator(), gan_beyond.ConditionalDiscriminator()

    def step(self, pixels, label, random):
        self.begin_step()
        real = to_signed(pixels).contiguous(memory_format=torch.channels_last)
        z = torch.randn(len(real), self.G.z_dim, generator=random)
        with autocast("cpu"):
            fake = self.G(z, label)
            d_real = self.D(real, label)
            d_loss = gan_beyond.paired_discriminator_loss(d_real, self.D(fake.detach(), label))
        if self.num_steps % 8 == 0:
            with autocast("cpu"):
                d_loss = d_loss + 8 * 0.2 * gan.r1_penalty(lambda x: self.D(x, label), real)
        take_step([self.d_opt], d_loss)
        self.D.requires_grad_(False)
        with autocast("cpu"):
            d_real = self.D(real, label)
            g_loss = gan_beyond.paired_generator_loss(d_real, self.D(fake, label))
        take_step([self.g_opt], g_loss)
        self.D.requires_grad_(True)
        self.end_step()

    @torch.no_grad()
    def draw_some(self, label, random):
        G = self.averages[0]
        return G(torch.randn(len(label), G.z_dim, generator=random), label)


class LabelledVae(vae.ConvVAE):
    """The page's VAE; its decoder reads z and the label."""

    def __init__(self):
        super().__init__()
        self.decoder[0] = nn.Linear(self.z_dim + 10, self.decoder[0].out_features)

    def decode_for(self, z, label):
        """Logits (N, 784)."""
        return self.decoder(torch.cat([z, F.one_hot(label, 10)], dim=1)).float()


class ConditionalVae(side_by_side.Vae):
    """02's VAE, told the label: a bound on log p(x | y)."""

    make_model = LabelledVae

    def step(self, pixels, label, random):
        self.begin_step()
        x = vae.binarise(pixels, random)
        with autocast("cpu"):
            mu, logvar = self.model.encode(x)
            z = vae.reparameterise(mu, logvar, random)
            distortion = -vae.bernoulli_log_likelihood(self.model.decode_for(z, label), x)
        loss = (distortion + vae.gaussian_kl(mu, logvar).sum(dim=1)).mean()
        take_step([self.opt], loss)
        self.end_step()

    @torch.no_grad()
    def draw_some(self, label, random):
        model = self.averages[0]
        z = torch.randn(len(label), model.z_dim, generator=random)
        return (2 * torch.sigmoid(model.decode_for(z, label)) - 1).reshape(-1, 1, 28, 28)


FAMILIES = {"conditional GAN": ConditionalGan, "conditional VAE": ConditionalVae}
