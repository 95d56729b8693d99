"""Generated from notebooks/01_gan.ipynb: edit it there, then run `python -m tools export`."""

import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_filled, require_number, require_one_of, require_whole
from aigc_helpers.data import to_signed, to_unit, toy_2d, toy_modes
from aigc_helpers.metrics import mode_count
from aigc_helpers.training import seed_everything, steps


LOSSES = ("minimax", "non-saturating", "least squares", "hinge", "wasserstein-gp")


def discriminator_loss(real_logits, fake_logits, loss="non-saturating"):
    """Mean loss that the discriminator minimises, from logits (N,) and (M,).

    The penalty of wasserstein-gp is not in it. A NaN among the logits gives NaN, for every loss.
    """
    require_one_of("discriminator_loss", "loss", loss, LOSSES)
    require_filled("discriminator_loss", real_logits, fake_logits)
    if loss in ("minimax", "non-saturating"):
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()  # -V of eq. (1)
    if loss == "least squares":
        return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()
    if loss == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return fake_logits.mean() - real_logits.mean()  # wasserstein-gp


def generator_loss(fake_logits, loss="non-saturating"):
    """Mean loss that the generator minimises, from the logits (N,) of its fakes; NaN gives NaN."""
    require_one_of("generator_loss", "loss", loss, LOSSES)
    require_filled("generator_loss", fake_logits)
    if loss == "minimax":
        return -F.softplus(fake_logits).mean()  # eq. (4)
    if loss == "non-saturating":
        return F.softplus(-fake_logits).mean()  # eq. (5)
    if loss == "least squares":
        return 0.5 * (fake_logits - 1).square().mean()
    return -fake_logits.mean()  # hinge, wasserstein-gp


def slope(D, x):
    """Norm (N,) of D's gradient at each sample of x (N, ...), differentiable in D's parameters.

    The gradient is that of the sum of all logits. If D looks at the batch as a whole, as one with
    the spread of the batch does, it is not strictly the slope of each sample's own logit.
    """
    require_filled("slope", x)
    x = x.detach().requires_grad_()
    grad = torch.autograd.grad(D(x).sum(), x, create_graph=True)[0]
    return grad.flatten(1).norm(dim=1)


def gradient_penalty(D, real, fake, generator=None):
    """Mean of (slope - 1)^2 at random points between real and fake samples (N, ...).

    Gulrajani 2017, arXiv:1704.00028, eq. (3).
    """
    shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
    if real.shape != fake.shape:
        raise ValueError(f"gradient_penalty: needs pairs, got shapes {shapes}")
    mix = torch.rand(len(real), *[1] * (real.dim() - 1), generator=generator).to(real.device)
    between = mix * real + (1 - mix) * fake.detach()
    return (slope(D, between) - 1).square().mean()


def r1_penalty(D, real):
    """Half the mean squared slope at real samples (N, ...).

    Mescheder 2018, arXiv:1801.04406, eq. (9) without gamma. For a D that looks at the batch as a
    whole see `slope`.
    """
    return 0.5 * slope(D, real).square().mean()


def discriminator_objective(
    D, real, fake, loss="non-saturating", penalty=10.0, r1=0.0, generator=None
):
    """All that D minimises: its loss, and the penalties that the setting asks for."""
    require_number("discriminator_objective", "penalty", penalty, least=0)
    require_number("discriminator_objective", "r1", r1, least=0)
    fake = fake.detach()  # the generator is not to blame here
    total = discriminator_loss(D(real), D(fake), loss)
    if loss == "wasserstein-gp":
        total = total + penalty * gradient_penalty(D, real, fake, generator)
    if r1 > 0:
        total = total + r1 * r1_penalty(D, real)
    return total


class ToyGenerator(nn.Module):
    """Noise z (N, noise_dim) -> points (N, 2)."""

    def __init__(self, noise_dim=2, hidden=64):
        super().__init__()
        require_whole("ToyGenerator", "noise_dim", noise_dim, least=1)
        require_whole("ToyGenerator", "hidden", hidden, least=1)
        self.noise_dim = noise_dim
        self.net = nn.Sequential(
            nn.Linear(noise_dim, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 2),
        )

    def forward(self, z):
        return self.net(z)


