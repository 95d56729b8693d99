"""Rewards alone, over three seeds: chapter 03e's training, from three tunings.

For each seed `assistant_base`, which has read plays, is tuned on sums: 150 steps of 64 chats, 35 per cent
of them with working, with the optimisers and rates of chapter 03d. Then it is trained on rewards as in
section 4 of 03e: as many updates of 16 questions and eight answers, the same rate. A seed sets
the sums, their order, and all samples. Scored on 200 held-out sums, the same for all: eight answers each at
temperature 1, one at temperature 0, and pass@8 from the eight.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.models.assistant import answer_loss, make_gpt
from aigc_helpers.models.gpt_beyond import make_optimizers, set_rates
from aigc_helpers.models.rewards import (
    mean_pass,
    reinforce,
    sample_answers,
    sample_many,
    two_ways,
)
from aigc_helpers.tasks import answer_sums, draw_sums, encode_chats, is_right
from aigc_helpers.training import autocast
from aigc_helpers.weights import load_model

from ..experimenting import summarize, take_step

SEEDS = (0, 1, 2)
TUNING_STEPS = 150
BATCH = 64
WORKING = 0.35
UPDATES = 60
QUESTIONS = 16
RATE = 1e-4
DECIMALS = {
    "right": 3,
    "right, likeliest tokens": 3,
    "with working": 3,
    "... of these right": 3,
    "pass@8": 3,
    "characters": 1,
    "seconds": 0,
}


def run(progress):
    held_out = draw_sums(200, torch.Generator().manual_seed(9), held_out=True)
    scores = {"before": [], "after": []}
    for seed in SEEDS:
        began = time.process_time()
        start = tuned(seed)
        scores["before"].append(score_of(start, held_out, time.process_time() - began))
        progress(f"seed {seed}, tuned: {scores['before'][-1]}")
        began = time.process_time()
        policy, _ = reinforce(start, UPDATES, seed, RATE, QUESTIONS)
        scores["after"].append(score_of(policy, held_out, time.process_time() - began))
        progress(f"seed {seed}, rewarded: {scores['after'][-1]}")
    return {name: summarize(found, DECIMALS) for name, found in scores.items()}


def tuned(seed):
    """The model that has read plays, tuned on sums with and without working."""
    random = torch.Generator().manual_seed(100 + seed)
    questions = draw_sums(12_000, random)
    tokens, is_answer = encode_chats(questions, answer_sums(questions, random, WORKING))
    model = make_gpt()
    model.load_state_dict(load_model("assistant_base").state_dict())
    opts = make_optimizers(model)
    for step in range(1, TUNING_STEPS + 1):
        chosen = torch.randint(len(tokens), (BATCH,), generator=random)
        set_rates(opts, step, TUNING_STEPS)
        with autocast("cpu"):
            loss = answer_loss(model, tokens[chosen], is_answer[chosen])
        take_step(opts, loss)
    return model.eval().requires_grad_(False)


def score_of(model, held_out, seconds):
    """The columns of the table for one model."""
    answers = sample_many(model, held_out, 8, torch.Generator().manual_seed(2))
    ways = two_ways(held_out, answers)
    _, _, likeliest = sample_answers(model, held_out, temperature=0)
    return {
        "right": ways["all"]["right"],
        "right, likeliest tokens": sum(map(is_right, held_out, likeliest)) / len(held_out),
        "with working": ways["with working"]["share of the answers"],
        "... of these right": ways["with working"]["right"],
        "pass@8": mean_pass(held_out, answers, 8),
        "characters": ways["all"]["characters"],
        "seconds": seconds,
    }
