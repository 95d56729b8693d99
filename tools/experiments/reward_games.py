"""A gamed verifier and its control, over three seeds, for chapter 03e.

*No step shown is false*: 40 updates of section 4's training (16 questions, eight answers), rewarded by that
verifier. *A coin*: the same, but whether an answer is rejected is drawn at random, as often as the verifier
rejects at the start, whatever the answer says: what the training does without information. A seed sets the
questions and all samples; the tuned model that all start from is one. Scored on 100 held-out sums, four
answers each at temperature 1.
"""

from __future__ import annotations

import torch

from aigc_helpers.models.rewards import reinforce, sample_many, two_ways
from aigc_helpers.tasks import draw_sums, no_false_step
from aigc_helpers.weights import load_model

from ..experimenting import summarize

SEEDS = (0, 1, 2)
UPDATES = 40
SCORES = {"right": 3, "with working": 3}
DECIMALS = {"reward, last five updates": 3, "zero-variance groups": 3} | SCORES


def run(progress):
    held_out = draw_sums(100, torch.Generator().manual_seed(9), held_out=True)
    start = load_model("assistant")
    rejected = share_rejected(start)
    progress(f"rejected at the start: {rejected:.4f}")
    before = score_of(start, held_out)
    rows = {"before": {"reward, last five updates": f"{1 - rejected:.3f} at the start"}}
    rows["before"] |= {"zero-variance groups": ""} | {name: f"{before[name]:.3f}" for name in SCORES}
    for name in ("no step shown is false", "a coin that rejects as often"):
        scores = []
        for seed in SEEDS:
            verifier = no_false_step if name.startswith("no step") else Coin(rejected, seed)
            policy, log = reinforce(start, UPDATES, seed, verifier=verifier)
            found = score_of(policy, held_out)
            found["reward, last five updates"] = sum(now["rewarded"] for now in log[-5:]) / 5
            found["zero-variance groups"] = sum(now["zero variance"] for now in log) / len(log)
            scores.append(found)
            progress(f"{name}, seed {seed}: {found}")
        rows[name] = summarize(scores, DECIMALS)
    return rows


class Coin:
    """A verifier that looks at nothing: it rejects a share of the answers at random."""

    def __init__(self, rejected, seed):
        self.rejected = rejected
        self.random = torch.Generator().manual_seed(1000 + seed)

    def __call__(self, question, text):
        return torch.rand((), generator=self.random).item() >= self.rejected


def share_rejected(start):
    """The share of the start's answers that `no_false_step` rejects, of 2,048."""
    random = torch.Generator().manual_seed(3)
    questions = draw_sums(256, random)
    answers = sample_many(start, questions, 8, random)
    kept = [no_false_step(q, text) for q, texts in zip(questions, answers, strict=True) for text in texts]
    return 1 - sum(kept) / len(kept)


def score_of(model, held_out):
    """Right answers, and answers with working, of one model."""
    answers = sample_many(model, held_out, 4, torch.Generator().manual_seed(2))
    ways = two_ways(held_out, answers)
    return {
        "right": ways["all"]["right"],
        "with working": ways["with working"]["share of the answers"],
    }
