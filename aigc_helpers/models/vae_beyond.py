"""Generated from notebooks/02b_vae_beyond.ipynb: edit it there, then run `python -m tools export`."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_floats, require_whole
from aigc_helpers.data import as_unit
from aigc_helpers.models.vae import (
    VAE,
    bernoulli_log_likelihood,
    binarise,
    gaussian_kl,
    reparameterise,
)


LOG_2_PI = math.log(2 * math.pi)


def standard_prior(z):
    """log p(z) in nats (...) of the standard normal distribution, for z (..., z_dim)."""
    return -0.5 * (z.square() + LOG_2_PI).sum(dim=-1)


def log_weights(model, x, k, generator=None, log_prior=standard_prior):
    """log w of eq. (1), (k, N), for k draws for each of the pictures x (N, 784) in {0, 1}."""
    require_whole("log_weights", "k", k, least=1)
    mu, logvar = model.encode(x)
    eps = torch.randn(k, *mu.shape, generator=generator).to(mu)
    z = mu + (0.5 * logvar).exp() * eps
    log_joint = bernoulli_log_likelihood(model.decode(z), x) + log_prior(z)
    log_q = -0.5 * (eps.square() + logvar + LOG_2_PI).sum(dim=-1)
    return log_joint - log_q


def importance_bound(model, x, k, generator=None, log_prior=standard_prior):
    """Eq. (2) with k draws, (N,) nats, for x (N, 784) in {0, 1}. Memory: k * N * 784.

    Burda 2015, arXiv 1509.00519, eq. (8).
    """
    log_w = log_weights(model, x, k, generator, log_prior)
    return torch.logsumexp(log_w, dim=0) - math.log(k)


def effective_draws(log_w):
    """(sum w)^2 / sum w^2 for each picture (N,), from log weights (k, N): between 1 and k."""
    return (2 * torch.logsumexp(log_w, dim=0) - torch.logsumexp(2 * log_w, dim=0)).exp()


def gaussian_log_likelihood(mean, x, log_s):
    """log p(x | z) in nats (...) of pixels x (..., n): Gaussians of width exp(log_s). Eq. (4)."""
    require_floats("gaussian_log_likelihood", "mean", mean, x.shape[-1])
    n = x.shape[-1]
    squares = (x - mean).square().sum(dim=-1)
    return -0.5 * squares * (-2 * log_s).exp() - n * log_s - 0.5 * n * LOG_2_PI


def train_grey(images, num_steps, width=None, seed=0):
    """Train a VAE of 16 latent numbers on grey pixels in [0, 1]; returns it and its width s.

    width: the s of eq. (4), or None to learn it along with the network.
    """
    require_whole("train_grey", "num_steps", num_steps, least=1)
    torch.manual_seed(seed)
    model = VAE(z_dim=16)
    log_s = nn.Parameter(torch.tensor(math.log(width or 1.0)), requires_grad=width is None)
    weights = [{"params": model.parameters()}, {"params": [log_s], "lr": 2e-2}]
    opt = torch.optim.Adam(weights, lr=2e-3)
    for _ in range(num_steps):
        x = as_unit(images[torch.randint(len(images), (128,))], "train_grey").flatten(1)
        mu, logvar = model.encode(x)
        mean = model.decode(reparameterise(mu, logvar))
        distortion = -gaussian_log_likelihood(mean, x, log_s)
        loss = (distortion + gaussian_kl(mu, logvar).sum(dim=1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model.eval().requires_grad_(False), log_s.exp().item()


CODES = {0: "AB", 1: "CD"}  # picture -> the codes from which it is drawn
BITS = {"A": "00", "B": "01", "C": "10", "D": "11"}


def send(pictures, message):
    """Bits-back: pictures (a list of 0 and 1) on top of a message, a str of bits; returns a str.

    Each picture takes a bit off the message's end to choose its code, and puts the code's two on.
    """
    for picture in pictures:
        choice = int(message[-1])
        message = message[:-1] + BITS[CODES[picture][choice]]
    return message


def receive(sent, num_pictures):
    """Undo `send`: returns the pictures and the message."""
    names = {bits: name for name, bits in BITS.items()}
    pictures = []
    for _ in range(num_pictures):
        name = names[sent[-2:]]
        picture = 0 if name in CODES[0] else 1
        choice = CODES[picture].index(name)
        sent = sent[:-2] + str(choice)
        pictures.append(picture)
    return pictures[::-1], sent


SAME_ROW = ((0, -1), (0, -2), (0, -3))  # rows up, columns to the right
ROWS_ABOVE = ((1, -2), (1, -1), (1, 0), (1, 1), (1, 2), (2, -1), (2, 0), (2, 1), (3, 0))
NEIGHBOURS = SAME_ROW + ROWS_ABOVE


def patterns(x, neighbours=NEIGHBOURS):
    """The number of each pixel's pattern of neighbours, for pictures x (N, 784) in {0, 1}."""
    square = x.reshape(-1, 28, 28).int()
    padded = F.pad(square, (4, 4, 4, 0))
    number = torch.zeros_like(square)
    for up, right in neighbours:
        if not (up > 0 or (up == 0 and right < 0)) or up > 4 or abs(right) > 4:
            where = f"({up}, {right})"
            raise ValueError(f"patterns: {where} is not sent before the pixel, or too far")
        moved = padded[:, 4 - up : 32 - up, 4 + right : 32 + right]
        number = 2 * number + moved
    return number.reshape(len(x), 784)


