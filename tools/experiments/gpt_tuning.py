"""Sums taught to a small GPT: all weights, LoRA, all weights with replay; rates, then three seeds.

A model of chapter 03b (width 64, 4 heads, 4 blocks, context 64) is trained for 800 steps of 16 windows
of tiny Shakespeare, and then three times 300 steps of 128 sums by AdamW: all its weights; LoRA of rank
4 beside every matrix; all its weights, with 4 windows of the old text at each step (replay). Each way
at the best of three rates, twofold apart, by the loss on 2,000 of its own training sums with another
seed; replay at the rate of all weights. Held equal: the first model, steps, and the sums of a seed;
replay reads 256 characters a step besides. Scored: right sums of 500 that were held out (neither they
nor their mirror images were trained on), and nats per character of the last tenth of the text.
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
from .gpt_rates import SIZES, find_rate, read_text

SEEDS = (0, 1, 2)
NUM_STEPS = 300
WAYS = {"all weights": 0.004, "LoRA": 0.016, "all weights, with replay": None}  # the usual rates
FACTORS = (1 / 2, 1, 2)
DECIMALS = {"right sums, %": 1, "loss of the text": 2}


def run(progress):
    characters, train, valid = read_text("gpt_tuning")
    base, opts = make_variant("the baseline", len(characters), 0, **SIZES)
    train_for(base, opts, train, 800, 16, 0)
    windows = train.unfold(0, SIZES["context"] + 1, 1)
    chosen, held_out = split_sums()
    sums = sum_tokens(characters, chosen)
    asked = sum_tokens(characters, held_out)
    text_loss = losses_by_position(base, valid).mean().item()
    right = 100 * share_right(base, *asked)
    rows = {"before": dict.fromkeys(("weights trained", "rate"), "")}
    rows["before"] |= {"right sums, %": f"{right:.1f}", "loss of the text": f"{text_loss:.2f}"}

    def tuned(way, rate, seed):
        model = copy.deepcopy(base)
        torch.manual_seed(seed)
        if way == "LoRA":
            adapt(model, rank=4)
        replay = windows if way.endswith("replay") else None
        return tune(model, rate, sums, NUM_STEPS, seed, replay).eval()

    def loss_at(way, rate):
        model = tuned(way, rate, 10)
        with torch.no_grad():
            loss = answer_loss(model, sums[0][:2000], sums[1][:2000]).item()
        progress(f"{way}, rate {rate:g}: {loss:.4f}")
        return loss

    rates = {}
    for way, usual in WAYS.items():
        if usual is not None:
            _, best = find_rate(usual, functools.partial(loss_at, way), FACTORS)
            rates[way] = usual * best
        rate = rates[way.removesuffix(", with replay")]
        scores = []
        for seed in SEEDS:
            model = tuned(way, rate, seed)
            loss = losses_by_position(model, valid).mean().item()
            right = 100 * share_right(model, *asked)
            scores.append({"right sums, %": right, "loss of the text": loss})
            progress(f"{way}, seed {seed}: {scores[-1]}")
        number = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        rows[way] = {"weights trained": number, "rate": f"{rate:g}"} | summarize(scores, DECIMALS)
    return rows
