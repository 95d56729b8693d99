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

import time

import torch
import torch.nn.functional as F
from torch import nn

from aigc_helpers.data import to_signed
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import gan, gan_beyond, vae
from aigc_helpers.training import autocast

from ..experimenting import count_weights, take_step
from . import side_by_side
from .side_by_side import LABEL_SECONDS, NUM, Family, as_bytes, kept_part

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
    random = torch.Generator().manual_seed(1000 + seed)
    began = time.process_time()
    pictures = family.draw(NUM, random, torch.arange(NUM) % 10)
    seconds = time.process_time() - began
    return {
        "steps": family.num_steps,
        "pictures seen": family.num_steps * family.batch_size,
        "of them preparing": prepared,
        "s per 1,000": 1000 / NUM * seconds,
        "pictures": as_bytes(pictures),
        "weights that draw": count_weights(*family.drawing_parts()),
        "trained weights": count_weights(*family.trained_parts()),
    }


class ConditionalGan(Family):
    """01b, section 7: pairs of the same label, R1 in every eighth step."""

    evaluations = 1

    def __init__(self, seed, rate=1e-3):
        torch.manual_seed(seed)
        layout = torch.channels_last
        self.G = gan_beyond.ConditionalGenerator().to(memory_format=layout)
        self.D = gan_beyond.ConditionalDiscriminator().to(memory_format=layout)
        self.g_opt = torch.optim.Adam(self.G.parameters(), rate, betas=(0.0, 0.99), fused=True)
        self.d_opt = torch.optim.Adam(self.D.parameters(), rate, betas=(0.0, 0.99), fused=True)
        self.start([self.G], [self.g_opt, self.d_opt])

    def trained_parts(self):
        return [self.G, self.D]

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


class ConditionalVae(Family):
    """02's VAE, told the label: a bound on log p(x | y)."""

    batch_size = 128
    evaluations = 1

    def __init__(self, seed, rate=4e-3):
        torch.manual_seed(seed)
        self.model = LabelledVae()
        self.opt = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        self.start([self.model], [self.opt])

    def drawing_parts(self):
        return [self.model.decoder]

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
