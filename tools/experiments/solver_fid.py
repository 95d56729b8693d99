"""ODE solvers on chapter 04's network: FID in five network evaluations, three draws of noise.

The network whose weights are kept (`assets/diffusion.safetensors`) draws 2,000 digits, 200 of a
class, without guidance, for each row and each draw of noise; a draw is the same for all rows.
Rectified flow; the denoised estimate is kept within [-1, 1]. Heun's method takes three
steps, the last by Euler: five evaluations too. FID against 2,000 held-out digits
(`DigitJudge.standard()`).
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models.diffusion_beyond import flow_denoise, karras_times, shift_times, solve
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, mean_and_range

SEEDS = (0, 1, 2)
EVALUATIONS = (5,)


def even(num_steps):
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def shifted(num_steps):
    return shift_times(even(num_steps), 3.0)


PLANS = {
    "AB2, even steps": ("AB2", even),
    "2M, Karras's steps": ("2M", karras_times),
    "Euler (DDIM), even steps": ("Euler", even),
    "Euler, shift 3": ("Euler", shifted),
    "Heun, even steps": ("Heun", even),
    "2M, even steps": ("2M", even),
}


def run(progress):
    torch.set_num_threads(1)
    judge = DigitJudge.standard(2000, load_real_digits("test"))
    net = load_model("diffusion").requires_grad_(False)
    label = torch.arange(judge.n) % 10
    rows = {name: {} for name in PLANS}
    for count in EVALUATIONS:
        for name, (method, times_of) in PLANS.items():
            num_steps = (count + 1) // 2 if method == "Heun" else count
            fids = [score(judge, net, label, times_of(num_steps), method, seed) for seed in SEEDS]
            rows[name][f"{count} evaluations"] = mean_and_range(fids, 2)
            progress(f"{name}, {count}: {rows[name][f'{count} evaluations']}")
    floor = judge.score(load_real_digits("train").images).fid.floor
    rows["real test digits (floor)"] = {f"{count} evaluations": f"{floor:.2f}" for count in EVALUATIONS}
    return rows


def score(judge, net, label, times, method, seed):
    """The FID of 2,000 samples."""
    noise = torch.randn(judge.n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    drawn = []
    for y, x in zip(label.split(250), noise.split(250), strict=True):
        drawn.append(solve(flow_denoise(net, y), x, times, "rectified flow", method))
    return judge.score(torch.cat(drawn).clamp(-1, 1)).fid.value
