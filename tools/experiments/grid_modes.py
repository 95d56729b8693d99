"""Modes of the 25-clump grid that GANs reach, by loss and penalty, five seeds each.

Each variant of 01b_gan_beyond is trained on 10,000 points, and 2,000 of its samples are compared
with 2,000 fresh ones, the same for all rows of a seed. Held equal between the variants: networks,
steps, learning rates, batch size. The five seeds are trained side by side, each with its own
numbers. R1 and R2 weigh 0.1 where a row's name gives no other weight; nothing was tuned for one
of the rows. WGAN-GP has the same networks, rates, batch and steps of G, five steps of its critic
for each of G's, and a penalty of weight 0.1. The duel of 01_gan, with its own networks, at its
own rates and at higher ones, and uniform noise stand beside them. A mode counts as covered from a
tenth, a fifth or a half of its fair share of samples on. The columns "beats noise" count the
seeds in which a row is strictly better than the noise of that seed.
"""

from __future__ import annotations

import statistics

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.data import toy_2d, toy_modes
from aigc_helpers.metrics import energy_distance, mode_count
from aigc_helpers.models.gan import Duel, gradient_penalty
from aigc_helpers.models.gan_beyond import (
    VARIANTS,
    make_mlp,
    modes_covered,
    objective_of_d,
    objective_of_g,
)

SEEDS = tuple(range(5))
NUM_STEPS = 2500
NUM_SAMPLES = 2000
MEASURES = ("modes", "modes at 1/5", "modes at 1/2", "near", "distance")
DUELS = {
    "chapter 01's duel": {"g_lr": 1e-3, "d_lr": 1e-3, "d_steps": 1},
    "the duel, higher rates": {"g_lr": 2e-3, "d_lr": 4e-3, "d_steps": 2},
}
SWEEP = {f"R1 of {r1:g}": {"paired": False, "r1": r1, "r2": 0.0} for r1 in (0.05, 0.2, 0.4)}
WGAN_D_STEPS = 5
WGANS = {"WGAN-GP": 0.1}  # Gulrajani's own weight for such toys; 10 is for images


def run(progress):
    makers = {}
    for name, settings in DUELS.items():
        makers[name] = lambda settings=settings: each_seed(draw_duel, **settings)
    for name, settings in (VARIANTS | SWEEP).items():
        makers[name] = lambda settings=settings: draw_variants(**settings)
    for name, weight in WGANS.items():
        makers[name] = lambda weight=weight: draw_wgans(weight)
    makers["uniform noise"] = lambda: each_seed(draw_noise)
    makers["real data"] = lambda: each_seed(draw_real)
    noise = measure_all(each_seed(draw_noise))
    rows = {}
    for name, maker in makers.items():
        results = measure_all(maker())
        progress(f"{name}: {results}")
        rows[name] = summary(results, noise)
    return rows


def each_seed(draw, **settings):
    return [draw(seed, **settings) for seed in SEEDS]


def measure_all(samples):
    """What `measure` says of samples, one entry for each of SEEDS."""
    return [measure(points, seed) for points, seed in zip(samples, SEEDS, strict=True)]


def summary(results, noise):
    """A row of the table, from lists of what `measure` returns, one entry a seed."""
    ours = dict(zip(MEASURES, zip(*results, strict=True), strict=True))
    theirs = dict(zip(MEASURES, zip(*noise, strict=True), strict=True))
    row = {
        "modes of 25": statistics.mean(ours["modes"]),
        "modes ±": statistics.stdev(ours["modes"]),
        "fewest": min(ours["modes"]),
        "modes at 1/5": statistics.mean(ours["modes at 1/5"]),
        "modes at 1/2": statistics.mean(ours["modes at 1/2"]),
        "near a mode": statistics.mean(ours["near"]),
        "near ±": statistics.stdev(ours["near"]),
        "energy distance": statistics.mean(ours["distance"]),
        "distance ±": statistics.stdev(ours["distance"]),
    }
    for name in MEASURES:
        better, worse = (theirs, ours) if name == "distance" else (ours, theirs)
        row[f"beats noise: {name}"] = count_greater(better[name], worse[name])
        row[f"loses to noise: {name}"] = count_greater(worse[name], better[name])
    for name in MEASURES:
        for k, value in enumerate(ours[name]):
            row[f"{name}, run {k}"] = value
    return row


def count_greater(ours, theirs):
    """In how many places the first is strictly greater."""
    return sum(a > b for a, b in zip(ours, theirs, strict=True))


def measure(points, seed):
    """A value for each name in MEASURES, of samples (N, 2)."""
    centres, sigma = toy_modes("grid")
    fresh = toy_2d("grid", NUM_SAMPLES, 100 + seed)
    count = mode_count(points, centres, sigma, fresh)
    at_fifth = modes_covered(points, 1 / 5)
    at_half = modes_covered(points, 1 / 2)
    distance = energy_distance(points, fresh)
    return count.covered.value, at_fifth, at_half, count.quality.value, distance