class ToyDiscriminator(nn.Module):
    """Points (N, 2) -> logits (N,): positive means "real"."""

    def __init__(self, hidden=64):
        super().__init__()
        require_whole("ToyDiscriminator", "hidden", hidden, least=1)
        self.net = nn.Sequential(
            nn.Linear(2, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(1)


def make_optimizer(kind, net, lr):
    """Adam with little momentum, or plain gradient steps."""
    if kind == "adam":
        return torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.9))
    require_one_of("Duel", "optimizers", kind, ("adam", "sgd"))
    return torch.optim.SGD(net.parameters(), lr)


def draw_weights(net, generator):
    """Draw a network's linear layers anew, as PyTorch does, from a random generator of our own."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return net


class Duel:
    """A GAN in the plane: two networks, two optimisers, private random generators.

    data: one of data.TOYS_2D. loss: one of LOSSES. g_lr, d_lr: learning rates; 0 keeps a player
    still. d_steps: moves of D in a round. r1: weight of the R1 penalty. optimizers: G's and D's.
    Raises ValueError for settings that make no sense.
    """

    def __init__(
        self,
        data="ring",
        loss="non-saturating",
        g_lr=1e-3,
        d_lr=1e-3,
        d_steps=1,
        noise_dim=2,
        r1=0.0,
        optimizers=("adam", "adam"),
        seed=0,
    ):
        require_one_of("Duel", "loss", loss, LOSSES)
        require_whole("Duel", "d_steps", d_steps, least=1)
        require_whole("Duel", "noise_dim", noise_dim, least=1)
        require_number("Duel", "g_lr", g_lr, least=0)
        require_number("Duel", "d_lr", d_lr, least=0)
        require_number("Duel", "r1", r1, least=0)
        self.data = data
        self.loss = loss
        self.d_steps = d_steps
        self.r1 = r1
        self.round = 0
        self.real = toy_2d(data, 10_000, seed)
        self.random = torch.Generator().manual_seed(seed)
        first_weights = torch.Generator().manual_seed(seed)
        self.G = draw_weights(ToyGenerator(noise_dim), first_weights)
        self.D = draw_weights(ToyDiscriminator(), first_weights)
        self.g_opt = make_optimizer(optimizers[0], self.G, g_lr)
        self.d_opt = make_optimizer(optimizers[1], self.D, d_lr)

    def sample(self, n):
        """n fakes (n, 2)."""
        return self.G(torch.randn(n, self.G.noise_dim, generator=self.random))

    def d_move(self, batch=128):
        """One step of D on fresh samples; a mild penalty of 1 suffices in the plane."""
        rows = torch.randint(len(self.real), (batch,), generator=self.random)
        real = self.real[rows]
        fake = self.sample(batch)
        d_loss = discriminator_objective(
            self.D, real, fake, self.loss, penalty=1.0, r1=self.r1, generator=self.random
        )
        self.d_opt.zero_grad()
        d_loss.backward()
        self.d_opt.step()

    def g_move(self, batch=128):
        """One step of G."""
        g_loss = generator_loss(self.D(self.sample(batch)), self.loss)
        self.g_opt.zero_grad()
        g_loss.backward()
        self.g_opt.step()

    def train(self, rounds):
        """Alternate: d_steps moves of the discriminator, then one of the generator."""
        require_whole("Duel.train", "rounds", rounds, least=1)
        for _ in range(rounds):
            for _ in range(self.d_steps):
                self.d_move()
            self.g_move()
            self.round += 1


class Generator(nn.Module):
    """The source text's generator: z (N, z_dim) -> images (N, img_dim) in [-1, 1]."""

    def __init__(self, z_dim, img_dim):
        super().__init__()
        require_whole("Generator", "z_dim", z_dim, least=1)
        require_whole("Generator", "img_dim", img_dim, least=1)
        self.net = nn.Sequential(
            nn.Linear(z_dim, 256), nn.LeakyReLU(0.2), nn.Linear(256, img_dim), nn.Tanh()
        )

    def forward(self, z):
        return self.net(z)


class Discriminator(nn.Module):
    """The source text's discriminator: images (N, img_dim) -> probabilities (N, 1).

    Logits if sigmoid is False.
    """

    def __init__(self, img_dim, sigmoid=True):
        super().__init__()
        require_whole("Discriminator", "img_dim", img_dim, least=1)
        last = [nn.Sigmoid()] if sigmoid else []
        self.net = nn.Sequential(
            nn.Linear(img_dim, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1), *last
        )

    def forward(self, x):
        return self.net(x)


