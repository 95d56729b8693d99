"""Two threads or two processes: milliseconds of a training step of a small GPT, at three batches.

Three ways to use this machine: one process with one thread, one process with two threads, two processes
(`torch.distributed`, gloo, DDP) with one thread each. A batch is the same for all: two processes take half of it each.
The three take turns, a few steps each, and a time is the least of many: so what else the machine does, and how fast
it runs at the moment, count as little as can be. Beside it an all-reduce of the gradient alone. The machine is
measured, not a training: the seed is one.
"""

from __future__ import annotations

import contextlib

from aigc_helpers.models.scaling import time_steps
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
BATCHES = (4, 8, 16)
ROUNDS = 60
REPEATS = 5  # in each round
WAYS = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}


def run(progress):
    with contextlib.ExitStack() as stack:
        teams = {name: stack.enter_context(Ranks(*way)) for name, way in WAYS.items()}
        least = {name: {} for name in WAYS}
        for done in range(ROUNDS):
            for name, team in teams.items():
                for what, seconds in slowest_of(team.run(time_steps, BATCHES, REPEATS, seconds=600)).items():
                    least[name][what] = min(seconds, least[name].get(what, seconds))
            if done % 10 == 9:
                progress(f"round {done + 1}: {least}")
    rows = {}
    for name, found in least.items():
        rows[name] = {f"ms, {batch} windows": round(1000 * found[batch], 2) for batch in BATCHES}
    two = "2 processes, 1 thread each"
    rows[two]["ms, all-reduce"] = round(1000 * least[two]["all-reduce"], 3)
    return rows


def slowest_of(found):
    """What each rank measured, as all ranks together take it: the slowest rank's seconds."""
    return {what: max(each[what] for each in found) for what in found[0]}
