"""How far the bounds of chapter 02's network (kept weights) lie apart, and whose fault the gap is.

First two rows: all test digits, binarised once, by the standard normal prior and by a mixture fitted to
the codes as in 02b, section 5 (seed 0). ELBO: one draw of z a digit, its KL by the formula for the standard
normal and by the same draw for the mixture. K = 500: 500 draws for each digit.
Other rows: 400 test and 400 training digits, the standard normal prior. "own Gaussian": the encoder's mu
and log variance raised for each digit by itself by 1,000 steps of Adam with a falling rate, then held; the
ELBO over 100 fresh draws, and K = 500 with draws from that Gaussian.
In brackets: the standard error of a mean over digits.
"""

from __future__ import annotations

import math

import torch

from aigc_helpers.models.vae import bernoulli_log_likelihood, binarise, gaussian_kl, reparameterise
from aigc_helpers.models.vae_beyond import LOG_2_PI, MixturePrior, fit_prior, standard_prior
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits
from .vae_priors import NUM_COMPONENTS, NUM_STEPS, encode

SEEDS = (0,)
K = 500
NUM_REFINED = 400
REFINE_STEPS = 1000


def run(progress):
    model = load_model("vae").requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    images = load_real_digits("train").images
    x_test = binarise(load_real_digits("test").images, random)
    mu, logvar = encode(model, images, random)
    first = torch.randperm(len(mu), generator=random)[:NUM_COMPONENTS]
    mixture = fit_prior(MixturePrior(mu[first]), mu, logvar, NUM_STEPS, seed=0)
    progress("the mixture is fitted")

    rows = {}
    groups = {
        "test": x_test[:: len(x_test) // NUM_REFINED][:NUM_REFINED],
        "training": binarise(images[:NUM_REFINED], random),
    }
    for group, x in groups.items():
        gaussians = {"the encoder's Gaussian": model.encode(x), "each its own Gaussian": refine(model, x)}
        for name, (mu, logvar) in gaussians.items():
            elbo = elbo_of(model, x, mu, logvar)
            (tight,) = tight_bounds(model, x, mu, logvar, [standard_prior])
            label = f"{NUM_REFINED} {group} digits, {name}"
            rows[label] = bounds_row(elbo, tight)
            progress(f"{label}: {rows[label]}")

    priors = {"standard normal": standard_prior, "mixture": mixture.log_prob}
    mu, logvar = model.encode(x_test)
    z = reparameterise(mu, logvar, random)
    elbo = {"standard normal": bernoulli_log_likelihood(model.decode(z), x_test) - gaussian_kl(mu, logvar).sum(dim=1)}
    elbo["mixture"] = elbo["standard normal"] + mixture.log_prob(z) - standard_prior(z)
    tight = tight_bounds(model, x_test, mu, logvar, list(priors.values()), progress)
    on_all = {}
    for name, bound in zip(priors, tight, strict=True):
        on_all[f"all test digits, {name}"] = bounds_row(elbo[name], bound)
    progress(str(on_all))
    gains = {"ELBO": elbo["mixture"] - elbo["standard normal"], f"K = {K}": tight[1] - tight[0]}
    on_all["gain of the mixture"] = {name: stated(gain) for name, gain in gains.items()}
    return on_all | rows


def bounds_row(elbo, tight):
    return {"ELBO": stated(elbo), f"K = {K}": stated(tight), "between": stated(tight - elbo)}


def stated(values):
    """Mean over digits, and its standard error."""
    return f"{values.mean().item():.2f} ({values.std().item() / math.sqrt(len(values)):.2f})"


def refine(model, x):
    """mu and logvar (N, z_dim), raised for each picture by itself."""
    mu, logvar = (part.clone().requires_grad_() for part in model.encode(x))
    random = torch.Generator().manual_seed(1)
    opt = torch.optim.Adam([mu, logvar], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, REFINE_STEPS)
    for _ in range(REFINE_STEPS):
        log_p = bernoulli_log_likelihood(model.decode(reparameterise(mu, logvar, random)), x)
        loss = (gaussian_kl(mu, logvar).sum(dim=1) - log_p).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    return mu.detach(), logvar.detach()


@torch.no_grad()
def elbo_of(model, x, mu, logvar, num_draws=100):
    random = torch.Generator().manual_seed(2)
    total = -gaussian_kl(mu, logvar).sum(dim=1)
    for _ in range(num_draws):
        z = reparameterise(mu, logvar, random)
        total += bernoulli_log_likelihood(model.decode(z), x) / num_draws
    return total


@torch.no_grad()
def tight_bounds(model, x, mu, logvar, priors, progress=None):
    """Eq. (2) of 02b with K draws of N(mu, exp(logvar)), [(N,) for each prior], from the same draws."""
    random = torch.Generator().manual_seed(3)
    found = [[] for _ in priors]
    for k, (part, m, v) in enumerate(zip(x.split(4), mu.split(4), logvar.split(4), strict=True)):
        eps = torch.randn(K, *m.shape, generator=random)
        z = m + (0.5 * v).exp() * eps
        log_q = -0.5 * (eps.square() + v + LOG_2_PI).sum(dim=-1)
        log_p = bernoulli_log_likelihood(model.decode(z), part)
        for log_prior, bounds in zip(priors, found, strict=True):
            log_w = log_p + log_prior(z) - log_q
            bounds.append(torch.logsumexp(log_w, dim=0) - math.log(K))
        if progress and k % 250 == 0:
            progress(f"{4 * k} of {len(x)} digits")
    return [torch.cat(bounds) for bounds in found]
