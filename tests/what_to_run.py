"""Which of the long tests CI runs: all that a change touched, and a rotating quarter of the rest.

Used by conftest.py for `python -m pytest --touched`. It concerns the tests of one notebook (its full run, JupyterLab,
Colab, cells run again) and of one seeded fault; every other test is always run, and so is each notebook at a tenth
of its training, by a plain `python -m pytest`.

A full run is due unless the notebook carries the record of one of exactly what it stands on (tools/fingerprints.py):
its author ran it after the change, and CI compares what is stored in a quarter of the cases.

A change is whatever differs from the base: the commit named by AIGC_BASE, or else the newest one on the main line
that is five hours old: what is older was tested when it was handed in. A branch that is merged counts whole,
whatever the dates of its commits. Where that cannot be told (no git, a shallow clone, a younger project), everything
is run.
"""

import collections
import functools
import os
import pathlib
import subprocess

import tools
from tests import seeded_faults
from tools import bundling, fingerprints

ROOT = pathlib.Path(__file__).resolve().parent.parent
SINCE = "5 hours ago"
PARTS = 4  # the rest takes turns: a quarter each day
WEIGHTS = "aigc_helpers.weights"
STALE = "a notebook without the record of a full run"  # counts as a changed file
# What every test but a full run stands on. Not .ci/run: it says when a test may begin, and not what is tested.
COMMON = {"requirements.txt", "pyproject.toml", "conftest.py", "tests/nbval_sanitize.cfg"}


def changed_files(root=ROOT):
    """The files, as posix paths from `root`, that differ from the base; None if there is no base to compare with.

    What is not committed counts too. Raises ValueError if AIGC_BASE names no commit.
    """
    named = os.environ.get("AIGC_BASE", "")
    if _git(root, "rev-parse", "--is-shallow-repository") != "false" and not named:
        return None
    base = named or _git(root, "rev-list", "-1", "--first-parent", f"--before={SINCE}", "HEAD")
    if not base:
        return None
    if _git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") is None:
        raise ValueError(f"AIGC_BASE={named!r} is no commit of this clone: fetch it, or leave the variable unset")
    changed = _git(root, "diff", "--name-only", "--no-renames", base)
    new = _git(root, "ls-files", "--others", "--exclude-standard")
    return {*changed.splitlines(), *new.splitlines()}


def _git(root, *arguments):
    """What git prints, or None if it fails or is not there."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def files_of(notebook, root=ROOT):
    """What a notebook stands on: its file, the helpers that it reaches, the weights that they may load.

    `weights` reaches the models of all chapters, for `load_model`: they count where that is called.
    """
    path = root / "notebooks" / notebook
    code = bundling.code_of(tools.read(path), path.name)
    modules = bundling.list_modules(root)
    _, reached = bundling.reach(code, modules)
    sources = [text for name, text in reached.items() if name != WEIGHTS]
    if not any("load_model(" in text for text in [code, *sources]):
        _, others = bundling.reach(code, {name: file for name, file in modules.items() if name != WEIGHTS})
        reached = [*others, *({WEIGHTS} & set(reached))]
    assets = [file for file in bundling.list_assets(code, modules, root) if file.suffix != ".json"]
    return frozenset(file.relative_to(root).as_posix() for file in [path, *(modules[name] for name in reached), *assets])


def chosen(subjects, changed, day):
    """The names in `subjects`, a dict name -> files it stands on, that are to be run.

    changed   the set of changed files, or None for everything
    day       a whole number, such as the date's ordinal: says whose turn it is among the rest
    """
    if changed is None:
        return set(subjects)
    touched = {name for name, files in subjects.items() if set(files) & changed}
    rest = sorted(set(subjects) - touched)
    return touched | {name for k, name in enumerate(rest) if k % PARTS == day % PARTS}


def select(items, changed, day):
    """Of pytest's items, those to be run; a test that is neither of one notebook nor of one fault is always run."""
    subjects = {}
    kinds = collections.defaultdict(dict)  # which tests -> name of what is tested -> the files it stands on
    for item in items:
        about = subject_of(item)
        if about:
            kind, name, files = about
            subjects[item] = kind, name
            kinds[kind][name] = files
    changed = None if changed is None else changed | {STALE}
    run = {kind: chosen(names, changed, day) for kind, names in kinds.items()}
    return [item for item in items if item not in subjects or subjects[item][1] in run[subjects[item][0]]]


@functools.cache
def _was_run_in_full(name):
    path = ROOT / "notebooks" / name
    return fingerprints.is_fresh(tools.read(path), path)


def subject_of(item):
    """(kind of test, name of the notebook or fault, the files it stands on), or None for any other test."""
    if item.path.suffix == ".ipynb":
        return "notebooks", item.path.name, set() if _was_run_in_full(item.path.name) else {STALE}
    kind = item.nodeid.partition("[")[0]
    test_file = kind.partition("::")[0]
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        if isinstance(value, seeded_faults.Fault):
            return kind, value.name, seeded_faults.files_of(value) | {test_file}
        if str(value).endswith(".ipynb"):
            name = pathlib.PurePath(value).name
            return kind, name, files_of(name) | COMMON | {test_file}
    return None
