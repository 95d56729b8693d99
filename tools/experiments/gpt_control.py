"""A control for `gpt_tuning`: the same network and the same sums, from random weights.

As in `gpt_tuning`: the baseline of chapter 03b (width 64, 4 heads, 4 blocks, context 64), 300 steps of
128 sums by AdamW, three seeds, the same 500 sums held out; but nothing was pre-trained. Its rate was
tried at 0.004, half and twice that, and on from the best one as long as that is at an edge, one run each
with another seed, by the loss on 2,000 of its own training sums.
"""

from __future__ import annotations

import functools

import torch

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import (
    answer_loss,
    make_variant,
    share_right,
    split_sums,
    sum_tokens,
    tune,
)

from ..experimenting import summarize
from .gpt_rates import FACTORS, SIZES, find_rate, read_text
from .gpt_tuning import DECIMALS, NUM_STEPS

SEEDS = (0, 1, 2)
SWEEP_SEED = 10
USUAL = 0.004
SCRATCH = "all weights, not pre-trained"


def run(progress):
    characters, _, valid = read_text("gpt_control")
    chosen, held_out = split_sums()
    sums = sum_tokens(characters, chosen)
    asked = sum_tokens(characters, held_out)

    def from_scratch(seed, rate):
        model, _ = make_variant("the baseline", len(characters), seed, **SIZES)
        return tune(model, rate, sums, NUM_STEPS, seed).eval()

    def loss_at(rate):
        model = from_scratch(SWEEP_SEED, rate)
        with torch.no_grad():
            return answer_loss(model, sums[0][:2000], sums[1][:2000]).item()

    found, best = find_rate(USUAL, loss_at, FACTORS)
    progress(f"from scratch: {found}")
    rate = USUAL * best
    score = functools.partial(score_of, asked, valid)
    rows = {SCRATCH: {"weights trained": 0, "rate": f"{rate:g}"}}
    scores = []
    for seed in SEEDS:
        model = from_scratch(seed, rate)
        scores.append(score(model))
        progress(f"{SCRATCH}, seed {seed}: {scores[-1]}")
    rows[SCRATCH]["weights trained"] = sum(weight.numel() for weight in model.parameters())
    rows[SCRATCH] |= summarize(scores, DECIMALS)
    rows[SCRATCH]["rates tried: loss"] = ", ".join(
        f"{USUAL * factor:g}: {found[factor]:.3f}" for factor in FACTORS if factor in found
    )
    return rows


def score_of(asked, valid, model):
    """The columns of `gpt_tuning`: right sums of those held out, and the loss of the text."""
    loss = losses_by_position(model, valid).mean().item()
    return {"right sums, %": 100 * share_right(model, *asked), "loss of the text": loss}
