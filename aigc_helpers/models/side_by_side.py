"""Generated from notebooks/06_side_by_side.ipynb: edit it there, then run `python -m tools export`."""

import copy
import itertools
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.metrics import energy_distance
from aigc_helpers.models.diffusion import (
    NO_LABEL,
    VelocityNet,
    denoiser,
    denoising_loss,
    make_schedule,
    sample,
)
from aigc_helpers.models.diffusion_beyond import Mixture, ode_log_prob
from aigc_helpers.models.gan import (
    ToyDiscriminator,
    ToyGenerator,
    discriminator_objective,
    generator_loss,
)
from aigc_helpers.models.vae import VAE, ConvVAE, binarise, elbo_terms, gaussian_kl, reparameterise
from aigc_helpers.models.vae_beyond import gaussian_log_likelihood
from aigc_helpers.training import autocast, seed_everything, steps


def share_with_error(count, n):
    """A share, count of n independent answers, and its standard error: eq. (1)."""
    p = (count + 1) / (n + 2)
    return count / n, math.sqrt(p * (1 - p) / n)


TRUTH_ANGLES = torch.arange(8) * math.pi / 4
TRUTH_CENTRES = 1.6 * torch.stack([TRUTH_ANGLES.cos(), TRUTH_ANGLES.sin()], dim=1)
TRUTH_SHARES = torch.tensor([8, 7, 6, 5, 4, 3, 2, 1]) / 36
TRUTH_WIDTH = 0.12
TRUTH = Mixture(TRUTH_CENTRES, TRUTH_WIDTH, TRUTH_SHARES)  # chapter 04b's mixture of Gaussians
PLANE_LIMIT = 2.4  # nearly all points lie in [-2.4, 2.4]^2
LOG_2_PI = math.log(2 * math.pi)


class Coupling(nn.Module):
    """Points (N, 2) -> points (N, 2): a stays and moves b, eq. (6); then the two change places."""

    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def scale_and_shift(self, a):
        """s and t (N,) for a (N,); s stays within 2, so that no layer stretches without limit."""
        s, t = self.net(a[:, None]).unbind(dim=1)
        return 2 * torch.tanh(s / 2), t

    def forward(self, x):
        """Towards noise: the moved points (N, 2), and log|det| (N,)."""
        a, b = x.unbind(dim=1)
        s, t = self.scale_and_shift(a)
        return torch.stack([b * s.exp() + t, a], dim=1), s

    def inverse(self, z):
        """Towards data: the points (N, 2) that `forward` sends to z."""
        moved, a = z.unbind(dim=1)
        s, t = self.scale_and_shift(a)
        return torch.stack([a, (moved - t) * (-s).exp()], dim=1)


class Flow(nn.Module):
    """A normalising flow in the plane: coupling layers in a row, from data to normal noise."""

    def __init__(self, num_layers=8, hidden=64):
        super().__init__()
        require_whole("Flow", "num_layers", num_layers, least=1)
        self.layers = nn.ModuleList(Coupling(hidden) for _ in range(num_layers))

    def forward(self, x):
        """Noise z (N, 2) of points x (N, 2), and log|det| (N,): what the layers add up to."""
        log_det = torch.zeros_like(x[:, 0])
        for layer in self.layers:
            x, s = layer(x)
            log_det = log_det + s
        return x, log_det

    def log_prob(self, x):
        """log p(x) (N,) in nats, exactly: eq. (5)."""
        z, log_det = self(x)
        return log_standard_normal(z) + log_det

    def sample(self, z):
        """Noise z (N, 2) -> points (N, 2): the layers backwards."""
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z


def log_standard_normal(z):
    """log N(z; 0, 1) in nats, summed over the last dimension."""
    return -0.5 * (z.square() + LOG_2_PI).sum(dim=-1)


