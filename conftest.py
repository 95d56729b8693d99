"""Test settings for the whole project: the training budget, and how long each notebook took."""

import os
from collections import defaultdict

import pytest

# Set before any kernel starts, so that the kernels of nbval inherit it.
os.environ.setdefault("AIGC_BUDGET", "0.1")
os.environ.setdefault("PYTHONHASHSEED", "0")

_seconds = defaultdict(float)


def pytest_report_header():
    source = "AIGC_DATA_DIR" if os.environ.get("AIGC_DATA_DIR") else "cache, download or embedded digits"
    return f"AIGC_BUDGET={os.environ['AIGC_BUDGET']}, data: {source}"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    items.sort(key=lambda item: item.get_closest_marker("notebook") is not None)  # quick tests first; stable


def pytest_runtest_logreport(report):
    if ".ipynb" in report.nodeid:
        _seconds[report.nodeid.split("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter):
    for notebook, seconds in sorted(_seconds.items()):
        terminalreporter.write_line(f"{notebook}: {seconds:.0f} s at AIGC_BUDGET={os.environ['AIGC_BUDGET']}")
