"""Seeded faults: each one, put into a copy of the project, must turn the suite red.

A fault is a textual change of a helper, of a panel, or of one of a notebook's code cells. For a notebook the exported
module is made anew from the changed cell, so that a mere comparison of bytes cannot be what catches it. The copy is
then tested by one catcher: a test of the suite, "page" (the notebook's own checks, but for what trains), or
"exercises" (its solutions and their marks). A server process imports PyTorch once and forks for each copy; a copy
imports its own files.

The faults stand beside the tests that catch them: in FAULTS of each tests/chapters/test_<module>.py, and of
tests/helper_faults.py. This module runs them; tests/test_seeded_faults.py collects and asserts.
"""

import importlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPIED = (
    "aigc_helpers",
    "tools",
    "tests",
    "notebooks",
    "pyproject.toml",
    "conftest.py",
    "README.md",
)
TIME_LIMIT = 300  # seconds for a catcher: the last cells of a long page come late on a busy machine
WORKERS = 2  # copies tested at a time
PRELOADED = ("torch", "matplotlib.figure", "matplotlib.backends.backend_agg", "ipywidgets", "IPython.display",
             "sklearn.datasets", "torchmetrics.image.fid", "safetensors.torch", "nbclient", "tqdm", "tokenizers",
             "transformers.models.gpt2.modeling_gpt2")  # fmt: skip


# ---------------------------------------------------------------- faults


class Fault(NamedTuple):
    name: str
    where: str  # a file of the project; for a notebook, one of its code cells
    old: str  # stands there exactly once
    new: str
    catcher: str  # a pytest node, "page", "exercises", or a test of the chapter's own file
    listed: str = ""  # the test file that lists it, filled in by all_faults


def in_notebook(notebook, name, old, new, catcher="page"):
    """A fault in notebooks/`notebook`, to be caught by its own page unless said otherwise."""
    return Fault(name, f"notebooks/{notebook}", old, new, catcher)


def in_panels(module, name, old, new, catcher):
    """A fault in aigc_helpers/panels/`module`.py, to be caught by a test of the chapter."""
    return Fault(name, f"aigc_helpers/panels/{module}.py", old, new, catcher)


def in_helper(module, name, old, new, test=None):
    """A fault in aigc_helpers/`module`.py, to be caught by its own tests: any, or `test` where they take long."""
    catcher = f"tests/test_{module.partition('/')[0]}.py" + (f"::{test}" if test else "")
    return Fault(name, f"aigc_helpers/{module}.py", old, new, catcher)


def chapters(root=ROOT):
    """{notebook: its module}, e.g. {"01_gan.ipynb": "gan"}, as the notebooks' metadata say, in their order."""
    found = {}
    for path in sorted((root / "notebooks").glob("[0-9][0-9]*.ipynb")):
        found[path.name] = json.loads(path.read_text(encoding="utf-8"))["metadata"]["aigc"][
            "module"
        ]
    return found


def all_faults(root=ROOT):
    """The faults of all chapters and helpers, with catchers as pytest nodes or "NOTEBOOK: page|exercises"."""
    helpers = importlib.import_module("tests.helper_faults").FAULTS
    faults = [_resolve(fault, "tests/helper_faults.py") for fault in helpers]
    for module in chapters(root).values():
        file = f"tests/chapters/test_{module}.py"
        assert (root / file).exists(), (
            f"{file} is missing: each chapter has a test file, with a list FAULTS"
        )
        chapter = importlib.import_module(f"tests.chapters.test_{module}")
        faults += [_resolve(fault, file) for fault in chapter.FAULTS]
    return faults


def _resolve(fault, file):
    """The fault with its catcher written out; `file` is the test file that lists it."""
    catcher = fault.catcher
    if catcher in ("page", "exercises"):
        catcher = f"{fault.where}: {catcher}"
    elif catcher.isidentifier():
        catcher = f"{file}::{catcher}"
    return fault._replace(catcher=catcher, listed=file)


def files_of(fault):
    """What a fault's outcome hangs on: where it is put, what catches it, where it is listed, what runs it."""
    runner = {"tests/seeded_faults.py", "tests/pages.py", "tests/marking.py"}
    return {fault.where, re.split("::?", fault.catcher)[0], fault.listed} | runner


# ---------------------------------------------------------------- a copy with a fault


def copy_project(target):
    """Copy what the tests need into the folder `target`, which must exist."""
    skip = shutil.ignore_patterns(
        "__pycache__", ".ipynb_checkpoints", ".pytest_cache", "benchmarks"
    )
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, target / name)


def put_fault(fault, root):
    """Change the one place where the old text stands. Fails if it stands nowhere, or in several places."""
    path = root / fault.where
    if path.suffix != ".ipynb":
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, (
            f"{fault.old!r} stands {text.count(fault.old)} times in {fault.where}"
        )
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        return
    nb = json.loads(path.read_text(encoding="utf-8"))  # nbformat's validation would take most of the time
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
    found = [cell for cell in nb["cells"] if cell["cell_type"] == "code" and fault.old in cell["source"]]
    count = sum(cell["source"].count(fault.old) for cell in found)
    assert count == 1, f"{fault.old!r} stands {count} times in the code of {fault.where}"
    found[0]["source"] = found[0]["source"].replace(fault.old, fault.new)
    path.write_text(json.dumps(nb), encoding="utf-8")


# ---------------------------------------------------------------- many copies, and their table


