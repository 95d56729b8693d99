"""One process or two, one thread or two: a training step of a small GPT, by two clocks, at three batches.

The same step in one process with one thread, in one with two, and in two processes with one each, by DDP
(`torch.distributed`, gloo). A batch is the same for all: two processes take half of it each. As a control, the two
processes once more with nothing sent. Stored are milliseconds by the clock and of the slower rank's processor time,
each the least of many steps; the four take turns, so that other work on the machine counts as little as can be. For the
largest batch there is also the median, over rounds, of a round's least: what the rest of the machine did to it. The
machine is measured, not a training: the seed is one.
"""

from __future__ import annotations

import contextlib
import statistics

from aigc_helpers.models.scaling import time_steps
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
BATCHES = (4, 8, 16)
ROUNDS = 40
REPEATS = 5  # in each round
WAYS = {  # processes, threads, whether gradients are sent
    "1 process, 1 thread": (1, 1, True),
    "1 process, 2 threads": (1, 2, True),
    "2 processes, 1 thread each": (2, 1, True),
    "... and nothing sent": (2, 1, False),
}


def run(progress):
    with contextlib.ExitStack() as stack:
        teams = {name: stack.enter_context(Ranks(*way[:2])) for name, way in WAYS.items()}
        rounds = {name: {} for name in WAYS}
        for done in range(ROUNDS):
            for name, team in teams.items():
                found = team.run(time_steps, BATCHES, REPEATS, send=WAYS[name][2], seconds=600)
                for batch in BATCHES:
                    for place, clock in enumerate(("clock", "processor")):
                        seconds = max(each[batch][place] for each in found)
                        rounds[name].setdefault(f"{batch} windows, {clock}", []).append(seconds)
            if done % 10 == 9:
                progress(f"round {done + 1}")
    rows = {}
    for name, columns in rounds.items():
        rows[name] = {column: round(1000 * min(times), 2) for column, times in columns.items()}
        usual = statistics.median(columns[f"{BATCHES[-1]} windows, clock"])
        rows[name][f"{BATCHES[-1]} windows, clock, median"] = round(1000 * usual, 2)
    return rows
