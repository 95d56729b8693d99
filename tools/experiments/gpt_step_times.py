"""What a training step of each variant of chapter 03b's model costs: processor time and FLOPs.

The variants of `gpt_parts` (width 64, 4 heads, 4 blocks, context 64, 16 windows), and the GPT of chapter
03 twice: as it is, with PyTorch's fused attention, and with attention written out as in chapter 03b.
Processor time (not seconds on the clock), one thread: the variants in turn, thirty rounds; the quotient to
the baseline's step of the same round, and of these the median and the middle half. FLOPs: those of all
matrix products of a step, the optimiser's among them, by PyTorch's counter, in millions
(it does not see the fused attention on a processor: empty).
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from aigc_helpers.models import gpt
from aigc_helpers.models.gpt_beyond import VARIANTS, make_optimizers, make_variant, train_step

from .gpt_rates import BATCH, SIZES, read_text
from .gpt_recipe import make_model

SEEDS = (0,)
ROUNDS = 30
FULL = "the baseline"
OLD = "GPT of chapter 03, AdamW"
OLD_WRITTEN_OUT = "... with attention written out"
CPU = torch.device("cpu")


def write_out(q, k, v, is_causal):
    """Eq. (6) of chapter 03 in three lines, as in chapter 03b; always causal here."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    never = torch.zeros_like(scores[0, 0]).masked_fill(~gpt.causal_mask(q.shape[2]), -math.inf)
    return (scores + never).softmax(dim=-1).to(v.dtype) @ v


def make_old(text):
    """The GPT of chapter 03 and AdamW for all of it."""
    torch.manual_seed(0)
    model = make_model(text)
    return model, make_optimizers(model, muon=False)


def step(name, model, opts, batch):
    """One training step; attention is written out where the name says so."""
    fused = F.scaled_dot_product_attention
    if name == OLD_WRITTEN_OUT:
        F.scaled_dot_product_attention = write_out
    try:
        train_step(model, opts, batch, CPU)
    finally:
        F.scaled_dot_product_attention = fused


def run(progress):
    text = read_text("gpt_step_times")
    vocab = len(text[0])
    batch = text[1].unfold(0, SIZES["context"] + 1, 1)[: 997 * BATCH : 997]
    made = {name: make_variant(name, vocab, 0, **SIZES) for name in VARIANTS}
    made |= {OLD: make_old(text), OLD_WRITTEN_OUT: make_old(text)}
    flops = {}
    for name, (model, opts) in made.items():
        with FlopCounterMode(display=False) as counter:
            step(name, model, opts, batch)
        flops[name] = counter.get_total_flops()
    times = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, (model, opts) in made.items():
            start = time.process_time()
            step(name, model, opts, batch)
            times[name].append(time.process_time() - start)
    rows = {}
    for name in made:
        quotients = torch.tensor(times[name]) / torch.tensor(times[FULL])
        low, middle, high = quotients.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        rows[name] = {
            "processor time of a step": f"{middle:.2f}",
            "middle half": f"{low:.2f} to {high:.2f}",
            "million FLOPs of a step": "" if name == OLD else round(flops[name] / 1e6),
        }
        progress(f"{name}: {rows[name]}")
    return rows
