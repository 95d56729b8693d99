"""Notebooks as files and as lists of cells: find, read, write, pick cells, pair exercises with their solutions."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import tempfile

import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]


class NotebookError(Exception):
    """Something is wrong with a notebook; the message says where, what, and what to do."""


# ---------------------------------------------------------------- files


def paths(root=ROOT, names=()):
    """The numbered notebooks of a project, sorted: all, or those whose name starts with one of `names`.

    A name may be a number (`01`), a stem (`01_gan`) or a file. Raises NotebookError if there is none.
    """
    found = sorted((root / "notebooks").glob("[0-9][0-9]*.ipynb"))
    if not found:
        raise NotebookError("no numbered notebook (NN_name.ipynb) in the folder notebooks/: work in a clone")
    stems = [pathlib.Path(name).name.removesuffix(".ipynb") for name in names]
    unknown = [stem for stem in stems if not any(path.stem.startswith(stem) for path in found)]
    if unknown:
        raise NotebookError(f"no notebook starts with {unknown[0]!r}; there are: {', '.join(p.stem for p in found)}")
    return [path for path in found if not names or path.stem.startswith(tuple(stems))]


def read(path):
    """A notebook as nbformat's NotebookNode, version 4. Raises NotebookError if the file is not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError) as problem:  # as nbformat does
        name, why = pathlib.Path(path).name, " ".join(str(problem).split())[:100]
        raise NotebookError(f"{name} is not a readable notebook ({why}): restore it from version control") from None


def text_of(nb):
    """A notebook as the text of its file, with one newline at the end."""
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def write(path, text):
    """Write a text file (UTF-8, \\n) whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes a file that only its owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ---------------------------------------------------------------- cells


def code_cells(nb, *tags):
    """The code cells that are not empty; with tags, those that carry any of them."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    return [cell for cell in cells if not tags or set(tags) & set(cell.metadata.get("tags", []))]


def own_cells(nb):
    """The code cells that are not empty, without the one that installs the helpers."""
    return [cell for cell in code_cells(nb) if "colab" not in _tags(cell)]


def asset_tags(cell):
    """The names in a cell's tags `asset:NAME`."""
    tags = cell.metadata.get("tags", [])
    return [tag.removeprefix("asset:") for tag in tags if tag.startswith("asset:")]


@functools.lru_cache(maxsize=4096)  # every rule of the lint asks for every cell
def as_python(source):
    """A cell as the kernel sees it: magics turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def subset(nb, tags):
    """A copy with only the code cells that carry any of `tags`."""
    copy = nbformat.from_dict(nb)
    copy.cells = code_cells(copy, *tags)
    return copy


# ---------------------------------------------------------------- exercises


def exercises(nb):
    """[(answer cell, mark cell, source of the folded solution)] of the exercises, in order. Raises NotebookError."""
    found = [(role, cell) for cell in nb.cells for role in ("exercise", "mark", "solution") if role in _tags(cell)]
    roles = [role for role, _ in found]
    if roles != ["exercise", "mark", "solution"] * (len(roles) // 3):
        raise NotebookError(
            f"cells are tagged {', '.join(roles)}: each exercise needs one cell tagged `exercise`, one tagged `mark`, "
            "and a Markdown cell tagged `solution`, in this order"
        )
    cells = [cell for _, cell in found]
    return list(zip(cells[::3], cells[1::3], map(_folded, cells[2::3]), strict=True))


def with_solutions(nb):
    """A copy in which every exercise's answer cell holds its solution."""
    copy = nbformat.from_dict(nb)
    for answer, _, solution in exercises(copy):
        answer.source = solution
    return copy


def _tags(cell):
    return cell.metadata.get("tags", [])


def _folded(cell):
    """The one ```python block inside the <details> of a solution cell."""
    details = re.search(r"<details\b.*?</details>", cell.source, re.DOTALL)
    blocks = re.findall(r"^```python\n(.*?)^```", details[0], re.DOTALL | re.MULTILINE) if details else []
    if len(blocks) != 1:
        raise NotebookError(
            f"a cell tagged `solution` ({cell.source.strip()[:40]!r}) folds {len(blocks)} ```python blocks in "
            "<details>: it must be one"
        )
    return blocks[0].rstrip("\n")
