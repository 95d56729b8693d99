"""DPO at several β and lengths of training, over three seeds, for chapter 03d.

Section 5's training on pairs of the rater in a hurry, from the kept tuned model: 24 pairs a step, LoRAs of
rank 8, 30 steps at the rate 5e-4 where a row does not say otherwise. A seed sets their start and the pairs.
Scored on 120 held-out sums, four answers each at temperature 1, which also give KL(π ‖ π_ref), the mean of
log π - log π_ref over them; on 120 texts and 120 scenes at temperature 0; the margin is the mean over the pairs
of the last step.
"""

from __future__ import annotations

import copy
from functools import partial

import torch

from aigc_helpers import tasks
from aigc_helpers.data import load_text
from aigc_helpers.models.assistant import answer_log_prob, ask, dpo_loss, share_right, train_on_pairs
from aigc_helpers.models.gpt import generate
from aigc_helpers.training import seed_everything
from aigc_helpers.weights import load_model

from ..experimenting import summarize

SEEDS = (0, 1, 2)
NUM_ASKED = 120
# Row -> β, steps, learning rate
TRAININGS = {
    "β = 0.1": (0.1, 30, 5e-4),
    "β = 0.5": (0.5, 30, 5e-4),
    "β = 2": (2.0, 30, 5e-4),
    "β = 0.5, 90 steps": (0.5, 90, 5e-4),
    "β = 0.5, four times the rate, 7 steps": (0.5, 7, 2e-3),
}
DECIMALS = {
    "with working, %": 1,
    "sums right, %": 1,
    "texts right, %": 1,
    "scenes right, %": 1,
    "KL(π ‖ π_ref), nats": 2,
    "margin, nats": 1,
}


def run(progress):
    questions, held_out = draw_questions()
    start = load_model("assistant")
    before = score_of(start, start, held_out)
    rows = {"before": {name: f"{value:.{DECIMALS[name]}f}" for name, value in before.items()}}
    progress(f"before: {before}")
    for name, (beta, num_steps, rate) in TRAININGS.items():
        loss_of = partial(dpo_loss, beta=beta)
        scores = []
        for seed in SEEDS:
            scores.append(train_and_score(start, questions, held_out, num_steps, loss_of, rate, seed))
            progress(f"{name}, seed {seed}: {scores[-1]}")
        rows[name] = summarize(scores, DECIMALS)
    return rows


def draw_questions():
    """The sums to train on, and the held-out questions of each task, name -> NUM_ASKED of them."""
    text = tasks.known_text(load_text().text)
    random = torch.Generator().manual_seed(2)
    held_out = {
        "sums": tasks.draw_sums(NUM_ASKED, random, held_out=True),
        "texts": tasks.draw_readings(NUM_ASKED, random, held_out=True),
        "scenes": tasks.draw_scenes(NUM_ASKED, text[int(0.9 * len(text)) :], random, lengths=(12,)),
    }
    return tasks.draw_sums(6000, torch.Generator().manual_seed(1)), held_out


def train_and_score(start, questions, held_out, num_steps, loss_of, rate, seed):
    """The scores of one training from `start` on pairs of the rater in a hurry."""
    seed_everything(seed)
    policy = copy.deepcopy(start)
    raised = train_on_pairs(policy, questions, False, num_steps, loss_of, rate, seed)
    found = score_of(policy.eval(), start, held_out)
    found["margin, nats"] = raised["chosen"][-1] - raised["rejected"][-1]
    return found


@torch.no_grad()
def score_of(policy, reference, held_out):
    """One policy's answers: how many with working, how many right, and KL from the reference."""
    sums = 4 * held_out["sums"]
    prompts = torch.tensor([tasks.encode_chat(question) for question in sums])
    random = torch.Generator().manual_seed(5)
    end = torch.tensor([tasks.END])
    written = generate(policy, prompts, tasks.ANSWER_LENGTH + 1, random, temperature=1.0, end=end)
    start = prompts.shape[1]
    texts = [tasks.read_answer(row) for row in written[:, start:]]
    answers = [text if has_ended else text + "…" for text, has_ended in texts]
    ended = (written == tasks.END).cumsum(dim=1) - (written == tasks.END).long()
    is_answer = ended == 0  # up to the first end, itself counted
    is_answer[:, :start] = False
    apart = answer_log_prob(policy, written, is_answer) - answer_log_prob(reference, written, is_answer)
    found = {
        "with working, %": 100 * sum(map(tasks.has_working, answers)) / len(answers),
        "sums right, %": 100 * share_right(sums, answers),
    }
    for name in ("texts", "scenes"):
        asked = held_out[name]
        found[f"{name} right, %"] = 100 * share_right(asked, ask(policy, asked))
    found["KL(π ‖ π_ref), nats"] = apart.mean().item()
    return found
