"""Generated from notebooks/04_diffusion.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.data import toy_2d
from aigc_helpers.models.gpt_beyond import descend
from aigc_helpers.training import autocast


# The panel's arithmetic: section 1 takes it apart. Run it; there is no need to read it yet.
T = 1000                                                          # the number of noise levels; level 0 is the data
SCHEDULES = ("linear", "cosine", "shifted cosine", "sigmoid", "straight")


class Path(NamedTuple):
    """How much data and how much noise there is at each level t = 0..T: x_t = signal[t] x_0 + noise[t] eps."""

    signal: torch.Tensor                                          # (T + 1,): falls from 1; sqrt(alpha_bar), or straight
    noise: torch.Tensor                                           # (T + 1,): rises from 0; sqrt(1 - alpha_bar), or straight


def alpha_bars(schedule, num_levels=T):
    """alpha_bar (num_levels + 1,), float64: the share of the variance that is still data; alpha_bar[0] = 1.

    Ho 2020 (linear), Nichol 2021 (cosine), Hoogeboom 2023 (shifted: half the signal), Jabri 2022 (sigmoid).
    """
    t = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64)
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, num_levels, dtype=torch.float64) * 1000 / num_levels
    elif schedule in SCHEDULES[1:4]:
        angle = (t + 0.008) / 1.008 * math.pi / 2
        square = angle.cos() ** 2
        if schedule == "shifted cosine":
            square = square / (square + 4 * angle.sin() ** 2)     # a quarter of the signal-to-noise ratio
        if schedule == "sigmoid":
            square = torch.sigmoid(3 - 6 * t) - torch.sigmoid(torch.tensor(-3.0).double())
        beta = (1 - square[1:] / square[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"alpha_bars: unknown schedule {schedule!r}; choose one of {', '.join(SCHEDULES[:4])}")
    return torch.cat([torch.ones(1).double(), (1 - beta).cumprod(0)])


def make_path(schedule, num_levels=T):
    """The Path of a schedule; "straight" is that of rectified flow, eq. (14)."""
    if schedule == "straight":
        t = torch.linspace(0, 1, num_levels + 1)
        return Path(1 - t, t)
    alpha_bar = alpha_bars(schedule, num_levels)
    return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float())


def level(table, t, x):
    """table[t] for a level t or one level for each item, (N,), in a shape that multiplies x (N, ...)."""
    return table.to(x.device)[torch.as_tensor(t, device=x.device)].reshape(-1, *[1] * (x.ndim - 1))


def diffuse(x0, t, eps, path):
    """x_t for data x0 (N, ...), levels t (an int or (N,)) and noise eps like x0: eq. (2), in one jump."""
    return level(path.signal, t, x0) * x0 + level(path.noise, t, x0) * eps


def mixture_guess(x, t, path, centres, sigma):
    """The exact guesses E[x_0 | x_t] and E[eps | x_t], (N, 2) each, at level t >= 1 for points x (N, 2).
    The data are equal Gaussians of width sigma at centres (K, 2): eq. (4). t is an int or (N,).
    """
    a, n = level(path.signal, t, x), level(path.noise, t, x)
    variance = (a * sigma).square() + n.square()
    offset = x[:, None] - a[..., None] * centres                                       # (N, K, 2)
    w = (-offset.square().sum(dim=-1) / (2 * variance)).softmax(dim=1)                 # (N, K)
    x0 = (w[..., None] * (centres + (a * sigma**2 / variance)[..., None] * offset)).sum(dim=1)
    return x0, (x - a * x0) / n


def posterior_std(path, t, s):
    """Width of q(x_s | x_t, x_0) for levels s < t: eq. (5); Ho 2020, eq. (7), for any two levels."""
    left = path.signal[t] / path.signal[s] * path.noise[s]
    return path.noise[s] / path.noise[t] * (path.noise[t].square() - left.square()).clamp_min(0).sqrt()


def step_back(x0, eps, path, t, s, eta=0.0, generator=None):
    """From level t to level s < t, given guesses x0 and eps of the same shape: eq. (6)."""
    std = eta * posterior_std(path, t, s)
    x = path.signal[s] * x0 + (path.noise[s].square() - std.square()).clamp_min(0).sqrt() * eps
    if s == 0 or eta == 0:
        return x                                                  # at level 0 eq. (5) is 0: no noise on the last step
    return x + std * torch.randn(x.shape, generator=generator).to(x)


def sample(guess, x, path, num_steps, eta=0.0, heun=False, generator=None, keep=False, start=None):
    """Walk from noise x at level T to level 0 in num_steps steps; guess(x, t) returns (x0, eps).

    eta: eq. (6). heun: look twice for each step but the last, eq. (13); only for eta = 0. keep: return all points of the walk.
    start: the level that x is at, if not T.
    """
    levels = torch.linspace(start or len(path.signal) - 1, 0, num_steps + 1).round().long().tolist()
    walk = [x]
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        x0, eps = guess(x, t)
        new = step_back(x0, eps, path, t, s, eta, generator)
        if heun and s > 0:                                        # at level 0 there is nothing left to guess
            x0_there, eps_there = guess(new, s)
            x0, eps = (x0 + x0_there) / 2, (eps + eps_there) / 2
            new = x + (path.signal[s] - path.signal[t]) * x0 + (path.noise[s] - path.noise[t]) * eps
        x = new
        walk.append(x)
    return walk if keep else x


def time_embedding(t, dim=64):
    """Levels t (N,) as sines and cosines (N, dim) of frequencies from 1 down to 1/10000; Ho 2020, after Vaswani 2017."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angle = t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ToyDenoiser(nn.Module):
    """Points (N, 2) at levels t (N,) -> a prediction (N, 2)."""

    def __init__(self, hidden=128, dim=32):
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(2 + dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))  # fmt: skip

    def forward(self, x, t):
        return self.net(torch.cat([x, time_embedding(t, self.dim)], dim=1))


