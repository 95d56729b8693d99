"""Generated from notebooks/01_gan.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.data import toy_2d


class ToyGenerator(nn.Module):
    """Noise z (N, noise_dim) -> points (N, 2)."""

    def __init__(self, noise_dim=2, hidden=64):
        super().__init__()
        self.noise_dim = noise_dim
        self.net = nn.Sequential(
            nn.Linear(noise_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 2))

    def forward(self, z):
        return self.net(z)


class ToyDiscriminator(nn.Module):
    """Points (N, 2) -> logits (N,): positive means "real"."""

    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.net(x).squeeze(1)


LOSSES = ("minimax", "non-saturating", "least squares", "hinge", "wasserstein-gp")


def discriminator_loss(real_logits, fake_logits, loss="non-saturating"):
    """Mean loss that the discriminator minimises, from logits (N,); without the penalty of wasserstein-gp."""
    if loss in ("minimax", "non-saturating"):
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()          # -V of eq. (1)
    if loss == "least squares":
        return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()
    if loss == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    if loss == "wasserstein-gp":
        return fake_logits.mean() - real_logits.mean()
    raise ValueError(f"discriminator_loss: unknown loss {loss!r}; choose one of {', '.join(LOSSES)}")


def generator_loss(fake_logits, loss="non-saturating"):
    """Mean loss that the generator minimises, from the logits (N,) of its fakes."""
    if loss == "minimax":
        return -F.softplus(fake_logits).mean()                                           # eq. (4)
    if loss == "non-saturating":
        return F.softplus(-fake_logits).mean()                                           # eq. (5)
    if loss == "least squares":
        return 0.5 * (fake_logits - 1).square().mean()
    if loss in ("hinge", "wasserstein-gp"):
        return -fake_logits.mean()
    raise ValueError(f"generator_loss: unknown loss {loss!r}; choose one of {', '.join(LOSSES)}")


def slope(D, x):
    """Norm (N,) of D's gradient at each sample of x (N, ...), differentiable in D's parameters."""
    x = x.detach().requires_grad_()
    grad, = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return grad.flatten(1).norm(dim=1)


def gradient_penalty(D, real, fake, generator=None):
    """Mean of (slope - 1)^2 at random points between real and fake samples; Gulrajani 2017, eq. (3)."""
    mix = torch.rand(len(real), *[1] * (real.dim() - 1), generator=generator).to(real.device)
    return (slope(D, mix * real + (1 - mix) * fake.detach()) - 1).square().mean()


def r1_penalty(D, real):
    """Half the mean squared slope at real samples; Mescheder 2018, eq. (9) without gamma."""
    return 0.5 * slope(D, real).square().mean()


def discriminator_objective(D, real, fake, loss="non-saturating", penalty=10.0, r1=0.0, generator=None):
    """All that the discriminator minimises: its loss, and the penalties that the setting asks for."""
    fake = fake.detach()                                          # the generator is not to blame here
    total = discriminator_loss(D(real), D(fake), loss)
    if loss == "wasserstein-gp":
        total = total + penalty * gradient_penalty(D, real, fake, generator)
    if r1:
        total = total + r1 * r1_penalty(D, real)
    return total


class Duel:
    """A GAN in the plane: two networks, two optimisers, one private random generator."""

    def __init__(self, data="ring", loss="non-saturating", g_lr=1e-3, d_lr=1e-3, d_steps=1, noise_dim=2,
                 r1=0.0, optimizers=("adam", "adam"), seed=0):  # fmt: skip
        self.data, self.loss, self.d_steps, self.r1, self.round = data, loss, d_steps, r1, 0
        self.real = toy_2d(data, 10_000, seed)
        self.random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.G, self.D = ToyGenerator(noise_dim), ToyDiscriminator()
        make = {"adam": lambda params, lr: torch.optim.Adam(params, lr, betas=(0.5, 0.9)), "sgd": torch.optim.SGD}
        self.g_opt = make[optimizers[0]](self.G.parameters(), g_lr)
        self.d_opt = make[optimizers[1]](self.D.parameters(), d_lr)

    def sample(self, n):
        """n fakes (n, 2)."""
        return self.G(torch.randn(n, self.G.noise_dim, generator=self.random))

    def d_move(self, batch=128):
        """One step of the discriminator on fresh samples; a mild penalty of 1 suffices in the plane."""
        real = self.real[torch.randint(len(self.real), (batch,), generator=self.random)]
        d_loss = discriminator_objective(self.D, real, self.sample(batch), self.loss, 1.0, self.r1, self.random)
        self.d_opt.zero_grad(); d_loss.backward(); self.d_opt.step()

    def g_move(self, batch=128):
        """One step of the generator."""
        g_loss = generator_loss(self.D(self.sample(batch)), self.loss)
        self.g_opt.zero_grad(); g_loss.backward(); self.g_opt.step()

    def train(self, rounds):
        """Alternate: d_steps moves of the discriminator, then one of the generator."""
        for _ in range(rounds):
            for _ in range(self.d_steps):
                self.d_move()
            self.g_move()
            self.round += 1


class Generator(nn.Module):
    """The source text's generator: z (N, z_dim) -> images (N, img_dim) in [-1, 1]."""

    def __init__(self, z_dim, img_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z_dim, 256), nn.LeakyReLU(0.2), nn.Linear(256, img_dim), nn.Tanh())

    def forward(self, z):
        return self.net(z)


class Discriminator(nn.Module):
    """The source text's discriminator: images (N, img_dim) -> probabilities (N, 1); logits if sigmoid is False."""

    def __init__(self, img_dim, sigmoid=True):
        super().__init__()
        last = [nn.Sigmoid()] if sigmoid else []
        self.net = nn.Sequential(nn.Linear(img_dim, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1), *last)

    def forward(self, x):
        return self.net(x)


class ConvGenerator(nn.Module):
    """Noise z (N, z_dim) -> images (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self, z_dim=64, width=64):
        super().__init__()
        self.start = nn.Linear(z_dim, width * 7 * 7)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),   # (N, width, 7, 7)
            nn.Conv2d(width, 16, 3, padding=1),                                        # (N, 16, 7, 7)
            nn.PixelShuffle(4), nn.Tanh(),                                             # (N, 1, 28, 28)
        )  # fmt: skip

    def forward(self, z):
        return self.body(self.start(z).reshape(len(z), -1, 7, 7))


class ConvDiscriminator(nn.Module):
    """Images (N, 1, 28, 28) -> logits (N,)."""

    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),                # (N, 16, 14, 14)
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),        # (N, 32, 7, 7)
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.LeakyReLU(0.2),    # (N, 64, 4, 4)
            nn.Flatten(), nn.Linear(4 * width * 4 * 4, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x).squeeze(1).float()


def init_weights(module):
    """Small random convolutions, after DCGAN (Radford 2015, arXiv 1511.06434), which uses 0.02 for wider layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.05)
