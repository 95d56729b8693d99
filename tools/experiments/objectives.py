"""Five objectives on chapter 03c's network at equal targets, and at equal reading, three seeds.

Two blocks of width 64, windows of 32 characters of tiny Shakespeare, 250 steps of AdamW at 3e-3 (40
steps of warm-up, then half a cosine) for every objective. Equal targets: 256 a step, 64,000 in all.
Equal reading: 16 windows a step, 128,000 characters in all. Scores on 1,200 validation windows.
"""

from __future__ import annotations

import math
import time
from functools import partial

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters
from aigc_helpers.models.objectives import (
    Backbone,
    diffusion_loss,
    estimate_bound,
    gap_nll,
    join_halves,
    masked_loss,
    next_loss,
    next_nll,
    replace_letters,
    replaced_loss,
    sentence_loss,
)

from ..book import NotebookError
from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
NUM_STEPS = 250
LENGTH = 32
LR = 3e-3
NUM_SCORED = 1200  # windows of the validation text
# objective -> its loss, windows a step for 256 targets, and whether the network is causal
OBJECTIVES = {
    "next token": (next_loss, 8, True),
    "masked token, 15 %": (masked_loss, 53, False),
    "next sentence": (sentence_loss, 256, False),
    "replaced token": (replaced_loss, 8, False),
    "masked, any number": (diffusion_loss, 16, False),
}
EQUAL_READING = 16  # windows a step


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("objectives needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    characters = Characters(corpus.text)
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    unseen = tokens[cut:].unfold(0, LENGTH, LENGTH)
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))
    texts = (tokens[:cut], unseen[order[:NUM_SCORED]], len(characters))
    rows = {}
    for equal in ("targets", "reading"):
        for name, (loss, num_windows, causal) in OBJECTIVES.items():
            same = num_windows == EQUAL_READING
            num_windows = EQUAL_READING if equal == "reading" else num_windows
            if equal == "reading" and same:  # trained already
                rows[f"equal {equal}: {name}"] = rows[f"equal targets: {name}"]
                continue
            found = [train_and_score(seed, loss, num_windows, causal, *texts) for seed in SEEDS]
            row = {"characters read": f"{NUM_STEPS * num_windows * LENGTH:,}"}
            row |= {column: _summary(column, found) for column in found[0]}
            rows[f"equal {equal}: {name}"] = row
            progress(f"{equal}, {name}: {row}")
    return rows


def _summary(column, found):
    values = [row[column] for row in found]
    if any(isinstance(value, str) for value in values):
        return values[0]
    return mean_and_range(values, {"seconds": 0}.get(column, 2))


def train_and_score(seed, loss_of, num_windows, causal, train, unseen, vocab):
    """A row of one seed."""
    torch.manual_seed(seed)
    model = Backbone(vocab, LENGTH, 64, 2, 2, causal)
    seconds = train_one(model, partial(loss_of, model), train, num_windows, seed)
    model.eval()
    return {"seconds": seconds} | score(model, loss_of, causal, unseen, seed)


def train_one(model, loss_of, train, num_windows, seed):
    """Train for NUM_STEPS; returns seconds."""
    opt = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    for step in range(NUM_STEPS):
        rise = min(1.0, (step + 1) / 40)
        share = rise * (0.51 + 0.49 * math.cos(math.pi * step / NUM_STEPS))
        for group in opt.param_groups:
            group["lr"] = LR * share
        starts = torch.randint(len(train) - LENGTH, (num_windows, 1), generator=generator)
        loss = loss_of(train[starts + torch.arange(LENGTH)], generator)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
    return time.perf_counter() - began


@torch.no_grad()
def score(model, loss_of, causal, unseen, seed):
    """What a trained network can be asked, and "-" for what it cannot."""
    generator = torch.Generator().manual_seed(100 + seed)
    row = dict.fromkeys(("hidden letter", "whole window", "letter 17", "yes or no"), "-")
    if causal:
        nll = next_nll(model, unseen)
        row["whole window"] = nll.mean().item()
        row["letter 17"] = nll[:, LENGTH // 2].mean().item()
    elif loss_of in (masked_loss, diffusion_loss):
        row["hidden letter"] = masked_loss(model, unseen, generator).item()
        row["whole window"] = estimate_bound(model, unseen, 2, generator)[0]
        later = (torch.arange(LENGTH) >= LENGTH // 2).expand_as(unseen)
        row["letter 17"] = gap_nll(model, unseen, later)[:, LENGTH // 2].mean().item()
    elif loss_of is sentence_loss:
        joined, true = join_halves(unseen, generator)
        said = model.yes_or_no(joined)[:, LENGTH // 2] > 0
        row["yes or no"] = (said == true).float().mean().item()
    else:
        changed, false = replace_letters(unseen, generator)
        logits = model.yes_or_no(changed)
        kept = logits[~false].sort().values
        rank = torch.searchsorted(kept, logits[false]).float().mean()
        row["yes or no"] = (rank / len(kept)).item()
    return row
