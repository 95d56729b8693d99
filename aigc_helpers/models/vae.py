"""Generated from notebooks/02_vae.ipynb: edit it there, then run `python -m tools export`."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_floats, require_number, require_whole
from aigc_helpers.data import as_unit
from aigc_helpers.training import steps


def linear_evidence(x, w=2.0, s=1.0):
    """log p(x) in nats of a number x = w z + s eps, with z and eps standard normal: eq. (2)."""
    variance = w**2 + s**2
    return -0.5 * (math.log(2 * math.pi * variance) + x**2 / variance)


def linear_posterior(x, w=2.0, s=1.0):
    """Mean and variance of p(z | x) in the same model: eq. (2)."""
    variance = 1 / (1 + w**2 / s**2)
    return variance * w * x / s**2, variance


def gaussian_kl(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats, for each entry of mu, logvar (N, d): eq. (5).

    Kingma & Welling 2013, arXiv 1312.6114, appendix B.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def reparameterise(mu, logvar, generator=None):
    """A sample z (N, d) of N(mu, exp(logvar)) through which gradients flow: eq. (6).

    mu, logvar: floats (N, d). Kingma & Welling 2013, section 2.4.
    """
    require_floats("reparameterise", "mu", mu, logvar.shape[-1])
    eps = torch.randn(mu.shape, generator=generator).to(mu)
    return mu + (0.5 * logvar).exp() * eps


def require_binary(where, name, x):
    """ValueError unless x is a tensor that holds only 0 and 1."""
    if not torch.is_tensor(x) or not x.numel():
        raise ValueError(f"{where}: {name} must be a tensor of pictures, got {x!r}")
    wrong = ((x != 0) & (x != 1)).sum().item()
    if wrong:
        problem = f"{wrong} of {x.numel()} values are neither"
        raise ValueError(f"{where}: {name} must hold only 0 and 1, but {problem}: use binarise")


def bernoulli_log_likelihood(logits, x):
    """log p(x | z) in nats, summed over pixels: logits (..., pixels), x in {0, 1}; returns (...).

    One of the two may have more dimensions in front: (k, N, pixels) with (N, pixels). Eq. (8).
    """
    require_binary("bernoulli_log_likelihood", "x", x)
    require_floats("bernoulli_log_likelihood", "logits", logits, x.shape[-1])
    shared = min(logits.ndim, x.ndim)
    if logits.shape[-shared:] != x.shape[-shared:]:
        shapes = f"{tuple(logits.shape)} and {tuple(x.shape)}"
        problem = f"logits and x must agree in shape, got {shapes}"
        raise ValueError(f"bernoulli_log_likelihood: {problem}")
    return (x * logits - F.softplus(logits)).sum(dim=-1)


def binarise(pixels, generator=None):
    """Pictures (N, 784) in {0, 1}: each grey value is the probability of a white pixel.

    pixels (N, ...): uint8 or other whole numbers 0..255, floats in [0, 1], or bool.
    """
    share = as_unit(pixels, "binarise")
    if share.ndim < 2:
        raise ValueError(f"binarise: needs a batch (N, ...), got shape {tuple(share.shape)}")
    share = share.flatten(1)
    noise = torch.rand(share.shape, generator=generator).to(share.device)
    return (noise < share).float()


class ResidualBlock(nn.Module):
    """h (N, hidden) -> h + SiLU(Linear(LayerNorm(h))), of the same shape."""

    def __init__(self, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, h):
        return h + F.silu(self.linear(self.norm(h)))


def mlp(inputs, hidden, blocks, outputs):
    """(N, inputs) -> (N, outputs), through `blocks` residual blocks of width `hidden`."""
    require_whole("mlp", "inputs", inputs, least=1)
    require_whole("mlp", "hidden", hidden, least=1)
    require_whole("mlp", "blocks", blocks, least=0)
    require_whole("mlp", "outputs", outputs, least=1)
    middle = [ResidualBlock(hidden) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), *middle, nn.Linear(hidden, outputs))


class VAE(nn.Module):
    """Encoder (N, pixels) -> mu, logvar (N, z_dim) each; decoder z (..., z_dim) -> logits."""

    def __init__(self, z_dim=2, hidden=256, blocks=1, pixels=784):
        super().__init__()
        require_whole("VAE", "z_dim", z_dim, least=1)
        self.z_dim = z_dim
        self.pixels = pixels
        self.encoder = mlp(pixels, hidden, blocks, 2 * z_dim)
        self.decoder = mlp(z_dim, hidden, blocks, pixels)

    def encode(self, x):
        """mu and logvar (N, z_dim) of q(z|x), for x (N, pixels)."""
        require_floats("VAE.encode", "x", x, self.pixels)
        mu, logvar = self.encoder(x).float().chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z):
        """Logits (..., pixels) of p(x|z), for z (..., z_dim)."""
        require_floats("VAE.decode", "z", z, self.z_dim)
        logits = self.decoder(z.reshape(-1, self.z_dim)).float()
        return logits.reshape(*z.shape[:-1], self.pixels)

    def forward(self, z):
        """The same as decode: what a model that draws is called for."""
        return self.decode(z)


def elbo_terms(model, x, sample=True, generator=None):
    """Distortion (N,) and rate (N, z_dim) in nats, of pictures x (N, 784) in {0, 1}: eq. (9).

    The ELBO is -(distortion + rate.sum(dim=1)). sample=False decodes the mean instead of a sample.
    """
    mu, logvar = model.encode(x)
    z = reparameterise(mu, logvar, generator) if sample else mu
    distortion = -bernoulli_log_likelihood(model.decode(z), x)
    return distortion, gaussian_kl(mu, logvar)


class MapBlock(nn.Module):
    """Maps (N, width, h, w) -> the same shape: h + f(h), f of two convolutions."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # at the start the block passes on what it is given
        nn.init.zeros_(self.second.bias)

    def forward(self, h):
        return h + self.second(F.silu(self.first(F.silu(self.norm(h)))))