class BinnedModel(nn.Module):
    """p(x1) p(x2 | x1) on bins of [-2.4, 2.4], uniform within a bin: eq. (7)."""

    def __init__(self, num_bins=80, hidden=64):
        super().__init__()
        self.num_bins = num_bins
        self.bin_width = 2 * PLANE_LIMIT / num_bins
        self.first = nn.Parameter(torch.zeros(num_bins))           # logits of x1's bin
        self.second = nn.Sequential(                               # x1's bin -> logits of x2's bin
            nn.Embedding(num_bins, hidden),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, num_bins),
        )

    def log_prob(self, x):
        """log p(x) (N,) in nats of points (N, 2), exactly; far outside, the last bin's."""
        bins = ((x + PLANE_LIMIT) / self.bin_width).long().clamp(0, self.num_bins - 1)
        log_first = self.first.log_softmax(dim=0)[bins[:, 0]]
        log_second = self.second(bins[:, 0]).log_softmax(dim=1).gather(1, bins[:, 1:])[:, 0]
        return log_first + log_second - 2 * math.log(self.bin_width)

    def sample(self, n, generator=None):
        """n points (n, 2): x1's bin, then x2's, then a place in the bin."""
        i = torch.multinomial(self.first.softmax(dim=0), n, replacement=True, generator=generator)
        j = torch.multinomial(self.second(i).softmax(dim=1), 1, generator=generator)[:, 0]
        place = torch.rand(n, 2, generator=generator)
        return (torch.stack([i, j], dim=1) + place) * self.bin_width - PLANE_LIMIT


class PlaneVAE(VAE):
    """Chapter 02's VAE for points: p(x | z) is a Gaussian whose width is learnt."""

    def __init__(self, hidden=64):
        super().__init__(z_dim=2, hidden=hidden, blocks=1, pixels=2)
        self.log_s = nn.Parameter(torch.tensor(math.log(0.3)))

    def loss(self, x, generator=None):
        """The negative ELBO of points (N, 2), in nats a point: distortion + rate."""
        mu, logvar = self.encode(x)
        mean = self.decode(reparameterise(mu, logvar, generator))
        distortion = -gaussian_log_likelihood(mean, x, self.log_s)
        return (distortion + gaussian_kl(mu, logvar).sum(dim=1)).mean()

    def log_prob_bound(self, x, k=500, generator=None):
        """A lower bound (N,) on log p(x) in nats, by k samples a point: chapter 02b's."""
        mu, logvar = self.encode(x)
        eps = torch.randn(k, *mu.shape, generator=generator)
        z = mu + (0.5 * logvar).exp() * eps
        log_q = log_standard_normal(eps) - 0.5 * logvar.sum(dim=1)
        log_joint = log_standard_normal(z) + gaussian_log_likelihood(self.decode(z), x, self.log_s)
        return (log_joint - log_q).logsumexp(dim=0) - math.log(k)


PLANE_FAMILIES = ("GAN", "VAE", "autoregressive", "flow", "diffusion")
PLANE_RATES = {
    "GAN": 9e-3,
    "VAE": 27e-3,
    "autoregressive": 27e-3,
    "flow": 27e-3,
    "diffusion": 27e-3,
}
PLANE_BATCH = 256
PLANE_CLIP = 1.0  # the longest gradient that is let through
STRAIGHT = make_schedule("rectified flow")


def fade_rate(opt, rate, step, num_steps):
    """Half a cosine for all five, from `rate` to 0: a schedule that knows when the end comes."""
    opt.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def clipped_step(opt, loss):
    """One step down the loss, its gradient cut to length 1 if it is longer: for all five."""
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(opt.param_groups[0]["params"], PLANE_CLIP)
    opt.step()


def make_plane(family):
    """An untrained model of the plane, for a GAN its generator."""
    require_one_of("make_plane", "family", family, PLANE_FAMILIES)
    kinds = (ToyGenerator, PlaneVAE, BinnedModel, Flow, VelocityNet)
    return dict(zip(PLANE_FAMILIES, kinds, strict=True))[family]()


