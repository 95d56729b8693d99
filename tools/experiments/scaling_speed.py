"""Two threads or two processes: milliseconds of a training step of a small GPT, at three batches.

Three ways to use this machine: one process with one thread, one process with two threads, two processes
(`torch.distributed`, gloo, DDP) with one thread each. A batch is the same for all: two processes take half of it each.
A time is the least of many steps, and a step is short, so that what else the machine does counts as little as can
be. Beside it an all-reduce of the gradient alone. The machine is measured, not a training: the seed is one.
"""

from __future__ import annotations

from aigc_helpers.models.scaling import time_steps
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
BATCHES = (4, 8, 16)
REPEATS = 400
WAYS = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}


def run(progress):
    rows = {}
    for name, (processes, threads) in WAYS.items():
        with Ranks(processes, threads) as team:
            found = team.run(time_steps, BATCHES, REPEATS, seconds=600)
        slowest = {what: 1000 * max(each[what] for each in found) for what in found[0]}
        rows[name] = {f"ms, {batch} windows": round(slowest[batch], 2) for batch in BATCHES}
        if processes > 1:
            rows[name]["ms, all-reduce"] = round(slowest["all-reduce"], 3)
        progress(f"{name}: {rows[name]}")
    return rows
