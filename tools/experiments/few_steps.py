"""Chapter 04's network in 1, 2, 4 and 20 evaluations, beside a reflowed and a consistency student.

The students start as copies of the teacher and are trained on 3,000 of its trajectories (DDIM, 20
evaluations, which a class holds equally often), 350 steps of 64 with AdamW at 1e-3, one training each.
Teacher and reflow draw by DDIM in equal steps; the consistency student adds fresh noise after each of
its evaluations but the last. Three noise seeds: 2,000 samples each, 200 of a class, without guidance,
the same noise at the start for all, FID against 2,000 held-out digits (`DigitJudge.standard()`).
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion import draw_many
from aigc_helpers.models.diffusion_beyond import collect, draw_consistent, train_student
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, mean_and_range

SEEDS = (0, 1, 2)
NUM_PAIRS = 3000
NUM_STEPS = 350
EVALUATIONS = (1, 2, 4)


def run(progress):
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    teacher = load_model("diffusion").requires_grad_(False)
    label = torch.arange(NUM_PAIRS) % 10
    trajectories = collect(teacher, label, generator=_seeded(10))
    progress("trajectories collected")
    nets = {"teacher (chapter 04)": teacher}
    for kind in ("reflow", "consistency"):
        nets[kind], losses = train_student(kind, teacher, trajectories, label, NUM_STEPS)
        progress(f"{kind}: loss {sum(losses[:20]) / 20:.4f} to {sum(losses[-20:]) / 20:.4f}")
    rows = {}
    for name, net in nets.items():
        counts = (*EVALUATIONS, 20) if net is teacher else EVALUATIONS
        rows[name] = {}
        for count in counts:
            found = [score(judge, net, name, count, seed) for seed in SEEDS]
            rows[name][f"{count} evaluation{'s' if count > 1 else ''}"] = mean_and_range(found, 2)
            progress(f"{name}, {count}: {found}")
    return rows


@torch.no_grad()
def score(judge, net, name, count, seed):
    """The FID of 2,000 samples."""
    label = torch.arange(judge.n) % 10
    x = torch.randn(judge.n, 1, 28, 28, generator=_seeded(200 + seed))
    if name == "consistency":
        drawn = draw_consistent(net, label, count, x, _seeded(300 + seed))
    else:
        drawn = draw_many(net, label, x, count, eta=0.0)
    return judge.score(drawn).fid.value


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
