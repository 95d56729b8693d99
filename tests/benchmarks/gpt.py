"""Figures of 03_gpt and 03b_gpt_beyond that depend on the machine; by hand:

    python tests/benchmarks/gpt.py [loss] [cache] [speed] [--seconds 100]

All three take about 4 minutes. Nothing else should run on the machine meanwhile. The peer is the
GPT-2 class of `transformers`, in the precision in which it is quicker here, as ours are in theirs.
Needs tiny Shakespeare in AIGC_DATA_DIR, the cache, or a network.
"""

import time

import torch
from common import measure_rates, quicker, run, tell

from aigc_helpers import training
from aigc_helpers.data import load_text
from aigc_helpers.models import gpt, gpt_beyond

CONTEXT = 128
BATCH = 16


def read_text():
    """(alphabet, training tokens, test tokens): 90/10 in order, with the notebook's alphabet."""
    corpus = load_text()
    characters = gpt.Characters(corpus.text + "0123456789+=")
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(corpus.text))
    return characters, tokens[:cut], tokens[cut:]


def loss(seconds):
    """Validation loss after so many seconds of 03b's training, with a clock for a step count."""
    characters, train, test = read_text()
    training.seed_everything(0)
    model = gpt_beyond.ModernGPT(len(characters), 256)
    windows = train.unfold(0, 257, 1)
    opts = gpt_beyond.make_optimizers(model)
    start = time.perf_counter()
    total = 10**4
    for step, batch in training.steps(windows, 10**6, 8):
        spent = time.perf_counter() - start
        if spent >= seconds:
            break
        if step > 5:
            total = round(step * seconds / spent)  # how many steps there will be, by what has been seen
        gpt_beyond.set_rates(opts, step, max(step, total))
        gpt_beyond.train_step(model, opts, batch, torch.device("cpu"))
    with torch.no_grad():
        value = gpt.losses_by_position(model.eval(), test).mean().item()
    trained = f"{step} steps in {seconds:.0f} s"
    told = f"validation loss {value:.3f} nats on {len(test):,} characters"
    print(f"{trained}: {told} (wanted: <= 1.50 in 180 s)")


def cache(num_new=60):
    """Characters a second from length 256 on, by `generate`, with the key-value cache or not."""
    characters, _, test = read_text()
    model = gpt.GPT(len(characters), 320, 128, 4, 4).eval()
    start = test[:256][None]
    rate = {}
    for use_cache in (False, True, False, True):  # the second time counts: the first warms up
        generator = torch.Generator().manual_seed(0)
        began = time.perf_counter()
        gpt.generate(model, start, num_new, generator, use_cache)
        rate[use_cache] = num_new / (time.perf_counter() - began)
    told = f"{rate[False]:.0f} without the cache, {rate[True]:.0f} with it"
    ratio = rate[True] / rate[False]
    print(f"characters a second from length 256 on: {told}: x{ratio:.1f} (wanted: >= 4)")


def speed(num_steps=20):
    """Training tokens a second at equal size, in the same loop, each model in both precisions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    characters, train, _ = read_text()
    vocab = len(characters)
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    library = GPT2LMHeadModel(config)

    def library_logits(tokens):
        return library(tokens).logits

    ours = gpt.GPT(vocab, CONTEXT, 128, 4, 4)
    modern = gpt_beyond.ModernGPT(vocab, CONTEXT)
    batch = train.unfold(0, CONTEXT + 1, 1)[:: len(train) // (2 * BATCH)][:BATCH]
    rivals = {
        "transformers": (make_step(library, library_logits, batch), num_steps),
        "03": (make_step(ours, ours, batch), num_steps),
        "03b": (make_step(modern, modern, batch), num_steps),
    }
    rates = measure_rates(rivals, BATCH * CONTEXT)
    best = max(rates["transformers"].values())
    for name, rate in rates.items():
        told = f"x{max(rate.values()) / best:.2f} in {quicker(rate)}"
        print(f"training tokens a second, {name}: {tell(rate)}; {told} (wanted: 03 >= 1)")


def make_step(model, logits_of, batch):
    """A training step with AdamW on one batch of windows (N, CONTEXT + 1), as a function."""
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        loss = gpt.next_token_loss(logits_of, batch)
        opt.zero_grad()
        loss.backward()
        opt.step()

    return step


if __name__ == "__main__":
    run({"loss": loss, "cache": cache, "speed": speed}, seconds=100)
