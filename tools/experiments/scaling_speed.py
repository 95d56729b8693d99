"""One process or two: processor time of a training step of a small GPT, at three batches.

The same step in one process and in two (`torch.distributed`, gloo, DDP), each with one thread. A batch is the same
for both: two processes take half of it each. Counted is the processor time of the slower rank, the least of many
steps, and the two take turns: so other work on the machine counts as little as can be. Beside it an all-reduce of
the gradient alone. The machine is measured, not a training: the seed is one.
"""

from __future__ import annotations

import contextlib

from aigc_helpers.models.scaling import time_steps
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
BATCHES = (4, 8, 16)
ROUNDS = 40
REPEATS = 5  # in each round
WAYS = {"1 process": 1, "2 processes": 2}


def run(progress):
    with contextlib.ExitStack() as stack:
        teams = {name: stack.enter_context(Ranks(processes)) for name, processes in WAYS.items()}
        least = {name: {} for name in WAYS}
        for done in range(ROUNDS):
            for name, team in teams.items():
                found = team.run(time_steps, BATCHES, REPEATS, seconds=600)
                for what in found[0]:
                    seconds = max(each[what][1] for each in found)
                    least[name][what] = min(seconds, least[name].get(what, seconds))
            if done % 10 == 9:
                progress(f"round {done + 1}: {least}")
    rows = {}
    for name, found in least.items():
        rows[name] = {f"{batch} windows": round(1000 * found[batch], 2) for batch in BATCHES}
        rows[name]["all-reduce alone"] = round(1000 * found["all-reduce"], 3)
    return rows
