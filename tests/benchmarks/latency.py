"""How quickly the panels answer: what the benchmarks of all chapters share."""

import numpy as np


def print_latency(name, panel):
    """Move every control of a panel and print how long its redraws take, drawing included."""
    for key, control in panel.controls.items():
        before, times = control.value, []
        for value in _moves(control):
            control.value = value
            times.append(panel.last_ms)
        control.value = before
        print(f"{name}.{key}: median {np.median(times):.0f} ms, 95th percentile {np.percentile(times, 95):.0f} ms")


def _moves(control):
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
    return [int(v) for v in values] if type(control).__name__ == "IntSlider" else [float(v) for v in values]
