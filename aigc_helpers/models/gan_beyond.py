"""Generated from notebooks/01b_gan_beyond.ipynb: edit it there, then run `python -m tools export`."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.data import toy_2d, toy_modes
from aigc_helpers.models.gan import discriminator_loss, draw_weights, generator_loss, r1_penalty


RULES = ("simultaneous", "alternating", "extragradient")


def game_matrix(rule, eta, gamma=0.0):
    """One round of the smallest GAN as a matrix (2, 2) on (theta, psi): eqs. (1), (2), (6).

    rule: one of RULES. eta: the step size. gamma: the weight of the R1 penalty in D's loss.
    """
    require_one_of("game_matrix", "rule", rule, RULES)
    require_number("game_matrix", "eta", eta, least=0)
    require_number("game_matrix", "gamma", gamma, least=0)
    still = torch.eye(2, dtype=torch.float64)
    g_push = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    d_push = torch.tensor([[0.0, 0.0], [-1.0, -gamma]], dtype=torch.float64)
    both = g_push + d_push
    if rule == "simultaneous":
        return still + eta * both
    if rule == "alternating":
        return (still + eta * g_push) @ (still + eta * d_push)  # D steps first
    return still + eta * both @ (still + eta * both)  # extragradient


def trajectory(matrix, rounds, start=(1.0, 0.0)):
    """Positions (rounds + 1, 2) of theta and psi, when each round multiplies by the matrix."""
    require_whole("trajectory", "rounds", rounds, least=0)
    positions = [torch.tensor(start, dtype=torch.float64)]
    for _ in range(rounds):
        positions.append(matrix @ positions[-1])
    return torch.stack(positions)


DIVERGENCES = ("KL(p || q)", "KL(q || p)", "2 JSD", "2 KL(m || p)")


def kl(log_a, log_b, x):
    """KL divergence (...) in nats of two densities, from their logs (..., n) on the grid x (n,)."""
    return torch.trapezoid(log_a.exp() * (log_a - log_b), x)


def divergences(log_p, log_q, x):
    """{name: value (...)} for the names in DIVERGENCES, from log densities (..., n) on the grid."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    two_jsd = kl(log_p, log_m, x) + kl(log_q, log_m, x)
    values = (kl(log_p, log_q, x), kl(log_q, log_p, x), two_jsd, 2 * kl(log_m, log_p, x))
    return dict(zip(DIVERGENCES, values, strict=True))


def log_normal(x, centre, width):
    """Log density of a bell (a Gaussian) with this centre and standard deviation."""
    return torch.distributions.Normal(centre, width).log_prob(x)


def log_two_bells(x, right_share, apart=1.5, width=0.4):
    """Log density of two bells at -apart and apart; the right one holds this share of the data."""
    right_share = torch.as_tensor(right_share, dtype=x.dtype)
    left = torch.log1p(-right_share) + log_normal(x, -apart, width)
    right = torch.log(right_share) + log_normal(x, apart, width)
    return torch.logaddexp(left, right)


def wasserstein_1d(real, fake):
    """Wasserstein distance of two samples (N,), (N,) on a line, eq. (10)."""
    if real.shape != fake.shape or real.dim() != 1:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"wasserstein_1d: needs as many fakes as real samples, got {shapes}")
    return (real.sort().values - fake.sort().values).abs().mean()


def price_function(real, fake):
    """Knots (N + M,) in order, and the prices there: slope sign(F_q - F_p) between, eq. (12)."""
    knots = torch.cat([real, fake]).sort().values
    real_share = (real[:, None] <= knots).double().mean(dim=0)  # F_p: how much lies at or below
    fake_share = (fake[:, None] <= knots).double().mean(dim=0)  # F_q
    slopes = torch.sign(fake_share - real_share)[:-1]
    climbs = slopes * knots.diff()
    return knots, torch.cat([climbs.new_zeros(1), climbs.cumsum(dim=0)])


def modes_covered(points, bar):
    """How many modes of the grid have at least this part of their fair share of points (N, 2)."""
    centres, sigma = toy_modes("grid")
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    near = nearest[distance <= 3 * sigma]
    hits = near.bincount(minlength=len(centres))
    fair_share = len(points) / len(centres)
    return (hits >= bar * fair_share).sum().item()


def paired_discriminator_loss(real_logits, fake_logits):
    """Eq. (15), D's part: mean of softplus(fake - real) over pairs of logits (N,), (N,)."""
    return F.softplus(fake_logits - real_logits).mean()


def paired_generator_loss(real_logits, fake_logits):
    """Eq. (15), G's part: mean of softplus(real - fake) over pairs of logits (N,), (N,)."""
    return F.softplus(real_logits - fake_logits).mean()