def plane_loss(family, model, x, generator=None):
    """What a family minimises on points x (N, 2); the GAN's two losses are in `train_plane_gan`."""
    if family == "VAE":
        return model.loss(x, generator)
    if family == "diffusion":
        return denoising_loss(model, x, STRAIGHT, generator=generator)
    return -model.log_prob(x).mean()  # autoregressive, flow: the exact likelihood


def train_plane(family, points, num_steps, seed=0):
    """Train one family on points (N, 2); returns the model, with which `draw_plane` draws."""
    require_one_of("train_plane", "family", family, PLANE_FAMILIES)
    if family == "GAN":
        return train_plane_gan(points, num_steps, seed)
    seed_everything(seed)
    model = make_plane(family)
    noise = torch.Generator().manual_seed(seed)
    rate = PLANE_RATES[family]
    opt = torch.optim.Adam(model.parameters(), rate)
    for step, x in steps(points, num_steps, PLANE_BATCH, seed=seed):
        fade_rate(opt, rate, step, num_steps)
        clipped_step(opt, plane_loss(family, model, x, noise))
    return model.eval().requires_grad_(False)


def train_plane_gan(points, num_steps, seed=0):
    """Chapter 01's two players, one step each; R1 with weight 0.1. Returns the generator."""
    seed_everything(seed)
    G = make_plane("GAN")
    D = ToyDiscriminator()
    noise = torch.Generator().manual_seed(seed)
    rate = PLANE_RATES["GAN"]
    g_opt = torch.optim.Adam(G.parameters(), rate, betas=(0.5, 0.9))
    d_opt = torch.optim.Adam(D.parameters(), rate, betas=(0.5, 0.9))
    for step, x in steps(points, num_steps, PLANE_BATCH, seed=seed):
        fade_rate(g_opt, rate, step, num_steps)
        fade_rate(d_opt, rate, step, num_steps)
        fake = G(torch.randn(x.shape, generator=noise))
        clipped_step(d_opt, discriminator_objective(D, x, fake, r1=0.1))
        fake = G(torch.randn(x.shape, generator=noise))
        clipped_step(g_opt, generator_loss(D(fake)))
    return G.eval().requires_grad_(False)


PLANE_SAMPLING_STEPS = 40  # of the diffusion


@torch.no_grad()
def draw_plane(family, model, n, generator=None):
    """n points (n, 2) that a trained model draws."""
    require_one_of("draw_plane", "family", family, PLANE_FAMILIES)
    if family == "autoregressive":
        return model.sample(n, generator)
    z = torch.randn(n, 2, generator=generator)
    if family == "GAN":
        return model(z)
    if family == "VAE":
        return model.decode(z) + model.log_s.exp() * torch.randn(n, 2, generator=generator)
    if family == "flow":
        return model.sample(z)
    return sample(denoiser(model, STRAIGHT), z, STRAIGHT, PLANE_SAMPLING_STEPS)


PLANE_CELLS = 32  # along each side of the grid
PSEUDO_COUNT = 0.1  # points that each cell holds from the start
PLANE_NEAR = 4 * TRUTH_WIDTH
PLANE_HELD_OUT = 2000  # points for the likelihood


def true_cells():
    """The truth's exact probability of each cell of the grid, (32, 32)."""
    edges = torch.linspace(-PLANE_LIMIT, PLANE_LIMIT, PLANE_CELLS + 1, dtype=torch.float64)
    below = torch.special.ndtr((edges - TRUTH.centres[..., None]) / TRUTH.width)
    inside = below.diff()                                            # (8, 2, 32)
    return torch.einsum("k,ki,kj->ij", TRUTH.shares, inside[:, 0], inside[:, 1])


