"""Generated from notebooks/04_diffusion.ipynb: edit it there, then run `python -m tools export`."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.data import to_signed
from aigc_helpers.training import autocast, steps


SCHEDULES = ("rectified flow", "cosine", "linear")


class NoiseSchedule:
    """x_t = alpha(t) x_0 + sigma(t) eps, for times t from 0 (data) to 1 (noise): eq. (1)."""

    def __init__(self, name, alpha, sigma):
        self.name = name
        self._alpha = alpha
        self._sigma = sigma

    def alpha(self, t):
        """What the data are multiplied by at times t: falls from 1."""
        return self._alpha(torch.as_tensor(t) * 1.0)

    def sigma(self, t):
        """The standard deviation of the noise at times t: rises from 0."""
        return self._sigma(torch.as_tensor(t) * 1.0)

    def times(self, num_steps, start=1.0):
        """num_steps + 1 times, evenly spaced, from `start` down to 0."""
        require_whole("times", "num_steps", num_steps, least=1)
        require_number("times", "start", start, least=0, most=1)
        return torch.linspace(start, 0, num_steps + 1).tolist()


def make_schedule(name):
    """The NoiseSchedule of a name.

    "rectified flow": straight lines (Liu 2022). "cosine": Nichol 2021, without its offset.
    "linear": Ho 2020's, for small steps: the noise added grows linearly (section 4).
    """
    require_one_of("make_schedule", "name", name, SCHEDULES)
    if name == "rectified flow":
        return NoiseSchedule(name, lambda t: 1 - t, lambda t: t)
    if name == "cosine":
        return NoiseSchedule(
            name,
            lambda t: torch.cos(math.pi / 2 * t),
            lambda t: torch.sin(math.pi / 2 * t),
        )
    return NoiseSchedule(
        name,
        lambda t: torch.exp(-0.05 * t - 4.975 * t**2),
        lambda t: (-torch.expm1(-0.1 * t - 9.95 * t**2)).sqrt(),
    )


def like(values, x):
    """A number, or one for each item, (N,), in a shape that multiplies x (N, ...)."""
    values = torch.as_tensor(values).to(x)
    if values.ndim > 0 and values.shape != x.shape[:1]:
        wanted = f"one number, or {len(x)} of them, one for each item"
        raise ValueError(f"like: needs {wanted}, got shape {tuple(values.shape)}")
    return values.reshape(-1, *[1] * (x.ndim - 1))


def require_times(where, t):
    """Refuse times that are not in [0, 1]."""
    t = torch.as_tensor(t)
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"{where}: times t run from 0 (data) to 1 (noise), got {t}")


def diffuse(x0, t, eps, schedule):
    """x_t for data x0 (N, ...) and noise eps like x0, at times t (a number or (N,)): eq. (1)."""
    require_times("diffuse", t)
    if x0.shape != eps.shape:
        shapes = f"{tuple(x0.shape)} and {tuple(eps.shape)}"
        raise ValueError(f"diffuse: x0 and eps must have the same shape, got {shapes}")
    return like(schedule.alpha(t), x0) * x0 + like(schedule.sigma(t), x0) * eps


def score_from(x, x0_hat, t, schedule):
    """The score, the gradient of log q(x_t), from a denoised estimate like x: eq. (3)."""
    sigma = like(schedule.sigma(t), x)
    if not sigma.all():
        raise ValueError("score_from: at t = 0 there is no noise, and (3) says nothing")
    return (like(schedule.alpha(t), x) * x0_hat - x) / sigma.square()


def mixture_shares(x, t, schedule, centres, width):
    """p(centre k | x_t) (N, K), for points x (N, D) and a mixture of K equal Gaussians.

    Their centres (K, D), and the width of each; t is a number or (N,).
    """
    alpha = like(schedule.alpha(t), x)
    variance = (alpha * width).square() + like(schedule.sigma(t), x).square()
    distance = (x[:, None] - alpha[..., None] * centres).square().sum(dim=-1)  # (N, K)
    return (-distance / (2 * variance)).softmax(dim=1)


def mixture_denoise(x, t, schedule, centres, width):
    """The exact E[x_0 | x_t] (N, D) for data from that mixture: eq. (4)."""
    alpha = like(schedule.alpha(t), x)
    variance = (alpha * width).square() + like(schedule.sigma(t), x).square()
    offset = x[:, None] - alpha[..., None] * centres                           # (N, K, D)
    estimates = centres + (alpha * width**2 / variance)[..., None] * offset    # one for each centre
    shares = mixture_shares(x, t, schedule, centres, width)
    return (shares[..., None] * estimates).sum(dim=1)


def posterior_std(t, s, schedule):
    """The standard deviation of q(x_s | x_t, x_0), for numbers s < t: eq. (7)."""
    require_times("posterior_std", [s, t])
    if not s < t:
        raise ValueError(f"posterior_std: needs s < t, got s = {s} and t = {t}")
    sigma_t = schedule.sigma(t)
    sigma_s = schedule.sigma(s)
    kept = schedule.alpha(t) / schedule.alpha(s) * sigma_s  # of the noise at t, what was there at s
    added = (sigma_t.square() - kept.square()).clamp_min(0).sqrt()
    return sigma_s / sigma_t * added


def ddim_step(x, x0_hat, t, s, schedule, eta=0.0, generator=None):
    """From time t to a time s < t, given a denoised estimate like x: eq. (5); with eta, eq. (6)."""
    require_number("ddim_step", "eta", eta, least=0, most=1)
    std = eta * posterior_std(t, s, schedule)
    eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    kept = (schedule.sigma(s).square() - std.square()).clamp_min(0).sqrt()
    new = schedule.alpha(s) * x0_hat + kept * eps_hat
    if s == 0 or eta == 0:
        return new  # at s = 0 eq. (7) is 0: no fresh noise on the last step
    return new + std * torch.randn(x.shape, generator=generator).to(x)


def sample(denoise, x, schedule, num_steps, eta=0.0, generator=None, start=1.0, keep=False):
    """From noise x at time `start` to data at time 0; denoise(x, t) returns x0_hat, like x.

    eta = 0 is DDIM, eta = 1 DDPM. keep: return x after each step, from the first on.
    """
    trajectory = [x]
    times = schedule.times(num_steps, start)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = ddim_step(x, denoise(x, t), t, s, schedule, eta, generator)
        trajectory.append(x)
    return trajectory if keep else x


def flow_step(net, opt, x0, generator=None):
    """One step of training a velocity network on data x0 (N, D): eq. (10). Returns the loss."""
    t = torch.rand(len(x0), 1, generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    x = (1 - t) * x0 + t * eps
    loss = (net(x, t) - (eps - x0)).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss


@torch.no_grad()
def flow_sample(net, x, num_steps):
    """Noise x (N, D) at t = 1 to data at t = 0, in num_steps straight pieces: eq. (11)."""
    for k in range(num_steps, 0, -1):
        t = torch.full((len(x), 1), k / num_steps)
        x = x - net(x, t) / num_steps
    return x


class VelocityNet(nn.Module):
    """Points x (N, D) at times t (N,) or (N, 1) -> velocities (N, D), by an MLP."""

    def __init__(self, d=2, hidden=128):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(d + 1, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, d),
        )

    def forward(self, x, t):
        return self.net(torch.cat([x, t.reshape(-1, 1)], dim=1))


TARGETS = ("eps", "x0", "v", "velocity")


def make_target(target, x0, eps, alpha, sigma):
    """What a network is asked for, when x_t = alpha x0 + sigma eps: the table above."""
    require_one_of("make_target", "target", target, TARGETS)
    if target == "eps":
        return eps
    if target == "x0":
        return x0
    if target == "v":
        return alpha * eps - sigma * x0
    return eps - x0


def x0_from(target, out, x, alpha, sigma):
    """The denoised estimate in a network's output, for x = alpha x0 + sigma eps: eq. (14)."""
    require_one_of("x0_from", "target", target, TARGETS)
    if target == "eps":
        if not torch.as_tensor(alpha).all():
            raise ValueError("x0_from: where no data are left, the noise says nothing about them")
        return (x - sigma * out) / alpha
    if target == "x0":
        return out
    if target == "v":
        return (alpha * x - sigma * out) / (alpha**2 + sigma**2)
    return (x - sigma * out) / (alpha + sigma)