TARGETS = ("noise", "data", "v", "velocity")


def target_of(target, x0, eps, a, n):
    """What the network is asked for, when the truth is x_t = a x0 + n eps."""
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    return {"noise": eps, "data": x0, "v": a * eps - n * x0, "velocity": eps - x0}[target]


def read(target, out, x, a, n):
    """The guesses (x0, eps) in a network's output for x = a x0 + n eps: eq. (8)."""
    if target == "noise":
        return (x - n * out) / a, out
    if target == "data":
        return out, (x - a * out) / n
    if target == "v":
        return (a * x - n * out) / (a * a + n * n), (n * x + a * out) / (a * a + n * n)
    return (x - n * out) / (a + n), (x + a * out) / (a + n)


def draw_levels(n, num_levels=T, middle=False, generator=None):
    """n random levels from 1 to num_levels: all equally likely or, if `middle`, mostly those in between; Esser 2024, eq. (19)."""
    if middle:
        return (num_levels * torch.sigmoid(torch.randn(n, generator=generator))).ceil().long()
    return torch.randint(1, num_levels + 1, (n,), generator=generator)


def denoising_loss(net, x0, path, target="noise", generator=None, *label, middle=False):
    """Eq. (7) over random levels, for data x0 (N, ...) and the target of your choice; a mean for each number of an item."""
    t = draw_levels(len(x0), len(path.signal) - 1, middle, generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    out = net(diffuse(x0, t, eps, path), t, *label)
    return (out.float() - target_of(target, x0, eps, level(path.signal, t, x0), level(path.noise, t, x0))).square().mean()


def guesser(net, path, target="noise", *label):
    """guess(x, t) -> (x0, eps) for `sample`, from a network that predicts `target`."""
    def guess(x, t):
        out = net(x, torch.full((len(x),), t, device=x.device), *label).float()
        return read(target, out, x, path.signal[t], path.noise[t])
    return guess


class ToyRun:
    """A denoiser of points in the plane in training; `train` goes on where it was. The rate falls over `total` steps."""

    def __init__(self, data="ring", schedule="cosine", target="v", lr=7e-3, total=2000, seed=0):
        torch.manual_seed(seed)
        self.path, self.target, self.lr, self.total = make_path(schedule), target, lr, total
        self.net, self.random, self.losses = ToyDenoiser(), torch.Generator().manual_seed(seed), []
        self.opt = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.points = toy_2d(data, 8192, self.random)

    @torch.enable_grad()
    def train(self, num_steps, batch_size=256):
        """Some steps of eq. (7)."""
        for _ in range(num_steps):
            for group in self.opt.param_groups:
                group["lr"] = self.lr * max(0.05, 1 - len(self.losses) / self.total)
            x0 = self.points[torch.randint(len(self.points), (batch_size,), generator=self.random)]
            loss = denoising_loss(self.net, x0, self.path, self.target, self.random)
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            self.losses.append(loss.item())

    @torch.no_grad()
    def guess(self, x, t):
        """(x0, eps) at level t, for `sample`."""
        return guesser(self.net, self.path, self.target)(x, t)


def bound_weights(alpha_bar):
    """omega_t for levels t = 2..T, (T - 1,), from alpha_bar (T + 1,): eq. (10), in nats for a squared error of the noise."""
    snr = alpha_bar / (1 - alpha_bar)
    return 0.5 * (snr[1:-1] - snr[2:]) / snr[2:]


def bound_terms(guess, x0, path, alpha_bar, generator=None):
    """Upper bound on -log p(x_0), nats, mean over the items of x0 (N, D), from one draw at every level: Kingma 2021, eq. (11)-(13).

    Returns three numbers: what pure noise still knows, the sum over levels of eq. (10), and the last step to the data.
    """
    num_levels, D = len(alpha_bar) - 1, x0[0].numel()
    w, middle = bound_weights(alpha_bar), 0.0
    for t in range(2, num_levels + 1):
        eps = torch.randn(x0.shape, generator=generator)
        middle += w[t - 2].item() * (eps - guess(diffuse(x0, t, eps, path), t)[1]).square().sum(dim=1).mean().item()
    end = 0.5 * (alpha_bar[-1] * x0.square() + (1 - alpha_bar[-1]) - 1 - (1 - alpha_bar[-1]).log()).sum(dim=1).mean().item()
    variance = (1 - alpha_bar[1]) / alpha_bar[1]                   # p(x_0 | x_1): a Gaussian of this variance at the guess
    found = guess(diffuse(x0, 1, torch.randn(x0.shape, generator=generator), path), 1)[0]
    last = (0.5 * D * math.log(2 * math.pi * variance) + (x0 - found).square().sum(dim=1).mean() / (2 * variance)).item()
    return end, middle, last


class Block(nn.Module):
    """Two convolutions beside a shortcut, (N, C_in, H, W) -> (N, C, H, W); e (N, E) scales and shifts what is between them."""

    def __init__(self, c_in, c, e_dim):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.scale_shift = nn.Linear(e_dim, 2 * c)
        self.shortcut = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()
        nn.init.zeros_(self.conv2.weight)                          # at the start a block passes on what it is given
        nn.init.zeros_(self.conv2.bias)

    def forward(self, h, e):
        scale, shift = self.scale_shift(e)[:, :, None, None].chunk(2, dim=1)
        r = self.conv1(F.silu(self.norm1(h)))
        r = self.conv2(F.silu(self.norm2(r) * (1 + scale) + shift))
        return self.shortcut(h) + r


class Attention(nn.Module):
    """Self-attention among the H x W places of (N, C, H, W): chapter 03's, without a mask."""

    def __init__(self, c, num_heads=4):
        super().__init__()
        self.num_heads, self.norm = num_heads, nn.GroupNorm(8, c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h):
        N, C, H, W = h.shape
        x = self.norm(h).flatten(2).transpose(1, 2)                                        # (N, H W, C)
        q, k, v = self.qkv(x).reshape(N, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, H * W, C)
        return h + self.out(x).transpose(1, 2).reshape(N, C, H, W)


NO_LABEL = 10


class UNet(nn.Module):
    """Pictures (N, 1, 28, 28) at levels t (N,), with labels (N,) or NO_LABEL, -> a prediction (N, 1, 28, 28).

    Works at 14x14 (c channels) and 7x7 (twice as many); Ronneberger 2015, Ho 2020, after pixel_unshuffle.
    """

    def __init__(self, c=32, e_dim=128):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, e_dim), nn.SiLU(), nn.Linear(e_dim, e_dim))
        self.label = nn.Embedding(11, e_dim)
        self.enter, self.fine = nn.Conv2d(4, c, 3, padding=1), Block(c, c, e_dim)
        self.down, self.coarse1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), Block(2 * c, 2 * c, e_dim)
        self.attention, self.coarse2 = Attention(2 * c), Block(2 * c, 2 * c, e_dim)
        self.up, self.merge = nn.Conv2d(2 * c, 4 * c, 1), Block(2 * c, c, e_dim)
        self.norm, self.leave = nn.GroupNorm(8, c), nn.Conv2d(c, 4, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(memory_format=torch.channels_last)                 # the layout that CPUs and GPUs convolve fastest

    def forward(self, x, t, label):
        e = F.silu(self.time(time_embedding(t)) + self.label(label))
        h = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)          # (N, 4, 14, 14)
        seen = self.fine(self.enter(h), e)                                                 # (N, c, 14, 14)
        h = self.coarse1(self.down(seen), e)                                               # (N, 2c, 7, 7)
        h = self.coarse2(self.attention(h), e)
        h = F.pixel_shuffle(self.up(h), 2)                                                 # (N, c, 14, 14)
        h = self.merge(torch.cat([h, seen], dim=1), e)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


