"""Test settings for the whole project: the training budget, the order of the tests, and how long each notebook took."""

import os
from collections import defaultdict

import pytest

# Set before any kernel starts, so that the kernels of nbval inherit it.
os.environ.setdefault("AIGC_BUDGET", "0.1")
os.environ.setdefault("PYTHONHASHSEED", "0")

ORDER = ("notebook", "browser", "mutation")  # after the plain tests, which take seconds

_seconds = defaultdict(float)


def pytest_report_header():
    offline = ", no download (AIGC_OFFLINE)" if os.environ.get("AIGC_OFFLINE") else ""
    source = "AIGC_DATA_DIR" if os.environ.get("AIGC_DATA_DIR") else "cache, download or embedded digits"
    return f"AIGC_BUDGET={os.environ['AIGC_BUDGET']}, data: {source}{offline}"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    items.sort(key=_turn)  # a stable sort: the cells of a notebook stay in order


def _turn(item):
    return max((1 + ORDER.index(mark.name) for mark in item.iter_markers() if mark.name in ORDER), default=0)


def pytest_runtest_logreport(report):
    file = report.nodeid.split("::")[0]
    if file.endswith(".ipynb"):
        _seconds[file] += report.duration


def pytest_terminal_summary(terminalreporter):
    for notebook, seconds in sorted(_seconds.items()):
        terminalreporter.write_line(f"{notebook}: {seconds:.0f} s at AIGC_BUDGET={os.environ['AIGC_BUDGET']}")
