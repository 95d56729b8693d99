"""The plainest rival of chapter 03e's training, over three seeds: tune on one's own right answers.

Rejection-sampling fine-tuning, from the same tuned model: draw answers, keep the right ones, tune on them with
03d's loss. In all 5,120 answers are drawn, eight to each of 640 sums, as in 40 updates of 03e: in one round, or
in three, each drawn by the model that the round before has left. Each round tunes for two epochs in batches of 32,
with section 4's optimiser at its rate; nothing was searched for. A seed sets the sums, all samples and the order
of the batches. Scored as `reward_seeds` is.
"""

from __future__ import annotations

import copy

import torch

from aigc_helpers.models.assistant import answer_loss
from aigc_helpers.models.rewards import sample_many
from aigc_helpers.tasks import draw_sums, encode_chats, is_right
from aigc_helpers.training import autocast
from aigc_helpers.weights import load_model

from ..experimenting import summarize
from .reward_seeds import DECIMALS, score_of

SEEDS = (0, 1, 2)
ROUNDS = {"one round": (640,), "three rounds": (214, 213, 213)}  # sums in each round
GROUP = 8  # answers to each of them
EPOCHS = 2
RATE = 2e-4
BATCH = 32


def run(progress):
    held_out = draw_sums(100, torch.Generator().manual_seed(9), held_out=True)
    start = load_model("assistant")
    rows = {}
    for name, rounds in ROUNDS.items():
        scores = []
        for seed in SEEDS:
            policy, kept = tune_on_right(start, rounds, seed)
            scores.append(score_of(policy, held_out))
            progress(f"{name}, seed {seed}: tuned on {kept}; {scores[-1]}")
        rows[f"tuned on right answers, {name}"] = summarize(scores, DECIMALS)
    return rows


def tune_on_right(start, rounds, seed):
    """A copy of `start` after so many rounds, and how many right answers each was tuned on."""
    random = torch.Generator().manual_seed(seed)
    policy = copy.deepcopy(start)
    kept = []
    for num_sums in rounds:
        questions = draw_sums(num_sums, random)
        answers = sample_many(policy.eval(), questions, GROUP, random)
        pairs = [(q, text) for q, texts in zip(questions, answers, strict=True) for text in texts]
        right = [pair for pair in pairs if is_right(*pair)]
        kept.append(len(right))
        policy.requires_grad_(True)
        opt = torch.optim.AdamW(policy.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
        tokens, is_answer = encode_chats(*zip(*right, strict=True))
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(right), generator=random).split(BATCH):
                with autocast(tokens.device):
                    loss = answer_loss(policy, tokens[rows], is_answer[rows])
                opt.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                opt.step()
        policy = policy.eval().requires_grad_(False)
    return policy, kept