def count_cells(points):
    """How many of the points (N, 2) lie in each cell; those outside count for the nearest one."""
    place = (points + PLANE_LIMIT) / (2 * PLANE_LIMIT) * PLANE_CELLS
    index = place.long().clamp(0, PLANE_CELLS - 1)
    counts = torch.bincount(index[:, 0] * PLANE_CELLS + index[:, 1], minlength=PLANE_CELLS**2)
    return counts.reshape(PLANE_CELLS, PLANE_CELLS)


def grid_kl(points, start=PSEUDO_COUNT):
    """KL of the truth from a histogram of points (N, 2), in nats: eq. (3)."""
    p = true_cells()
    q = count_cells(points) + start
    return torch.xlogy(p, p / (q / q.sum())).sum().item()  # x log y, and 0 where x is 0


def near_shares(points):
    """The share (8,) of points (N, 2) within four widths of each centre; the rest lie between."""
    distance, nearest = torch.cdist(points.double(), TRUTH.centres).min(dim=1)
    counts = torch.bincount(nearest[distance < PLANE_NEAR], minlength=len(TRUTH.centres))
    return counts / len(points)


def plane_log_prob(family, model, x, generator=None):
    """log p(x) (N,) in nats of points (N, 2); of a VAE a bound, of a GAN there is none: None."""
    require_one_of("plane_log_prob", "family", family, PLANE_FAMILIES)
    if family == "GAN":
        return None
    if family == "VAE":
        parts = [model.log_prob_bound(part, generator=generator) for part in x.split(250)]
        return torch.cat(parts)
    if family == "diffusion":
        return ode_log_prob(lambda x, t: model(x, t.float().expand(len(x))), x, 50)
    return model.log_prob(x)


def score_plane(family, model, held_out, seed=0, n=20_000):
    """The measures of section 2, for n samples; held_out (N, 2): points of the truth."""
    random = torch.Generator().manual_seed(seed)
    points = draw_plane(family, model, n, random)
    few = held_out[:PLANE_HELD_OUT]
    log_q = plane_log_prob(family, model, few, random)
    row = score_points(points, held_out)
    if log_q is not None:
        row["nats"] = (TRUTH.log_prob(few.double()) - log_q).mean().item()
    return row


def score_points(points, held_out):
    """The measures that need samples alone."""
    shares = near_shares(points)
    return {
        "KL": grid_kl(points),
        "energy": 1000 * energy_distance(points[: len(held_out)], held_out),
        "modes": (shares > 0.25 * TRUTH.shares).sum().item(),
        "between": 100 * (1 - shares.sum().item()),
    }


def share_of_rate(step):
    """Up over the first 30 steps, then level: no schedule that knows the end."""
    return min(1.0, step / 30)


@torch.no_grad()
def follow(average, model, step):
    """Move the averaged weights, and BatchNorm's numbers, towards a model's: eq. (8), in place."""
    share = 1 / (10 + step / 5)
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for kept, new in pairs:
        if kept.is_floating_point():
            kept.lerp_(new, share)


