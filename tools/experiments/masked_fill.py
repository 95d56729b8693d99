"""Chapter 03c's kept network fills gaps in ten ways, three noise seeds.

48 validation windows of 64 characters, half of each hidden (the same gaps for all): the share of hidden letters
that come back right, the share of words that occur in the training text, and evaluations a window.
"""

from __future__ import annotations

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.objectives import unmask, unmask_sure, words_of
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import mean_and_range

SEEDS = (0, 1, 2)
NUM_WINDOWS = 48
ONE = 64  # as many evaluations as there are positions: one gap at a time
SAMPLERS = {  # name -> evaluations or threshold, order, temperature
    "drawn: random order, 1 evaluation": (1, "random", 1.0),
    "drawn: random order, 4 evaluations": (4, "random", 1.0),
    "drawn: random order, one at a time": (ONE, "random", 1.0),
    "drawn: surest first, 24 evaluations": (24, "surest first", 1.0),
    "drawn: surest first, one at a time": (ONE, "surest first", 1.0),
    "drawn: all above 0.9 at once": (0.9, None, 1.0),
    "drawn: all above 0.6 at once": (0.6, None, 1.0),
    "likeliest: surest first, one at a time": (ONE, "surest first", 0.0),
    "likeliest: all above 0.9 at once": (0.9, None, 0.0),
    "likeliest: all above 0.6 at once": (0.6, None, 0.0),
}


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("masked_fill needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    model, characters = load_model("masked")
    cut = int(0.9 * len(corpus.text))
    known = set(words_of(corpus.text[:cut]))
    valid = characters.encode(corpus.text[cut:]).unfold(0, model.context, model.context)
    x = valid[5 :: len(valid) // NUM_WINDOWS][:NUM_WINDOWS]
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(10)) < 0.5
    gaps = torch.where(hidden, model.mask, x)

    def score(text, evaluations):
        words = []
        for row in text:
            words += words_of(characters.decode(row))
        real = sum(word in known for word in words) / max(1, len(words))
        return (text == x)[hidden].float().mean().item(), real, evaluations

    rows = {}
    for name, (setting, ordering, temperature) in SAMPLERS.items():
        found = []
        for seed in SEEDS if temperature else SEEDS[:1]:  # nothing is drawn at temperature 0
            random = torch.Generator().manual_seed(seed)
            if ordering is None:
                text, evaluations = unmask_sure(model, gaps, setting, random, temperature)
                evaluations = evaluations.mean().item()
            else:
                text, _ = unmask(model, gaps, setting, random, ordering, temperature)
                evaluations = setting
                if setting == ONE:
                    evaluations = hidden.sum(dim=1).float().mean().item()
            found.append(score(text, evaluations))
        rows[name] = _row(found)
        progress(f"{name}: {rows[name]}")
    rows["the text itself"] = _row([score(x, 0.0)])
    return rows


def _row(found):
    """Mean (lowest to highest), or the number alone where nothing was drawn."""
    rights, reals, evaluations = zip(*found, strict=True)
    shown = mean_and_range if len(found) > 1 else lambda values, digits: f"{values[0]:.{digits}f}"
    return {
        "letters right": shown(rights, 3),
        "real words": shown(reals, 3),
        "evaluations": f"{sum(evaluations) / len(evaluations):.1f}",
    }
