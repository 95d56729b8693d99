"""Fifteen per cent or any mask rate? Chapter 03c's two-sided network trained with either, three seeds.

Both: section 5's size (two blocks of width 128, windows of 64 characters of tiny Shakespeare) and
recipe, 300 steps of the same 16 windows (equal reading). The bound, and the cost of a hidden letter by mask
rate: 4 draws on every fourth validation window. Writing: 48 windows from nothing, one letter an
evaluation, judged by chapter 03's kept GPT.
"""

from __future__ import annotations

import math
import time

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters
from aigc_helpers.models.objectives import (
    Backbone,
    diffusion_loss,
    estimate_bound,
    judge_samples,
    masked_loss,
    unmask,
    words_of,
)
from aigc_helpers.training import autocast, steps
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
NUM_STEPS = 300
CONTEXT = 64
LR = 4e-3
NUM_WRITTEN = 48
PARTS = 8  # of the mask rate
NUM_WINDOWS = 16  # a step
KINDS = {"masked, 15 %": masked_loss, "masked diffusion": diffusion_loss}


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("mask_rates needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    characters = Characters(corpus.text)
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    windows = tokens[:cut].unfold(0, CONTEXT, 1)
    valid = tokens[cut:].unfold(0, CONTEXT, CONTEXT)
    judge, same = load_model("gpt")
    if same.alphabet != characters.alphabet:
        raise NotebookError("mask_rates: the judge has another alphabet: make the asset gpt again")
    known = set(words_of(corpus.text[:cut]))

    def judged(samples):
        return judge_samples(samples, judge, characters.alphabet, known)

    found = {name: [] for name in KINDS}
    for seed in SEEDS:
        for name, loss_of in KINDS.items():
            torch.manual_seed(seed)
            model = Backbone(len(characters), CONTEXT, 128, 4, 2)
            seconds = train(model, loss_of, windows, seed)
            row = {"seconds": seconds} | score(model, valid, judged, seed)
            found[name].append(row)
            shown = {key: value for key, value in row.items() if not torch.is_tensor(value)}
            progress(f"seed {seed}, {name}: {shown}")
    return tables(found)


def train(model, loss_of, windows, seed):
    """Section 5's recipe; returns seconds."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=True)
    random = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    for step, x in steps(windows, NUM_STEPS, NUM_WINDOWS, seed=seed):
        rise = min(1.0, step / 50)
        share = rise * (0.51 + 0.49 * math.cos(math.pi * min(1.0, (step - 1) / NUM_STEPS)))
        for group in opt.param_groups:
            group["lr"] = LR * share
        with autocast("cpu"):
            loss = loss_of(model, x, random)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
    model.eval()
    return time.perf_counter() - began


@torch.no_grad()
def score(model, valid, judged, seed):
    """Numbers of one trained network, and its costs by mask rate as a tensor."""
    random = torch.Generator().manual_seed(100 + seed)
    scored = valid[::4]
    bound, _, counts, costs = estimate_bound(model, scored, 4, random)
    part = (counts - 1) * PARTS // CONTEXT
    row = {
        "whole": bound,
        "hidden": masked_loss(model, scored, random).item(),
        "heights": torch.stack([costs[part == k].mean() for k in range(PARTS)]),
    }
    for ordering in ("random", "from the left"):
        gaps = torch.full((NUM_WRITTEN, CONTEXT), model.mask)
        written, _ = unmask(model, gaps, CONTEXT, random, ordering)
        row |= {f"{ordering}: {key}": value for key, value in judged(written).items()}
    return row


def tables(found):
    """Rows of three tables; the page tells them apart by the word before the colon."""
    rows = {}
    for name, seeds in found.items():
        rows[f"bound: {name}"] = {
            "seconds": mean_and_range([one["seconds"] for one in seeds], 0),
            "hidden letter, 15 %": mean_and_range([one["hidden"] for one in seeds], 2),
            "whole window": mean_and_range([one["whole"] for one in seeds], 2),
        }
        for ordering in ("random", "from the left"):
            columns = {"judge's nats": 2, "real words": 3, "letters' entropy": 2}
            rows[f"writing: trained with {name}, {ordering}"] = {
                column: mean_and_range([one[f"{ordering}: {column}"] for one in found[name]], shown)
                for column, shown in columns.items()
            }
        heights = torch.stack([one["heights"] for one in seeds]).mean(dim=0)
        rows[f"height: {name}"] = {
            f"part {k + 1}": value for k, value in enumerate(heights.tolist())
        }
    return rows
