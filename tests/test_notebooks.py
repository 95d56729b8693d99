"""The real notebooks: what is committed obeys the rules of the house, and every exercise can be solved and marked.

That every stored line comes out again is tested by nbval, from the notebooks folder itself.
"""

import subprocess
import sys

import pytest

import tools
from tests.marking import run_exercises

PATHS = tools.paths()  # raises if there is none, so that no test of this file is empty
OPEN = [path for path in PATHS if tools.code_cells(tools.read(path), "open")]
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def test_the_generated_modules_are_those_of_the_notebooks():
    assert tools.export(check=True) == []


def test_each_generated_module_imports_in_a_fresh_process():
    names = sorted(path.stem for path in (tools.ROOT / "aigc_helpers" / "models").glob("[!_]*.py"))
    assert names, "no notebook exports anything"
    code = "; ".join(f"import aigc_helpers.models.{name}" for name in names)
    done = subprocess.run([sys.executable, "-c", code], cwd=tools.ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_the_notebooks_are_stripped():
    assert tools.strip(check=True) == []


def test_the_notebooks_obey_the_rules_of_the_house():
    assert "\n".join(tools.lint()) == ""


@each_notebook
def test_there_are_at_least_three_exercises(path):
    assert len(tools.exercises(tools.read(path))) >= 3


@each_notebook
def test_the_committed_answers_are_blank(path):
    for _, mark, _ in tools.exercises(tools.read(path)):
        assert said_by(mark).endswith(": not attempted yet"), mark.source


@pytest.mark.notebook
@each_notebook
def test_each_blank_answer_is_not_attempted_yet_and_each_solution_is_correct(path):
    assert run_exercises(path) >= 3


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("path", OPEN, ids=[path.stem for path in OPEN])
def test_the_solution_of_an_open_task_is_correct(path):
    assert run_exercises(path, only_open=True) >= 1


def said_by(mark):
    """The last line that a mark cell printed."""
    printed = "".join(output.get("text", "") for output in mark.outputs).strip()
    return printed.splitlines()[-1] if printed else "(nothing)"
