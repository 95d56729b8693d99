"""Figures of 03_gpt and 03b_gpt_beyond that depend on the machine; by hand: `python tests/benchmarks/gpt.py [part ...]`.

Parts: loss, cache, speed, panels (all by default; about 4 minutes). Nothing else should run on the machine meanwhile.
Needs tiny Shakespeare in AIGC_DATA_DIR, the cache, or a network.
"""

import os
import pathlib
import statistics
import sys
import time

import torch

from aigc_helpers import training
from aigc_helpers.data import load_text
from aigc_helpers.models import gpt, gpt_beyond

sys.path[:0] = [str(pathlib.Path(__file__).parent.parent), str(pathlib.Path(__file__).parent)]
os.environ["AIGC_PROGRESS"] = "0"
SECONDS, CONTEXT, BATCH = 100, 128, 16


def text():
    """(alphabet, training tokens, test tokens): 90/10 in order, with the notebook's alphabet."""
    corpus = load_text()
    characters = gpt.Characters(corpus.text + "0123456789+=")
    tokens, cut = characters.encode(corpus.text), int(0.9 * len(corpus.text))
    return characters, tokens[:cut], tokens[cut:]


def loss():
    """Validation loss after SECONDS of the training of 03b: the notebook's step, with a clock for a step count."""
    characters, train, test = text()
    training.seed_everything(0)
    model, windows = gpt_beyond.ModernGPT(len(characters), CONTEXT), train.unfold(0, CONTEXT + 1, 1)
    opts, start, step, total = gpt_beyond.optimizers(model), time.perf_counter(), 0, 10**4
    for step, batch in training.steps(windows, 10**6, BATCH):
        spent = time.perf_counter() - start
        if spent >= SECONDS:
            break
        if step > 5:
            total = step * SECONDS / spent  # how many steps there will be, by what has been seen
        gpt_beyond.set_rates(opts, step, max(step, total))
        gpt_beyond.train_step(model, opts, batch, torch.device("cpu"))
    value = gpt.losses_by_place(model.eval(), test).mean().item()
    print(f"{step} steps in {SECONDS} s: validation loss {value:.3f} nats on {len(test):,} characters (wanted: <= 1.60, aim 1.50)")


def cache():
    """Characters a second at length 256, with the key-value cache and without: the notebook's model, and `generate`."""
    characters, _, test = text()
    model = gpt.GPT(len(characters), 320, 128, 4, 4).eval()
    start, rate = test[:256][None], {}
    for use_cache in (False, True) * 2:
        began = time.perf_counter()
        gpt.generate(model, start, 60, torch.Generator().manual_seed(0), use_cache)
        rate[use_cache] = 60 / (time.perf_counter() - began)
    print(f"characters a second from length 256 on: {rate[False]:.0f} without the cache, {rate[True]:.0f} with it: "
          f"x{rate[True] / rate[False]:.1f} (wanted: >= 4)")  # fmt: skip


def speed(num_steps=40):
    """Training tokens a second at equal size, in the same loop: `transformers`' GPT-2 class and ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    characters, train, _ = text()
    V, batches = len(characters), train.unfold(0, CONTEXT + 1, 1)
    sizes = {"vocab_size": V, "n_positions": CONTEXT, "n_embd": 128, "n_layer": 4, "n_head": 4}
    library = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    models = {"transformers": library, "03": gpt.GPT(V, CONTEXT, 128, 4, 4), "03b": gpt_beyond.ModernGPT(V, CONTEXT)}
    for bf16 in (False, True):
        rates = {}
        for name, model in models.items():
            opt, times = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), []
            logits_of = (lambda x: library(x).logits) if name == "transformers" else model
            for _, batch in training.steps(batches, num_steps, BATCH):
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = gpt.next_token_loss(logits_of, batch)
                opt.zero_grad()
                loss.backward()
                opt.step()
                times.append(time.perf_counter() - began)
            rates[name] = BATCH * CONTEXT / statistics.median(times)
        told = ", ".join(f"{name} {rate:,.0f} (x{rate / rates['transformers']:.2f})" for name, rate in rates.items())
        print(f"training tokens a second, {'bf16' if bf16 else 'float32'}: {told} (wanted: 03 >= transformers)")


def panels():
    """Latency of every control (drawing included)."""
    from latency import print_latency
    from test_panels import GPT_PANELS, beyond_namespace, gpt_namespace

    spaces = {"03": gpt_namespace(), "03b": beyond_namespace()}
    for book, name in GPT_PANELS:
        print_latency(name, spaces[book][name])


if __name__ == "__main__":
    for part in sys.argv[1:] or ("loss", "cache", "speed", "panels"):
        print(f"== {part} ==", flush=True)
        globals()[part]()
