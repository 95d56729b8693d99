"""Test settings for the whole project: the training budget, the order of the tests, and how long each notebook took."""

import os
import signal
from collections import defaultdict

import pytest

# Set before any kernel starts, so that the kernels of nbval inherit it.
os.environ.setdefault("AIGC_BUDGET", "0.1")
os.environ.setdefault("PYTHONHASHSEED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # two files of tests side by side, a core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ORDER = ("notebook", "exhaustive", "browser", "mutation", "colab")  # after the plain tests, which take seconds
EXHAUSTIVE = set(ORDER[1:])  # half an hour together: run in CI and when asked for

# The files that take longest, the longest first: side by side, each worker takes a whole file at a time.
LONGEST = ("03b_gpt_beyond.ipynb", "04_diffusion.ipynb", "02_vae.ipynb", "03_gpt.ipynb", "test_faults.py",
           "test_panels.py", "01_gan.ipynb", "00_intro.ipynb", "test_data.py", "test_training.py")  # fmt: skip

_seconds = defaultdict(float)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true",
                     help=f"run the tests marked {', '.join(sorted(EXHAUSTIVE))} too (half an hour)")  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks on one thread: two of them, on cores that are busy, wait for each other most of the time."""
    import torch

    torch.set_num_threads(1)


def pytest_report_header():
    offline = ", no download (AIGC_OFFLINE)" if os.environ.get("AIGC_OFFLINE") else ""
    source = "AIGC_DATA_DIR" if os.environ.get("AIGC_DATA_DIR") else "cache, download or embedded digits"
    return f"AIGC_BUDGET={os.environ['AIGC_BUDGET']}, data: {source}{offline}"


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    items[:] = [item for item in items if _wanted(item, config)]
    if hasattr(config, "workerinput"):  # side by side: the long ones first, so that both cores end at the same time
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    else:
        items.sort(key=_turn)  # stable sorts: the cells of a notebook stay in order


def _turn(item):
    return max((1 + ORDER.index(mark.name) for mark in item.iter_markers() if mark.name in ORDER), default=0)


def _wanted(item, config):
    """An exhaustive test is run with --exhaustive, if -m names one of its marks, or if its file is named."""
    marks = EXHAUSTIVE & {mark.name for mark in item.iter_markers()}
    named = any(item.path.name in argument for argument in config.args)
    return not marks or config.option.exhaustive or named or any(mark in config.option.markexpr for mark in marks)


def pytest_runtest_logreport(report):
    file = report.nodeid.split("::")[0]
    if file.endswith(".ipynb"):
        _seconds[file] += report.duration


def pytest_terminal_summary(terminalreporter, config):
    if config.args_source == config.ArgsSource.TESTPATHS and not (config.option.exhaustive or config.option.markexpr):
        terminalreporter.write_line("not run: browser, seeded faults, Colab's versions; --exhaustive runs them too")
    for notebook, seconds in sorted(_seconds.items()):
        terminalreporter.write_line(f"{notebook}: {seconds:.0f} s at AIGC_BUDGET={os.environ['AIGC_BUDGET']}")


@pytest.fixture(autouse=True)
def usual_stop_button():
    """A shell that runs the tests in the background makes them ignore interrupts; here they never do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