def draw_duel(seed, **settings):
    duel = Duel("grid", **settings, seed=seed)
    duel.train(NUM_STEPS)
    return duel.sample(NUM_SAMPLES).detach()


def draw_variants(**settings):
    """Samples of `train_plane` with these settings, one entry for each of SEEDS."""
    return draw_from(train_planes(**settings))


def draw_wgans(weight):
    """The same for a Wasserstein GAN with this weight of the gradient penalty."""
    return draw_from(train_wgans(weight))


@torch.no_grad()
def draw_from(G):
    randoms = [torch.Generator().manual_seed(200 + seed) for seed in SEEDS]
    return G(draw_noises(randoms, NUM_SAMPLES)).split(NUM_SAMPLES)


class SideBySide(nn.Module):
    """K networks of `make_mlp` at once: (K * N, in) -> (K * N, out), N rows for each in turn."""

    def __init__(self, nets):
        super().__init__()
        layers = [[layer for layer in net if isinstance(layer, nn.Linear)] for net in nets]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for same in zip(*layers, strict=True):
            weights = [layer.weight.detach().T for layer in same]
            biases = [layer.bias.detach()[None] for layer in same]
            self.weights.append(nn.Parameter(torch.stack(weights)))
            self.biases.append(nn.Parameter(torch.stack(biases)))

    def forward(self, x):
        h = x.reshape(len(self.weights[0]), -1, x.shape[1])
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, F.leaky_relu(h) if k else h, weight)
        return h.flatten(0, 1)


class Players:
    """What `train_plane` begins with, for all of SEEDS: networks, optimisers, data, random numbers."""

    def __init__(self, lr=2e-3, batch=128):
        self.lr = lr
        self.batch = batch
        self.randoms = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        g_nets = []
        d_nets = []
        self.data = []
        for random in self.randoms:
            g_nets.append(make_mlp(2, 2, 64, random))
            d_nets.append(make_mlp(2, 1, 64, random))
            self.data.append(toy_2d("grid", 10_000, random))
        self.G = SideBySide(g_nets)
        self.D = SideBySide(d_nets)
        self.g_opt = torch.optim.Adam(self.G.parameters(), lr, betas=(0.0, 0.9), fused=True)
        self.d_opt = torch.optim.Adam(self.D.parameters(), lr, betas=(0.0, 0.9), fused=True)

    def set_rate(self, step):
        for opt in (self.g_opt, self.d_opt):
            opt.param_groups[0]["lr"] = self.lr * min(1.0, 2 - 2 * step / NUM_STEPS)

    def draw_real(self):
        batches = []
        for data, random in zip(self.data, self.randoms, strict=True):
            batches.append(data[torch.randint(len(data), (self.batch,), generator=random)])
        return torch.cat(batches)

    def draw_fake(self):
        return self.G(draw_noises(self.randoms, self.batch))


def draw_noises(randoms, n):
    """n noise vectors from each of some random generators, one after the other."""
    return torch.cat([torch.randn(n, 2, generator=random) for random in randoms])


def descend(opt, loss):
    """A step. The loss is a mean over all seeds: times their number, each gets its own gradient."""
    parameters = opt.param_groups[0]["params"]
    gradients = torch.autograd.grad(len(SEEDS) * loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.contiguous()  # as the fused Adam needs it
    opt.step()


def train_planes(paired, r1, r2):
    """`train_plane` for all of SEEDS at once, number for number; returns the generators."""
    players = Players()
    for step in range(NUM_STEPS):
        players.set_rate(step)
        real = players.draw_real()
        d_loss = objective_of_d(players.D, real, players.draw_fake(), paired, r1, r2)
        descend(players.d_opt, d_loss)
        real = players.draw_real()
        g_loss = objective_of_g(players.D, real, players.draw_fake(), paired)
        descend(players.g_opt, g_loss)
    return players.G


def train_wgans(weight):
    """Wasserstein GANs with gradient penalty, otherwise as `train_planes`."""
    players = Players()
    for step in range(NUM_STEPS):
        players.set_rate(step)
        for _ in range(WGAN_D_STEPS):
            real = players.draw_real()
            fake = players.draw_fake().detach()
            penalty = gradient_penalty(players.D, real, fake, players.randoms[0])
            gap = players.D(real).mean() - players.D(fake).mean()
            descend(players.d_opt, weight * penalty - gap)
        descend(players.g_opt, -players.D(players.draw_fake()).mean())
    return players.G


def draw_noise(seed):
    """Uniform in a square as large as the data."""
    half = toy_2d("grid", NUM_SAMPLES, 100 + seed).abs().max()
    random = torch.Generator().manual_seed(seed)
    return half * (2 * torch.rand(NUM_SAMPLES, 2, generator=random) - 1)


def draw_real(seed):
    return toy_2d("grid", NUM_SAMPLES, 300 + seed)