def train_vae_for(images, seconds, seed=0, rate=4e-3, batch_size=128):
    """Chapter 02's VAE after so many seconds of the processor; returns its average, and the steps.

    images (N, 1, 28, 28) in bytes. The time counts the work of all threads.
    """
    require_number("train_vae_for", "seconds", seconds, above=0)
    torch.manual_seed(seed)
    model = ConvVAE()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    opt = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    random = torch.Generator().manual_seed(seed)
    step = 0
    began = time.process_time()
    while time.process_time() - began < seconds:  # the clock
        step += 1
        opt.param_groups[0]["lr"] = rate * share_of_rate(step)
        chosen = torch.randint(len(images), (batch_size,), generator=random)
        x = binarise(images[chosen], random)
        with autocast("cpu"):
            distortion, rates = elbo_terms(model, x, generator=random)
        loss = (distortion + rates.sum(dim=1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        follow(average, model, step)
    return average, step


def nearest_digit(pictures, others):
    """For pictures (N, ...): distance to the nearest of others (M, ...), and its number; (N,)."""
    x = pictures.flatten(1).float()
    distances = []
    numbers = []
    for start in range(0, len(others), 5000):
        some = others[start : start + 5000].flatten(1).float()
        nearest = torch.cdist(x, some).min(dim=1)
        distances.append(nearest.values)
        numbers.append(start + nearest.indices)
    distance, part = torch.stack(distances).min(dim=0)
    return distance, torch.stack(numbers).gather(0, part[None])[0]


def copied_share(pictures, training, kept_away):
    """The share of pictures nearer to training than to as many kept_away, and its error: eq. (12).

    About 0.5: no sign of copies. Only copies of the digits in training can show.
    """
    if len(training) != len(kept_away):
        sizes = f"{len(training)} and {len(kept_away)}"
        raise ValueError(f"copied_share: the two sets must be equally large, got {sizes}")
    to_training, which_training = nearest_digit(pictures, training)
    to_others, which_others = nearest_digit(pictures, kept_away)
    is_nearer = to_training < to_others
    nearest = torch.where(is_nearer, which_training, len(training) + which_others)
    counts = torch.bincount(nearest).double()
    error = counts.square().sum().sqrt().item() / (2 * len(pictures))
    return is_nearer.double().mean().item(), error


@torch.no_grad()
def carry(net, x, start, end, num_steps=8):
    """Images x (N, 1, 28, 28) carried from time start to end by 04's velocity, without a label.

    The midpoint rule: two network evaluations a step.
    """
    step = (end - start) / num_steps
    label = torch.full((len(x),), NO_LABEL)
    for k in range(num_steps):
        t = torch.full((len(x),), start + k * step)
        middle = x + step / 2 * net(x, t, label)
        x = x + step * net(middle, t + step / 2, label)
    return x


def search_code(G, images, num_steps=200, num_starts=4, seed=0):
    """z (N, 64) whose pictures G(z) are near to images (N, 1, 28, 28): the best of some starts."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_starts, len(images), 64, generator=generator, requires_grad=True)
    opt = torch.optim.Adam([z], lr=0.1)
    wanted = images.repeat(num_starts, 1, 1, 1)
    for _ in range(num_steps):
        error = (G(z.flatten(0, 1)) - wanted).square().mean(dim=(1, 2, 3))
        opt.zero_grad()
        error.sum().backward()
        opt.step()
    best = error.view(num_starts, -1).argmin(dim=0)
    return z.detach()[best, torch.arange(len(images))]


def between(a, b, t, circle=False):
    """The point at t in [0, 1] on the way from a to b (N, ...): straight, or eq. (13)."""
    if not circle:
        return (1 - t) * a + t * b
    cosine = F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1).clamp(-0.9999, 0.9999)
    angle = cosine.arccos().view(-1, *[1] * (a.ndim - 1))
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


@torch.no_grad()
def morph(decode, codes, circle=False, num=7):
    """Pictures (pairs, num, 28, 28) on the way between every two of codes (N, ...)."""
    first, second = zip(*itertools.combinations(range(len(codes)), 2))
    ways = []
    for t in torch.linspace(0, 1, num).tolist():
        pictures = decode(between(codes[list(first)], codes[list(second)], t, circle))
        ways.append(pictures.reshape(-1, 28, 28).clamp(-1, 1))
    return torch.stack(ways, dim=1)


@torch.no_grad()
def write_on(model, tokens, num_new, generator=None):
    """tokens (N, T) and num_new letters of a causal Backbone after them, one evaluation each.

    Without a generator it takes the likeliest letter each time.
    """
    for _ in range(num_new):
        begun = F.pad(tokens, (1, 0), value=model.mask)        # the beginning, then the letters
        p = model(begun)[:, -1].softmax(dim=-1)
        if generator is None:
            letter = p.argmax(dim=-1, keepdim=True)
        else:
            letter = torch.multinomial(p, 1, generator=generator)
        tokens = torch.cat([tokens, letter], dim=1)
    return tokens
