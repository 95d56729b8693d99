"""Generated from notebooks/04b_diffusion_beyond.ipynb: edit it there, then run `python -m tools export`."""

import copy
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.models.diffusion import (
    NO_LABEL,
    denoiser,
    draw_digits,
    learning_rate,
    make_schedule,
    time_embedding,
    update_ema,
)
from aigc_helpers.training import History, autocast, steps


SCHEDULES = ("linear", "cosine", "offset cosine", "rectified flow")
OFFSET = 0.008  # Nichol 2021
LOG_2_PI = math.log(2 * math.pi)


def coefficients(t, schedule):
    """alpha(t) and sigma(t) at times t from 0 to 1, in 64 bits: x_t = alpha x_0 + sigma eps.

    Chapter 04's schedules, and the cosine with the offset of Nichol 2021.
    """
    require_one_of("coefficients", "schedule", schedule, SCHEDULES)
    t = torch.as_tensor(t, dtype=torch.float64)
    if schedule != "offset cosine":
        known = make_schedule(schedule)
        return known.alpha(t), known.sigma(t)
    angle = (t + OFFSET) / (1 + OFFSET) * math.pi / 2
    alpha = angle.cos() / math.cos(OFFSET / (1 + OFFSET) * math.pi / 2)
    return alpha, (1 - alpha.square()).clamp_min(0).sqrt()


def drift_and_diffusion(t, schedule):
    """f(t) and g(t)^2 of the forward SDE, eq. (1), in 64 bits; infinite at t = 1 but for linear."""
    t = torch.as_tensor(t, dtype=torch.float64)
    if schedule == "rectified flow":
        f = -1 / (1 - t)
        return f, -2 * t * f
    if schedule == "linear":
        f = -0.05 - 9.95 * t
    else:
        offset = OFFSET if schedule == "offset cosine" else 0.0
        angle = (t + offset) / (1 + offset) * math.pi / 2
        f = -math.pi / 2 / (1 + offset) * angle.tan()
    return f, -2 * f


class Mixture:
    """Gaussians of one width at centres (K, d), with shares (K,): known at every time.

    All methods take points x (N, d) in 64 bits, and the alpha and sigma of their time.
    """

    def __init__(self, centres, width, shares=None):
        self.centres = torch.as_tensor(centres, dtype=torch.float64)
        self.width = require_number("Mixture", "width", width, above=0)
        shares = [1.0] * len(self.centres) if shares is None else shares
        shares = torch.as_tensor(shares, dtype=torch.float64)
        self.shares = shares / shares.sum()

    def _parts(self, x, alpha, sigma):
        """Offsets (N, K, d) from the K Gaussians, their variance, the log of each part (N, K)."""
        variance = torch.as_tensor((alpha * self.width) ** 2 + sigma**2, dtype=torch.float64)
        offset = x[:, None] - alpha * self.centres
        size = 0.5 * x.shape[1] * (LOG_2_PI + variance.log())
        log_part = self.shares.log() - size - offset.square().sum(dim=2) / (2 * variance)
        return offset, variance, log_part

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        """log p_t (N,)."""
        return torch.logsumexp(self._parts(x, alpha, sigma)[2], dim=1)

    def score(self, x, alpha=1.0, sigma=0.0):
        """The gradient of log p_t by x, (N, d)."""
        offset, variance, log_part = self._parts(x, alpha, sigma)
        return -(log_part.softmax(dim=1)[..., None] * offset).sum(dim=1) / variance

    def posterior(self, x, alpha=1.0, sigma=0.0):
        """The probability of each Gaussian, given x: (N, K)."""
        return self._parts(x, alpha, sigma)[2].softmax(dim=1)

    def denoise(self, x, alpha, sigma):
        """E[x_0 | x_t], (N, d): chapter 04's exact denoised estimate."""
        offset, variance, log_part = self._parts(x, alpha, sigma)
        each = self.centres + alpha * self.width**2 / variance * offset
        return (log_part.softmax(dim=1)[..., None] * each).sum(dim=1)

    def cdf(self, x, alpha=1.0, sigma=0.0):
        """The probability to lie below x, (N,); for d = 1."""
        width = torch.as_tensor((alpha * self.width) ** 2 + sigma**2, dtype=torch.float64).sqrt()
        return torch.special.ndtr((x - alpha * self.centres[:, 0]) / width) @ self.shares

    def only(self, chosen):
        """The mixture of the Gaussians in the list `chosen` alone."""
        return Mixture(self.centres[chosen], self.width, self.shares[chosen])

    def sample(self, num, generator=None):
        """num points (num, d)."""
        which = torch.multinomial(self.shares, num, replacement=True, generator=generator)
        noise = torch.randn(num, self.centres.shape[1], generator=generator, dtype=torch.float64)
        return self.centres[which] + self.width * noise


