"""Remove from a notebook what must not be committed: live widgets, marks of one machine or run."""

from __future__ import annotations

import difflib
import hashlib
import subprocess

import nbformat

from .book import ROOT, NotebookError, paths, read, text_of, write

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
# Of a cell's metadata; the rest is timing, folding and trust of one machine.
KEPT = ("tags", "jupyter", "cellView")


def strip(root=ROOT, check=False):
    """Strip every notebook (with check: report those that are not stripped); returns the findings.

    Cells that have lost their ids (as in a file that Colab saved), or that have other ids than in
    the committed file although they stand there word for word, get the committed ones.
    """
    findings = []
    for path in paths(root):
        nb = read(path)
        before = [cell.get("id") for cell in nb.cells]
        nb = stripped(nb, committed(path))
        after = text_of(nb)
        if path.read_bytes() == after.encode():
            continue
        if not check:
            write(path, after)
            continue
        what = "is not stripped"
        if None in before:
            what = f"has {before.count(None)} cells without an id"
        elif before != [cell.id for cell in nb.cells]:
            what = "has other ids than the committed file for cells that did not change"
        findings.append(f"{path.name} {what}: run `python -m tools strip`")
    return findings


def stripped(nb, committed=None):
    """A copy without widget views, widget state, or metadata beyond tags, kernel and `aigc`.

    Idempotent. Sources, outputs and execution counts stay; pieces of a stream that follow each
    other are joined.
    committed: the notebook as it was committed; its cells keep their ids. Ids that are missing then
    are made from the cell's place and content, so that they are the same each time.
    """
    nb = nbformat.from_dict(nb)
    _name_cells(nb, committed)
    aigc = {"aigc": nb.metadata["aigc"]} if "aigc" in nb.metadata else {}
    nb.metadata = nbformat.from_dict(
        aigc | {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    )
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT if key in cell.metadata}
        )
        if cell.cell_type == "code":
            cell.outputs = [_without_view(output, cell) for output in cell.outputs]
            cell.outputs = _joined(
                [output for output in cell.outputs if "data" not in output or output.data]
            )
    return nb


# ---------------------------------------------------------------- ids


def committed(path):
    """The notebook file `path` as git has it at HEAD; None without git, or if it is not there."""
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        done = subprocess.run(command, cwd=path.parent, capture_output=True, encoding="utf-8")
    except OSError:
        return None
    if done.returncode:
        return None
    try:
        nb = nbformat.reads(done.stdout, as_version=4)
    except (ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError):
        return None
    return nb if all("id" in cell for cell in nb.cells) else None


def _name_cells(nb, committed):
    """Give every cell its id, in place."""
    for cell, known in _pairs(nb, committed):
        taken = {other.get("id") for other in nb.cells}
        if known.id not in taken:
            cell.id = known.id
    taken = {cell.get("id") for cell in nb.cells}
    for place, cell in enumerate(nb.cells):
        if "id" not in cell:
            cell.id = _make_id(place, cell, taken)
            taken.add(cell.id)
    if nb.nbformat_minor < 5:
        nb.nbformat_minor = 5


def _pairs(nb, committed):
    """(cell, committed cell) of those in both files; if it has no id, of changed ones too."""
    if committed is None:
        return
    old = [(cell.cell_type, cell.source) for cell in committed.cells]
    new = [(cell.cell_type, cell.source) for cell in nb.cells]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for what, first, last, start, stop in matcher.get_opcodes():
        for known, cell in zip(committed.cells[first:last], nb.cells[start:stop], strict=False):
            in_place = what == "replace" and last - first == stop - start
            changed = in_place and known.cell_type == cell.cell_type and "id" not in cell
            if what == "equal" or changed:
                yield cell, known


def _make_id(place, cell, taken):
    content = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()
    name = f"c{place:03}-{content[:6]}"
    if name in taken:
        raise NotebookError(f"cell {place}: its new id {name} is another cell's already: change it")
    return name


# ---------------------------------------------------------------- outputs


def _joined(outputs):
    """Text that a kernel sent in pieces, which it cuts now here, now there, as one output."""
    whole = []
    for output in outputs:
        if output.output_type == "stream" and whole and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def _without_view(output, cell):
    output.get("data", {}).pop(WIDGET_VIEW, None)
    if "execution_count" in output:
        output.execution_count = cell.execution_count
    return output
