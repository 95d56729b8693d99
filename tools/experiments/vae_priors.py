"""Five priors for one trained VAE (chapter 02's, kept weights), fitted afterwards, three seeds each.

Encoder and decoder are the same in all rows and are not trained. The seed decides the binarisation of
the training digits, the first weights of a prior, its batches (1,000 steps of 256 codes) and all draws.
Rate: nats of 1,000 binarised test digits, the same draws of z for all rows. Scores: 2,000 decoded draws
by `DigitJudge.standard()`. The last prior is the average of the posteriors of all training digits: to
draw from it is to decode the code of a training digit.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.vae import binarise, gaussian_kl, reparameterise
from aigc_helpers.models.vae_beyond import (
    MixturePrior,
    VampPrior,
    fit_prior,
    log_average,
    standard_prior,
)
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 1000
NUM_COMPONENTS = 100
DECIMALS = {"rate": 1, "FID": 2, "precision": 2, "recall": 2, "coverage": 2}


def run(progress):
    model = load_model("vae").requires_grad_(False)
    images = load_real_digits("train").images
    test = load_real_digits("test")
    judge = DigitJudge.standard(2000, test)
    found = {}
    for seed in SEEDS:
        random = torch.Generator().manual_seed(100 + seed)
        x_test = binarise(test.images[:1000], random)
        mu_test, logvar_test = model.encode(x_test)
        z_test = reparameterise(mu_test, logvar_test, random)
        rate = gaussian_kl(mu_test, logvar_test).sum(dim=1).mean() + standard_prior(z_test).mean()
        for name, log_prob, z in priors(model, images, judge.n, seed):
            scores = judge.score(torch.sigmoid(model.decode(z)) * 2 - 1).row()
            log_p = torch.cat([log_prob(part) for part in z_test.split(100)]).mean()
            row = {"rate": (rate - log_p).item()}
            row |= {key: score.value for key, score in scores.items() if key in DECIMALS}
            found.setdefault(name, []).append(row)
            progress(f"seed {seed}, {name}: {row}")
    rows = {name: summarize(rows, DECIMALS) for name, rows in found.items()}
    floor = {key: score.floor for key, score in scores.items() if key in DECIMALS}
    rows["real digits (floor)"] = {"rate": ""} | {
        key: f"{value:.{DECIMALS[key]}f}" for key, value in floor.items()
    }
    return rows


@torch.no_grad()
def encode(model, images, random):
    parts = [model.encode(binarise(part, random)) for part in images.split(500)]
    return torch.cat([mu for mu, _ in parts]), torch.cat([logvar for _, logvar in parts])


def priors(model, images, num, seed):
    """Yields (name, its log density, num draws)."""
    random = torch.Generator().manual_seed(seed)
    mu, logvar = encode(model, images, random)
    first = torch.randperm(len(mu), generator=random)[:NUM_COMPONENTS]
    yield "standard normal", standard_prior, torch.randn(num, mu.shape[1], generator=random)

    z = reparameterise(mu, logvar, random)
    spread = torch.linalg.cholesky(torch.cov(z.T))
    one = torch.distributions.MultivariateNormal(z.mean(dim=0), scale_tril=spread)
    u = torch.randn(num, mu.shape[1], generator=random)
    yield "one Gaussian, fitted", one.log_prob, z.mean(dim=0) + u @ spread.T

    vamp = VampPrior(model.encode, binarise(images[first], random))
    fit_prior(vamp, mu, logvar, NUM_STEPS, lr=3e-2, seed=seed)
    yield f"VampPrior, {NUM_COMPONENTS} pseudo-inputs", vamp.log_prob, vamp.sample(num, random)

    mixture = fit_prior(MixturePrior(mu[first]), mu, logvar, NUM_STEPS, seed=seed)
    yield f"mixture of {NUM_COMPONENTS} Gaussians", mixture.log_prob, mixture.sample(num, random)

    drawn = torch.randint(len(mu), (num,), generator=random)
    copies = reparameterise(mu[drawn], logvar[drawn], random)
    yield "average of all training posteriors", lambda part: log_average(part, mu, logvar), copies
