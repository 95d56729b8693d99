"""Characters against byte pairs: the same GPT on both, equal processor time, bits per byte, three seeds.

The baseline of chapter 03b (width 128, 4 heads, 4 blocks) reads tiny Shakespeare as characters
(context 128, batch 8) or as byte pairs, 512 merges learnt from the training text (context 64, batch
16: as many tokens a step). Each run gets the steps that fit into 45 seconds of one core's time, by
medians of steps timed beforehand, in turn. Muon's rate: the better of 0.02 and 0.04 by seed 0, which
is scored as well. Held equal: processor time and tokens a step; not the number of weights, the bytes
that are read, nor exactly how far a window reaches. The bigram and trigram models are tables of the same
tokens, smoothed as in chapter 03. Scored on the last tenth: bits for each byte of its text (UTF-8),
each token predicted in windows side by side. "by the way": seconds and bits per byte of seed 0 in
training, on every fourth window.
"""

from __future__ import annotations

import math
import statistics
import time

import torch

from aigc_helpers.models.gpt import NGramModel, losses_by_position, next_token_loss
from aigc_helpers.models.gpt_beyond import (
    BytePairs,
    ModernGPT,
    make_optimizers,
    set_rates,
    train_step,
)

from ..experimenting import count_weights
from .gpt_rates import read_text

SEEDS = (0, 1, 2)
SECONDS = 45.0
RATES = (0.02, 0.04)
MERGES = 512
BITS = "bits per byte"
POINTS = 9  # of the curve of seed 0
CPU = torch.device("cpu")


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
    for name, text in texts.items():
        train, valid, vocab, context, _ = text
        per_byte = len(valid) / num_bytes / math.log(2)  # tokens a byte, nats to bits
        tried = {rate: race(text, number_of_steps[name], 0, rate) for rate in RATES}
        progress(f"{name}: {number_of_steps[name]} steps, {tried}")
        rate = min(tried, key=lambda rate: tried[rate][0])
        runs = [tried[rate], *(race(text, number_of_steps[name], seed, rate) for seed in SEEDS[1:])]
        found = [run[0] * per_byte for run in runs]
        progress(f"{name}: {found}")
        curve = [f"{seconds:.1f}: {loss * per_byte:.3f}" for seconds, loss in runs[0][2]]
        tables = {
            f"{order + 1}-gram": NGramModel(train, vocab, order).losses(valid).mean().item()
            for order in (1, 2)
        }
        other = next(loss for r, (loss, _, _) in tried.items() if r != rate)
        rows[name] = {
            "vocabulary": vocab,
            "weights": count_weights(ModernGPT(vocab, context)),
            "rate": f"{rate:g}",
            "steps": number_of_steps[name],
            "processor seconds": statistics.mean(run[1] for run in runs),
            "bytes a token": num_bytes / len(valid),
            f"{BITS}, bigram": f"{tables['2-gram'] * per_byte:.3f}",
            f"{BITS}, trigram": f"{tables['3-gram'] * per_byte:.3f}",
            BITS: f"{statistics.mean(found):.3f}",
            "lowest": f"{min(found):.3f}",
            "highest": f"{max(found):.3f}",
            "seed 0 at the other rate": f"{other * per_byte:.3f}",
            "by the way": ", ".join(curve),
        }
    return rows


def race(text, num_steps, seed, rate):
    """(validation loss in nats per token, processor seconds of training, [(seconds, loss)]) of one run."""
    train, valid, vocab, context, batch = text
    torch.manual_seed(seed)
    model = ModernGPT(vocab, context)
    opts = make_optimizers(model, matrix_rate=rate)
    random = torch.Generator().manual_seed(seed)
    inside = torch.arange(context + 1)
    some = valid.unfold(0, context + 1, 4 * context)
    measured_at = {round(num_steps * k / POINTS) for k in range(1, POINTS + 1)}
    seconds = 0.0
    curve = []
    for step in range(1, num_steps + 1):
        start = time.process_time()
        starts = torch.randint(len(train) - context, (batch,), generator=random)
        set_rates(opts, step, num_steps)
        train_step(model, opts, train[starts[:, None] + inside], CPU)
        seconds += time.process_time() - start
        if seed == 0 and step in measured_at:
            with torch.no_grad():
                curve.append((seconds, next_token_loss(model.eval(), some).item()))
            model.train()
    return losses_by_position(model.eval(), valid).mean().item(), seconds, curve


def steps_that_fit(texts):
    """{name: how many training steps fit into SECONDS of one core}, by medians; timed in turn."""
    made = {}
    for name, (train, _, vocab, context, batch) in texts.items():
        model = ModernGPT(vocab, context)
        windows = train.unfold(0, context + 1, 1)[: 997 * batch : 997]
        made[name] = (model, make_optimizers(model), windows)
    times = {name: [] for name in made}
    for _ in range(25):
        for name, (model, opts, windows) in made.items():
            start = time.process_time()
            train_step(model, opts, windows, CPU)
            times[name].append(time.process_time() - start)
    return {name: round(SECONDS / statistics.median(spent[1:])) for name, spent in times.items()}
