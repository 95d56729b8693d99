"""Rewards alone, over three seeds: chapter 03e's training, from the same tuned model.

`assistant`, which chapter 03d has tuned, is trained on rewards as in section 4 of 03e: 40 updates of 16
questions and eight answers, the same rate. A seed sets the questions and all samples; the tuning was one.
Scored on 100 held-out sums, the same for all: four answers each at temperature 1, and one at temperature 0.
"""

from __future__ import annotations

import torch

from aigc_helpers.models.rewards import reinforce, sample_answers, sample_many, two_ways
from aigc_helpers.tasks import draw_sums, is_right
from aigc_helpers.weights import load_model

from ..experimenting import summarize

SEEDS = (0, 1, 2)
UPDATES = 40
DECIMALS = {
    "right": 3,
    "right, likeliest tokens": 3,
    "with working": 3,
    "... of these right": 3,
    "characters": 1,
}


def run(progress):
    held_out = draw_sums(100, torch.Generator().manual_seed(9), held_out=True)
    start = load_model("assistant")
    before = score_of(start, held_out)
    rows = {"before": {name: f"{before[name]:.{shown}f}" for name, shown in DECIMALS.items()}}
    scores = []
    for seed in SEEDS:
        policy, _ = reinforce(start, UPDATES, seed)
        scores.append(score_of(policy, held_out))
        progress(f"seed {seed}: {scores[-1]}")
    rows["after 40 updates"] = summarize(scores, DECIMALS)
    return rows


def score_of(model, held_out):
    """The columns of the table for one model."""
    answers = sample_many(model, held_out, 4, torch.Generator().manual_seed(2))
    ways = two_ways(held_out, answers)
    _, _, likeliest = sample_answers(model, held_out, temperature=0)
    return {
        "right": ways["all"]["right"],
        "right, likeliest tokens": sum(map(is_right, held_out, likeliest)) / len(held_out),
        "with working": ways["with working"]["share of the answers"],
        "... of these right": ways["with working"]["right"],
        "characters": ways["all"]["characters"],
    }