def count_patterns(x, neighbours=NEIGHBOURS):
    """The probability of white after each pattern (2^n,) in pictures x, half a count added."""
    number = patterns(x, neighbours)
    size = 2 ** len(neighbours)
    seen = torch.bincount(number.flatten(), minlength=size)
    white = torch.bincount(number[x > 0], minlength=size)
    return (white + 0.5) / (seen + 1.0)


def context_bits(x, table, neighbours=NEIGHBOURS):
    """Bits (N,) for each picture x (N, 784) by a table of `count_patterns`."""
    p = table[patterns(x, neighbours)]
    likely = torch.where(x > 0, p, 1 - p)
    return -likely.log2().sum(dim=1)


def log_average(z, mu, logvar):
    """log of the average over k of N(z; mu_k, exp(logvar_k)), (N,): z (N, d), mu, logvar (K, d).

    The square (z - mu)^2 / exp(logvar) is multiplied out, so that two matrix products do the work.
    """
    precision = (-logvar).exp()
    squares = z.square() @ precision.T - 2 * z @ (mu * precision).T
    constant = (mu.square() * precision + logvar + LOG_2_PI).sum(dim=1)
    return torch.logsumexp(-0.5 * (squares + constant), dim=1) - math.log(len(mu))


class MixturePrior(nn.Module):
    """A mixture of K Gaussians over latent vectors (N, z_dim), with correlations: eq. (8)."""

    def __init__(self, starts):
        """starts (K, z_dim): the first means, such as the codes of K training pictures."""
        super().__init__()
        num, z_dim = starts.shape
        self.z_dim = z_dim
        self.weight_logits = nn.Parameter(torch.zeros(num))
        self.means = nn.Parameter(starts.clone())
        self.log_diagonal = nn.Parameter(torch.full((num, z_dim), 0.5))
        self.below = nn.Parameter(torch.zeros(num, z_dim, z_dim))

    def factors(self):
        """The matrices A_k (K, z_dim, z_dim): zero above the diagonal, positive on it."""
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    def log_prob(self, z):
        """log p(z) in nats (...), for z (..., z_dim)."""
        require_floats("MixturePrior.log_prob", "z", z, self.z_dim)
        A = self.factors()
        flat = z.reshape(-1, self.z_dim)
        shift = torch.einsum("kij,kj->ki", A, self.means)
        u = torch.einsum("kij,nj->nki", A, flat) - shift
        log_each = -0.5 * (u.square() + LOG_2_PI).sum(dim=2) + self.log_diagonal.sum(dim=1)
        log_pi = self.weight_logits.log_softmax(dim=0)
        return torch.logsumexp(log_pi + log_each, dim=1).reshape(z.shape[:-1])

    def sample(self, num, generator=None):
        """num draws (num, z_dim)."""
        require_whole("MixturePrior.sample", "num", num, least=1)
        share = self.weight_logits.softmax(dim=0)
        which = torch.multinomial(share, num, replacement=True, generator=generator)
        u = torch.randn(num, self.z_dim, 1, generator=generator)
        shift = torch.linalg.solve_triangular(self.factors()[which], u, upper=False)
        return self.means[which] + shift.squeeze(2)


class VampPrior(nn.Module):
    """The average of a trained encoder's Gaussians for K learnt pictures, the pseudo-inputs.

    Tomczak & Welling 2017, arXiv 1705.07120. There encoder and prior are trained together; here
    the encoder stays as it is.
    """

    def __init__(self, encode, starts):
        """encode: of a trained VAE. starts (K, 784) in [0, 1]: the first pseudo-inputs."""
        super().__init__()
        self.encode = encode
        self.logits = nn.Parameter(torch.logit(starts.clamp(0.02, 0.98)))

    def log_prob(self, z):
        """log p(z) in nats (...), for z (..., z_dim)."""
        mu, logvar = self.encode(torch.sigmoid(self.logits))
        require_floats("VampPrior.log_prob", "z", z, mu.shape[1])
        return log_average(z.reshape(-1, mu.shape[1]), mu, logvar).reshape(z.shape[:-1])

    def sample(self, num, generator=None):
        """num draws (num, z_dim)."""
        require_whole("VampPrior.sample", "num", num, least=1)
        which = torch.randint(len(self.logits), (num,), generator=generator)
        mu, logvar = self.encode(torch.sigmoid(self.logits[which]))
        return reparameterise(mu, logvar, generator)


def fit_prior(prior, mu, logvar, num_steps, lr=1e-2, seed=0):
    """Maximum likelihood for a prior, on codes z ~ N(mu, exp(logvar)), drawn afresh each step."""
    require_whole("fit_prior", "num_steps", num_steps, least=1)
    random = torch.Generator().manual_seed(seed)
    opt = torch.optim.Adam(prior.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, num_steps)
    for _ in range(num_steps):
        batch = torch.randint(len(mu), (256,), generator=random)
        z = reparameterise(mu[batch], logvar[batch], random)
        loss = -prior.log_prob(z).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    return prior.eval().requires_grad_(False)


