"""One process or two, one thread or two: a training step of a small GPT, by two clocks, at three batches.

The same step in one process with one thread, in one with two, and in two processes (`torch.distributed`, gloo, DDP)
with one each. A batch is the same for all: two processes take half of it each. Stored are milliseconds by the clock
and of the slower rank's processor time, each the least of many steps; the three take turns, so that other work on the
machine counts as little as can be. The machine is measured, not a training: the seed is one.
"""

from __future__ import annotations

import contextlib

from aigc_helpers.models.scaling import time_steps
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
BATCHES = (4, 8, 16)
ROUNDS = 40
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
                found = team.run(time_steps, BATCHES, REPEATS, seconds=600)
                for batch in BATCHES:
                    for place, clock in enumerate(("clock", "processor")):
                        column = f"{batch} windows, {clock}"
                        seconds = max(each[batch][place] for each in found)
                        least[name][column] = min(seconds, least[name].get(column, seconds))
            if done % 10 == 9:
                progress(f"round {done + 1}: {least}")
    return {
        name: {column: round(1000 * seconds, 2) for column, seconds in found.items()}
        for name, found in least.items()
    }
