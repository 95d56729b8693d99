"""Chapter 03c's kept network writes from nothing, in 1 to 64 evaluations and four orders; three noise seeds.

64 windows of 64 characters for each entry and seed, judged by chapter 03's kept GPT: nats of each
letter after those before it, the share of written words of four letters or more that occur in the
training text, and the entropy of the letters. Beside it the same scores of unseen text, of its
letters shuffled, and of what that GPT itself writes.
"""

from __future__ import annotations

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import generate
from aigc_helpers.models.objectives import judge_samples, unmask, words_of
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import summarize

SEEDS = (0, 1, 2)
NUM_WINDOWS = 64
TRIALS = [
    *((steps, "random") for steps in (1, 4, 8, 16, 24, 64)),
    *((steps, "surest first") for steps in (4, 8, 16, 24, 64)),
    (64, "from the left"),
    (64, "from the right"),
]
SHORTEST = 4  # letters: shorter words come about by chance
DECIMALS = {"judge's nats": 2, "real words": 3, "letters' entropy": 2}


def share_known(texts, known):
    """Of the words of four letters or more in all texts: the share that is known, and how many."""
    words = [word for text in texts for word in words_of(text) if len(word) >= SHORTEST]
    return sum(word in known for word in words) / max(1, len(words)), len(words)


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("masked_steps needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    model, characters = load_model("masked")
    judge, same = load_model("gpt")
    if same.alphabet != characters.alphabet:
        raise NotebookError("masked_steps: the judge has another alphabet: make both assets again")
    cut = int(0.9 * len(corpus.text))
    known = set(words_of(corpus.text[:cut]))
    unseen = characters.encode(corpus.text[cut:]).unfold(0, model.context, model.context)

    def scores(samples):
        found = judge_samples(samples, judge, characters.alphabet, known)
        texts = [characters.decode(row) for row in samples]
        return found | {"real words": share_known(texts, known)[0]}

    rows = {}
    for steps, ordering in TRIALS:
        found = []
        for seed in SEEDS:
            gaps = torch.full((NUM_WINDOWS, model.context), model.mask)
            random = torch.Generator().manual_seed(seed)
            found.append(scores(unmask(model, gaps, steps, random, ordering)[0]))
        name = f"{steps} evaluation{'s' if steps > 1 else ''}, {ordering}"
        rows[name] = summarize(found, DECIMALS)
        progress(f"{name}: {rows[name]}")
    found = []
    for seed in SEEDS:
        random = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(unseen), generator=random)[:NUM_WINDOWS]
        first = unseen[chosen][:, :1]
        written = generate(judge, first, model.context - 1, random)
        text = unseen[chosen]
        order = torch.randperm(text.numel(), generator=random)
        shuffled = text.flatten()[order].view_as(text)
        found.append((scores(written), scores(text), scores(shuffled)))
    own, real, soup = zip(*found, strict=True)
    rows["the judge's own writing, 63 evaluations"] = summarize(own, DECIMALS)
    rows["unseen text"] = summarize(real, DECIMALS)
    rows["unseen text, letters shuffled"] = summarize(soup, DECIMALS)
    return rows
