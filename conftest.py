"""Test settings for the whole project: the training budget, which tests are run and in what order, and for how long."""

import datetime
import json
import os
import pathlib
import signal
import tempfile
from collections import defaultdict

import pytest
from filelock import FileLock  # comes with torch

# Set before any kernel starts, so that the kernels of nbval inherit it.
os.environ.setdefault("AIGC_BUDGET", "0.1")
os.environ.setdefault("PYTHONHASHSEED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # two files of tests side by side, a core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ORDER = ("notebook", "exhaustive", "browser", "mutation", "colab")  # after the plain tests, which take seconds
EXHAUSTIVE = set(ORDER[1:])  # an hour together: run in CI and when asked for

_seconds = defaultdict(float)
_begun = set()  # notebooks of which a cell was run


def pytest_addoption(parser):
    marks = ", ".join(sorted(EXHAUSTIVE))
    parser.addoption("--exhaustive", action="store_true", help=f"run the tests marked {marks} too (an hour)")
    parser.addoption(
        "--touched",
        action="store_true",
        help="of the full runs and long tests of single notebooks, and of the seeded faults: those that a change "
        "touched, and a quarter of the rest, another each day (see tests/what_to_run.py)",
    )
    parser.addoption(
        "--minutes",
        type=float,
        help="start none of these after so many minutes; they are skipped and counted (tests/time_limit.py)",
    )


def pytest_configure(config):
    from tests import time_limit

    time_limit.start(config.option.minutes)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks on one thread: two of them, on cores that are busy, wait for each other most of the time."""
    import torch

    torch.set_num_threads(1)


def pytest_report_header():
    from aigc_helpers._environment import read_switch

    offline = ", no download (AIGC_OFFLINE)" if read_switch("AIGC_OFFLINE") else ""
    source = "AIGC_DATA_DIR" if os.environ.get("AIGC_DATA_DIR") else "cache, download or embedded digits"
    return f"AIGC_BUDGET={os.environ['AIGC_BUDGET']}, data: {source}{offline}"


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    items[:] = [item for item in items if _wanted(item, config)]
    if config.option.touched:
        items[:] = _touched(items)
    if hasattr(config, "workerinput"):  # side by side: the long ones first, so that both cores end together
        files = {item.path for item in items}
        longest = sorted(files, key=_length, reverse=True)
        items.sort(key=lambda item: longest.index(item.path))
    else:
        items.sort(key=_turn)  # stable sorts: the cells of a notebook stay in order
    if config.option.minutes is not None:
        items[:] = _from_another_place_each_day(items)


def _from_another_place_each_day(items):
    from tests import time_limit, what_to_run

    groups = defaultdict(list)  # a notebook's cells stay together
    for item in items:
        groups[item.path if item.path.suffix == ".ipynb" else item.nodeid].append(item)
    turned = time_limit.turned(list(groups), datetime.date.today().toordinal(), what_to_run.PARTS)
    return [item for name in turned for item in groups[name]]


def _length(path):
    """Sorts files by about how long they take: notebooks by their training cells, then test files by their size."""
    if path.suffix != ".ipynb":
        return 0, path.stat().st_size
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return 1 + sum("train" in cell["metadata"].get("tags", []) for cell in cells), len(cells)


def _touched(items):
    """Without the long tests of notebooks and seeded faults that no change touched and whose turn it is not."""
    from tests import what_to_run

    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    long = [item for item in items if item.path.suffix == ".ipynb" or marks[item] & EXHAUSTIVE]
    today = datetime.date.today().toordinal()
    left_out = set(long) - set(what_to_run.select(long, what_to_run.changed_files(), today))
    return [item for item in items if item not in left_out]


def _turn(item):
    return max((1 + ORDER.index(mark.name) for mark in item.iter_markers() if mark.name in ORDER), default=0)


def _wanted(item, config):
    """An exhaustive test is run with --exhaustive, if -m names one of its marks, or if its file is named."""
    marks = EXHAUSTIVE & {mark.name for mark in item.iter_markers()}
    named = any(item.path.name in argument for argument in config.args)
    return not marks or config.option.exhaustive or named or any(mark in config.option.markexpr for mark in marks)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """One notebook's kernel after the other: two that start at once may take the same port, and one of them dies."""
    _skip_when_time_is_over(item)
    if item.path.suffix != ".ipynb":
        return (yield)
    user = os.getuid() if hasattr(os, "getuid") else ""
    with FileLock(pathlib.Path(tempfile.gettempdir()) / f"aigc-kernels-{user}.lock"):
        return (yield)


def _skip_when_time_is_over(item):
    """A test of one notebook or of one fault that has not begun; the cells of a notebook that has begun go on."""
    from tests import time_limit, what_to_run

    if item.path in _begun:
        return
    if time_limit.seconds_left() < 0 and what_to_run.subject_of(item):
        pytest.skip(time_limit.OVER)
    if item.path.suffix == ".ipynb":
        _begun.add(item.path)


def pytest_runtest_logreport(report):
    file = report.nodeid.split("::")[0]
    if file.endswith(".ipynb"):
        _seconds[file] += report.duration


def pytest_sessionfinish(session, exitstatus):
    """Nothing touched, and nobody's turn: that is no failure."""
    if session.config.option.touched and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter, config):
    from tests import time_limit

    if config.args_source == config.ArgsSource.TESTPATHS and not (config.option.exhaustive or config.option.markexpr):
        terminalreporter.write_line("not run: browser, seeded faults, Colab's versions; --exhaustive runs them too")
    skipped = terminalreporter.stats.get("skipped", [])
    skipped = [report for report in skipped if time_limit.OVER in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were {time_limit.OVER}; without it they run:")
        for file in sorted({report.nodeid.partition("::")[0] for report in skipped}):
            terminalreporter.write_line(f"  {file}")
    for notebook, seconds in sorted(_seconds.items()):
        terminalreporter.write_line(f"{notebook}: {seconds:.0f} s at AIGC_BUDGET={os.environ['AIGC_BUDGET']}")


@pytest.fixture(autouse=True)
def usual_stop_button():
    """A shell that runs the tests in the background makes them ignore interrupts; here they never do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
