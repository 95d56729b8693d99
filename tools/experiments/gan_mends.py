"""The printed GAN listing of chapter 01 and its mends, one change a row, three seeds each.

Each row is trained for 800 steps of 128 MNIST images and scored by `DigitJudge.standard()` at
n = 2,000. Held equal: networks, learning rate, steps, batch size, and for each seed the first
weights, the order of the batches and the noise of training and of the samples. The row with
detach() is that of the row above it: tests/chapters/test_gan.py checks that detach() changes no pixel.
"""

from __future__ import annotations

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.gan import MENDS, ROWS, draw_listing, train_listing

from ..experimenting import load_real_digits, mean_and_range

SEEDS = (0, 1, 2)
NUM_STEPS = 800
HEADINGS = {"range": "[-1, 1]", "logits": "logits", "detach": "detach", "beta1": "beta1 0.5"}
DECIMALS = {"FID": 1, "precision": 2, "recall": 2, "coverage": 2, "entropy": 2}


def run(progress):
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    rows = {}
    for name, mends in ROWS.items():
        ticks = {HEADINGS[mend]: "\u2713" if mend in mends else "" for mend in MENDS}
        if "detach" not in mends or "beta1" in mends:
            scores = []
            for seed in SEEDS:
                G, _ = train_listing(digits, mends, NUM_STEPS, seed)
                scores.append(judge.score(draw_listing(G, mends, judge.n, seed)).row())
        rows[name] = ticks | {column: summarize(scores, column) for column in DECIMALS}
        progress(f"{name}: {rows[name]}")
    floor = {column: f"{scores[0][column].floor:.{DECIMALS[column]}f}" for column in DECIMALS}
    rows["real digits (floor)"] = {heading: "" for heading in HEADINGS.values()} | floor
    return rows


def summarize(scores, column, decimals=DECIMALS):
    """The mean of a column over the seeds, with the lowest and the highest: "91.4 (88.0 to 95.2)"."""
    return mean_and_range([score[column].value for score in scores], decimals[column])
