"""Fifteen per cent or any mask rate? Chapter 03c's two-sided network trained with either, three seeds.

Beside them the causal network of the same size. All three: section 5's size (two blocks of width
128, windows of 64 characters of tiny Shakespeare), section 5's recipe, 1,200 steps. 16 windows a step for
the two masked ones (equal reading), 8 for the causal one. NELBO: 8 draws on every fourth
window of the validation text. Orders: 100 windows, left to right and in 8 random orders each. Writing:
64 windows from nothing, one letter an evaluation, judged by chapter 03's kept GPT.
"""

from __future__ import annotations

import math
import time

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters
from aigc_helpers.models.objectives import (
    Backbone,
    cost_in_order,
    diffusion_loss,
    estimate_bound,
    judge_samples,
    masked_loss,
    next_loss,
    next_nll,
    unmask,
    words_of,
)
from aigc_helpers.training import autocast, steps
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
NUM_STEPS = 1200
CONTEXT = 64
LR = 4e-3
NUM_ORDERS = 8
NUM_ORDERED = 100  # windows that are scored in several orders
NUM_WRITTEN = 64
PARTS = 8  # of the mask rate
KINDS = {  # name -> loss, windows a step, causal
    "causal": (next_loss, 8, True),
    "masked, 15 %": (masked_loss, 16, False),
    "masked diffusion": (diffusion_loss, 16, False),
}


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
        for name, (loss_of, num_windows, causal) in KINDS.items():
            torch.manual_seed(seed)
            model = Backbone(len(characters), CONTEXT, 128, 4, 2, causal)
            seconds = train(model, loss_of, windows, num_windows, seed)
            row = {"seconds": seconds} | score(model, loss_of, valid, judged, seed)
            found[name].append(row)
            shown = {key: value for key, value in row.items() if not torch.is_tensor(value)}
            progress(f"seed {seed}, {name}: {shown}")
    return tables(found)


def train(model, loss_of, windows, num_windows, seed):
    """Section 5's recipe; returns seconds."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=True)
    random = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    for step, x in steps(windows, NUM_STEPS, num_windows, seed=seed):
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
def score(model, loss_of, valid, judged, seed):
    """Numbers and, for the paired differences, tensors of one trained network."""
    random = torch.Generator().manual_seed(100 + seed)
    scored = valid[::4]
    some = valid[:: len(valid) // NUM_ORDERED][:NUM_ORDERED]
    if loss_of is next_loss:
        costs = next_nll(model, some).sum(dim=1)
        return {"whole": next_nll(model, scored).mean().item(), "costs": costs}
    bound, _, counts, costs = estimate_bound(model, scored, 8, random)
    part = (counts - 1) * PARTS // CONTEXT
    row = {
        "whole": bound,
        "hidden": masked_loss(model, scored, random).item(),
        "heights": torch.stack([costs[part == k].mean() for k in range(PARTS)]),
        "left": cost_in_order(model, some, torch.arange(CONTEXT).expand_as(some)),
    }
    if loss_of is masked_loss:
        row["orders"] = None
    else:
        many = some.repeat(NUM_ORDERS, 1)
        orders = torch.rand(many.shape, generator=random).argsort(dim=1)
        row["orders"] = cost_in_order(model, many, orders).view(NUM_ORDERS, -1)
    for ordering in ("random", "from the left"):
        gaps = torch.full((NUM_WRITTEN, CONTEXT), model.mask)
        written, _ = unmask(model, gaps, CONTEXT, random, ordering)
        row |= {f"{ordering}: {key}": value for key, value in judged(written).items()}
    return row


def tables(found):
    """Rows of four tables; the page tells them apart by the word before the colon."""
    rows = {}
    for name, seeds in found.items():
        row = {"seconds": mean_and_range([one["seconds"] for one in seeds], 0)}
        if "hidden" in seeds[0]:
            row["hidden letter, 15 %"] = mean_and_range([one["hidden"] for one in seeds], 2)
        row["whole window"] = mean_and_range([one["whole"] for one in seeds], 2)
        rows[f"bound: {name}"] = row
    exact = torch.stack([one["costs"] for one in found["causal"]]) / CONTEXT
    rows["order: causal, exact"] = {
        "nats": mean_and_range(exact.mean(dim=1).tolist(), 2),
    }
    for name in ("masked, 15 %", "masked diffusion"):
        left = torch.stack([one["left"] for one in found[name]]) / CONTEXT
        ways = {"left to right": left}
        if name == "masked diffusion":
            orders = torch.stack([one["orders"] for one in found[name]])  # seeds, orders, windows
            mixed = (math.log(NUM_ORDERS) - (-orders).logsumexp(dim=1)) / CONTEXT
            ways[f"{NUM_ORDERS} random orders, mean cost"] = orders.mean(dim=1) / CONTEXT
            ways[f"{NUM_ORDERS} random orders, mean probability"] = mixed
        for way, costs in ways.items():
            more = costs - exact
            error = more.mean(dim=0).std() / math.sqrt(more.shape[1])
            rows[f"order: {name}, {way}"] = {
                "nats": mean_and_range(costs.mean(dim=1).tolist(), 2),
                "above causal": mean_and_range(more.mean(dim=1).tolist(), 2),
                "standard error": f"{error.item():.3f}",
            }
        if name == "masked diffusion":
            spread = orders.std(dim=1).mean(dim=1).tolist()
            key = f"order: {name}, {NUM_ORDERS} random orders, mean cost"
            rows[key]["a window's spread over orders"] = mean_and_range(spread, 1)
        for ordering in ("random", "from the left"):
            columns = {"judge's nats": 2, "real words": 3, "letters' entropy": 2}
            rows[f"writing: trained with {name}, {ordering}"] = {
                column: mean_and_range([one[f"{ordering}: {column}"] for one in found[name]], shown)
                for column, shown in columns.items()
            }
        heights = torch.stack([one["heights"] for one in found[name]]).mean(dim=0)
        rows[f"height: {name}"] = {
            f"part {k + 1}": value for k, value in enumerate(heights.tolist())
        }
    return rows