def run_faults(faults, catchers, base, seconds_left=math.inf):
    """Run, without a fault, each of `catchers` and then each fault in copies below the folder `base`.

    Returns {name of a fault, or catcher: {"rc": 0 green, 1 red, None not placed, "log": str, "seconds": float}}.
    Faults that have not begun after `seconds_left` are not in it.
    """
    jobs, found = [], {}
    for number, what in enumerate([*sorted(catchers), *faults]):
        folder = base / f"{number:03d}"
        folder.mkdir()
        copy_project(folder)
        if isinstance(what, str):
            jobs.append((what, str(folder), what, False))
            continue
        try:
            put_fault(what, folder)
            jobs.append((what.name, str(folder), what.catcher, what.where.startswith("notebooks/")))
        except AssertionError as problem:
            found[what.name] = {"rc": None, "log": str(problem), "seconds": 0.0}
    return found | _ask_server(jobs, base, seconds_left)


def table(faults, found):
    """The results, of those that were run, as Markdown: fault | where | caught by | seconds, and the score."""
    lines = ["| fault | where | caught by | s |", "|---|---|---|---|"]
    faults = [fault for fault in faults if fault.name in found]
    for fault in faults:
        result = found[fault.name]
        lines.append(
            f"| {fault.name} | {fault.where} | {caught_by(result)} | {result['seconds']:.1f} |"
        )
    caught = sum(found[fault.name]["rc"] == 1 for fault in faults)
    lines.append(f"\ncaught: {caught} of {len(faults)}, {100 * caught / max(1, len(faults)):.1f} %")
    return "\n".join(lines)


def caught_by(result):
    """What caught a fault, in words: the first failure of its log, or why there is none."""
    if result["rc"] != 1:
        wrong = {0: "NOTHING: it survives", None: f"misplaced: {result['log']}"}
        return wrong.get(result["rc"], f"an error of the test (exit {result['rc']})")
    found = re.search(r"(?m)^(?:FAILED|ERROR|CAUGHT) (.*)", result["log"])
    return found.group(1)[:120].replace("|", "/") if found else "?"


def _ask_server(jobs, base, seconds_left):
    (base / "jobs.json").write_text(json.dumps([jobs, seconds_left]), encoding="utf-8")
    hidden = (
        "AIGC_DATA_DIR",
        "AIGC_DEVICE",
        "MPLBACKEND",
        "PYTEST_ADDOPTS",
        "PYTEST_CURRENT_TEST",
        "PYTHONPATH",
    )
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {
        "AIGC_OFFLINE": "1",
        "AIGC_CACHE_DIR": str(base / "cache"),
        "AIGC_BUDGET": "0.1",
        "AIGC_PROGRESS": "0",
    }
    env |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(base / "server.txt", "w", encoding="utf-8") as log:
        # As a file, not as tests.seeded_faults: the package `tests` must be that of each copy.
        done = subprocess.run(
            [sys.executable, __file__, str(base)], env=env, cwd=base, stdout=log, stderr=log
        )
    assert done.returncode == 0, (base / "server.txt").read_text(encoding="utf-8")
    return json.loads((base / "results.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- the server: imports PyTorch once, forks for each copy


def serve(jobs, seconds_left):
    """Run jobs (name, folder, catcher, export) in forked processes, two at a time: name -> {rc, log, seconds}.

    A job that is a fault, not a catcher by itself, is left out if it has not begun after `seconds_left`.
    """
    end = time.monotonic() + seconds_left
    for name in PRELOADED:
        importlib.import_module(name)
    own = [
        name for name in sys.modules if name.partition(".")[0] in ("aigc_helpers", "tools", "tests")
    ]
    assert not own, f"each copy imports its own: {own}"
    waiting, running, results = list(jobs), {}, {}
    while waiting or running:
        if time.monotonic() > end:
            waiting = [job for job in waiting if job[0] == job[2]]
        while waiting and len(running) < WORKERS:
            name, folder, catcher, export = waiting.pop(0)
            running[_fork(folder, catcher, export)] = name, folder, time.monotonic()
        time.sleep(0.02)
        for pid, (name, folder, began) in list(running.items()):
            seconds = time.monotonic() - began
            if seconds > TIME_LIMIT:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[pid]
                log = pathlib.Path(folder, "log.txt").read_text(encoding="utf-8", errors="replace")
                results[name] = {
                    "rc": os.waitstatus_to_exitcode(status),
                    "log": log,
                    "seconds": seconds,
                }
    return results


def _fork(folder, catcher, export):
    pid = os.fork()
    if pid:
        return pid
    code = 70  # something is wrong with this file: neither red nor green
    try:
        os.setsid()
        out = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.chdir(folder)
        sys.path[:1] = [folder]  # in the place of this file's own folder
        os.environ["PYTHONPATH"] = folder
        code = run_catcher(pathlib.Path(folder), catcher, export)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_catcher(folder, catcher, export):
    """Run a catcher in a copy. 0: all is well, 1: it found something; anything else is a mistake of ours."""
    import tools

    assert tools.ROOT == folder, tools.ROOT
    if export:
        findings = tools.export()
        assert not findings, findings
    where, _, own = catcher.partition(": ")
    if not own:
        return int(
            pytest.main(["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-o", "addopts=", catcher])
        )
    from tests.marking import run_exercises
    from tests.pages import run_page

    try:
        print("counted:", {"page": run_page, "exercises": run_exercises}[own](folder / where))
    except Exception as problem:
        print(f"CAUGHT {type(problem).__name__}: {problem}")
        return 1
    return 0


if __name__ == "__main__":
    base = pathlib.Path(sys.argv[1])
    found = serve(*json.loads((base / "jobs.json").read_text(encoding="utf-8")))
    (base / "results.json").write_text(json.dumps(found), encoding="utf-8")
