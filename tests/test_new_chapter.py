"""A chapter made from the template, in a copy of the project: everything finds it, and no other line changes."""

import os
import subprocess
import sys

import pytest

import tools
from tests.seeded_faults import copy_project

pytestmark = pytest.mark.exhaustive  # half a minute


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project under git, with what its lint says, in which `new 99_example` has run."""
    root = tmp_path_factory.mktemp("project")
    copy_project(root)
    git(root, "init")
    git(root, "add", "--all")
    git(root, "commit", "--message", "as it is")
    before = run(root, "-m", "tools", "lint").stdout
    done = run(root, "-m", "tools", "new", "99_example")
    assert done.returncode == 0, done.stdout + done.stderr
    return root, before


def git(root, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, encoding="utf-8").stdout


def run(root, *arguments):
    """Run Python in the copy, on the copy's own package and tools."""
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, encoding="utf-8")


def test_five_files_are_new_or_changed(project):
    root, _ = project
    status = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(status) == [
        " M README.md",
        "?? aigc_helpers/models/example.py",
        "?? aigc_helpers/panels/example.py",
        "?? notebooks/99_example.ipynb",
        "?? tests/chapters/test_example.py",
    ]
    changed = [line for line in git(root, "diff", "--unified=0", "README.md").splitlines() if line[:1] in "+-"]
    row = changed[-1]
    assert len(changed) == 3 and row.startswith("+| [99 · Example](notebooks/99_example.ipynb) | …")


def test_lint_export_and_strip_have_nothing_to_say(project):
    root, before = project
    assert run(root, "-m", "tools", "lint").stdout == before
    for command in ("export", "strip"):
        told = run(root, "-m", "tools", command, "--check").stdout
        assert "example" not in told, told


def test_the_suite_finds_the_chapter_and_passes(project):
    """Strict nbval, its own tests, its exercises, its Colab copy, the rooms, its seeded faults."""
    root, _ = project
    files = ["notebooks/99_example.ipynb", "tests/chapters/test_example.py"]
    names = ("colab", "notebooks", "rooms", "what_to_run", "seeded_faults")
    files += [f"tests/test_{name}.py" for name in names]
    options = ["-n", "0", "-v", "-p", "no:cacheprovider", "-k", "example", "-m", "not colab and not browser"]
    done = run(root, "-m", "pytest", *options, *files)
    assert done.returncode == 0, done.stdout[-3000:]
    for name in ("notebooks/99_example::ipynb::Cell 1", *files[1:]):
        assert f"{name}" in done.stdout, f"nothing of {name} was run"


def test_the_colab_bundle_runs_by_itself(project, tmp_path):
    root, _ = project
    done = run(root, "-m", "tools", "colab", "99", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout
    [copy] = tmp_path.iterdir()
    done = tools.execute(tools.read(copy), copy)  # in this project, which has no such chapter
    assert not any(output.output_type == "error" for cell in tools.code_cells(done.nb) for output in cell.outputs)


def test_a_name_that_is_taken_or_no_name_is_one_message(project):
    root, _ = project
    for name, told in {
        "99_example": "notebooks/99_example.ipynb is there already",
        "99_other": "notebooks/99_example.ipynb is there already",
        "98_example": "aigc_helpers/models/example.py is there already",
        "example": "expected a name such as 05_flow",
    }.items():
        done = run(root, "-m", "tools", "new", name)
        assert done.returncode == 1 and told in done.stdout
    assert len(git(root, "status", "--porcelain", "--untracked-files=all").splitlines()) == 5
