"""Widths against numbers of steps: how the loss of chapter 03b's model falls with compute.

The baseline (4 blocks, heads of 16 numbers, context 128) in widths 32, 48 and 64, trained for 75 to
300 steps of 8 windows of tiny Shakespeare, each run with a schedule of its own that ends at a rate of
zero; and one larger run that no line is fitted to, width 128 for 300 steps. 300 steps read 0.31 of the
text's length, from random positions, so that about a seventh of that is read again. Muon's rate was
chosen by one run each of 0.01, 0.02 and 0.04 at 75 steps for each width, with another seed, on the
validation text. Scored by the loss of all windows of the last tenth. N: the numbers in the
matrices of the blocks and of the head. Compute: 6 N a character, and for the products of attention 12
times blocks, context and width.
"""

from __future__ import annotations

import statistics
import time

import torch

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import ModernGPT, make_optimizers, train_for

from .gpt_rates import read_text

SEEDS = (0, 1, 2)
STEPS = {32: (75, 150, 300), 48: (150, 300), 64: (150, 300), 128: (300,)}
SWEEP_STEPS = 75
CONTEXT = 128
BLOCKS = 4
BATCH = 8
RATES = (0.01, 0.02, 0.04)


def run(progress):
    text = read_text("gpt_scaling")
    rows = {}
    for width, numbers_of_steps in STEPS.items():
        tried = {rate: loss_of(text, width, SWEEP_STEPS, 10, rate)[0] for rate in RATES}
        rate = min(tried, key=tried.get)
        progress(f"width {width}: {tried}")
        for num_steps in numbers_of_steps:
            found = [loss_of(text, width, num_steps, seed, rate) for seed in SEEDS]
            losses = [loss for loss, _ in found]
            N = num_products(ModernGPT(len(text[0]), CONTEXT, width, width // 16))
            read = num_steps * BATCH * CONTEXT
            rows[f"width {width}, {num_steps} steps"] = {
                "width": width,
                "heads": width // 16,
                "N": N,
                "characters read": read,
                "compute, FLOP": float((6 * N + 12 * BLOCKS * CONTEXT * width) * read),
                "rate": rate,
                "validation loss": statistics.mean(losses),
                "standard deviation": statistics.stdev(losses),
                "seconds": statistics.mean(seconds for _, seconds in found),
            }
            progress(f"width {width}, {num_steps} steps: {losses}")
    return rows


def num_products(model):
    """N: the numbers in matrices that each position is multiplied with: no embedding, no norm."""
    parts = [*model.blocks.parameters(), *model.head.parameters()]
    return sum(weight.numel() for weight in parts if weight.ndim == 2)


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
