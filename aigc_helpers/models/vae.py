"""Generated from notebooks/02_vae.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def gaussian_kl(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, 1)), nats for each entry of mu, logvar (N, d); Kingma & Welling 2013, app. B."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def reparameterise(mu, logvar, generator=None):
    """A sample z (N, d) of N(mu, exp(logvar)) through which gradients flow; Kingma & Welling 2013, section 2.4."""
    eps = torch.randn(mu.shape, generator=generator).to(mu)
    return mu + (0.5 * logvar).exp() * eps


def bernoulli_log_likelihood(logits, x):
    """log p(x | z) in nats, summed over pixels: logits and x (..., pixels) with x in {0, 1}; returns (...)."""
    return (x * logits - F.softplus(logits)).sum(dim=-1)


class ResidualBlock(nn.Module):
    """h (N, hidden) -> h + SiLU(Linear(LayerNorm(h))), of the same shape."""

    def __init__(self, hidden):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(hidden), nn.Linear(hidden, hidden)

    def forward(self, h):
        return h + F.silu(self.linear(self.norm(h)))


def perceptron(inputs, hidden, blocks, outputs):
    """(N, inputs) -> (N, outputs), through `blocks` residual blocks of width `hidden`."""
    middle = [ResidualBlock(hidden) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), *middle, nn.Linear(hidden, outputs))


class VAE(nn.Module):
    """Encoder (N, 784) -> mu, logvar (N, z_dim) each; decoder z (..., z_dim) -> logits (..., 784)."""

    def __init__(self, z_dim=32, hidden=512, blocks=2, pixels=784):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = perceptron(pixels, hidden, blocks, 2 * z_dim)
        self.decoder = perceptron(z_dim, hidden, blocks, pixels)

    def encode(self, x):
        mu, logvar = self.encoder(x).float().chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z):
        return self.decoder(z).float()


def elbo_terms(model, x, sample=True, generator=None):
    """Distortion (N,) and rate (N, z_dim) in nats, of x (N, 784) in {0, 1}; ELBO = -(distortion + rate.sum(1))."""
    mu, logvar = model.encode(x)
    z = reparameterise(mu, logvar, generator) if sample else mu
    return -bernoulli_log_likelihood(model.decode(z), x), gaussian_kl(mu, logvar)


def binarise(pixels, generator=None):
    """Pictures (N, 784) in {0, 1} from grey values 0..255 (uint8): each is the probability of a white pixel."""
    share = pixels.flatten(1).float() / 255
    return (torch.rand(share.shape, generator=generator).to(share.device) < share).float()


def importance_bound(model, x, k, generator=None):
    """Eq. (9) with k samples, (N,) nats, for x (N, 784) in {0, 1}; Burda 2015, eq. (8). Memory: k * N * 784."""
    mu, logvar = model.encode(x)
    eps = torch.randn(k, *mu.shape, generator=generator).to(mu)
    z = mu + (0.5 * logvar).exp() * eps
    log_p = bernoulli_log_likelihood(model.decode(z), x) - 0.5 * z.square().sum(dim=-1)
    log_q = -0.5 * (eps.square() + logvar).sum(dim=-1)             # the constants of p(z) and q(z|x) cancel
    return torch.logsumexp(log_p - log_q, dim=0) - math.log(k)


def train_small(images, num_steps, beta=1.0, z_dim=2, sample=True, warmup=0, free_bits=0.0, seed=0):
    """Train a VAE of width 256 on images (N, 1, 28, 28) uint8; returns it and its rates (num_steps, z_dim), in nats.

    beta:      weight of the rate; 0 with sample=False makes a plain autoencoder.
    warmup:    steps over which the weight rises from 0 to beta; Bowman 2015, arXiv 1511.06349.
    free_bits: nats that each dimension may use without paying for them; Kingma 2016, arXiv 1606.04934, eq. (15).
    """
    torch.manual_seed(seed)
    model, rates = VAE(z_dim, hidden=256, blocks=1), []
    opt = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for step in range(num_steps):
        x = binarise(images[torch.randint(len(images), (128,))])
        distortion, rate = elbo_terms(model, x, sample)
        rate = rate.mean(dim=0)                                       # of each dimension
        weight = beta * min(1.0, step / warmup) if warmup else beta
        loss = distortion.mean() + weight * rate.clamp_min(free_bits).sum()
        opt.zero_grad(); loss.backward(); opt.step()
        rates.append(rate.detach())
    return model.eval(), torch.stack(rates)


def quantise(z, codebook):
    """Nearest entries of codebook (K, d) for z (..., d): values (..., d), straight-through, and indices (...)."""
    index = torch.cdist(z.detach().reshape(-1, z.shape[-1]), codebook).argmin(dim=1).reshape(z.shape[:-1])
    return z + (codebook[index] - z).detach(), index


class VQVAE(nn.Module):
    """Pictures (N, 1, 28, 28) as 49 entries of a codebook of K vectors of width d, one for each 4x4 patch."""

    def __init__(self, K=32, d=8, width=32):
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(K, d))
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(16, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, d, 3, padding=1))
        self.decoder = nn.Sequential(
            nn.Conv2d(d, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 16, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, x):
        """Logits (N, 1, 28, 28), indices (N, 7, 7), and the two losses that tie encoder and codebook together."""
        z = self.encoder(x).movedim(1, -1)                                    # (N, 7, 7, d)
        z_q, index = quantise(z, self.codebook)
        entries = self.codebook[index]
        tie = (entries - z.detach()).square().mean() + 0.25 * (entries.detach() - z).square().mean()
        return self.decoder(z_q.movedim(-1, 1)), index, tie
