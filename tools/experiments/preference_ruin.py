"""DPO at a large rate, over three seeds, and whether the gradient or Adam's memory does the harm, for chapter 03d.

`preference_betas` says how it trains and scores; here β is 0.5, the rate four times as large, 2e-3, and there are 24
steps. *No gradient past 10 nats*: when the mean margin of a step's pairs is 10 nats or more, the loss is multiplied by
zero, so that Adam's step comes from what it remembers alone. The margin is the mean over the pairs of the last step,
before it is taken.
"""

from __future__ import annotations

from functools import partial

from aigc_helpers.models.assistant import dpo_loss
from aigc_helpers.weights import load_model

from ..experimenting import summarize
from .preference_betas import DECIMALS, SEEDS, draw_questions, train_and_score

RATE = 2e-3
NUM_STEPS = 24
ENOUGH = 10.0  # nats of margin
SHOWN = {column: digits for column, digits in DECIMALS.items() if column != "with working, %"}
plain = partial(dpo_loss, beta=0.5)


def run(progress):
    questions, held_out = draw_questions()
    start = load_model("assistant")
    rows = {}
    trainings = {"large rate, 24 steps": plain, "… no gradient past 10 nats": pull_until_enough}
    for name, loss_of in trainings.items():
        scores = []
        for seed in SEEDS:
            scores.append(train_and_score(start, questions, held_out, NUM_STEPS, loss_of, RATE, seed))
            progress(f"{name}, seed {seed}: {scores[-1]}")
        rows[name] = summarize(scores, SHOWN)
    return rows


def pull_until_enough(chosen, rejected, chosen_ref, rejected_ref):
    """DPO's loss while the mean margin is below ENOUGH; else zero times it, so that no gradient arrives."""
    margin = (chosen - chosen_ref) - (rejected - rejected_ref)
    below = (margin.mean() < ENOUGH).float()
    return below * plain(chosen, rejected, chosen_ref, rejected_ref)
