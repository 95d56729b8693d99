"""Widths against numbers of steps: how the loss of chapter 03b's model falls with compute.

The baseline (4 blocks, heads of 16 numbers, context 128) in widths 32, 48 and 64, trained for 180 steps
of 8 windows of tiny Shakespeare, width 32 also for 90 and 360, each run with a schedule of its own that
ends at a rate of zero; and one larger run that no line is fitted to, width 128 for 180 steps. Muon's
rate was chosen for each width by one run each of 0.04, half and twice that, and on from the best one as
long as that is at an edge, at 90 steps, with another seed, on a third of the validation text. The rate
of all other weights stays 0.005. Scored by the loss of all windows of the last tenth. N: the numbers in
the matrices of the blocks and of the head. Compute: 6 N a character, and for the products of attention
12 times blocks, context and width.
"""

from __future__ import annotations

import functools
import statistics
import time

import torch

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import ModernGPT, make_optimizers, train_for

from .gpt_rates import find_rate, read_text

SEEDS = (0, 1, 2)
STEPS = {32: (90, 180, 360), 48: (180,), 64: (180,), 128: (180,)}
SWEEP_STEPS = 90
SWEEP_SEED = 10
CONTEXT = 128
BLOCKS = 4
BATCH = 8
USUAL = 0.04
FACTORS = (1 / 4, 1 / 2, 1, 2, 4)


def run(progress):
    text = read_text("gpt_scaling")
    rows = {}
    for width, numbers_of_steps in STEPS.items():
        found, best = find_rate(USUAL, functools.partial(sweep, text, width), FACTORS)
        rate = USUAL * best
        progress(f"width {width}: {found}")
        tried = ", ".join(f"{USUAL * f:g}: {found[f]:.3f}" for f in FACTORS if f in found)
        for num_steps in numbers_of_steps:
            runs = [loss_of(text, width, num_steps, seed, rate) for seed in SEEDS]
            losses = [loss for loss, _ in runs]
            heads = width // 16
            N = num_products(ModernGPT(len(text[0]), CONTEXT, width, heads))
            read = num_steps * BATCH * CONTEXT
            rows[f"width {width}, {num_steps} steps"] = {
                "width": width,
                "heads": heads,
                "N": N,
                "characters read": read,
                "compute, FLOP": float((6 * N + 12 * BLOCKS * CONTEXT * width) * read),
                "rates tried: loss": tried,
                "rate": rate,
                "validation loss": statistics.mean(losses),
                "standard deviation": statistics.stdev(losses),
                "seconds": statistics.mean(seconds for _, seconds in runs),
            }
            progress(f"width {width}, {num_steps} steps: {losses}")
    return rows


def num_products(model):
    """N: the numbers in matrices that each position is multiplied with: no embedding, no norm."""
    parts = [*model.blocks.parameters(), *model.head.parameters()]
    return sum(weight.numel() for weight in parts if weight.ndim == 2)


def sweep(text, width, rate):
    """The loss of a short run, on a third of the validation text."""
    characters, train, valid = text
    return loss_of((characters, train, valid[: len(valid) // 3]), width, SWEEP_STEPS, SWEEP_SEED, rate)[0]


def loss_of(text, width, num_steps, seed, rate):
    """(validation loss in nats, seconds of training) of one run."""
    characters, train, valid = text
    torch.manual_seed(seed)
    model = ModernGPT(len(characters), CONTEXT, width, width // 16)
    opts = make_optimizers(model, matrix_rate=rate)
    start = time.perf_counter()
    train_for(model, opts, train, num_steps, BATCH, seed)
    seconds = time.perf_counter() - start
    return losses_by_position(model, valid).mean().item(), seconds