def quantise(z, codebook):
    """Nearest entries of codebook (K, d) for floats z (..., d).

    Returns values (..., d), through which gradients pass straight to z, and indices (...).
    """
    if not torch.is_tensor(codebook) or codebook.ndim != 2 or not codebook.numel():
        raise ValueError(f"quantise: the codebook must be a tensor (K, d), got {codebook!r}")
    require_floats("quantise", "z", z, codebook.shape[1])
    flat = z.detach().reshape(-1, codebook.shape[1])
    index = torch.cdist(flat, codebook).argmin(dim=1).reshape(z.shape[:-1])
    return z + (codebook[index] - z).detach(), index


def codebook_loss(z, entries):
    """The last two terms of eq. (11): vectors z (..., d), and the entries (..., d) they chose."""
    codebook_term = (entries - z.detach()).square().mean()  # pulls the entries
    commitment_term = (entries.detach() - z).square().mean()  # pulls the vectors
    return codebook_term + 0.25 * commitment_term


class VQVAE(nn.Module):
    """Pictures (N, 1, 28, 28) as 49 entries of a codebook, one for each 4x4 patch.

    The codebook holds K vectors of width d; the convolutions have `width` channels.
    """

    def __init__(self, K=32, d=8, width=32):
        super().__init__()
        require_whole("VQVAE", "K", K, least=1)
        require_whole("VQVAE", "d", d, least=1)
        require_whole("VQVAE", "width", width, least=1)
        self.codebook = nn.Parameter(torch.randn(K, d))
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(16, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, d, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(d, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 16, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, x):
        """Logits (N, 1, 28, 28), indices (N, 7, 7), and the last two terms of eq. (11)."""
        require_floats("VQVAE", "x", x, 28)
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"VQVAE: x must have shape (N, 1, 28, 28), got {tuple(x.shape)}")
        z = self.encoder(x).movedim(1, -1)  # (N, 7, 7, d)
        z_q, index = quantise(z, self.codebook)
        codebook_term = codebook_loss(z, self.codebook[index])
        return self.decoder(z_q.movedim(-1, 1)), index, codebook_term

    def decode(self, index):
        """Logits (N, 1, 28, 28) from indices (N, 7, 7)."""
        return self.decoder(self.codebook[index].movedim(-1, 1))

    @torch.no_grad()
    def move_idle(self, x, index):
        """Put entries that no index chose on vectors of the pictures x, drawn at random."""
        unused = torch.bincount(index.flatten(), minlength=len(self.codebook)) == 0
        vectors = self.encoder(x).movedim(1, -1).reshape(-1, self.codebook.shape[1])
        drawn = torch.randint(len(vectors), (int(unused.sum()),))
        self.codebook[unused] = vectors[drawn]


def train_vqvae(images, num_steps, K=32, seed=0):
    """Train a VQ-VAE on images (N, 1, 28, 28), binarised afresh in batches of 128: eq. (11)."""
    require_whole("train_vqvae", "num_steps", num_steps, least=1)
    torch.manual_seed(seed)
    model = VQVAE(K)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(num_steps):
        x = binarise(images[torch.randint(len(images), (128,))]).reshape(-1, 1, 28, 28)
        logits, index, codebook_term = model(x)
        distortion = -bernoulli_log_likelihood(logits.flatten(1), x.flatten(1)).mean()
        loss = distortion + 50 * codebook_term
        opt.zero_grad()
        loss.backward()
        opt.step()
        model.move_idle(x, index)
    return model.eval().requires_grad_(False)


def code_contexts(index, K):
    """For index maps (N, 7, 7): the number of (left, above), each 0 to K; K beyond the edge."""
    padded = F.pad(index, (1, 0, 1, 0), value=K)
    left = padded[:, 1:, :-1]
    above = padded[:, :-1, 1:]
    return left * (K + 1) + above


def count_codes(index, K):
    """p(index | left, above), ((K + 1)^2, K), from index maps (N, 7, 7): 0.1 of a count more."""
    pair = code_contexts(index, K) * K + index
    counts = torch.bincount(pair.flatten(), minlength=(K + 1) ** 2 * K).reshape(-1, K) + 0.1
    return counts / counts.sum(dim=1, keepdim=True)


def code_bits(index, table):
    """Bits (N,) of index maps (N, 7, 7) by a table of `count_codes`."""
    p = table[code_contexts(index, table.shape[1]), index]
    return -p.log2().sum(dim=(1, 2))


def sample_codes(table, num, generator=None):
    """num index maps (num, 7, 7), drawn row by row from a table of `count_codes`."""
    K = table.shape[1]
    index = torch.zeros(num, 7, 7, dtype=torch.long)
    for row in range(7):
        for column in range(7):
            p = table[code_contexts(index, K)[:, row, column]]
            index[:, row, column] = torch.multinomial(p, 1, generator=generator)[:, 0]
    return index
