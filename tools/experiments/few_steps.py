"""Chapter 04's network in 1, 2 and 4 evaluations, beside a reflowed and a distilled student.

The students start as copies of the teacher and are trained on 2,000 of its trajectories (DDIM, 20
evaluations, 200 of each class): 120 steps of 64 with AdamW at 1e-3. Three seeds: each decides the
order of a training (the trajectories are the same) and the noise of 2,000 samples, 200 of a class,
without guidance, the same noise at the start for all models. Teacher and reflow draw by DDIM in equal
steps; the distilled student adds fresh noise after each of its evaluations but the last.
FID against 2,000 held-out digits (`DigitJudge.standard()`). The teacher in 20 evaluations:
`diffusion_steps`, the same judge.
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion import draw_many
from aigc_helpers.models.diffusion_beyond import collect, draw_consistent, train_student
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, mean_and_range

SEEDS = (0, 1, 2)
NUM_PAIRS = 2000
NUM_STEPS = 120
EVALUATIONS = (1, 2, 4)


def run(progress):
    torch.set_num_threads(1)
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    teacher = load_model("diffusion").requires_grad_(False)
    label = torch.arange(NUM_PAIRS) % 10
    trajectories = collect(teacher, label, generator=_seeded(10))
    progress("trajectories collected")
    rows = {"teacher (chapter 04)": {}, "reflow": {}, "distilled": {}}
    found = {}
    for seed in SEEDS:
        nets = {"teacher (chapter 04)": teacher}
        for kind in ("reflow", "distilled"):
            nets[kind], _ = train_student(
                kind, teacher, trajectories, label, NUM_STEPS, seed=seed
            )
        for name, net in nets.items():
            for count in EVALUATIONS:
                fid = score(judge, net, name, count, seed)
                found.setdefault((name, count), []).append(fid)
                progress(f"seed {seed}, {name}, {count}: {fid:.2f}")
    for (name, count), fids in found.items():
        rows[name][f"{count} evaluation{'s' if count > 1 else ''}"] = mean_and_range(fids, 2)
    return rows


@torch.no_grad()
def score(judge, net, name, count, seed):
    """The FID of 2,000 samples."""
    label = torch.arange(judge.n) % 10
    x = torch.randn(judge.n, 1, 28, 28, generator=_seeded(200 + seed))
    if "distilled" in name:
        drawn = draw_consistent(net, label, count, x, _seeded(300 + seed))
    else:
        drawn = draw_many(net, label, x, count, eta=0.0)
    return judge.score(drawn).fid.value


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
