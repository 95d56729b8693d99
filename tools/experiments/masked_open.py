"""The score to beat in chapter 03c's open exercise, and the solution's, after 300 steps, five seeds.

Backbone(V, 32, 48, 2, 1) with AdamW at 1e-3; the same with AdamW at 6e-3 and betas 0.9 and 0.95. Both
on 16 windows of 32 characters of tiny Shakespeare a step; the bound on every third window of the
validation text, mean of four draws. Held equal: the network, the steps, the batches of a seed.
"""

from __future__ import annotations

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import Characters
from aigc_helpers.models.objectives import Backbone, estimate_bound, train_filler

from ..book import NotebookError
from ..experimenting import spread

SEEDS = (0, 1, 2, 3, 4)
NUM_STEPS = 300
RIVALS = {
    "Backbone(V, 32, 48, 2, 1), rate 0.001": {"lr": 1e-3},
    "the solution": {"lr": 6e-3, "betas": (0.9, 0.95)},
}


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("masked_open needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    characters = Characters(corpus.text)
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    scored = tokens[cut:].unfold(0, 32, 96)
    rows = {}
    for name, settings in RIVALS.items():
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = Backbone(len(characters), 32, 48, 2, 1)
            opt = torch.optim.AdamW(model.parameters(), **settings)
            train_filler(model, opt, tokens[:cut], NUM_STEPS, seed)
            random = torch.Generator().manual_seed(seed)
            found.append(estimate_bound(model, scored, 4, random)[0])
            progress(f"{name}, seed {seed}: {found[-1]:.3f}")
        rows[name] = spread("bound", found, 3)
    return rows
