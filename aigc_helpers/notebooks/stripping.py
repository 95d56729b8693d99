"""Remove from a notebook what must not be committed: live widgets, and what differs between machines and runs."""

from __future__ import annotations

import nbformat

from .book import ROOT, paths, read, text_of, write

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
KEPT = ("tags", "jupyter", "cellView")  # of a cell's metadata; the rest is timing, folding and trust of one machine


def strip(root=ROOT, check=False):
    """Strip every notebook (with check: report those that are not stripped); returns the findings."""
    findings = []
    for path in paths(root):
        after = text_of(stripped(read(path)))
        if path.read_bytes() == after.encode():
            continue
        if check:
            findings.append(f"{path.name} is not stripped: run `python -m aigc_helpers.notebooks strip`")
        else:
            write(path, after)
    return findings


def stripped(nb):
    """A copy without widget views, widget state, or metadata beyond tags, kernel and module. Idempotent.

    Cell ids, sources, outputs and execution counts stay; pieces of a stream that follow each other are joined.
    """
    nb = nbformat.from_dict(nb)
    if nb.nbformat_minor < 5:
        nb = nbformat.v4.upgrade(nb)  # gives every cell an id
    aigc = {"aigc": nb.metadata["aigc"]} if "aigc" in nb.metadata else {}
    nb.metadata = nbformat.from_dict(aigc | {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO})
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if key in cell.metadata})
        if cell.cell_type == "code":
            cell.outputs = [_without_view(output, cell) for output in cell.outputs]
            cell.outputs = _joined([output for output in cell.outputs if "data" not in output or output.data])
    return nb


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
