"""Learned positions that begin quiet, in chapter 03b's model: the rate of Muon chosen, three seeds.

The variant "learned positions for rotary" of `gpt_parts` (width 64, 4 heads, 4 blocks, context 64; 300
steps of 16 windows of tiny Shakespeare), with a table of positions that begins with a standard deviation
of 0.02. In `gpt_parts`, as stored, it began with 1, as the table of tokens does. Muon's rate is tried at
0.02, half and twice that, and on from the best one as long as that is at an edge, one run each with
another seed. The table itself is trained by AdamW at 0.005, as all embeddings are; that rate was not
varied. Scored by the loss of all windows of the last tenth. Held equal with the baseline of `gpt_parts`:
steps, and the batches of a seed.
"""

from __future__ import annotations

import functools

import torch

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import ModernGPT, make_optimizers, train_for

from ..experimenting import mean_and_range
from .gpt_rates import BATCH, FACTORS, NUM_STEPS, SIZES, find_rate, read_text

SEEDS = (0, 1, 2)
SWEEP_SEED = 10
USUAL = 0.02
START = 0.02


def run(progress):
    text = read_text("gpt_positions")
    found, best = find_rate(USUAL, functools.partial(loss_of, text, SWEEP_SEED), FACTORS)
    progress(f"{found}")
    losses = []
    for seed in SEEDS:
        losses.append(loss_of(text, seed, USUAL * best))
        progress(f"seed {seed}: {losses[-1]:.4f}")
    tried = {f"rate {USUAL * f:g}": f"{found[f]:.3f}" for f in FACTORS if f in found}
    chosen = {"rate": f"{USUAL * best:g}", "validation loss": mean_and_range(losses, 3)}
    return {"learned positions, start 0.02": tried | chosen}


def loss_of(text, seed, rate):
    """The validation loss, nats, with positions that begin quiet."""
    characters, train, valid = text
    torch.manual_seed(seed)
    sizes = (SIZES["context"], SIZES["width"], 4, SIZES["num_blocks"])
    model = ModernGPT(len(characters), *sizes, rotary=False, position_start=START)
    train_for(model, make_optimizers(model, matrix_rate=rate), train, NUM_STEPS, BATCH, seed)
    return losses_by_position(model, valid).mean().item()
