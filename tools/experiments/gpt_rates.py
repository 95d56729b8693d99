"""The learning rate of each variant of chapter 03b's model: which of them was best, one seed.

Each variant (width 64, 4 heads, 4 blocks, context 64) is trained for 300 steps of 16 windows of tiny
Shakespeare. The rate of the optimiser of the matrices is tried at its usual value, half and twice
that, and on from the best one as long as that is at an edge of what was tried; the rate of all other
weights stays 0.005. Scored by the loss of all windows of the last tenth. Held equal: the steps, the
batches, and the first weights where they can be. `gpt_parts` uses the chosen rates, with other seeds.
"""

from __future__ import annotations

import functools

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters, losses_by_position
from aigc_helpers.models.gpt_beyond import VARIANTS, make_variant, train_for

from ..book import NotebookError

SEEDS = (10,)
NUM_STEPS = 300
BATCH = 16
SIZES = {"context": 64, "width": 64, "num_blocks": 4}
USUAL = {"AdamW for Muon": 0.004}  # all others: 0.02
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def read_text(name):
    """(characters, training tokens, validation tokens) of tiny Shakespeare, and of nothing else."""
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError(f"{name} needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    characters = Characters(corpus.text + "0123456789+=")  # as in the chapter
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    return characters, tokens[:cut], tokens[cut:]


def loss_of(name, text, seed, rate, num_steps=NUM_STEPS, **settings):
    """The validation loss, nats, of a variant."""
    characters, train, valid = text
    model, opts = make_variant(name, len(characters), seed, rate, **SIZES)
    train_for(model, opts, train, num_steps, BATCH, seed, **settings)
    return losses_by_position(model, valid).mean().item()


def find_rate(usual, loss_at, factors=FACTORS):
    """({factor: loss}, the best factor): from 1 on to half and twice, as long as that helps."""
    found = {}
    at = 1
    while True:
        near = [factor for factor in (at / 2, at, at * 2) if factor in factors]
        for factor in near:
            if factor not in found:
                found[factor] = loss_at(usual * factor)
        best = min(near, key=found.get)
        if best == at:
            return found, at
        at = best


def run(progress):
    text = read_text("gpt_rates")
    rows = {}
    for name in VARIANTS:
        usual = USUAL.get(name, 0.02)
        found, best = find_rate(usual, functools.partial(loss_of, name, text, SEEDS[0]))
        progress(f"{name}: {found}")
        cells = {}
        for factor in FACTORS:
            cells[f"×{factor:g}"] = f"{found[factor]:.3f}" if factor in found else ""
        rows[name] = {"usual rate": usual} | cells | {"chosen": usual * best}
    return rows
