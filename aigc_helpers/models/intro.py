"""Generated from notebooks/00_intro.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import torch
import torch.nn.functional as F


class GaussianClassifier:
    """Generative: a share and a Gaussian for each of K classes, by maximum likelihood; eq. (3).

    Learns from x (N, d), y (N,) in 0..K-1. shared: one covariance; diagonal: independent features ("naive Bayes").
    """

    def __init__(self, x, y, shared=False, diagonal=False, ridge=1e-3):
        is_class = F.one_hot(y).to(x)                                      # (N, K)
        counts = is_class.sum(dim=0)
        if (counts == 0).any():
            raise ValueError(f"GaussianClassifier: no point of class {counts.argmin().item()}: number the classes 0..K-1")
        self.share = counts / len(x)                                       # (K,)
        self.mean = is_class.T @ x / counts[:, None]                       # (K, d)
        cov = torch.stack([x[y == k].T.cov(correction=0) for k in range(len(counts))]).reshape(len(counts), x.shape[1], -1)
        if shared:
            cov = (self.share[:, None, None] * cov).sum(dim=0).expand_as(cov)
        if diagonal:
            cov = torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
        self.cov = cov + ridge * torch.eye(x.shape[1]).to(x)               # a ridge keeps it invertible
        self.density = torch.distributions.MultivariateNormal(self.mean, self.cov)

    def log_joint(self, x):
        """log p(x, y) (N, K) of points x (N, d) with every class y: eq. (1)."""
        return self.share.log() + self.density.log_prob(x[:, None])

    def sample(self, n, generator=None):
        """n points (n, d) and their classes (n,): first y from p(y), then x from p(x | y)."""
        y = torch.multinomial(self.share, n, replacement=True, generator=generator)
        x = torch.randn(n, self.mean.shape[1], generator=generator).to(self.mean)
        for k, factor in enumerate(self.density.scale_tril):               # cov = factor factor^T
            x[y == k] = self.mean[k] + x[y == k] @ factor.T
        return x, y

    def posterior(self, x):
        """p(y | x) (N, K), by Bayes' rule: eq. (2)."""
        return self.log_joint(x).softmax(dim=1)

    def log_evidence(self, x):
        """log p(x) (N,): how well x fits with anything that was learnt."""
        return self.log_joint(x).logsumexp(dim=1)


def logistic_loss(w, b, x, y):
    """Eq. (5): -log p(y | x), nats, averaged over points x (N, d) with classes y (N,) in {0, 1}."""
    return F.softplus(-(2 * y - 1) * (x @ w + b)).mean()


def fit_logistic(x, y, decay=1e-3):
    """Discriminative: w (d,) and b that minimise eq. (5) + decay |w|^2 / 2."""
    w = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros((), dtype=x.dtype, requires_grad=True)
    opt = torch.optim.LBFGS([w, b], max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure():
        opt.zero_grad()
        loss = logistic_loss(w, b, x, y) + 0.5 * decay * w.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():                                              # panels draw with gradients switched off
        opt.step(closure)
    return w.detach(), b.detach()


def entropy(p):
    """H(p) in nats, of probabilities (..., V): eq. (8)."""
    return -torch.special.xlogy(p, p).sum(dim=-1)


def kl(p, q):
    """KL(p || q) in nats, of probabilities (..., V): eq. (8). Infinite where p > 0 and q = 0."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(dim=-1)