def optimizers(net, muon, lr=2e-3):
    """`muon` (the class of chapter 03b) for the weights inside the U-Net, AdamW for its rims, biases and embeddings."""
    rims = ("time", "label", "enter", "leave")
    inner = [weight for name, weight in net.named_parameters() if weight.ndim > 1 and not name.startswith(rims)]
    chosen = {id(weight) for weight in inner}
    rest = [weight for weight in net.parameters() if id(weight) not in chosen]
    return [muon(inner, lr=10 * lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)]


def set_rates(opts, step, num_steps):
    """Learning rates: up in 50 steps (or a tenth of a short run), level, and in the second half down to zero in a straight line."""
    factor = min(1.0, step / min(50, 0.1 * num_steps), 2 * (num_steps + 1 - step) / num_steps)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = factor * group.setdefault("full", group["lr"])


def drop_labels(label, share=0.1):
    """Labels (N,), each replaced by NO_LABEL with this probability; Ho & Salimans 2022, algorithm 1."""
    return torch.where(torch.rand(label.shape, device=label.device) < share, NO_LABEL, label)


def train_step(net, opts, x0, label, path, target, device, middle=False):
    """One step of all optimisers on pictures x0 (N, 1, 28, 28) in [-1, 1]; returns the loss."""
    with autocast(device):
        loss = denoising_loss(net, x0, path, target, None, drop_labels(label), middle=middle)
    descend(loss, opts)
    return loss


