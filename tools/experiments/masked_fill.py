"""Chapter 03c's kept network fills gaps by count or by threshold, three noise seeds.

48 validation windows of 64 characters, half of each hidden (the same gaps for all): the share of hidden
letters that come back right, the share of words of four letters or more that occur in the training
text, the entropy of the letters that were filled in, and evaluations a window.
"""

from __future__ import annotations

import math
import statistics

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.objectives import unmask, unmask_sure, words_of
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import summarize
from .masked_steps import share_known

SEEDS = (0, 1, 2)
NUM_WINDOWS = 48
ONE = 64  # as many evaluations as there are positions: one gap at a time
FEW = (4, 8, 16, 24, ONE)
SAMPLERS = {  # how letters are taken, the order, evaluations -> the same or a threshold, order, temperature
    **{("drawn", "random order", K): (K, "random", 1.0) for K in (1, 4, ONE)},
    **{("drawn", "surest first", K): (K, "surest first", 1.0) for K in FEW},
    **{("drawn", f"all above {p} at once", None): (p, None, 1.0) for p in (0.3, 0.6)},
    **{("likeliest", "surest first", K): (K, "surest first", 0.0) for K in (1, *FEW)},
    **{("likeliest", f"all above {p} at once", None): (p, None, 0.0) for p in (0.3, 0.6, 0.9)},
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
        real, num_words = share_known([characters.decode(row) for row in text], known)
        p = text[hidden].bincount(minlength=len(characters)) / hidden.sum()
        right = [(a == b)[gap].float().mean().item() for a, b, gap in zip(text, x, hidden, strict=True)]
        return {
            "letters right": (text == x)[hidden].float().mean().item(),
            "± letters": statistics.stdev(right) / math.sqrt(len(right)),
            "real words": real,
            "± words": math.sqrt(real * (1 - real) / num_words),
            "entropy": -(p * p.clamp_min(1e-12).log()).sum().item(),
            "evaluations": evaluations,
        }

    rows = {}
    for (taken, way, number), (setting, ordering, temperature) in SAMPLERS.items():
        name = f"{taken}: {way}{_how_many(number)}"
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


def _how_many(number):
    if number is None:
        return ""
    if number == ONE:
        return ", one at a time"
    return f", {number} evaluation{'s' if number > 1 else ''}"


def _row(found):
    """Mean (lowest to highest); where nothing was drawn, the number with its standard error."""
    first = found[0]
    evaluations = statistics.mean(one["evaluations"] for one in found)
    if len(found) > 1:
        row = summarize(found, {"letters right": 3, "real words": 3, "entropy": 2})
    else:
        row = {
            "letters right": f"{first['letters right']:.3f} ± {first['± letters']:.3f}",
            "real words": f"{first['real words']:.3f} ± {first['± words']:.3f}",
            "entropy": f"{first['entropy']:.2f}",
        }
    return row | {"NFE": f"{evaluations:.1f}"}
