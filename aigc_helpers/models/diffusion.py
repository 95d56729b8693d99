"""Generated from notebooks/04_diffusion.ipynb: edit it there, then run `python -m tools export`."""

import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.data import toy_2d
from aigc_helpers.training import autocast


T = 1000  # the number of noise levels; level 0 is the data
SCHEDULES = ("linear", "cosine", "shifted cosine", "sigmoid", "straight")


def linear_alpha_bars(t):
    """alpha_bar at t (float64, shares of the way from 0 to 1): Ho 2020's thousand steps.

    Between two of them its logarithm is a straight line, so the curve is the same for any
    number of levels.
    """
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    log_alpha_bar = F.pad((1 - beta).log().cumsum(0), (1, 0))
    position = 1000 * t
    below = position.long().clamp(max=999)
    return torch.lerp(log_alpha_bar[below], log_alpha_bar[below + 1], position - below).exp()


def alpha_bars(schedule, num_levels=T):
    """alpha_bar (num_levels + 1,), float64: the share of the variance that is still data.

    alpha_bar[0] = 1. Ho 2020 (linear), Nichol 2021 (cosine), Hoogeboom 2023 (shifted: half the
    signal), Jabri 2022 (sigmoid). Raises ValueError for another schedule, or no levels.
    """
    require_whole("alpha_bars", "num_levels", num_levels, 1)
    require_one_of("alpha_bars", "schedule", schedule, SCHEDULES[:4])
    t = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64)
    if schedule == "linear":
        return linear_alpha_bars(t)
    angle = (t + 0.008) / 1.008 * math.pi / 2
    square = angle.cos() ** 2
    if schedule == "shifted cosine":
        square = square / (square + 4 * angle.sin() ** 2)  # a quarter of the signal-to-noise ratio
    if schedule == "sigmoid":
        square = torch.sigmoid(3 - 6 * t) - torch.sigmoid(torch.tensor(-3.0).double())
    beta = (1 - square[1:] / square[:-1]).clamp(max=0.999)
    return F.pad((1 - beta).cumprod(0), (1, 0), value=1.0)


class Path(NamedTuple):
    """How much data and how much noise: x_t = signal[t] x_0 + noise[t] eps, for t = 0..T."""

    signal: torch.Tensor  # (T + 1,): falls from 1; sqrt(alpha_bar), or straight
    noise: torch.Tensor   # (T + 1,): rises from 0; sqrt(1 - alpha_bar), or straight


def make_path(schedule, num_levels=T):
    """The Path of a schedule; "straight" is that of rectified flow, eq. (14)."""
    if schedule == "straight":
        require_whole("make_path", "num_levels", num_levels, 1)
        t = torch.linspace(0, 1, num_levels + 1)
        return Path(1 - t, t)
    alpha_bar = alpha_bars(schedule, num_levels)
    return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float())


def level(table, t, x):
    """table[t] in a shape that multiplies x (N, ...); t is a level, or one for each item, (N,)."""
    t = torch.as_tensor(t, device=x.device)
    top = len(table) - 1
    fits = not t.is_floating_point() and (t.ndim == 0 or t.shape == (len(x),))
    if not fits or ((t < 0) | (t > top)).any():
        wanted = f"a whole number from 0 to {top}, or {len(x)} of them, one for each item"
        raise ValueError(f"level: t must be {wanted}, got {t}")
    return table.to(x.device)[t].reshape(-1, *[1] * (x.ndim - 1))


def diffuse(x0, t, eps, path):
    """x_t for data x0 (N, ...) and noise eps like x0, at levels t (an int or (N,)): eq. (2)."""
    if x0.shape != eps.shape:
        shapes = f"{tuple(x0.shape)} and {tuple(eps.shape)}"
        raise ValueError(f"diffuse: x0 and eps must have the same shape, got {shapes}")
    return level(path.signal, t, x0) * x0 + level(path.noise, t, x0) * eps


def mixture_guess(x, t, path, centres, sigma):
    """The exact guesses E[x_0 | x_t] and E[eps | x_t], (N, 2) each, for points x (N, 2): eq. (4).

    The data are equal Gaussians of width sigma at centres (K, 2). t: a level from 1, or (N,).
    """
    a = level(path.signal, t, x)
    n = level(path.noise, t, x)
    if not n.all():
        raise ValueError("mixture_guess: t must be at least 1; level 0 holds no noise to tell")
    variance = (a * sigma).square() + n.square()
    offset = x[:, None] - a[..., None] * centres                          # (N, K, 2)
    w = (-offset.square().sum(dim=-1) / (2 * variance)).softmax(dim=1)    # (N, K)
    offers = centres + (a * sigma**2 / variance)[..., None] * offset      # (N, K, 2)
    x0 = (w[..., None] * offers).sum(dim=1)
    return x0, (x - a * x0) / n


