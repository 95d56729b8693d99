"""Chapter 03's whole recipe at the size of chapter 03b's comparisons: its rate chosen, three seeds.

The GPT of chapter 03 (width 64, 4 heads, 4 blocks, context 64; LayerNorm, learned positions, GELU, a head
that is tied to the embedding) and AdamW for all of its weights, for 300 steps of 16 windows of tiny
Shakespeare. The one rate for all weights is tried at 0.003, half and twice that, and on from the best one
as long as that is at an edge of what was tried, one run each with another seed, on the validation text.
Scored by the loss of all windows of the last tenth. Held equal with the baseline of `gpt_parts`: steps,
schedule, and the batches of a seed. The difference is that to the baseline of the same seed, which is
trained once more here: mean and standard error.
"""

from __future__ import annotations

import functools
import math
import statistics

import torch

from aigc_helpers.models.gpt import GPT, losses_by_position
from aigc_helpers.models.gpt_beyond import make_optimizers, train_for
from aigc_helpers.weights import read_experiment

from ..experimenting import count_weights
from . import gpt_rates
from .gpt_rates import BATCH, FACTORS, NUM_STEPS, SIZES, find_rate, read_text

SEEDS = (0, 1, 2)
SWEEP_SEED = 10
USUAL = 0.003
FULL = "the baseline"


def run(progress):
    text = read_text("gpt_recipe")
    found, best = find_rate(USUAL, functools.partial(loss_of, text, SWEEP_SEED), FACTORS)
    progress(f"{found}")
    baseline_rate = read_experiment("gpt_rates").rows[FULL]["chosen"]
    losses = []
    apart = []
    for seed in SEEDS:
        losses.append(loss_of(text, seed, USUAL * best))
        apart.append(losses[-1] - gpt_rates.loss_of(FULL, text, seed, baseline_rate))
        progress(f"seed {seed}: {losses[-1]:.4f}, {apart[-1]:+.4f}")
    error = statistics.stdev(apart) / math.sqrt(len(apart))
    row = {
        "validation loss": f"{statistics.mean(losses):.3f}",
        "difference": f"{statistics.mean(apart):+.3f}",
        "± standard error": f"{error:.3f}",
        "weights": count_weights(make_model(text)),
        "rate": f"{USUAL * best:g}",
    }
    tried = {f"rate {USUAL * f:g}": f"{found[f]:.3f}" for f in FACTORS if f in found}
    return {"GPT of chapter 03, AdamW": row | tried}


def make_model(text):
    """Chapter 03's GPT at the size of the comparisons."""
    return GPT(len(text[0]), SIZES["context"], SIZES["width"], 4, SIZES["num_blocks"])


def loss_of(text, seed, rate):
    """The validation loss, nats."""
    _, train, valid = text
    torch.manual_seed(seed)
    model = make_model(text)
    opts = make_optimizers(model, muon=False, matrix_rate=rate, rate=rate)
    train_for(model, opts, train, NUM_STEPS, BATCH, seed)
    return losses_by_position(model, valid).mean().item()