class ConvVAE(VAE):
    """The same for pictures of 28 x 28 pixels (N, 784): maps of 7 x 7 with `width` channels."""

    def __init__(self, z_dim=32, width=32, hidden=256):
        nn.Module.__init__(self)
        require_whole("ConvVAE", "z_dim", z_dim, least=1)
        require_whole("ConvVAE", "hidden", hidden, least=1)
        if require_whole("ConvVAE", "width", width, least=4) % 4:
            raise ValueError(f"ConvVAE: width must be a multiple of 4, got {width}")
        self.z_dim = z_dim
        self.pixels = 784
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.PixelUnshuffle(4),  # (N, 16, 7, 7)
            nn.Conv2d(16, width, 3, padding=1),
            MapBlock(width),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(width * 49, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * z_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, width * 49),
            nn.Unflatten(1, (width, 7, 7)),
            MapBlock(width),
            MapBlock(width),
            nn.SiLU(),
            nn.Conv2d(width, 16, 3, padding=1),
            nn.PixelShuffle(4),  # (N, 1, 28, 28)
            nn.Flatten(),
        )


@torch.no_grad()
def mean_elbo(model, x, seed=0):
    """The mean ELBO in nats of pictures x (N, 784) in {0, 1}, one draw of z for each."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for part in x.split(500):
        distortion, rate = elbo_terms(model, part, generator=generator)
        losses.append(distortion + rate.sum(dim=1))
    return -torch.cat(losses).mean().item()


def train_small(
    images, num_steps, beta=1.0, z_dim=2, sample=True, warmup=0, seed=0, network=VAE, lr=2e-3
):
    """Train a small VAE; returns it and its rates (num_steps, z_dim), in nats.

    images:  (N, 1, 28, 28), such as `binarise` takes.
    beta:    weight of the rate; 0 with sample=False makes a plain autoencoder.
    warmup:  steps over which the weight rises from 0 to beta; Bowman 2015, arXiv 1511.06349.
    network: called with z_dim, gives the untrained VAE.
    """
    require_whole("train_small", "num_steps", num_steps, least=1)
    require_number("train_small", "beta", beta, least=0)
    require_whole("train_small", "warmup", warmup, least=0)
    require_number("train_small", "lr", lr, least=0)
    as_unit(images[:1], "train_small")  # no images, or of a wrong type: say so at once
    torch.manual_seed(seed)
    model = network(z_dim)
    opt = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    data = torch.Generator().manual_seed(seed)  # of its own: the same batches for every model
    noise = torch.Generator().manual_seed(seed + 1)
    rates = []
    for step in range(num_steps):
        x = binarise(images[torch.randint(len(images), (128,), generator=data)], data)
        distortion, rate = elbo_terms(model, x, sample, noise)
        weight = beta * min(1.0, step / warmup) if warmup else beta
        loss = distortion.mean() + weight * rate.sum(dim=1).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        rates.append(rate.mean(dim=0).detach())
    return model.eval(), torch.stack(rates)


PARTS = {
    "VAE": {"sample": True, "beta": 1.0},
    "no rate": {"sample": True, "beta": 0.0},
    "no noise": {"sample": False, "beta": 1.0},
    "autoencoder": {"sample": False, "beta": 0.0},
}


def take_away(images, num_steps, seed=0):
    """Yields (name, model): a VAE of eight latent numbers, and three with a part taken away."""
    for name, switches in PARTS.items():
        model, _ = train_small(images, num_steps, z_dim=8, seed=seed, **switches)
        yield name, model


def habits_of(model, x):
    """What a model does with pictures x (N, 784): means of five numbers, the last three in nats.

    How far the means of q spread, how wide q is, the rate, the distortion of the decoded means, and
    distortion + rate with z drawn from q: minus the ELBO.
    """
    with torch.no_grad():
        mu, logvar = model.encode(x)
        at_means, _ = elbo_terms(model, x, sample=False)
        at_draws, rate = elbo_terms(model, x, generator=torch.Generator().manual_seed(0))
    R = rate.sum(dim=1).mean().item()
    return {
        "spread of the means": mu.std(dim=0).mean().item(),
        "width of q": (0.5 * logvar).exp().mean().item(),
        "R": R,
        "D at the means": at_means.mean().item(),
        "D + R, z drawn": at_draws.mean().item() + R,
    }


DEPTH = 6  # more layers of the decoders in the failure clinic


class TanhLayer(nn.Module):
    """h (N, hidden) -> tanh(Linear(h)); with skip, added to h."""

    def __init__(self, hidden, skip):
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)
        self.skip = skip

    def forward(self, h):
        new = torch.tanh(self.linear(h))
        return h + new if self.skip else new


class PlainVAE(VAE):
    """A VAE whose decoder has `layers` more layers of Tanh in a row."""

    layers = DEPTH
    skip = False

    def __init__(self, z_dim=20, hidden=256):
        super().__init__(z_dim, hidden)
        middle = [TanhLayer(hidden, self.skip) for _ in range(self.layers)]
        first = nn.Linear(z_dim, hidden)
        last = nn.Linear(hidden, self.pixels)
        self.decoder = nn.Sequential(first, nn.Tanh(), *middle, last)


class SkipVAE(PlainVAE):
    """The same weights at the start; but each of the layers adds to what it is given."""

    skip = True


def clinic(images, num_steps, seed=0):
    """The failing model, a control, two remedies; yields (name, model, rates (num_steps, 20))."""
    common = {"images": images, "num_steps": num_steps, "z_dim": 20, "seed": seed, "lr": 1e-3}
    yield "plain", *train_small(**common, network=PlainVAE)
    yield "plain, warm-up", *train_small(**common, network=PlainVAE, warmup=num_steps // 2)
    yield "plain, beta = 0", *train_small(**common, network=PlainVAE, beta=0.0)
    yield "skip connections", *train_small(**common, network=SkipVAE)


def train_open(model, opt, images, num_steps, seed=0):
    """The loop of section 4 for the open exercise; returns the model, ready to be scored."""
    torch.manual_seed(seed)
    for _, pixels in steps(images, num_steps, 128, seed=seed):
        distortion, rate = elbo_terms(model, binarise(pixels))
        loss = (distortion + rate.sum(dim=1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model.eval()
