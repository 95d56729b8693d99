"""DPO at a large rate, over three seeds, and whether the gradient or Adam's memory does the harm, for chapter 03d.

`preference_betas` says how it trains and scores; here β is 0.5, the rate four times as large, 2e-3, and there are 24
steps. *No gradient past 10 nats*: when the mean margin of a step's pairs is 10 nats or more, the loss is multiplied by
zero, so that Adam's step comes from what it remembers alone. The margin is the mean over the pairs of the last step,
before it is taken.
"""

from __future__ import annotations

import copy
from functools import partial

import torch

from aigc_helpers import tasks
from aigc_helpers.data import load_text
from aigc_helpers.models.assistant import dpo_loss, train_on_pairs
from aigc_helpers.training import seed_everything
from aigc_helpers.weights import load_model

from ..experimenting import summarize
from .preference_betas import DECIMALS, NUM_ASKED, SEEDS, score_of

RATE = 2e-3
NUM_STEPS = 24
ENOUGH = 10.0  # nats of margin
SHOWN = {column: digits for column, digits in DECIMALS.items() if column != "with working, %"}
plain = partial(dpo_loss, beta=0.5)


def run(progress):
    text = tasks.known_text(load_text().text)
    random = torch.Generator().manual_seed(2)
    held_out = {
        "sums": tasks.draw_sums(NUM_ASKED, random, held_out=True),
        "texts": tasks.draw_readings(NUM_ASKED, random, held_out=True),
        "scenes": tasks.draw_scenes(NUM_ASKED, text[int(0.9 * len(text)) :], random, lengths=(12,)),
    }
    questions = tasks.draw_sums(6000, torch.Generator().manual_seed(1))
    start = load_model("assistant")
    scores = {}

    def train(name, seed, loss_of):
        """One training and its scores, kept under the row's name."""
        seed_everything(seed)
        policy = copy.deepcopy(start)
        raised = train_on_pairs(policy, questions, False, NUM_STEPS, loss_of, RATE, seed)
        found = score_of(policy.eval(), start, held_out)
        found["margin, nats"] = raised["chosen"][-1] - raised["rejected"][-1]
        scores.setdefault(name, []).append(found)
        progress(f"{name}, seed {seed}: {found}")

    for seed in SEEDS:
        train("large rate, 24 steps", seed, plain)
        train("… no gradient past 10 nats", seed, pull_until_enough)
    return {name: summarize(found, SHOWN) for name, found in scores.items()}


def pull_until_enough(chosen, rejected, chosen_ref, rejected_ref):
    """DPO's loss while the mean margin is below ENOUGH; else zero times it, so that no gradient arrives."""
    margin = (chosen - chosen_ref) - (rejected - rejected_ref)
    below = (margin.mean() < ENOUGH).float()
    return below * plain(chosen, rejected, chosen_ref, rejected_ref)