def posterior_std(path, t, s):
    """Width of q(x_s | x_t, x_0) for any two levels s < t: eq. (5); Ho 2020, eq. (7)."""
    require_whole("posterior_std", "t", t, 1, len(path.signal) - 1)
    require_whole("posterior_std", "s, the lower level,", s, 0, t - 1)
    left = path.signal[t] / path.signal[s] * path.noise[s]
    added = (path.noise[t].square() - left.square()).clamp_min(0).sqrt()
    return path.noise[s] / path.noise[t] * added


def step_back(x0, eps, path, t, s, eta=0.0, generator=None):
    """From level t to level s < t, given guesses x0 and eps of the same shape: eq. (6)."""
    require_number("step_back", "eta", eta, 0, 1)
    if x0.shape != eps.shape:
        shapes = f"{tuple(x0.shape)} and {tuple(eps.shape)}"
        raise ValueError(f"step_back: x0 and eps must have the same shape, got {shapes}")
    std = eta * posterior_std(path, t, s)
    x = path.signal[s] * x0 + (path.noise[s].square() - std.square()).clamp_min(0).sqrt() * eps
    if s == 0 or eta == 0:
        return x  # at level 0 eq. (5) is 0: no noise on the last step
    return x + std * torch.randn(x.shape, generator=generator).to(x)


def sampling_levels(start, num_steps):
    """The num_steps + 1 levels of a walk from level `start` down to 0, evenly spaced.

    From level 0 there is nowhere to go: [0]. Raises ValueError for more steps than levels.
    """
    if start == 0:
        return [0]
    require_whole("sampling_levels", "num_steps, at most one a level,", num_steps, 1, start)
    return torch.linspace(start, 0, num_steps + 1).round().long().tolist()


def sample(
    guess, x, path, num_steps, eta=0.0, heun=False, generator=None, keep=False, start=None
):
    """Walk from noise x at level T to level 0 in num_steps steps; guess(x, t) returns (x0, eps).

    eta: eq. (6), from 0 to 1. heun: two looks a step but the last, eq. (13); only for eta = 0.
    keep: return all points of the walk. start: the level that x is at, if not T; at level 0 x is
    what it will be. Raises ValueError for settings outside of these bounds.
    """
    top = len(path.signal) - 1
    start = top if start is None else start
    require_whole("sample", "start", start, 0, top)
    if heun and eta != 0:
        raise ValueError(f"sample: heun goes without fresh noise, so eta must be 0, got {eta!r}")
    levels = sampling_levels(start, num_steps)
    walk = [x]
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        x0, eps = guess(x, t)
        new = step_back(x0, eps, path, t, s, eta, generator)
        if heun and s > 0:  # at level 0 there is nothing left to guess
            x0_there, eps_there = guess(new, s)
            x0 = (x0 + x0_there) / 2
            eps = (eps + eps_there) / 2
            new = x + (path.signal[s] - path.signal[t]) * x0 + (path.noise[s] - path.noise[t]) * eps
        x = new
        walk.append(x)
    return walk if keep else x


