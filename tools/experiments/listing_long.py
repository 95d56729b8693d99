"""The printed GAN listing of chapter 01 trained on: 300, 800, 4,690 and its own 46,900 steps.

46,900 steps of 128 MNIST images are the hundred epochs that the listing asks for. Beside it, up to
ten epochs: the same with Adam's beta1 at 0.5 and nothing else changed, and with all four mends.
Three seeds each, scored by `DigitJudge.standard()` at n = 2,000. Held equal: networks, learning rate, steps, batch
size, and for each seed the first weights, the order of the batches and the noise. Each number of
steps is a training of its own.
"""

from __future__ import annotations

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.gan import ROWS, draw_listing, train_listing

from ..experimenting import load_real_digits
from .gan_mends import summarize

SEEDS = (0, 1, 2)
NUM_STEPS = {  # the row of the table of mends -> after how many steps it is scored
    "the listing": (300, 800, 4690, 46_900),
    "only beta1": (300, 800, 4690),
    "+ beta1": (300, 800, 4690),
}
COLUMNS = ("FID", "precision", "recall", "entropy")


def run(progress):
    digits = load_real_digits("train")
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    rows = {}
    for name, ends in NUM_STEPS.items():
        mends = ROWS[name]
        for num_steps in ends:
            scores = []
            for seed in SEEDS:
                G, _ = train_listing(digits, mends, num_steps, seed)
                scores.append(judge.score(draw_listing(G, mends, judge.n, seed)).row())
            row = f"{name}, {num_steps:,} steps"
            rows[row] = {column: summarize(scores, column) for column in COLUMNS}
            progress(f"{row}: {rows[row]}")
    return rows
