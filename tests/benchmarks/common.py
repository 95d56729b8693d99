"""What the benchmarks share: a peer and ours, each in the precision in which it is quicker here."""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # for `tests` and `tools`, which are not installed
os.environ["AIGC_PROGRESS"] = "0"

PRECISIONS = ("float32", "bfloat16")


def use_precision(name):
    """A context that computes in float32, or in bfloat16 where autocast allows it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16")


def prefer(name):
    """A function like `training.autocast`, to be put in its place in a model's module."""

    def autocast(device):
        return use_precision(name)

    return autocast


@contextlib.contextmanager
def forced(module, name):
    """While active, the module's own `autocast` has this precision, whatever the hardware."""
    before = module.autocast
    module.autocast = prefer(name)
    try:
        yield
    finally:
        module.autocast = before


def measure_rates(rivals, items, rounds=2):
    """{rival: {precision: items a second}}; rivals: {name: (step, how many of them a round)}.

    step() does all of a training step on so many items. Rivals and precisions take turns, so that a
    busy moment hits all alike; of each round the median step counts, and the best round.
    """
    rates = {name: dict.fromkeys(PRECISIONS, 0.0) for name in rivals}
    for _ in range(rounds):
        for precision in PRECISIONS:
            for name, (step, num_steps) in rivals.items():
                rate = items / _median_seconds(step, num_steps, precision)
                rates[name][precision] = max(rates[name][precision], rate)
    return rates


def _median_seconds(step, num_steps, precision):
    times = []
    for _ in range(num_steps):
        began = time.perf_counter()
        with use_precision(precision):
            step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def quicker(rates):
    """The precision of the highest rate."""
    return max(rates, key=rates.get)


def tell(rates):
    """`84 in float32, 24 in bfloat16`."""
    return ", ".join(f"{rate:,.0f} in {name}" for name, rate in rates.items())


def run(parts, seconds=None):
    """Run the functions named on the command line, all by default.

    seconds: how long a model is trained unless `--seconds` says otherwise; what trains takes it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}")
    parser.add_argument("--seconds", type=float, default=seconds, help="of training")
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    for name in options.parts or parts:
        print(f"== {name} ==", flush=True)
        part = parts[name]
        takes_seconds = "seconds" in part.__code__.co_varnames[: part.__code__.co_argcount]
        part(options.seconds) if takes_seconds else part()
