"""Learned positions against rotary ones in chapter 03b's model: start and rate chosen, three seeds.

The baseline of the chapter (width 64, 4 heads, 4 blocks, context 64), and the same with learned
positions in place of rotary ones, are trained for 300 steps of 16 windows of tiny Shakespeare. The
table of positions begins with a standard deviation of 0.2 or 0.02 (the table of tokens begins with 1,
and positions that begin with 1 were tried by `gpt_rates`). Muon's rate is tried for each start at 0.01,
0.02 and 0.04, and on from the best one as long as that is at an edge, one run each with another seed;
the best start and rate are trained with three seeds. The table itself is trained by AdamW at 0.005, as
all embeddings are; that rate was not varied. Scored by the loss of all windows of the last tenth. Held
equal: steps, batches of a seed, and first weights where they can be. The difference is to the baseline
of the same seed.
"""

from __future__ import annotations

import functools
import math
import statistics

import torch.nn as nn

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import make_variant, train_for

from .gpt_rates import BATCH, NUM_STEPS, SIZES, find_rate, loss_of, read_text

BASELINE = "the baseline"
SEEDS = (0, 1, 2)
SWEEP_SEED = 10
STARTS = (0.2, 0.02)
USUAL = 0.02
FACTORS = (1 / 2, 1, 2, 4)


def run(progress):
    text = read_text("gpt_positions")
    rows = {}
    best_of = {}
    for start in STARTS:
        found, best = find_rate(USUAL, functools.partial(learned, text, start, SWEEP_SEED), FACTORS)
        progress(f"start {start:g}: {found}")
        cells = {f"rate {USUAL * f:g}": f"{found[f]:.3f}" if f in found else "" for f in FACTORS}
        rows[f"start {start:g}, one seed"] = cells
        best_of[start] = (found[best], USUAL * best)
    start = min(best_of, key=best_of.get)
    rate = best_of[start][1]
    learned_losses = [learned(text, start, seed, rate) for seed in SEEDS]
    baseline = [loss_of(BASELINE, text, seed, USUAL) for seed in SEEDS]
    progress(f"start {start:g}, rate {rate:g}: {learned_losses}; baseline {baseline}")
    apart = [loss - full for loss, full in zip(learned_losses, baseline, strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart))
    rows["chosen, three seeds"] = {
        "start": f"{start:g}",
        "rate": f"{rate:g}",
        "validation loss": f"{statistics.mean(learned_losses):.3f}",
        "the baseline's": f"{statistics.mean(baseline):.3f}",
        "difference": f"{statistics.mean(apart):+.3f}",
        "± standard error": f"{error:.3f}",
    }
    return rows


def learned(text, start, seed, rate):
    """The validation loss, nats, with learned positions that begin with this standard deviation."""
    characters, train, valid = text
    model, opts = make_variant("learned positions for rotary", len(characters), seed, rate, **SIZES)
    nn.init.normal_(model.position.weight, std=start)
    train_for(model, opts, train, NUM_STEPS, BATCH, seed)
    return losses_by_position(model, valid).mean().item()
