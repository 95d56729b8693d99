"""Three ways to weight the loss of masked diffusion in training, three seeds: bound, clipping, gradient noise.

Chapter 03c's Backbone(V, 32, 48, 2, 1), AdamW at 6e-3, clipping at 1, 300 steps of 16 windows of 32
characters of tiny Shakespeare. Held equal: the network, the batches of a seed, the rate (not tuned for
any of the three). Noise: over 30 batches at the end of training, the total variance of a gradient
divided by the squared length of its mean.
"""

from __future__ import annotations

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters
from aigc_helpers.models.objectives import (
    Backbone,
    diffusion_loss,
    draw,
    draw_times,
    estimate_bound,
    gap_count_loss,
    gap_nll,
)

from ..book import NotebookError
from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
NUM_STEPS = 300
NUM_BATCHES = 30


def pooled_loss(model, x, generator):
    """One mean over all hidden letters of a batch: no bound, and often used."""
    hidden = draw(x.shape, generator, x.device) < draw_times(len(x), generator, x.device)
    return gap_nll(model, x, hidden)[hidden].mean()


LOSSES = {
    "eq. (8): t drawn, weight 1/t": diffusion_loss,
    "eq. (9): m drawn, weight 1/m": gap_count_loss,
    "no weight: a mean over the batch's gaps": pooled_loss,
}


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("masked_weights needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    characters = Characters(corpus.text)
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    scored = tokens[cut:].unfold(0, 32, 96)
    rows = {}
    for name, loss_of in LOSSES.items():
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = Backbone(len(characters), 32, 48, 2, 1)
            clipped = train(model, loss_of, tokens[:cut], seed)
            random = torch.Generator().manual_seed(seed)
            bound = estimate_bound(model, scored, 4, random)[0]
            found.append((bound, clipped, noise(model, loss_of, tokens[:cut], random)))
        bounds, clipped, noises = zip(*found, strict=True)
        rows[name] = {
            "bound": mean_and_range(bounds, 3),
            "steps clipped": mean_and_range(clipped, 2),
            "gradient noise": mean_and_range(noises, 1),
        }
        progress(f"{name}: {rows[name]}")
    return rows


def batch(tokens, generator):
    starts = torch.randint(len(tokens) - 32, (16, 1), generator=generator)
    return tokens[starts + torch.arange(32)]


def train(model, loss_of, tokens, seed):
    """Returns the share of the steps whose gradient was clipped."""
    data = torch.Generator().manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    opt = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95))
    clipped = 0
    for _ in range(NUM_STEPS):
        loss = loss_of(model, batch(tokens, data), random)
        opt.zero_grad()
        loss.backward()
        clipped += (torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1).item()
        opt.step()
    model.eval()
    return clipped / NUM_STEPS


def noise(model, loss_of, tokens, random):
    """Total variance of the gradient over batches, divided by the squared length of its mean."""
    gradients = []
    for _ in range(NUM_BATCHES):
        model.zero_grad()
        loss_of(model, batch(tokens, random), random).backward()
        parts = [w.grad.flatten() for w in model.parameters() if w.grad is not None]
        gradients.append(torch.cat(parts))
    gradients = torch.stack(gradients)
    variance = gradients.var(dim=0).sum()
    # the squared length of the mean of n gradients is too large by variance / n
    length = gradients.mean(dim=0).square().sum() - variance / NUM_BATCHES
    return (variance / length).item()
