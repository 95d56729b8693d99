"""Generated from notebooks/00_intro.ipynb: edit it there, then run `python -m tools export`."""


import math

import torch
import torch.nn.functional as F

from aigc_helpers.arguments import (
    require_finite,
    require_number,
    require_probabilities,
    require_whole,
)


def require_points(where, x, y=None):
    """ValueError unless x (N, d) is finite and y, if given, holds a class 0, 1, ... a point."""
    require_finite(where, "x", x)
    if x.ndim != 2:
        raise ValueError(f"{where}: x must have a shape (N, d), got {tuple(x.shape)}")
    if y is not None and (y.shape != x.shape[:1] or y.is_floating_point() or y.min() < 0):
        raise ValueError(f"{where}: y must hold a class 0, 1, ... for each of {len(x)} points")


def gaussian(x, mean, width):
    """Eq. (2): the density of a Gaussian at x (...)."""
    distance = (x - mean) / width
    height = 1 / (width * math.sqrt(2 * math.pi))
    return height * torch.exp(-0.5 * distance**2)


def covariance(x):
    """The covariance matrix (d, d) of points x (N, d), divided by N."""
    centred = x - x.mean(dim=0)
    return centred.T @ centred / len(x)


class GaussianClassifier:
    """Generative: a share and a Gaussian for each of K classes, by maximum likelihood.

    Learns from x (N, d), y (N,) in 0..K-1. shared: one covariance for all classes; diagonal:
    independent features ("naive Bayes"); ridge: added to the diagonal of each covariance.
    Raises ValueError for a class without points, or too few points for a covariance.
    """

    def __init__(self, x, y, shared=False, diagonal=False, ridge=1e-3):
        groups = by_class(x, y)
        self.share = torch.tensor([len(group) for group in groups]).to(x) / len(x)  # (K,)
        self.mean = torch.stack([group.mean(dim=0) for group in groups])  # (K, d)
        self.cov = class_covariances(groups, shared, diagonal, ridge)  # (K, d, d)
        self.factor = cholesky_factors(self.cov)  # the triangles of a, b, c, ...
        self.density = torch.distributions.MultivariateNormal(self.mean, scale_tril=self.factor)

    def log_joint(self, x):
        """log p(x, y) (N, K) of points x (N, d) with every class y: eq. (1)."""
        require_points("log_joint", x)
        return self.share.log() + self.density.log_prob(x[:, None])

    def posterior(self, x):
        """p(y | x) (N, K), by Bayes' rule: eq. (3)."""
        return self.log_joint(x).softmax(dim=1)  # softmax: e to each, divided by their sum

    def log_evidence(self, x):
        """log p(x) (N,): how well x fits with anything that was learnt."""
        return self.log_joint(x).logsumexp(dim=1)

    def sample(self, n, generator=None):
        """n points (n, d) and their classes (n,): first y from p(y), then x from p(x | y)."""
        require_whole("sample", "n", n, least=1)
        y = torch.multinomial(self.share, n, replacement=True, generator=generator)
        x = torch.randn(n, self.mean.shape[1], generator=generator).to(self.mean)
        for k, factor in enumerate(self.factor):
            x[y == k] = self.mean[k] + x[y == k] @ factor.T
        return x, y


# The rest of this cell is what the class says to bad input, and its options.
def by_class(x, y):
    """The points of each class 0..K-1, [(N_k, d)]. ValueError for a class without points."""
    require_points("GaussianClassifier", x, y)
    counts = y.long().bincount()
    if (counts == 0).any():
        missing = f"no point of class {counts.argmin().item()}"
        raise ValueError(f"GaussianClassifier: {missing}: number the classes 0..K-1")
    return [x[y == k] for k in range(len(counts))]


def class_covariances(groups, shared, diagonal, ridge):
    """The covariances (K, d, d) of K groups of points, as GaussianClassifier wants them."""
    require_number("GaussianClassifier", "ridge", ridge, least=0)
    cov = torch.stack([covariance(group) for group in groups])
    if shared:
        counts = torch.tensor([len(group) for group in groups]).to(cov)
        share = counts / counts.sum()
        cov = (share[:, None, None] * cov).sum(dim=0).expand_as(cov)
    if diagonal:
        cov = torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
    return cov + ridge * torch.eye(cov.shape[-1]).to(cov)


def cholesky_factors(cov):
    """The triangles (K, d, d) of covariances (K, d, d). ValueError if one has no inverse."""
    factor, failed = torch.linalg.cholesky_ex(cov)
    if failed.any():
        few = "too few points for an invertible covariance"
        raise ValueError(f"GaussianClassifier: {few}: give more, or a larger ridge")
    return factor


def logistic_loss(w, b, x, y):
    """Eq. (7): -log p(y | x), nats, averaged over points x (N, d) with classes y (N,) in {0, 1}."""
    require_points("logistic_loss", x, y)
    if y.max() > 1:
        raise ValueError(f"logistic_loss: y must be 0 or 1, got {y.max().item()}")
    s = 2 * y - 1  # +1 and -1
    a = x @ w + b
    return F.softplus(-s * a).mean()  # softplus(t) is log(1 + e^t)


# The loop above, quicker: no need to read it.
def fit_logistic(x, y, decay=1e-3):
    """Discriminative: w (d,) and b that minimise eq. (7) + decay |w|^2 / 2.

    Raises ValueError for points of one class only: no boundary can be learnt from them.
    """
    require_points("fit_logistic", x, y)
    require_number("fit_logistic", "decay", decay, least=0)
    if y.min() == y.max():
        raise ValueError("fit_logistic: all points are of one class; give some of the other one")
    w = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros((), dtype=x.dtype, requires_grad=True)
    opt = torch.optim.LBFGS(
        [w, b], max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure():
        opt.zero_grad()
        loss = logistic_loss(w, b, x, y) + 0.5 * decay * w.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():  # panels draw with gradients switched off
        opt.step(closure)
    return w.detach(), b.detach()


def entropy(p):
    """H(p) in nats, of probabilities (..., V): eq. (8)."""
    require_probabilities("entropy", p)
    return -torch.special.xlogy(p, p).sum(dim=-1)  # xlogy(p, q) is p log q, and 0 where p = 0


def kl(p, q):
    """KL(p || q) in nats, of probabilities (..., V): eq. (8). Infinite where p > 0 and q = 0."""
    require_probabilities("kl", p, q)
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(dim=-1)


def nearest_two(x, train):
    """The two training pictures nearest to pictures x (N, d), of train (M, d).

    Returns their distances (N, 2) and their numbers (N, 2).
    """
    _, near = torch.cdist(x, train).topk(5, largest=False)  # quick, but right to about 0.03 only
    distance, order = (x[:, None] - train[near]).norm(dim=-1).topk(2, largest=False)
    return distance, near.gather(1, order)


def copy_ratio(x, train):
    """Eq. (10) for pictures x (N, d): (N,), 0 for a copy, and where both distances are 0."""
    d1, d2 = nearest_two(x, train)[0].T
    return torch.where(d2 > 0, d1 / d2, 0.0)


def copied(ratio, limit=1 / 3):
    """The share of pictures whose ratio (N,) does not exceed the limit."""
    return (ratio <= limit).float().mean().item()
