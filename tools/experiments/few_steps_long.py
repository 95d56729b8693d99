"""The distilled student after five times the training of `few_steps`, one seed.

As there in all else: 2,000 of the teacher's trajectories, batches of 64, AdamW at 1e-3, 2,000
samples, the same judge. The second row is the teacher, drawn as that student is: with fresh noise
after each evaluation but the last.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion_beyond import collect, train_student
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits
from .few_steps import EVALUATIONS, NUM_PAIRS, score

SEEDS = (0,)
NUM_STEPS = 600
KIND = "distilled"


def run(progress):
    torch.set_num_threads(1)
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    teacher = load_model("diffusion").requires_grad_(False)
    label = torch.arange(NUM_PAIRS) % 10
    trajectories = collect(teacher, label, generator=torch.Generator().manual_seed(10))
    progress("trajectories collected")
    student, _ = train_student(KIND, teacher, trajectories, label, NUM_STEPS)
    rows = {}
    for name, net in ((f"{KIND}, {NUM_STEPS} steps", student), ("teacher, fresh noise", teacher)):
        rows[name] = {}
        for count in EVALUATIONS:
            column = f"{count} evaluation{'s' if count > 1 else ''}"
            rows[name][column] = f"{score(judge, net, KIND, count, SEEDS[0]):.2f}"
        progress(f"{name}: {rows[name]}")
    return rows
