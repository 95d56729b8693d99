"""Characters against byte pairs: the same GPT on both, equal seconds, bits per byte, three seeds.

The baseline of chapter 03b (width 128, 4 heads, 4 blocks) reads tiny Shakespeare as characters
(context 128, batch 8) or as byte pairs, 512 merges learnt from the training text (context 64, batch
16: as many tokens a step). Each run gets the steps that fit into 12 seconds of one core's time, timed
beforehand, in turn. Muon's rate was chosen by one run each of 0.01, 0.02 and 0.04 with another seed. Held
equal: seconds of training and tokens a step; not the number of weights, nor how far a window reaches.
The bigram models are tables of the same tokens, smoothed as in chapter 03. Scored on the last tenth:
bits for each byte of its text (UTF-8), each token predicted in windows side by side.
"""

from __future__ import annotations

import functools
import math
import statistics
import time

import torch

from aigc_helpers.models.gpt import NGramModel, losses_by_position
from aigc_helpers.models.gpt_beyond import (
    BytePairs,
    ModernGPT,
    make_optimizers,
    train_for,
    train_step,
)

from .gpt_rates import read_text

SEEDS = (0, 1, 2)
SECONDS = 12.0
RATES = (0.01, 0.02, 0.04)
MERGES = 512
BITS = "bits per byte"


def run(progress):
    characters, train, valid = read_text("gpt_tokens")
    train_text = characters.decode(train)
    valid_text = characters.decode(valid)
    pairs = BytePairs(train_text, MERGES)
    texts = {
        "characters": (train, valid, len(characters), 128, 8),
        f"byte pairs, {MERGES} merges": (
            torch.tensor(pairs.encode(train_text)),
            torch.tensor(pairs.encode(valid_text)),
            len(pairs),
            64,
            16,
        ),
    }
    rows = {}
    num_bytes = len(valid_text.encode())
    number_of_steps = steps_that_fit(texts)
    for name, (train, valid, vocab, context, batch) in texts.items():
        num_steps = number_of_steps[name]
        per_byte = len(valid) / num_bytes / math.log(2)  # tokens a byte, nats to bits
        run_of = functools.partial(nats, train, valid, vocab, context, batch, num_steps)
        tried = {rate: run_of(10, rate)[0] * per_byte for rate in RATES}
        rate = min(tried, key=tried.get)
        runs = [run_of(seed, rate) for seed in SEEDS]
        found = [loss * per_byte for loss, _ in runs]
        progress(f"{name}: {num_steps} steps, {tried}, {found}")
        bigram = NGramModel(train, vocab, 1).losses(valid).mean().item()
        rows[name] = {
            "vocabulary": vocab,
            "weights": sum(weight.numel() for weight in ModernGPT(vocab, context).parameters()),
            "rate": f"{rate:g}",
            "steps": num_steps,
            "seconds": statistics.mean(seconds for _, seconds in runs),
            "bytes a token": num_bytes / len(valid),
            "bits per byte, bigram": f"{bigram * per_byte:.3f}",
            BITS: f"{statistics.mean(found):.3f}",
            "lowest": f"{min(found):.3f}",
            "highest": f"{max(found):.3f}",
        }
    return rows


def nats(train, valid, vocab, context, batch, num_steps, seed, rate):
    """(validation loss in nats per token, seconds of one core's time) of one run."""
    torch.manual_seed(seed)
    model = ModernGPT(vocab, context)
    opts = make_optimizers(model, matrix_rate=rate)
    start = time.process_time()
    train_for(model, opts, train, num_steps, batch, seed)
    seconds = time.process_time() - start
    return losses_by_position(model, valid).mean().item(), seconds


def steps_that_fit(texts):
    """{name: how many training steps fit into SECONDS of one core}, by medians; timed in turn."""
    made = {}
    for name, (train, _, vocab, context, batch) in texts.items():
        model = ModernGPT(vocab, context)
        windows = train.unfold(0, context + 1, 1)[: 997 * batch : 997]
        made[name] = (model, make_optimizers(model), windows)
    times = {name: [] for name in made}
    for _ in range(16):
        for name, (model, opts, windows) in made.items():
            start = time.process_time()
            train_step(model, opts, windows, torch.device("cpu"))
            times[name].append(time.process_time() - start)
    return {name: round(SECONDS / statistics.median(spent[1:])) for name, spent in times.items()}
