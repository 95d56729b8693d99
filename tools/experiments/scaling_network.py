"""An all-reduce between two processes of this machine, by the clock, for messages of five sizes.

`torch.distributed`, gloo, loopback interface, one thread each. A time is the slower rank's, and the least of many, so
that other work on the machine counts as little as can be. The machine is measured, not a training: the seed is one.
"""

from __future__ import annotations

from aigc_helpers.models.scaling import time_all_reduce
from aigc_helpers.ranks import Ranks

SEEDS = (0,)
SIZES = {"4 kB": 4_000, "40 kB": 40_000, "0.4 MB": 400_000, "1.2 MB": 1_200_000, "4 MB": 4_000_000}
ROUNDS = 20
REPEATS = 50  # in each round


def run(progress):
    least = {}
    with Ranks(2) as team:
        for done in range(ROUNDS):
            found = team.run(time_all_reduce, list(SIZES.values()), REPEATS, seconds=600)
            for size in SIZES.values():
                seconds = max(each[size] for each in found)
                least[size] = min(seconds, least.get(size, seconds))
            if done % 5 == 4:
                progress(f"round {done + 1}: {least}")
    return {name: {"bytes": size, "ms": round(1000 * least[size], 4)} for name, size in SIZES.items()}
