"""Faults around a notebook: run twice, a strange environment, stored outputs cleared or changed.

Each ends in a right result or in one clear message.
"""

import copy
import os
import re
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import tools
from tests.notebook_cells import ROOT

PATHS = tools.paths()
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a kernel gets: this checkout, the embedded digits, no network."""
    hidden = ("AIGC_DATA_DIR", "PYTEST_ADDOPTS", "MPLBACKEND")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    settings = {"PYTHONPATH": str(ROOT), "AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1"}
    return env | settings | {"AIGC_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


def code_of(path):
    """A notebook's code cells but for the install cell, as a notebook."""
    book = tools.read(path)
    book.cells = tools.own_cells(book)
    return book


def execute(book, env, folder):
    """Execute a notebook in a kernel of its own, in place."""
    for cell in book.cells:
        cell.outputs = []
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=place).execute(env=env)


def strict_nbval(folder, env, name):
    """Exit status and report of the suite's own nbval command on a notebook in `folder`."""
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", folder / "sanitize.cfg")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    options = "-q -p no:cacheprovider --nbval --nbval-current-env --nbval-sanitize-with=sanitize.cfg".split()
    command = [sys.executable, "-m", "pytest", *options, "--nbval-cell-timeout=300", name]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=900)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


# ---------------------------------------------------------------- whole chapters, in real kernels


C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def twice(book):
    """A notebook with each of its cells once more at its end, the stored outputs too."""
    again = copy.deepcopy(book.cells)
    for cell in again:
        cell.id = f"{cell.id}-again"[-64:]
    book.cells = [*book.cells, *again]
    return book


@pytest.mark.exhaustive
@pytest.mark.notebook
@each_notebook
def test_run_twice_in_one_kernel_in_strange_surroundings(path, environment, tmp_path):
    """All at once: a backend that needs a screen, the C locale, a path with spaces and Chinese characters.

    Then everything once more in the same kernel: names left over from the first round change nothing in the second.
    """
    place = tmp_path / "a folder of 生成模型"
    place.mkdir()
    book = twice(code_of(path))
    nbformat.write(book, place / path.name)
    status, report = strict_nbval(place, environment | C_LOCALE | {"MPLBACKEND": "TkAgg"}, path.name)
    assert status == 0, report[-3000:]
    assert f"{len(book.cells)} passed" in report


def test_the_c_locale_is_one(environment):
    code = "import locale; print(locale.getpreferredencoding(False))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | C_LOCALE, capture_output=True, text=True)
    assert done.stdout.strip() in ("ANSI_X3.4-1968", "US-ASCII", "646"), "the test of the C locale tests nothing"


# ---------------------------------------------------------------- one or two cells, in a real kernel


@pytest.mark.notebook
def test_offline_the_notebook_says_where_its_digits_come_from(environment, tmp_path):
    load = "from aigc_helpers.data import load_digits\nload_digits('train')\ndigits = load_digits('test')"
    book = new_notebook(cells=[new_code_cell(load)])
    execute(book, environment, tmp_path)
    (output,) = book.cells[0].outputs
    source = "scikit-learn digits (embedded); embedded; download: AIGC_OFFLINE is set"
    assert output.name == "stdout"
    assert output.text.splitlines() == [f"[data: {n} images from {source}]" for n in ("1,297 train", "500 test")]


CHECKS = """\
from aigc_helpers.checks import check, check_above, check_below
check("eq. (1): a third", 0.3333, 1 / 3, rtol=1e-2)
check("eq. (2): two numbers", [1.0, 2.0], [1.0, 2.0])
check_below("the loss", 0.31, 0.5)
check_above("the score", 0.52, 0.31, baseline="the untrained network's")"""
TABLE = """\
from aigc_helpers.plotting import show_table
rows = {"GAN": {"FID": 2.5, "trained": "3 minutes"}, "VAE": {"FID": 9.25, "trained": "2 minutes"}}
show_table(rows, "Scores of 2,000 digits")"""


def changed(outputs, old, new):
    """A copy of a cell's one output with a text for another, which must stand there."""
    (output,) = copy.deepcopy(outputs)
    holder = output if "text" in output else output.data
    kinds = [kind for kind in ("text", "text/html", "text/plain") if kind in holder and old in holder[kind]]
    assert kinds, f"{old!r} is not in {holder}"
    for kind in kinds:
        holder[kind] = holder[kind].replace(old, new)
    return [output]


# What is changed in the stored outputs, and whether strict nbval is to pass.
CHANGES = {
    "nothing": (CHECKS, "", "", True),
    "a measured value": (CHECKS, "measured 0.3333", "measured 0.3", True),
    "a measured list": (CHECKS, "measured [1, 2]", "measured [1, 2.00001]", True),
    "a measured value beside its bound": (CHECKS, "measured 0.52 against 0.31", "measured 9 against 8", True),
    "an expected value": (CHECKS, "expected 0.333 ", "expected 0.34 ", False),
    "a tolerance": (CHECKS, "rtol 0.01", "rtol 0.02", False),
    "a bound": (CHECKS, "expected below 0.5", "expected below 0.6", False),
    "a baseline": (CHECKS, "the untrained network's", "the trained network's", False),
    "a check's name": (CHECKS, "eq. (1)", "eq. (3)", False),
    "a number of the table": (TABLE, "9.25", "9.5", True),
    "a fixed cell": (TABLE, "3 minutes", "4 minutes", False),
    "a heading": (TABLE, "trained", "trained for", False),
    "a row's label": (TABLE, "GAN", "GAM", False),
    "a caption": (TABLE, "2,000", "200", False),
}


@pytest.mark.notebook
def test_measured_numbers_may_differ_and_nothing_else_may(environment, tmp_path):
    """Strict nbval on the suite's own settings, with the stored outputs changed by hand in one place each."""
    book = new_notebook(cells=[new_code_cell(CHECKS), new_code_cell(TABLE)])
    execute(book, environment, tmp_path)
    outputs = {cell.source: cell.outputs for cell in book.cells}
    cells = []
    for source, old, new, _ in CHANGES.values():
        stored = changed(outputs[source], old, new)
        cells.append(new_code_cell(source, outputs=stored, execution_count=1))
    nbformat.write(new_notebook(cells=cells), tmp_path / "changed.ipynb")
    status, report = strict_nbval(tmp_path, environment | {"PYTEST_ADDOPTS": "-rA"}, "changed.ipynb")
    for number, (name, (*_, passes)) in enumerate(CHANGES.items()):
        word = "PASSED" if passes else "FAILED"
        line = rf"(?m)^{word} changed\.ipynb::Cell {number}\b"
        assert re.search(line, report), f"{name}: not {word}\n{report[-3000:]}"


# ---------------------------------------------------------------- stored outputs


def test_cleared_outputs_are_a_finding_of_lint(tmp_path):
    path = PATHS[0]

    def about_outputs():
        words = ("no stored output", "with a tick", "not run once")
        return [line for line in tools.lint(tmp_path) if any(word in line for word in words)]

    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(path, tmp_path / "notebooks")
    assert about_outputs() == []
    cleared = tools.read(path)
    for cell in tools.code_cells(cleared):
        cell.outputs = []
        cell.execution_count = None
    nbformat.write(cleared, tmp_path / "notebooks" / path.name)
    assert any("tools run" in line for line in about_outputs())
    one = tools.read(path)
    ticked = next(cell for cell in tools.code_cells(one) if "✓" in str(cell.outputs))
    ticked.outputs = []
    nbformat.write(one, tmp_path / "notebooks" / path.name)
    assert len(about_outputs()) == 1