def simulate(score, x, times, schedule, noise_scale=0.0, generator=None, pull=True, keep=False):
    """Eq. (5) by small steps from noise x (N, d) at times[0] down to times[-1].

    score(x, alpha, sigma). noise_scale: c; 0 is the probability-flow ODE, 1 the reverse SDE.
    pull: False leaves out the drift that pays for the noise, which is wrong. keep: return all
    positions.
    """
    noise_scale = require_number("simulate", "noise_scale", noise_scale, least=0)
    walk = [x]
    for t, later in zip(times[:-1], times[1:], strict=True):
        dt = t - later
        f, g2 = drift_and_diffusion(t, schedule)
        s = score(x, *coefficients(t, schedule))
        drift = f * x - 0.5 * g2 * s
        if pull:
            drift = drift - 0.5 * noise_scale**2 * g2 * s
        x = x - drift * dt
        if noise_scale > 0:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + noise_scale * (g2 * dt).sqrt() * z
        walk.append(x)
    return walk if keep else x


def ks_distance(x, mixture, alpha=1.0, sigma=0.0):
    """The largest gap between the shares of points x (N, 1) below a place and the mixture's.

    Kolmogorov-Smirnov: for N points drawn from the mixture itself, about 0.9 / sqrt(N).
    """
    x = x.sort(dim=0).values
    below = mixture.cdf(x, alpha, sigma)
    rank = torch.arange(len(x), dtype=torch.float64) / len(x)
    return torch.maximum(below - rank, rank + 1 / len(x) - below).max().item()


def make_velocity(score, schedule="linear"):
    """u(x, t) of eq. (4), from score(x, alpha, sigma)."""

    def velocity(x, t):
        f, g2 = drift_and_diffusion(t, schedule)
        return f * x - 0.5 * g2 * score(x, *coefficients(t, schedule))

    return velocity


@torch.enable_grad()
def divergence(velocity, x, t, probes=None):
    """u (N, d) and its divergence (N,) at points x (N, d).

    Exact, by one backward pass a coordinate; or, with probes (K, N, d) of +1 and -1, the mean of K
    estimates by eq. (8), one backward pass each.
    """
    x = x.detach().requires_grad_()
    u = velocity(x, t)
    total = torch.zeros(len(x), dtype=x.dtype)
    if probes is None:
        for i in range(x.shape[1]):
            (slope,) = torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)
            total = total + slope[:, i]
        return u.detach(), total.detach()
    for v in probes:
        (v_times_J,) = torch.autograd.grad((u * v).sum(), x, retain_graph=True)
        total = total + (v_times_J * v).sum(dim=1) / len(probes)
    return u.detach(), total.detach()


def ode_log_prob(velocity, x, num_steps=100, probes=None):
    """Eq. (7): log p_0 (N,) of points x (N, d), by Heun's method on times that are dense at 0.

    probes (K, N, d): the same for all steps of a trajectory, Grathwohl 2018; without, exact.
    """
    require_whole("ode_log_prob", "num_steps", num_steps, least=1)
    times = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64).square()
    gathered = torch.zeros(len(x), dtype=x.dtype)
    for t, later in zip(times[:-1], times[1:], strict=True):
        dt = later - t
        u, spread = divergence(velocity, x, t, probes)
        u_there, spread_there = divergence(velocity, x + dt * u, later, probes)
        x = x + dt * (u + u_there) / 2
        gathered = gathered + dt * (spread + spread_there) / 2
    return -0.5 * (x.square() + LOG_2_PI).sum(dim=1) + gathered