def time_embedding(t, dim=64):
    """Levels t (N,) as sines and cosines (N, dim), dim even; Ho 2020, after Vaswani 2017.

    Their frequencies fall from 1 to 1/10000.
    """
    exponent = torch.arange(dim // 2, device=t.device) / (dim // 2)
    frequency = torch.exp(-math.log(10_000) * exponent)
    angle = t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ToyDenoiser(nn.Module):
    """Points (N, 2) at levels t (N,) -> a prediction (N, 2)."""

    def __init__(self, hidden=128, dim=32):
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(
            nn.Linear(2 + dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x, t):
        together = torch.cat([x, time_embedding(t, self.dim)], dim=1)
        return self.net(together.to(self.net[0].weight.dtype))


TARGETS = ("noise", "data", "v", "velocity")


def target_of(target, x0, eps, a, n):
    """What the network is asked for, when the truth is x_t = a x0 + n eps."""
    require_one_of("target_of", "target", target, TARGETS)
    return {"noise": eps, "data": x0, "v": a * eps - n * x0, "velocity": eps - x0}[target]


def read(target, out, x, a, n):
    """The guesses (x0, eps) in a network's output for x = a x0 + n eps: eq. (8).

    Raises ValueError where x does not tell: noise for a = 0, data for n = 0.
    """
    require_one_of("read", "target", target, TARGETS)
    a = torch.as_tensor(a)
    n = torch.as_tensor(n)
    if (target == "noise" and not a.all()) or (target == "data" and not n.all()):
        state = "no data left" if target == "noise" else "no noise"
        raise ValueError(f"read: a network that predicts {target} is of no use where x has {state}")
    if target == "noise":
        return (x - n * out) / a, out
    if target == "data":
        return out, (x - a * out) / n
    if target == "v":
        return (a * x - n * out) / (a * a + n * n), (n * x + a * out) / (a * a + n * n)
    return (x - n * out) / (a + n), (x + a * out) / (a + n)


def draw_levels(n, num_levels=T, middle=False, generator=None):
    """n random levels from 1 to num_levels, all equally likely.

    If `middle`, mostly those in between: Esser 2024, eq. (19).
    """
    if middle:
        share = torch.sigmoid(torch.randn(n, generator=generator))
        return (num_levels * share).ceil().long()
    return torch.randint(1, num_levels + 1, (n,), generator=generator)


def denoising_loss(net, x0, path, target="noise", generator=None, *label, middle=False):
    """Eq. (7) over random levels, for data x0 (N, ...) and the target of your choice.

    A mean over all numbers. label: (N,), for a network that takes one.
    """
    t = draw_levels(len(x0), len(path.signal) - 1, middle, generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    a = level(path.signal, t, x0)
    n = level(path.noise, t, x0)
    out = net(diffuse(x0, t, eps, path), t, *label)
    return (out.float() - target_of(target, x0, eps, a, n)).square().mean()


def guesser(net, path, target="noise", *label):
    """guess(x, t) -> (x0, eps) for `sample`, from a network that predicts `target`."""

    def guess(x, t):
        out = net(x, torch.full((len(x),), t, device=x.device), *label).float()
        return read(target, out, x, path.signal[t], path.noise[t])

    return guess


class ToyRun:
    """A denoiser of points in the plane in training; `train` goes on where it was.

    The learning rate falls over `total` steps.
    """

    def __init__(self, data="ring", schedule="cosine", target="v", lr=7e-3, total=2000, seed=0):
        require_whole("ToyRun", "total", total, 1)
        self.path = make_path(schedule)
        self.target = target
        self.lr = lr
        self.total = total
        with torch.random.fork_rng(devices=[]):  # other random numbers stay as they are
            torch.manual_seed(seed)
            self.net = ToyDenoiser()
        self.random = torch.Generator().manual_seed(seed)
        self.losses = []
        self.opt = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.points = toy_2d(data, 8192, self.random)

    @torch.enable_grad()
    def train(self, num_steps, batch_size=256):
        """Some steps of eq. (7)."""
        for _ in range(num_steps):
            for group in self.opt.param_groups:
                group["lr"] = self.lr * max(0.05, 1 - len(self.losses) / self.total)
            chosen = torch.randint(len(self.points), (batch_size,), generator=self.random)
            x0 = self.points[chosen]
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
    """omega_t for levels t = 2..T, (T - 1,), from alpha_bar (T + 1,): eq. (10).

    In nats for a squared error of the noise.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return 0.5 * (snr[1:-1] - snr[2:]) / snr[2:]


def bound_terms(guess, x0, path, alpha_bar, generator=None):
    """Upper bound on -log p(x_0) in nats, mean over the items of x0 (N, D); one draw a level.

    Kingma 2021, eq. (11)-(13). Returns three numbers: what pure noise still knows, the sum over
    levels of eq. (10), and the last step to the data.
    """
    w = bound_weights(alpha_bar)
    middle = 0.0
    for t in range(2, len(alpha_bar)):
        eps = torch.randn(x0.shape, generator=generator)
        eps_hat = guess(diffuse(x0, t, eps, path), t)[1]
        middle += w[t - 2].item() * (eps - eps_hat).square().sum(dim=1).mean().item()
    left = alpha_bar[-1]
    end = 0.5 * (left * x0.square() + (1 - left) - 1 - (1 - left).log()).sum(dim=1).mean().item()
    variance = (1 - alpha_bar[1]) / alpha_bar[1]  # p(x_0 | x_1): a Gaussian at the guess
    x1 = diffuse(x0, 1, torch.randn(x0.shape, generator=generator), path)
    error = (x0 - guess(x1, 1)[0]).square().sum(dim=1).mean()
    size = x0[0].numel()
    last = (0.5 * size * math.log(2 * math.pi * variance) + error / (2 * variance)).item()
    return end, middle, last


class Block(nn.Module):
    """Two convolutions beside a shortcut, (N, C_in, H, W) -> (N, C, H, W).

    e (N, E) scales and shifts what is between them.
    """

    def __init__(self, c_in, c, e_dim):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.scale_shift = nn.Linear(e_dim, 2 * c)
        self.shortcut = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # at the start a block passes on what it is given
        nn.init.zeros_(self.conv2.bias)

    def forward(self, h, e):
        scale, shift = self.scale_shift(e)[:, :, None, None].chunk(2, dim=1)
        r = self.conv1(F.silu(self.norm1(h)))
        r = self.conv2(F.silu(self.norm2(r) * (1 + scale) + shift))
        return self.shortcut(h) + r


class Attention(nn.Module):
    """Self-attention among the H x W positions of (N, C, H, W): chapter 03's, without a mask."""

    def __init__(self, c, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(8, c)
        self.qkv = nn.Linear(c, 3 * c)
        self.out = nn.Linear(c, c)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h):
        N, C, H, W = h.shape
        x = self.norm(h).flatten(2).transpose(1, 2)                     # (N, H W, C)
        heads = self.qkv(x).reshape(N, H * W, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)                          # (N, heads, H W, C / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(N, H * W, C)
        return h + self.out(x).transpose(1, 2).reshape(N, C, H, W)


NO_LABEL = 10


class UNet(nn.Module):
    """Pictures (N, 1, 28, 28), levels t (N,), labels (N,) or NO_LABEL -> a prediction like x.

    Works at 14x14 (c channels) and 7x7 (twice as many), after pixel_unshuffle; in the type of its
    weights. Ronneberger 2015, Ho 2020. Raises ValueError for other shapes.
    """

    def __init__(self, c=32, e_dim=128):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, e_dim), nn.SiLU(), nn.Linear(e_dim, e_dim))
        self.label = nn.Embedding(11, e_dim)
        self.enter = nn.Conv2d(4, c, 3, padding=1)
        self.fine = Block(c, c, e_dim)
        self.down = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.coarse1 = Block(2 * c, 2 * c, e_dim)
        self.attention = Attention(2 * c)
        self.coarse2 = Block(2 * c, 2 * c, e_dim)
        self.up = nn.Conv2d(2 * c, 4 * c, 1)
        self.merge = Block(2 * c, c, e_dim)
        self.norm = nn.GroupNorm(8, c)
        self.leave = nn.Conv2d(c, 4, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(memory_format=torch.channels_last)  # the layout that CPUs and GPUs convolve fastest

    def forward(self, x, t, label):
        if x.shape != (len(x), 1, 28, 28) or not t.shape == label.shape == (len(x),):
            shapes = ", ".join(str(tuple(part.shape)) for part in (x, t, label))
            wanted = "pictures (N, 1, 28, 28), levels (N,) and labels (N,)"
            raise ValueError(f"UNet: needs {wanted}, got {shapes}")
        dtype = self.label.weight.dtype
        e = F.silu(self.time(time_embedding(t).to(dtype)) + self.label(label))
        h = F.pixel_unshuffle(x.to(dtype), 2)
        h = h.contiguous(memory_format=torch.channels_last)    # (N, 4, 14, 14)
        seen = self.fine(self.enter(h), e)                     # (N, c, 14, 14)
        h = self.coarse1(self.down(seen), e)                   # (N, 2c, 7, 7)
        h = self.coarse2(self.attention(h), e)
        h = F.pixel_shuffle(self.up(h), 2)                     # (N, c, 14, 14)
        h = self.merge(torch.cat([h, seen], dim=1), e)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


def optimizers(net, muon, lr=2e-3):
    """`muon` (the class of chapter 03b) for the weights inside the U-Net, AdamW for the rest.

    The rest: its rims, biases and embeddings.
    """
    rims = ("time", "label", "enter", "leave")
    inner = []
    rest = []
    for name, weight in net.named_parameters():
        is_inner = weight.ndim > 1 and not name.startswith(rims)
        (inner if is_inner else rest).append(weight)
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return [muon(inner, lr=10 * lr), adamw]


def set_rates(opts, step, num_steps):
    """Learning rates: up in 50 steps (or a tenth of a short run), level, and down to zero.

    They fall in the second half, in a straight line.
    """
    factor = min(1.0, step / min(50, 0.1 * num_steps), 2 * (num_steps + 1 - step) / num_steps)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = factor * group.setdefault("full", group["lr"])


def drop_labels(label, share=0.1, generator=None):
    """Labels (N,), each NO_LABEL with this probability; Ho & Salimans 2022, algorithm 1."""
    dropped = torch.rand(label.shape, generator=generator).to(label.device) < share
    return torch.where(dropped, NO_LABEL, label)


def train_step(net, opts, x0, label, path, target, device, generator=None):
    """One step of all optimisers on pictures x0 (N, 1, 28, 28) in [-1, 1]; returns the loss."""
    label = drop_labels(label, generator=generator)
    with autocast(device):
        loss = denoising_loss(net, x0, path, target, generator, label)
    for opt in opts:
        opt.zero_grad()
    loss.backward()
    for opt in opts:
        opt.step()
    return loss


@torch.no_grad()
def draw_digits(
    net, label, path, num_steps, target="velocity", generator=None, x=None, **settings
):
    """Pictures (N, 1, 28, 28) in [-1, 1] for labels (N,), by `sample`.

    Guesses of x_0 are kept within [-1, 1]. x: noise to start from; drawn if None. settings go to
    `sample`. Raises ValueError for labels that are none.
    """
    if ((label < 0) | (label > NO_LABEL)).any():
        raise ValueError(f"draw_digits: labels are 0 to 9, or {NO_LABEL} for none, got {label}")
    device = label.device
    if x is None:
        x = torch.randn(len(label), 1, 28, 28, generator=generator).to(device)
    look = guesser(net, path, target, label)

    def guess(x, t):
        with autocast(device):
            x0, _ = look(x, t)
        x0 = x0.clamp(-1, 1)
        return x0, (x - path.signal[t] * x0) / path.noise[t]

    drawn = sample(guess, x, path, num_steps, generator=generator, **settings)
    return [step.cpu() for step in drawn] if settings.get("keep") else drawn.cpu().clamp(-1, 1)


def draw_many(net, label, path, num_steps, target, x, batch_size=250, **settings):
    """`draw_digits` from noise x, a batch at a time: quicker, and it needs less memory."""
    batches = zip(label.split(batch_size), x.split(batch_size), strict=True)
    drawn = [
        draw_digits(net, y, path, num_steps, target, x=noise, **settings) for y, noise in batches
    ]
    return torch.cat(drawn)


SAMPLERS = {"DDPM": {"eta": 1.0}, "DDIM": {}, "Heun": {"heun": True}}  # settings of `sample`


def steps_for(num_evals, eta=0.0, heun=False):
    """How many steps a sampler takes with num_evals network evaluations.

    Heun takes two for each step but the last: with an even number, one is left over.
    """
    require_whole("steps_for", "num_evals", num_evals, 1)
    return (num_evals + 1) // 2 if heun else num_evals


def guided(net, w):
    """A network whose predictions are led away from "no label" by w: eq. (16).

    w = 0 leaves them as they are.
    """
    require_number("guided", "w", w)

    def look(x, t, label):
        no_label = torch.full_like(label, NO_LABEL)
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, no_label]))
        with_label, without = both.chunk(2)
        return with_label + w * (with_label - without)

    return look


def finish(net, x0, label, path, start, num_steps=20, generator=None):
    """Noise pictures x0 (N, 1, 28, 28) to level `start`, then walk back by DDPM: Meng 2021.

    From a level below num_steps, a level a step; from level 0 the pictures come back as they are.
    """
    require_whole("finish", "start", start, 0, len(path.signal) - 1)
    x = diffuse(x0, start, torch.randn(x0.shape, generator=generator).to(x0), path)
    num_steps = min(num_steps, max(1, start))
    return draw_digits(
        net, label, path, num_steps, x=x, start=start, eta=1.0, generator=generator
    )
