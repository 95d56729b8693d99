"""The real notebooks: what is committed obeys the rules of the house, and every exercise can be solved and marked.

That every stored line comes out again is tested by nbval, from the notebooks folder itself.
"""

import subprocess
import sys

import pytest
from test_mutations import run_exercises

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


@pytest.mark.notebook
@each_notebook
def test_each_blank_answer_is_not_attempted_yet_and_each_solution_is_correct(path):
    assert run_exercises(path) >= 3


def said_by(mark):
    """The last line that a mark cell printed."""
    printed = "".join(output.get("text", "") for output in mark.outputs).strip()
    return printed.splitlines()[-1] if printed else "(nothing)"
