"""The score to beat in chapter 03's open exercise, and the solution's, after 300 steps, five seeds.

GPT(V, 64, 64, 2, 2) with AdamW at 1e-3, and at 3e-3 with an embedding of the previous token added
to that of the token; batches of 16 windows of 64 characters of tiny Shakespeare; the mean loss of
every fifth window of the last tenth.
Held equal: the steps, the batches of a seed, the characters that are scored.
"""

from __future__ import annotations

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import GPT, Characters, next_token_loss, train_on_windows

from ..book import NotebookError
from ..experimenting import spread

SEEDS = (0, 1, 2, 3, 4)
NUM_STEPS = 300
CONTEXT = 64


class WithPrevious(GPT):
    """A GPT of width 64 whose first h also holds an embedding of the token before."""

    def __init__(self, vocab):
        super().__init__(vocab, CONTEXT, 64, 2, 2)
        self.previous = torch.nn.Embedding(vocab, 64)
        torch.nn.init.normal_(self.previous.weight, std=0.02)

    def embed(self, tokens, start=0):
        h = super().embed(tokens, start)
        before = self.previous(tokens[:, :-1])
        return torch.cat([h[:, :1], h[:, 1:] + before], dim=1)


def to_beat(vocab):
    """The model of the exercise."""
    return GPT(vocab, CONTEXT, 64, 2, 2)


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("gpt_open needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    text = corpus.text
    characters = Characters(text)
    tokens = characters.encode(text)
    cut = int(0.9 * len(tokens))
    unseen = tokens[cut:].unfold(0, CONTEXT + 1, 5 * CONTEXT)
    rivals = {
        "GPT(V, 64, 64, 2, 2), rate 0.001": (to_beat, {"lr": 1e-3}),
        "the solution": (WithPrevious, {"lr": 3e-3, "betas": (0.9, 0.95)}),
    }
    rows = {}
    for name, rival in rivals.items():
        rows[name] = five_runs(*rival, len(characters), tokens[:cut], unseen, progress)
    return rows


def five_runs(make, settings, vocab, tokens, unseen, progress):
    """The row of one model: its validation loss over the seeds, in nats."""
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = make(vocab)
        opt = torch.optim.AdamW(model.parameters(), **settings)
        generator = torch.Generator().manual_seed(seed)
        train_on_windows(model, opt, tokens, NUM_STEPS, generator)
        with torch.no_grad():
            found.append(next_token_loss(model, unseen).item())
        progress(f"seed {seed}: {found[-1]:.3f}")
    return spread("validation loss", found, 3)
