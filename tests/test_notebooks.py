"""The real notebooks: what is committed obeys the rules of the house, and every exercise can be solved and marked.

That every stored line comes out again is tested by nbval, from the notebooks folder itself.
"""

import contextlib
import io
import subprocess
import sys

import pytest
from notebook_cells import run_cells

from aigc_helpers import notebooks

PATHS = notebooks.paths()  # raises if there is none, so that no test of this file is empty
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def test_the_generated_modules_are_those_of_the_notebooks():
    assert notebooks.export(check=True) == []


def test_each_generated_module_imports_in_a_fresh_process():
    names = sorted(path.stem for path in (notebooks.ROOT / "aigc_helpers" / "models").glob("[!_]*.py"))
    assert names, "no notebook exports anything"
    code = "; ".join(f"import aigc_helpers.models.{name}" for name in names)
    done = subprocess.run([sys.executable, "-c", code], cwd=notebooks.ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_the_notebooks_are_stripped():
    assert notebooks.strip(check=True) == []


def test_the_notebooks_obey_the_rules_of_the_house():
    assert "\n".join(notebooks.lint()) == ""


@each_notebook
def test_there_are_at_least_three_exercises(path):
    assert len(notebooks.exercises(notebooks.read(path))) >= 3


@each_notebook
def test_the_committed_answers_are_blank(path):
    for _, mark, _ in notebooks.exercises(notebooks.read(path)):
        assert said_by(mark).endswith(": not attempted yet"), mark.source


@pytest.fixture(scope="module", params=PATHS, ids=[path.stem for path in PATHS])
def attempted(request):
    """(last lines after blank answers, last lines after the solutions), after the set-up cells and without any training."""
    book, space = notebooks.read(request.param), run_cells(request.param.name, ("setup", "export"))
    both = notebooks.exercises(book), notebooks.exercises(notebooks.with_solutions(book))
    return [[said_after(answer, mark, space) for answer, mark, _ in exercises] for exercises in both]


def said_after(answer, mark, space):
    """The last line printed when an answer and its mark are executed in the namespace `space`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in (answer, mark):
            exec(compile(cell.source, mark.source.splitlines()[0], "exec"), space)
    return printed.getvalue().strip().splitlines()[-1]


@pytest.mark.notebook
def test_a_blank_answer_is_not_attempted_yet(attempted):
    blank, _ = attempted
    assert len(blank) >= 3 and [said for said in blank if not said.endswith(": not attempted yet")] == []


@pytest.mark.notebook
def test_every_solution_is_correct(attempted):
    _, solved = attempted
    assert len(solved) >= 3 and [said for said in solved if not said.endswith(": correct")] == []


def said_by(mark):
    """The last line that a mark cell printed."""
    printed = "".join(output.get("text", "") for output in mark.outputs).strip()
    return printed.splitlines()[-1] if printed else "(nothing)"