@torch.no_grad()
def draw_digits(net, label, path, num_steps, target="velocity", generator=None, x=None, **settings):
    """Pictures (N, 1, 28, 28) in [-1, 1] for labels (N,), by `sample`; guesses of x_0 are kept within [-1, 1].

    x: noise to start from; drawn if None. settings go to `sample`.
    """
    device = label.device
    x = torch.randn(len(label), 1, 28, 28, generator=generator).to(device) if x is None else x
    look = guesser(net, path, target, label)

    def guess(x, t):
        with autocast(device):
            x0, _ = look(x, t)
        x0 = x0.clamp(-1, 1)
        return x0, (x - path.signal[t] * x0) / path.noise[t]

    drawn = sample(guess, x, path, num_steps, generator=generator, **settings)
    return [step.cpu() for step in drawn] if settings.get("keep") else drawn.cpu().clamp(-1, 1)


def guided(net, w):
    """A network whose predictions are led away from "no label" by w: eq. (16); w = 0 leaves them as they are."""
    def look(x, t, label):
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, torch.full_like(label, NO_LABEL)]))
        with_label, without = both.chunk(2)
        return with_label + w * (with_label - without)
    return look


def finish(net, x0, label, path, start, num_steps=20, generator=None):
    """Noise pictures x0 (N, 1, 28, 28) to level `start`, then walk back to level 0 by DDPM: Meng 2021."""
    x = diffuse(x0, start, torch.randn(x0.shape, generator=generator).to(x0), path)
    return draw_digits(net, label, path, num_steps, x=x, start=start, eta=1.0, generator=generator)
