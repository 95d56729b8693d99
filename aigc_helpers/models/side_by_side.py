"""Generated from notebooks/06_side_by_side.ipynb: edit it there, then run `python -m tools export`."""

import copy
import math
import time

import torch
import torch.nn.functional as F

from aigc_helpers.arguments import require_number
from aigc_helpers.models.vae import ConvVAE, binarise, elbo_terms
from aigc_helpers.training import autocast


def standard_error(share, n):
    """Eq. (1): how far a share of n independent answers is off, typically."""
    return math.sqrt(share * (1 - share) / n)


def share_of_rate(step):
    """Up over the first 30 steps, then level: no schedule that knows the end."""
    return min(1.0, step / 30)


@torch.no_grad()
def follow(average, model, step):
    """Move the averaged weights, and BatchNorm's numbers, towards a model's: eq. (9), in place."""
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


def nearest_distance(pictures, others):
    """For pictures (N, ...) the distance to the nearest of others (M, ...), (N,)."""
    x = pictures.flatten(1).float()
    parts = [torch.cdist(x, some.flatten(1).float()).amin(dim=1) for some in others.split(5000)]
    return torch.stack(parts).amin(dim=0)


def copied_share(pictures, training, kept_away):
    """The share of pictures nearer to training than to as many kept_away: 0.5 for no copies."""
    if len(training) != len(kept_away):
        sizes = f"{len(training)} and {len(kept_away)}"
        raise ValueError(f"copied_share: the two sets must be equally large, got {sizes}")
    to_training = nearest_distance(pictures, training)
    to_others = nearest_distance(pictures, kept_away)
    return (to_training < to_others).float().mean().item()


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
