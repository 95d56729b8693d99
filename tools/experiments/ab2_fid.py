"""Chapter 04's network by AB2 in 2, 4 and 20 evaluations: FID.

As in `solver_fid` and `few_steps`: the network whose weights are kept, 2,000 digits, 200 of a
class, without guidance, even steps, FID against 2,000 held-out digits (`DigitJudge.standard()`).
In 2 and 4 evaluations three draws of noise, those of `few_steps`; in 20 one draw, the first of
`solver_fid`.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, mean_and_range
from .solver_fid import even, score

SEEDS = (0, 1, 2)
DRAWS = {2: (200, 201, 202), 4: (200, 201, 202), 20: (0,)}  # evaluations -> seeds of the noise


def run(progress):
    torch.set_num_threads(1)
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    net = load_model("diffusion").requires_grad_(False)
    label = torch.arange(judge.n) % 10
    row = {}
    for count, seeds in DRAWS.items():
        fids = [score(judge, net, label, even(count), "AB2", seed) for seed in seeds]
        one = f"{fids[0]:.2f} (one draw)"
        row[f"{count} evaluations"] = mean_and_range(fids, 2) if len(fids) > 1 else one
        progress(f"{count}: {row[f'{count} evaluations']}")
    return {"AB2, even steps": row}
