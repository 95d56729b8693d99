"""How quickly the panels of a notebook answer, drawing included; by hand:

    python tests/benchmarks/latency.py 01_gan [02_vae ...]

The cells of the page make the panels, at a tenth of its training (AIGC_BUDGET). Nothing else should
run on the machine meanwhile.
"""

import os
import sys

import numpy as np
from common import ROOT

import tools
from aigc_helpers.panels import Panel
from tests.notebook_cells import run_cell, tags_of

WANTED_MS = 150  # what takes longer belongs behind a button


def measure(name):
    """Run a notebook, and print the latency of each panel's controls once its cell has run."""
    space = {"__name__": "__main__"}
    seen = set()
    for index, cell in enumerate(tools.read(ROOT / "notebooks" / f"{name}.ipynb").cells):
        if cell.cell_type != "code" or tags_of(cell) & {"colab", "exercise", "mark", "solution"}:
            continue
        run_cell(cell.source, space, f"{name}, cell {index}")
        for key, panel in list(space.items()):
            if isinstance(panel, Panel) and id(panel) not in seen:
                seen.add(id(panel))
                print_latency(f"{name}.{key}", panel)


def print_latency(name, panel):
    """Move every control of a panel and print how long its redraws take."""
    for key, control in panel.controls.items():
        before = control.value
        times = []
        for value in moves(control):
            control.value = value
            times.append(panel.last_ms)
        control.value = before
        middle = np.median(times)
        high = np.percentile(times, 95)
        slow = f" (wanted: <= {WANTED_MS})" if middle > WANTED_MS else ""
        print(f"{name}.{key}: median {middle:.0f} ms, 95th percentile {high:.0f} ms{slow}")


def moves(control):
    """Values over the whole range of a control of any kind."""
    if hasattr(control, "options"):
        return [o[1] if isinstance(o, tuple) else o for o in control.options] * 10
    if isinstance(control.value, bool):
        return [not control.value, control.value] * 10
    if isinstance(control.value, str):
        return [control.value + " and so on"[:k] for k in range(1, 11)] * 2
    values = np.linspace(control.min, control.max, 20)
    if type(control).__name__ == "FloatLogSlider":
        return [10**v for v in values]
    whole = type(control).__name__ == "IntSlider"
    return [int(v) if whole else float(v) for v in values]


if __name__ == "__main__":
    os.environ.setdefault("AIGC_BUDGET", "0.1")
    for notebook in sys.argv[1:]:
        measure(notebook)
