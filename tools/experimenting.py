"""Run an experiment of `tools/experiments/`, and store its table among the assets."""

from __future__ import annotations

import datetime
import importlib
import math
import os
import platform
import statistics
import time

import torch

from aigc_helpers.data import load_digits
from aigc_helpers.weights import write_experiment

from .book import ROOT, NotebookError

COMMAND = "python -m tools experiment"
DIGITS = 6  # significant ones, of the numbers in a file


def list_experiments():
    """{name: the first line of its docstring}."""
    names = sorted(path.stem for path in (ROOT / "tools" / "experiments").glob("[!_]*.py"))
    return {name: _module(name).__doc__.splitlines()[0] for name in names}


def experiment(name):
    """Run the experiment `name` in full and store its table. Returns the number of bytes.

    Raises NotebookError for an unknown name, an AIGC_BUDGET other than 1, a table that is none.
    """
    known = list_experiments()
    if name not in known:
        raise NotebookError(f"experiment: there is no {name!r}; there are: {', '.join(known)}")
    if os.environ.get("AIGC_BUDGET", "1") != "1":
        raise NotebookError("experiment: it is run in full, or not at all: unset AIGC_BUDGET")
    module = _module(name)
    began = time.perf_counter()
    rows = module.run(lambda text: print(f"{name}: {text}", flush=True))
    seconds = time.perf_counter() - began
    _check_table(name, rows)
    record = {
        "about": " ".join(module.__doc__.split()),
        "command": f"{COMMAND} {name}",
        "date": datetime.date.today().isoformat(),
        "processor": find_processor(),
        "torch": torch.__version__,
        "seconds": round(seconds),
        "seeds": list(module.SEEDS),
        "rows": {
            row: {key: _rounded(value) for key, value in cells.items()}
            for row, cells in rows.items()
        },
    }
    return write_experiment(name, record)


def load_real_digits(split):
    """The real MNIST digits. Raises NotebookError if only the embedded ones are at hand."""
    digits = load_digits(split)
    if "embedded" in digits.source:
        raise NotebookError(
            "experiment: it needs the real digits (MNIST): connect, or set AIGC_DATA_DIR"
        )
    return digits


def take_step(opts, loss):
    """One step of several optimizers that share a model's weights."""
    for opt in opts:
        opt.zero_grad()
    loss.backward()
    for opt in opts:
        opt.step()


def count_weights(*modules):
    """How many weights modules have together."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


def mean_and_range(values, decimals):
    """The mean of numbers, one a seed, with the lowest and the highest: "91.4 (88.0 to 95.2)"."""
    low = f"{min(values):.{decimals}f}"
    high = f"{max(values):.{decimals}f}"
    return f"{statistics.mean(values):.{decimals}f} ({low} to {high})"


def spread(column, values, decimals):
    """Columns of a row: the mean of numbers, one a seed, under `column`, and how far they lie apart."""
    numbers = {
        column: statistics.mean(values),
        "lowest": min(values),
        "highest": max(values),
        "standard deviation": statistics.stdev(values),
    }
    return {name: f"{number:.{decimals}f}" for name, number in numbers.items()}


def summarize(rows, decimals):
    """A row of a table: `mean_and_range` of each column over the seeds.

    rows: a dict for each seed. decimals: column -> how many are shown.
    """
    return {
        column: mean_and_range([row[column] for row in rows], shown)
        for column, shown in decimals.items()
    }


def find_processor():
    """What the numbers were computed on, such as "AMD EPYC 9R14, 2 threads"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):  # another system than Linux
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _module(name):
    return importlib.import_module(f"tools.experiments.{name}")


def _check_table(name, rows):
    if (
        not isinstance(rows, dict)
        or not rows
        or not all(isinstance(row, dict) and row for row in rows.values())
    ):
        raise NotebookError(
            f"experiment {name}: `run` must return row -> {{column: value}}, and some rows"
        )
    for row, cells in rows.items():
        for column, value in cells.items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if not (number or isinstance(value, str)):
                raise NotebookError(
                    f"experiment {name}: row {row!r}, column {column!r}: {value!r} is no number "
                    "and no string"
                )


def _rounded(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