MENDS = ("range", "logits", "detach", "beta1")


def train_listing(digits, mends, num_steps, seed=0):
    """The listing with some of the four MENDS; returns its generator and the seconds it took."""
    seed_everything(seed)
    G = Generator(64, 784)
    D = Discriminator(784, sigmoid="logits" not in mends)
    criterion = nn.BCEWithLogitsLoss() if "logits" in mends else nn.BCELoss()
    betas = (0.5, 0.999) if "beta1" in mends else (0.9, 0.999)
    g_opt = torch.optim.Adam(G.parameters(), lr=2e-4, betas=betas)
    d_opt = torch.optim.Adam(D.parameters(), lr=2e-4, betas=betas)
    start = time.perf_counter()
    for _, (x, _) in steps(digits, num_steps, 128, seed=seed):
        real = (to_signed(x) if "range" in mends else to_unit(x)).flatten(1)
        fake = G(torch.randn(len(real), 64))
        real_out = D(real)
        fake_out = D(fake.detach() if "detach" in mends else fake)
        d_loss_real = criterion(real_out, torch.ones_like(real_out))
        d_loss_fake = criterion(fake_out, torch.zeros_like(fake_out))
        d_loss = d_loss_real + d_loss_fake
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        fake_out = D(G(torch.randn(len(real), 64)))
        g_loss = criterion(fake_out, torch.ones_like(fake_out))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
    return G, time.perf_counter() - start


def draw_listing(G, mends, n, seed=0):
    """n images (n, 784) in [-1, 1] of a generator from `train_listing`."""
    z = torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        images = G(z)
    return images if "range" in mends else 2 * images.clamp(0, 1) - 1


ROWS = {  # each row changes one thing of the row above; the last changes one thing of the listing
    "the listing": (),
    "+ range": ("range",),
    "+ logits": ("range", "logits"),
    "+ detach": ("range", "logits", "detach"),
    "+ beta1": ("range", "logits", "detach", "beta1"),
    "only beta1": ("beta1",),
}


class ResidualBlock(nn.Module):
    """Maps (N, width, h, w) -> the same shape: x + f(x), f of two convolutions."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x):
        return x + self.body(x)


class DigitGenerator(nn.Module):
    """Noise z (N, z_dim) -> images (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self, z_dim=64, width=64):
        super().__init__()
        require_whole("DigitGenerator", "z_dim", z_dim, least=1)
        require_whole("DigitGenerator", "width", width, least=2)
        self.z_dim = z_dim
        half = width // 2
        self.start = nn.Linear(z_dim, width * 7 * 7)
        self.body = nn.Sequential(
            ResidualBlock(width),  # (N, width, 7, 7)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * half, 3, padding=1),
            nn.PixelShuffle(2),  # (N, width / 2, 14, 14)
            ResidualBlock(half),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, 4, 3, padding=1),
            nn.PixelShuffle(2),  # (N, 1, 28, 28)
            nn.Tanh(),
        )

    def forward(self, z):
        return self.body(self.start(z).reshape(len(z), -1, 7, 7))


class DigitDiscriminator(nn.Module):
    """Images (N, 1, 28, 28) -> D_logit (N,), each judged beside the spread of its batch."""

    def __init__(self, width=32):
        super().__init__()
        require_whole("DigitDiscriminator", "width", width, least=1)
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),  # (N, 4, 14, 14)
            nn.Conv2d(4, width, 3, padding=1),
            nn.LeakyReLU(0.2),  # keeps positive numbers, multiplies negative ones by 0.2
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (N, 2 width, 7, 7)
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),  # (N, 2 width, 4, 4)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * 4 * 4 + 1, 1)

    def features(self, x):
        """(N, F) of images (N, 1, 28, 28)."""
        return self.body(x).float()

    def logits(self, features):
        """D_logit (N,) of the features (N, F) of a batch."""
        spread = spread_of(features).expand(len(features), 1)
        return self.head(torch.cat([features, spread], dim=1)).squeeze(1).float()

    def forward(self, x):
        return self.logits(self.features(x))


def spread_of(features):
    """The standard deviation over the batch, averaged over the features (N, F): one number."""
    variance = features.var(dim=0, unbiased=False)
    return (variance + 1e-8).sqrt().mean()  # the root of 0 would have no gradient


