"""Students of chapter 04's network after longer training: FID by training steps and evaluations.

As `few_steps`, but trained on 6,000 of the teacher's trajectories (DDIM, 20 evaluations, 600 of each
class), one seed: 120, 600 and 1,200 steps of 64 with AdamW at 1e-3. The same noise at the start for
all rows. The last row but one is the teacher, drawn as the student of the mean velocity is: with
fresh noise after each evaluation but the last. FID of 2,000 samples against 2,000 held-out digits
(`DigitJudge.standard()`).
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion_beyond import collect, train_student
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits
from .few_steps import EVALUATIONS, score

SEEDS = (0,)
NUM_PAIRS = 6000
PLANS = (
    ("mean velocity", 120),
    ("mean velocity", 600),
    ("reflow", 600),
    ("mean velocity", 1200),
)


def run(progress):
    torch.set_num_threads(1)
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    teacher = load_model("diffusion").requires_grad_(False)
    label = torch.arange(NUM_PAIRS) % 10
    trajectories = collect(teacher, label, generator=torch.Generator().manual_seed(10))
    progress("trajectories collected")
    rows = {}
    for kind, num_steps in PLANS:
        net, _ = train_student(kind, teacher, trajectories, label, num_steps)
        name = f"{kind}, {num_steps:,} steps"
        rows[name] = measure(judge, net, kind)
        progress(f"{name}: {rows[name]}")
    rows["teacher, fresh noise in between"] = measure(judge, teacher, "mean velocity")
    floor = judge.score(load_real_digits("train").images).fid.floor
    rows["real test digits (floor)"] = {name: f"{floor:.2f}" for name in next(iter(rows.values()))}
    return rows


def measure(judge, net, kind):
    """The FID for each number of evaluations."""
    return {
        f"{count} evaluation{'s' if count > 1 else ''}": f"{score(judge, net, kind, count, 0):.2f}"
        for count in EVALUATIONS
    }
