"""Two controls for `gpt_tuning`: a network that was not pre-trained, and LoRA with new embeddings.

As in `gpt_tuning`: a model of chapter 03b (the baseline: width 64, 4 heads, 4 blocks, context 64), 300
steps of 128 sums by AdamW, three seeds, the same 500 sums held out. The control has the same shape and
starts from random weights; its rate was chosen by one run each, twofold apart and on from the best one
as long as that is at an edge, with another seed, by the loss on 2,000 of its own training sums. The
other row is the pre-trained model of `gpt_tuning` (800 steps of 16 windows of tiny Shakespeare) with
LoRA of rank 4 and, trained with it, the embeddings of the twelve characters of sums; at LoRA's rate of
`gpt_tuning`, which was not chosen anew.
"""

from __future__ import annotations

import copy
import functools

import torch

from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import (
    adapt,
    answer_loss,
    make_variant,
    share_right,
    split_sums,
    sum_tokens,
    train_for,
    tune,
)

from ..experimenting import summarize
from .gpt_rates import FACTORS, SIZES, find_rate, read_text
from .gpt_tuning import DECIMALS, NUM_STEPS

SEEDS = (0, 1, 2)
SWEEP_SEED = 10
USUAL = 0.004
LORA_RATE = 0.016
NEW = "0123456789+="
SCRATCH = "all weights, not pre-trained"
WITH_ROWS = "LoRA, and embeddings of the new characters"


def run(progress):
    characters, train, valid = read_text("gpt_control")
    chosen, held_out = split_sums()
    sums = sum_tokens(characters, chosen)
    asked = sum_tokens(characters, held_out)

    def from_scratch(seed, rate):
        model, _ = make_variant("the baseline", len(characters), seed, **SIZES)
        return tune(model, rate, sums, NUM_STEPS, seed).eval()

    def loss_at(rate):
        with torch.no_grad():
            return answer_loss(from_scratch(SWEEP_SEED, rate), sums[0][:2000], sums[1][:2000]).item()

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
    base, opts = make_variant("the baseline", len(characters), 0, **SIZES)
    train_for(base, opts, train, 800, 16, 0)
    new = characters.encode(NEW)
    scores = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = copy.deepcopy(base)
        loras = adapt(model, rank=4)
        train_rows(model.token.weight, new)
        scores.append(score(tune(model, LORA_RATE, sums, NUM_STEPS, seed).eval()))
        progress(f"{WITH_ROWS}, seed {seed}: {scores[-1]}")
    thin = sum(lora.up.numel() + lora.down.numel() for lora in loras)
    number = thin + len(new) * model.token.weight.shape[1]
    rows[WITH_ROWS] = {"weights trained": number, "rate": f"{LORA_RATE:g}"}
    rows[WITH_ROWS] |= summarize(scores, DECIMALS) | {"rates tried: loss": ""}
    return rows


def score_of(asked, valid, model):
    """The columns of `gpt_tuning`: right sums of those held out, and the loss of the text."""
    loss = losses_by_position(model, valid).mean().item()
    return {"right sums, %": 100 * share_right(model, *asked), "loss of the text": loss}


def train_rows(table, rows):
    """Thaw a few rows of a frozen table: the gradient of all others is zero, so AdamW leaves them."""
    mask = torch.zeros(len(table), 1)
    mask[rows] = 1.0
    table.requires_grad_(True)
    table.register_hook(lambda gradient: gradient * mask)