def levels_at(log_snr, schedule="linear"):
    """alpha and sigma where log(alpha^2 / sigma^2) is log_snr.

    The same for all schedules but "rectified flow", whose squares do not add up to 1.
    """
    if schedule == "rectified flow":
        sigma = torch.sigmoid(-log_snr / 2)
        return 1 - sigma, sigma
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def hermite_noise(num=64):
    """Noise values (num,) and their probabilities: averages over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    return torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())


def noise_error(score, x0, alpha, sigma):
    """E over eps of (eps - eps_hat)^2 at each data point x0 (N, 1): (N,), by quadrature."""
    eps, share = hermite_noise()
    x = alpha * x0 + sigma * eps  # (N, 64)
    eps_hat = -sigma * score(x.reshape(-1, 1), alpha, sigma).reshape(x.shape)
    return (eps - eps_hat).square() @ share


def bound_of(score, x0, schedule="linear", low=-12.0, high=14.0, num=521):
    """Eq. (9): an upper bound on -log p of points x0 (N, 1), in nats: (N,)."""
    log_snr = torch.linspace(low, high, num, dtype=torch.float64)
    errors = [noise_error(score, x0, *levels_at(level, schedule)) for level in log_snr]
    middle = 0.5 * torch.trapezoid(torch.stack(errors), log_snr, dim=0)
    alpha, sigma = levels_at(log_snr[0], schedule)
    first = 0.5 * ((alpha * x0[:, 0]).square() + sigma**2 - 1 - 2 * sigma.log())
    alpha, sigma = levels_at(log_snr[-1], schedule)
    last = 0.5 * (LOG_2_PI + 2 * (sigma / alpha).log() + 1)
    return first + middle + last


LOSSES = (
    "bound",
    "noise, cosine",
    "noise, cosine, min-SNR",
    "data, cosine",
    "data, EDM",
    "velocity, uniform times",
    "velocity, logit-normal times",
)


def normal_density(x):
    """The density of a standard normal number."""
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def loss_weight(loss, log_snr):
    """omega(lambda) of eq. (10) for one of LOSSES; Kingma & Gao 2023, Hang 2023, Karras 2022."""
    require_one_of("loss_weight", "loss", loss, LOSSES)
    if loss == "bound":
        return torch.ones_like(log_snr)
    if loss.startswith("velocity"):
        weight = torch.exp(-log_snr / 2)
        t = torch.sigmoid(-log_snr / 2)
        density = normal_density(log_snr / 2) / (t * (1 - t))
        return weight * density if loss == "velocity, logit-normal times" else weight
    if loss == "data, EDM":
        density = normal_density((1.2 - log_snr / 2) / 1.2) / 1.2  # of log sigma
        return density * (1 + torch.exp(-log_snr) / 0.5**2)
    of_noise = 1 / (math.pi * torch.cosh(log_snr / 2))
    if loss == "noise, cosine, min-SNR":
        return of_noise * (5 * torch.exp(-log_snr)).clamp_max(1)
    return of_noise if loss == "noise, cosine" else of_noise * torch.exp(-log_snr)


METHODS = ("Euler", "Heun", "AB2", "2M")


def predict(denoise, x, t, schedule):
    """The predictions (x0, eps) at points x (N, ...) and a time t > 0.

    denoise(x, alpha, sigma) returns x0.
    """
    alpha, sigma = coefficients(t, schedule)
    x0 = denoise(x, alpha, sigma)
    return x0, (x - alpha * x0) / sigma


def midway(new, old, ratio):
    """Eq. (12): a line through two predictions, half a step ahead; ratio: this step / the last."""
    return new + 0.5 * ratio * (new - old)


def solve(denoise, x, times, schedule, method="Heun"):
    """The probability-flow ODE from x at times[0] down to times[-1], by one of METHODS.

    At time 0 no method asks for a prediction. 2M: Lu 2022, its first step and a step to 0 by Euler.
    """
    require_one_of("solve", "method", method, METHODS)
    old = None
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        alpha, sigma = coefficients(t, schedule)
        alpha_s, sigma_s = coefficients(s, schedule)
        new = predict(denoise, x, t, schedule)
        x0, eps = new
        if method == "Heun" and s > 0:
            there = x + (alpha_s - alpha) * x0 + (sigma_s - sigma) * eps
            x0_there, eps_there = predict(denoise, there, s, schedule)
            x0 = (x0 + x0_there) / 2
            eps = (eps + eps_there) / 2
        if method == "AB2" and old is not None:
            ratio = (t - s) / (times[k - 1] - t)
            x0 = midway(x0, old[0], ratio)
            eps = midway(eps, old[1], ratio)
        if method == "2M":
            x = _two_m_step(x, x0, old, (times[k - 1], t, s), schedule)
        else:
            x = x + (alpha_s - alpha) * x0 + (sigma_s - sigma) * eps
        old = new
    return x


def _two_m_step(x, x0, old, times, schedule):
    """A step of DPM-Solver++(2M) from times[1] to times[2]; old: the predictions at times[0]."""
    alpha_old, sigma_old = coefficients(times[0], schedule)
    alpha, sigma = coefficients(times[1], schedule)
    alpha_s, sigma_s = coefficients(times[2], schedule)
    middle = x0
    if old is not None and sigma_s > 0 and alpha_old > 1e-12:
        step = (alpha_s / sigma_s).log() - (alpha / sigma).log()
        ratio = step / ((alpha / sigma).log() - (alpha_old / sigma_old).log())
        middle = midway(x0, old[0], ratio)
    return sigma_s / sigma * x + (alpha_s - alpha * sigma_s / sigma) * middle


def shift_times(times, shift):
    """Times in [0, 1] moved towards the noise by a shift above 1: Esser 2024, section 5.3.2."""
    return shift * times / (1 + (shift - 1) * times)


def karras_times(num_steps, low=0.002, high=80.0, rho=7.0):
    """num_steps + 1 times of rectified flow from 1 down to 0: Karras 2022, eq. (5).

    Even in (sigma / alpha)^(1 / rho), between the levels `high` and `low`; then a step to 0.
    """
    require_whole("karras_times", "num_steps", num_steps, least=1)
    ends = torch.tensor([high, low], dtype=torch.float64) ** (1 / rho)
    ratio = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, num_steps, dtype=torch.float64))
    ratio = ratio**rho
    times = ratio / (1 + ratio)
    times[0] = 1.0  # where chapter 04 starts
    return F.pad(times, (0, 1))


def flow_denoise(net, label, clip=True):
    """denoise(x, alpha, sigma) for `solve`: x0 from a velocity network.

    clip: keep it within [-1, 1], the range of the images.
    """

    @torch.no_grad()
    def denoise(x, alpha, sigma):
        t = torch.full((len(x),), float(sigma), device=x.device)
        with autocast(x.device):
            velocity = net(x, t, label)
        x0 = x - float(sigma) * velocity.float()
        return x0.clamp(-1, 1) if clip else x0

    return denoise


def sampled_width(width, times, schedule, eta=0.0, fresh="never"):
    """The width of what a sampler draws for data N(0, width^2), exact prediction: eq. (14).

    eta: 0 is DDIM, 1 DDPM. fresh: when the variance of eq. (15) is added, "never", as in samplers,
    in the "last" step, or in "every" one.
    """
    require_one_of("sampled_width", "fresh", fresh, ("never", "last", "every"))
    variance = torch.tensor(1.0, dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma = coefficients(t, schedule)
        alpha_s, sigma_s = coefficients(s, schedule)
        total = (alpha * width) ** 2 + sigma**2
        kappa = alpha * width**2 / total
        step = sigma_s / sigma * (sigma**2 - (alpha / alpha_s * sigma_s) ** 2).clamp_min(0).sqrt()
        step = eta * step
        kept = (sigma_s**2 - step**2).clamp_min(0).sqrt() / sigma
        factor = alpha_s * kappa + kept * (1 - alpha * kappa)
        variance = factor**2 * variance + step**2
        if fresh == "every" or (fresh == "last" and s == 0):
            uncertain = (width * sigma) ** 2 / total
            variance = variance + (alpha_s - kept * alpha) ** 2 * uncertain
    return variance.sqrt().item()


def guided_score(with_label, without, w):
    """s_w(x, alpha, sigma) of eq. (17), from two scores (x, alpha, sigma). w = 0 is no guidance."""
    w = require_number("guided_score", "w", w)

    def score(x, alpha, sigma):
        labelled = with_label(x, alpha, sigma)
        return labelled + w * (labelled - without(x, alpha, sigma))

    return score


def tilted_log_prob(x, mixture, chosen, w, alpha=1.0, sigma=0.0):
    """log of p_t(x) p_t(y|x)^(1+w), (N,), not normalised; y: the Gaussians in the list `chosen`."""
    labelled = mixture.only(chosen).log_prob(x, alpha, sigma)
    return labelled + w * (labelled - mixture.log_prob(x, alpha, sigma))


def langevin(score, x, alpha, sigma, num_steps, generator=None, size=0.3):
    """Langevin steps at one level: they make points x (N, d) follow the density of that score.

    size: the step's variance as a share of sigma^2. Song 2020's corrector, with a fixed step.
    """
    for _ in range(num_steps):
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + 0.5 * size * sigma**2 * score(x, alpha, sigma) + math.sqrt(size) * sigma * z
    return x


def annealed_langevin(score, x, times, schedule, num_langevin, generator=None, size=0.3):
    """num_langevin Langevin steps at each of the times, from noise down: Song & Ermon 2019."""
    for t in times:
        x = langevin(score, x, *coefficients(t, schedule), num_langevin, generator, size)
    return x


def predict_correct(score, x, times, schedule, num_langevin, noise_scale=0.0, generator=None):
    """A step of eq. (5), then Langevin steps at the level reached: Song 2020.

    The step to time 0 is left out: there is no noise there.
    """
    for t, later in zip(times[:-2], times[1:-1], strict=True):
        x = simulate(score, x, (t, later), schedule, noise_scale, generator)
        x = langevin(score, x, *coefficients(later, schedule), num_langevin, generator)
    return x


class DiTBlock(nn.Module):
    """Attention and an MLP over tokens (N, L, d), each scaled, shifted and gated by e: eq. (18).

    Peebles & Xie 2022, adaLN-zero. Attention is chapter 03's without the mask.
    """

    def __init__(self, d, e_dim, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(d, elementwise_affine=False)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.norm2 = nn.LayerNorm(d, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.modulation = nn.Linear(e_dim, 6 * d)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def attend(self, h):
        N, L, d = h.shape
        heads = self.qkv(h).reshape(N, L, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)                          # (N, heads, L, d / heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(N, L, d))

    def forward(self, h, e):
        a1, b1, gate1, a2, b2, gate2 = self.modulation(e)[:, None].chunk(6, dim=2)
        h = h + gate1 * self.attend((1 + a1) * self.norm1(h) + b1)
        return h + gate2 * self.mlp((1 + a2) * self.norm2(h) + b2)


class DiT(nn.Module):
    """Images (N, 1, 28, 28), times t (N,), labels (N,) or NO_LABEL -> a prediction like x.

    49 patches of 4x4 pixels are the tokens. Called like chapter 04's UNet.
    """

    def __init__(self, d=96, num_blocks=2, e_dim=128):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, e_dim), nn.SiLU(), nn.Linear(e_dim, e_dim))
        self.label = nn.Embedding(NO_LABEL + 1, e_dim)
        self.enter = nn.Linear(16, d)
        self.position = nn.Parameter(0.02 * torch.randn(49, d))
        self.blocks = nn.ModuleList([DiTBlock(d, e_dim) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(d)
        self.leave = nn.Linear(d, 16)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, t, label):
        e = F.silu(self.time(time_embedding(t)) + self.label(label))
        tokens = F.pixel_unshuffle(x, 4).flatten(2).transpose(1, 2)     # (N, 49, 16)
        h = self.enter(tokens) + self.position                          # (N, 49, d)
        for block in self.blocks:
            h = block(h, e)
        patches = self.leave(self.norm(h)).transpose(1, 2)              # (N, 16, 49)
        return F.pixel_shuffle(patches.reshape(-1, 16, 7, 7), 4)


def average_velocity_loss(net, x0, generator=None):
    """Eq. (21) as a loss, for data x0 (N, d) and net(x, t) -> (N, d), t (N, 1): Geng 2025.

    Their second time is 0 here.
    """
    t = torch.rand(len(x0), 1, generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    x = (1 - t) * x0 + t * eps
    velocity = eps - x0
    average, change = torch.func.jvp(net, (x, t), (velocity, torch.ones_like(t)))
    target = velocity - t * change
    return (average - target.detach()).square().mean()


@torch.no_grad()
def collect(net, label, num_steps=20, generator=None, batch_size=250):
    """Trajectories (num_steps + 1, N, 1, 28, 28) of DDIM, from noise to digits, in 16 bits."""
    parts = []
    for y in label.split(batch_size):
        drawn = draw_digits(
            net, y, num_steps, eta=0.0, generator=generator, keep=True, clip=False
        )
        parts.append(torch.stack(drawn).half())
    return torch.cat(parts, dim=1)


def student_batch(kind, trajectories, index, generator=None):
    """Inputs x (N, 1, 28, 28), times (N,) and targets for the trajectories of these numbers.

    kind: "reflow", eq. (19), or "distilled", eq. (20).
    """
    require_one_of("student_batch", "kind", kind, ("reflow", "distilled"))
    num_steps = len(trajectories) - 1
    eps = trajectories[0, index].float()
    x0 = trajectories[-1, index].float()
    if kind == "reflow":
        t = torch.rand(len(index), generator=generator)
        ratio = t[:, None, None, None]
        return (1 - ratio) * x0 + ratio * eps, t, eps - x0
    k = torch.randint(num_steps, (len(index),), generator=generator)
    t = 1 - k / num_steps
    x = trajectories[k, index].float()
    return x, t, (x - x0) / t[:, None, None, None]


def train_student(kind, teacher, trajectories, label, num_steps, lr=1e-3, seed=0):
    """A copy of the teacher trained by eq. (19) or (20); returns its EMA copy and the losses.

    trajectories (K + 1, N, 1, 28, 28), label (N,). The error at time t counts t^2, at least 1/25:
    an error of the average velocity is t times as large in the picture.
    """
    random = torch.Generator().manual_seed(seed)
    device = next(teacher.parameters()).device
    net = copy.deepcopy(teacher).train().requires_grad_(True)
    average = copy.deepcopy(net).requires_grad_(False)
    opt = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    history = History()
    numbers = torch.arange(len(label))
    for step, index in steps(numbers, num_steps, 64, history=history, seed=seed):
        for group in opt.param_groups:
            group["lr"] = learning_rate(step, num_steps, lr)
        x, t, target = student_batch(kind, trajectories, index, random)
        weight = t.square().clamp_min(0.04) if kind == "distilled" else torch.ones_like(t)
        with autocast(device):
            out = net(x.to(device), t.to(device), label[index].to(device))
        error = (out.float() - target.to(device)).square().mean(dim=(1, 2, 3))
        loss = (weight.to(device) * error).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        update_ema(average, net, min(0.98, step / (step + 10)))
        history.log(loss=loss)
    return average.eval(), history["loss"]


@torch.no_grad()
def draw_consistent(net, label, num_evals, x, generator=None, batch_size=250):
    """Images (N, 1, 28, 28) from noise x, by a network of eq. (20): denoise, noise anew, denoise.

    Song 2023, algorithm 1 (multistep consistency sampling), at evenly spaced times.
    """
    require_whole("draw_consistent", "num_evals", num_evals, least=1)
    schedule = make_schedule("rectified flow")
    times = schedule.times(num_evals)
    drawn = []
    for y, noisy in zip(label.split(batch_size), x.split(batch_size), strict=True):
        denoise = denoiser(net, schedule, "velocity", y, clip=True)
        for t, s in zip(times[:-1], times[1:], strict=True):
            with autocast(y.device):
                x0 = denoise(noisy, t)
            fresh = torch.randn(x0.shape, generator=generator).to(x0)
            noisy = (1 - s) * x0 + s * fresh
        drawn.append(x0.cpu())
    return torch.cat(drawn)