VARIANTS = {
    "plain": {"paired": False, "r1": 0.0, "r2": 0.0},
    "R1": {"paired": False, "r1": 0.1, "r2": 0.0},
    "R1 + R2": {"paired": False, "r1": 0.1, "r2": 0.1},
    "pairs": {"paired": True, "r1": 0.0, "r2": 0.0},
    "pairs + R1": {"paired": True, "r1": 0.1, "r2": 0.0},
    "pairs + R1 + R2 (R3GAN)": {"paired": True, "r1": 0.1, "r2": 0.1},
}


def objective_of_d(D, real, fake, paired, r1, r2):
    """All that D minimises: eq. (16), or with paired=False the non-saturating loss in its place."""
    fake = fake.detach()
    if paired:
        total = paired_discriminator_loss(D(real), D(fake))
    else:
        total = discriminator_loss(D(real), D(fake))
    if r1 > 0:
        total = total + r1 * r1_penalty(D, real)
    if r2 > 0:
        total = total + r2 * r1_penalty(D, fake)  # R2 is the same penalty, at fakes
    return total


def objective_of_g(D, real, fake, paired):
    """All that G minimises."""
    if paired:
        return paired_generator_loss(D(real).detach(), D(fake))
    return generator_loss(D(fake))


def make_mlp(num_in, num_out, width, random):
    """Three hidden layers; the weights are drawn from the random generator."""
    layers = [nn.Linear(num_in, width), nn.LeakyReLU()]
    for _ in range(2):
        layers += [nn.Linear(width, width), nn.LeakyReLU()]
    return draw_weights(nn.Sequential(*layers, nn.Linear(width, num_out)), random)


def train_plane(paired, r1, r2, num_steps, seed, width=64, lr=2e-3, batch=128, noise_dim=2):
    """Train a GAN on the grid; returns its generator, noise (N, noise_dim) -> points (N, 2)."""
    random = torch.Generator().manual_seed(seed)
    G = make_mlp(noise_dim, 2, width, random)
    D = make_mlp(2, 1, width, random)
    g_opt = torch.optim.Adam(G.parameters(), lr, betas=(0.0, 0.9))
    d_opt = torch.optim.Adam(D.parameters(), lr, betas=(0.0, 0.9))
    data = toy_2d("grid", 10_000, random)
    for step in range(num_steps):
        for opt in (g_opt, d_opt):
            opt.param_groups[0]["lr"] = lr * min(1.0, 2 - 2 * step / num_steps)
        real = data[torch.randint(len(data), (batch,), generator=random)]
        fake = G(torch.randn(batch, noise_dim, generator=random))
        d_loss = objective_of_d(D, real, fake, paired, r1, r2)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()

        real = data[torch.randint(len(data), (batch,), generator=random)]  # new partners
        fake = G(torch.randn(batch, noise_dim, generator=random))
        g_loss = objective_of_g(D, real, fake, paired)
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
    return G


class ResidualBlock(nn.Module):
    """Maps (N, width, h, w) -> the same shape: h + two convolutions of it."""

    def __init__(self, width, norm=False):
        super().__init__()
        self.net = nn.Sequential(
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, h):
        return h + self.net(h)


class ConditionalGenerator(nn.Module):
    """Noise z (N, z_dim) and labels (N,) -> images (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self, z_dim=32, width=48):
        super().__init__()
        require_whole("ConditionalGenerator", "z_dim", z_dim, least=1)
        require_whole("ConditionalGenerator", "width", width, least=2)
        self.z_dim = z_dim
        self.embed = nn.Embedding(10, z_dim)
        self.start = nn.Linear(2 * z_dim, width * 7 * 7)
        self.body = nn.Sequential(
            ResidualBlock(width, norm=True),  # (N, width, 7, 7)
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),  # (N, width / 2, 14, 14)
            ResidualBlock(width // 2, norm=True),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, 4, 3, padding=1),
            nn.PixelShuffle(2),  # (N, 1, 28, 28)
            nn.Tanh(),
        )

    def forward(self, z, labels):
        h = self.start(torch.cat([z, self.embed(labels)], dim=1))
        return self.body(h.reshape(len(z), -1, 7, 7)).float()


class ConditionalDiscriminator(nn.Module):
    """Images (N, 1, 28, 28) and labels (N,) -> logits (N,): eq. (18)."""

    def __init__(self, width=32):
        super().__init__()
        require_whole("ConditionalDiscriminator", "width", width, least=1)
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),  # (N, 4, 14, 14)
            nn.Conv2d(4, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (N, 2 width, 7, 7)
            ResidualBlock(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),  # (N, 2 width, 3, 3)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * 9, 128),
            nn.LeakyReLU(0.2),
        )
        self.is_digit = nn.Linear(128, 1)
        self.embed = nn.Embedding(10, 128)
        nn.init.normal_(self.embed.weight, 0.0, 0.05)

    def forward(self, x, labels):
        phi = self.features(x).float()
        return self.is_digit(phi).squeeze(1) + (self.embed(labels) * phi).sum(dim=1)