def init_weights(module):
    """Small random convolutions, after DCGAN (Radford 2015, arXiv:1511.06434).

    DCGAN uses 0.02, for wider layers.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.05)


class Among(nn.Module):
    """A DigitDiscriminator for single images: each is judged among the same others."""

    def __init__(self, D, others):
        super().__init__()
        self.D = D
        with torch.no_grad():
            self.register_buffer("others", D.features(others))

    def forward(self, x):
        """D_logit (N,) of images (N, 1, 28, 28)."""
        features = self.D.features(x)
        batches = [torch.cat([one[None], self.others]) for one in features]
        return torch.stack([self.D.logits(batch)[0] for batch in batches])


def climb(D, image, rate, num_steps=60):
    """Gradient ascent on the pixels of an image (1, 1, 28, 28) in [-1, 1], to raise D's logit.

    A step moves the pixel with the largest gradient by `rate`, the others in proportion.
    Returns the images (num_steps + 1, 784), the first one included, and their logits, a list.
    """
    require_whole("climb", "num_steps", num_steps, least=1)
    require_number("climb", "rate", rate, least=0)
    require_filled("climb", image)
    images = []
    logits = []
    for _ in range(num_steps + 1):
        image = image.detach().requires_grad_()
        with torch.enable_grad():
            logit = D(image)
            grad = torch.autograd.grad(logit.sum(), image)[0]
        images.append(image.detach().flatten())
        logits.append(logit.item())
        image = (image + rate * grad / grad.abs().max().clamp_min(1e-12)).clamp(-1, 1)
    return torch.stack(images), logits


class Shift(nn.Module):
    """A generator that can only move a small cloud: z (N, 2) -> theta + 0.05 z."""

    noise_dim = 2

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.2, 0.6]))

    def forward(self, z):
        return self.theta + 0.05 * z


class Tilt(nn.Module):
    """A discriminator that is a tilted plane: x (N, 2) -> logits w . x (N,)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x @ self.w


def dirac_duel(r1=0.0, seed=0):
    """The Dirac-GAN of Mescheder 2018 in the plane: real data at the origin, plain gradient steps.

    Without R1, |theta|^2 + |w|^2 hardly changes.
    """
    duel = Duel(loss="minimax", r1=r1, seed=seed)
    duel.real = 0.05 * torch.randn(10_000, 2, generator=torch.Generator().manual_seed(seed))
    duel.G = Shift()
    duel.D = Tilt()
    duel.g_opt = make_optimizer("sgd", duel.G, lr=0.2)
    duel.d_opt = make_optimizer("sgd", duel.D, lr=0.2)
    return duel


def modes_covered(duel):
    """How many of the ring's eight modes the fakes reach."""
    centres, sigma = toy_modes("ring")
    with torch.no_grad():
        fakes = duel.G(fixed_noise(1000))
    return mode_count(fakes, centres, sigma, duel.real[:1000]).covered.value


def centre_distance(duel):
    """Distance between the centres of fakes and data."""
    with torch.no_grad():
        fakes = duel.G(fixed_noise(1000))
    return (fakes.mean(dim=0) - duel.real.mean(dim=0)).norm().item()


def gradient_norm(duel):
    """Norm of the generator's gradient after its last move."""
    return torch.cat([p.grad.flatten() for p in duel.G.parameters()]).norm().item()


def fixed_noise(n):
    """The same noise (n, 2) each time: to measure must not disturb the training."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(4))


FAILURES = ("collapse", "oscillation", "vanishing gradient")
HEAD_START = 200  # moves of the discriminator before the generator's gradient can vanish


def make_twins(failure, seed=0):
    """(failing duel, cured duel): the same seed, and the cure as the only difference."""
    if failure == "collapse":
        failing = Duel(g_lr=2e-3, d_lr=2e-4, seed=seed)
        cured = Duel(g_lr=2e-3, d_lr=2e-3, seed=seed)
    elif failure == "oscillation":
        failing = dirac_duel(r1=0.0, seed=seed)
        cured = dirac_duel(r1=0.5, seed=seed)
    else:
        plain = {"g_lr": 0.01, "optimizers": ("sgd", "adam"), "seed": seed}
        failing = Duel(loss="minimax", **plain)
        cured = Duel(loss="non-saturating", **plain)
    return failing, cured