def draw_times(n, middle=False, generator=None):
    """n random times in (0, 1): uniform; if `middle`, mostly those in between (Esser 2024)."""
    if middle:
        return torch.sigmoid(torch.randn(n, generator=generator))
    return torch.rand(n, generator=generator)


def denoising_loss(net, x0, schedule, target="velocity", generator=None, *label, middle=False):
    """The mean squared error of a network's prediction for data x0 (N, ...): eq. (13).

    label: (N,), for a network that takes one; middle: as in `draw_times`. Both are for section 8.
    """
    t = draw_times(len(x0), middle, generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    alpha = like(schedule.alpha(t), x0)
    sigma = like(schedule.sigma(t), x0)
    out = net(alpha * x0 + sigma * eps, t, *label)
    return (out.float() - make_target(target, x0, eps, alpha, sigma)).square().mean()


def denoiser(net, schedule, target="velocity", *label, clip=False):
    """denoise(x, t) -> x0_hat for `sample`, from a network that predicts `target`.

    clip: keep the estimate within [-1, 1], the range of the images.
    """

    def denoise(x, t):
        out = net(x, torch.full((len(x),), t, device=x.device), *label).float()
        x0_hat = x0_from(target, out, x, schedule.alpha(t), schedule.sigma(t))
        return x0_hat.clamp(-1, 1) if clip else x0_hat

    return denoise


def time_embedding(t, dim=64):
    """Times t (N,) in [0, 1] as sines and cosines (N, dim), dim even, of 1000 t; Ho 2020.

    Their frequencies fall from 1 to about 1/7500, as in Vaswani 2017.
    """
    exponent = torch.arange(dim // 2, device=t.device) / (dim // 2)
    frequency = torch.exp(-math.log(10_000) * exponent)
    angle = 1000 * t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    """Two convolutions and a shortcut, (N, C_in, H, W) -> (N, C, H, W).

    The embedding e (N, E) scales and shifts what is between them.
    """

    def __init__(self, c_in, c, e_dim):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.scale_shift = nn.Linear(e_dim, 2 * c)
        self.shortcut = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # a new block passes on what it is given
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
        x = self.norm(h).flatten(2).transpose(1, 2)                  # (N, H W, C)
        heads = self.qkv(x).reshape(N, H * W, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)                       # (N, heads, H W, d)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5          # (N, heads, H W, H W)
        weights = logits.softmax(dim=3).to(v.dtype)
        x = (weights @ v).transpose(1, 2).reshape(N, H * W, C)
        return h + self.out(x).transpose(1, 2).reshape(N, C, H, W)


NO_LABEL = 10


class UNet(nn.Module):
    """Images (N, 1, 28, 28), times t (N,), labels (N,) or NO_LABEL -> a prediction like x.

    Works at 14x14 (c channels) and 7x7 (twice as many), after pixel_unshuffle; in the type of its
    weights. Ronneberger 2015, Ho 2020. Raises ValueError for other shapes.
    """

    def __init__(self, c=48, e_dim=128):
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
        self.to(memory_format=torch.channels_last)  # a quicker layout in memory

    def forward(self, x, t, label):
        if x.shape != (len(x), 1, 28, 28) or not t.shape == label.shape == (len(x),):
            shapes = ", ".join(str(tuple(part.shape)) for part in (x, t, label))
            wanted = "images (N, 1, 28, 28), times (N,) and labels (N,)"
            raise ValueError(f"UNet: needs {wanted}, got {shapes}")
        dtype = self.label.weight.dtype
        e = F.silu(self.time(time_embedding(t).to(dtype)) + self.label(label))
        h = F.pixel_unshuffle(x.to(dtype), 2)
        h = h.contiguous(memory_format=torch.channels_last)    # (N, 4, 14, 14)
        skip = self.fine(self.enter(h), e)                     # (N, c, 14, 14)
        h = self.coarse1(self.down(skip), e)                   # (N, 2c, 7, 7)
        h = self.coarse2(self.attention(h), e)
        h = F.pixel_shuffle(self.up(h), 2)                     # (N, c, 14, 14)
        h = self.merge(torch.cat([h, skip], dim=1), e)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


def drop_labels(label, share=0.1, generator=None):
    """Labels (N,), each NO_LABEL with this probability; Ho & Salimans 2022, algorithm 1."""
    dropped = torch.rand(label.shape, generator=generator).to(label.device) < share
    return torch.where(dropped, NO_LABEL, label)


@torch.no_grad()
def update_ema(average, model, decay):
    """average <- decay average + (1 - decay) weights, in place: eq. (16)."""
    for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
        kept.mul_(decay).add_(weight, alpha=1 - decay)


def learning_rate(step, num_steps, highest):
    """Up in 50 steps (or a tenth of a short run), then down to 0 along half a cosine."""
    warm = min(50, 0.1 * num_steps)
    if step < warm:
        return highest * step / warm
    return highest * (1 + math.cos(math.pi * (step - warm) / (num_steps - warm))) / 2


RECTIFIED_FLOW = make_schedule("rectified flow")


@torch.no_grad()
def draw_digits(
    net, label, num_steps=20, eta=1.0, generator=None, x=None,
    schedule=RECTIFIED_FLOW, target="velocity", clip=True, **settings,
):
    """Images (N, 1, 28, 28) in [-1, 1] for labels (N,), by `sample`.

    x: noise to start from; drawn if None. clip: keep each x0_hat within [-1, 1]. settings go to
    `sample`. Raises ValueError for labels that are none.
    """
    if ((label < 0) | (label > NO_LABEL)).any():
        raise ValueError(f"draw_digits: labels are 0 to 9, or {NO_LABEL} for none, got {label}")
    if x is None:
        x = torch.randn(len(label), 1, 28, 28, generator=generator).to(label.device)
    denoise = denoiser(net, schedule, target, label, clip=clip)
    with autocast(label.device):
        drawn = sample(denoise, x, schedule, num_steps, eta, generator, **settings)
    return [step.cpu() for step in drawn] if settings.get("keep") else drawn.cpu().clamp(-1, 1)


def draw_many(net, label, x, num_steps=20, batch_size=250, **settings):
    """`draw_digits` from noise x, a batch at a time: quicker, and it needs less memory."""
    batches = zip(label.split(batch_size), x.split(batch_size), strict=True)
    return torch.cat(
        [draw_digits(net, y, num_steps, x=noise, **settings) for y, noise in batches]
    )


def train_denoiser(
    digits, target, schedule, num_steps, seed=0, c=24, batch_size=32, lr=3e-3, device="cpu"
):
    """A U-Net after num_steps steps of eq. (13), averaged by eq. (16); times are uniform."""
    with torch.random.fork_rng(devices=[]):  # other random numbers stay as they are
        torch.manual_seed(seed)
        net = UNet(c).to(device)
    average = copy.deepcopy(net)
    opt = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99))
    random = torch.Generator().manual_seed(seed)
    for step, (pixels, label) in steps(digits, num_steps, batch_size, device=device, seed=seed):
        for group in opt.param_groups:
            group["lr"] = learning_rate(step, num_steps, lr)
        label = drop_labels(label, generator=random)
        with autocast(device):
            loss = denoising_loss(net, to_signed(pixels), schedule, target, random, label)
        opt.zero_grad()
        loss.backward()
        opt.step()
        update_ema(average, net, 1 - 5 / num_steps)
    return average.eval().requires_grad_(False)


def guided(net, w):
    """A network whose predictions are led away from "no label" by w: eq. (17).

    w = 0 leaves them as they are.
    """
    require_number("guided", "w", w)

    def predict(x, t, label):
        no_label = torch.full_like(label, NO_LABEL)
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, no_label]))
        with_label, without = both.chunk(2)
        return with_label + w * (with_label - without)

    return predict


def finish(net, x0, label, start, num_steps=20, generator=None, **settings):
    """Noise images x0 (N, 1, 28, 28) to time `start`, and denoise from there: Meng 2021.

    At start = 0 the images come back as they are. settings go to `draw_digits`.
    """
    require_number("finish", "start", start, least=0, most=1)
    if start == 0:
        return x0.cpu().clamp(-1, 1)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    x = diffuse(x0, start, eps, RECTIFIED_FLOW)
    return draw_digits(net, label, num_steps, x=x, start=start, generator=generator, **settings)
