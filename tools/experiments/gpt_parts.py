"""What each part of chapter 03b's model is worth: one part changed at a time, each at its own rate.

Each variant (width 64, 4 heads, 4 blocks, context 64) is trained for 300 steps of 16 windows of tiny
Shakespeare, at the rate that `gpt_rates` (or the same sweep here) chose for it with another seed, and
scored by the loss of all windows of the last tenth. The difference is that to the baseline of the
same seed: mean and standard error over the seeds. Held equal: steps, batches, and first weights where
they can be; the columns say what is not: the number of weights, and the time of a step (the shortest
of twenty, the variants in turn).
"""

from __future__ import annotations

import functools
import math
import statistics
import time

import torch

from aigc_helpers.models.gpt import GPT, losses_by_position
from aigc_helpers.models.gpt_beyond import VARIANTS, make_optimizers, make_variant, train_for, train_step
from aigc_helpers.weights import read_experiment

from ..experimenting import count_weights
from .gpt_rates import BATCH, NUM_STEPS, SIZES, find_rate, loss_of, read_text

SEEDS = (0, 1, 2)
SWEEP_SEED = 10
FULL = "the baseline"
LONGER = "the baseline, a tenth more steps"
FREE = "4 experts, no load-balance loss"
OLD = "GPT of chapter 03, AdamW"
OLD_RATE = 0.003


def run(progress):
    text = read_text("gpt_parts")
    vocab = len(text[0])
    rates = {name: row["chosen"] for name, row in read_experiment("gpt_rates").rows.items()}
    for name in VARIANTS:
        if name not in rates:  # it is younger than the stored sweep
            found, best = find_rate(0.02, functools.partial(loss_of, name, text, SWEEP_SEED))
            rates[name] = 0.02 * best
            progress(f"{name}: {found}")
    losses = {}
    for seed in SEEDS:
        for name in VARIANTS:
            losses.setdefault(name, []).append(loss_of(name, text, seed, rates[name]))
            progress(f"seed {seed}, {name}: {losses[name][-1]:.4f}")
        longer = loss_of(FULL, text, seed, rates[FULL], round(1.1 * NUM_STEPS))
        losses.setdefault(LONGER, []).append(longer)
        experts = "4 experts for one MLP"
        free = loss_of(experts, text, seed, rates[experts], balance=0.0)
        losses.setdefault(FREE, []).append(free)
        losses.setdefault(OLD, []).append(old_loss(text, seed))
        progress(f"seed {seed}: {[f'{losses[name][-1]:.4f}' for name in (LONGER, FREE, OLD)]}")
    milliseconds, weights = time_steps(text, vocab)
    rows = {}
    for name, found in losses.items():
        apart = [loss - full for loss, full in zip(found, losses[FULL], strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        rows[name] = {"validation loss": f"{statistics.mean(found):.3f}"}
        rows[name]["difference"] = "" if name == FULL else f"{statistics.mean(apart):+.3f}"
        rows[name]["± standard error"] = "" if name == FULL else f"{error:.3f}"
        rows[name]["weights"] = weights.get(name, weights[FULL])
        if name == FREE:
            rows[name]["weights"] = weights["4 experts for one MLP"]
        rows[name]["time of a step"] = ""
        if name in milliseconds:
            rows[name]["time of a step"] = f"{milliseconds[name] / milliseconds[FULL]:.2f}"
        rows[name]["rate"] = f"{rates[name]:g}" if name in rates else ""
    rows[OLD]["rate"] = f"{OLD_RATE:g}"
    return rows


def make_old(vocab, seed):
    """The GPT of chapter 03 and AdamW for all of it."""
    torch.manual_seed(seed)
    model = GPT(vocab, SIZES["context"], SIZES["width"], 4, SIZES["num_blocks"])
    return model, make_optimizers(model, muon=False, matrix_rate=OLD_RATE, rate=OLD_RATE)


def old_loss(text, seed):
    """The validation loss of chapter 03's GPT."""
    model, opts = make_old(len(text[0]), seed)
    train_for(model, opts, text[1], NUM_STEPS, BATCH, seed)
    return losses_by_position(model, text[2]).mean().item()


def time_steps(text, vocab):
    """{name: the shortest time of a training step, ms} and {name: number of weights}."""
    made = {name: make_variant(name, vocab, 0, **SIZES) for name in VARIANTS} | {OLD: make_old(vocab, 0)}
    batch = text[1].unfold(0, SIZES["context"] + 1, 1)[: 997 * BATCH : 997]
    times = {name: [] for name in made}
    for _ in range(20):
        for name, (model, opts) in made.items():
            start = time.perf_counter()
            train_step(model, opts, batch, torch.device("cpu"))
            times[name].append(1000 * (time.perf_counter() - start))
    shortest = {name: min(spent) for name, spent in times.items()}
    weights = {name: count_weights(made[name][0]) for name in made}
    return shortest, weights
