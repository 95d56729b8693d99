"""Run chosen cells of a notebook inside the test process, and read what its outputs say.

Quicker than a kernel, and the objects that the cells make are at hand.
"""

import configparser
import contextlib
import io
import linecache
import pathlib
import re

import IPython.display
import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


# ---------------------------------------------------------------- running


def run_cells(name, tags, after_cell=None):
    """Execute the code cells of notebooks/`name` that carry any of `tags`; returns their namespace.

    after_cell(namespace) is called after each cell, to hand in what a training cell would have made.
    """
    namespace = {"__name__": "__main__"}
    for index, cell in enumerate(nbformat.read(NOTEBOOKS / name, as_version=4).cells):
        if cell.cell_type == "code" and set(tags) & tags_of(cell):
            exec(compile(cell.source, f"{name}, cell {index}", "exec"), namespace)
            if after_cell:
                after_cell(namespace)
    return namespace


def run_cell(source, space, name):
    """Execute a cell in `space`; returns what it printed and [the plain text of each display].

    Names that IPython would hand in are imported by the cell itself, or not used at all.
    """
    displayed = []
    # As in a notebook: an exercise's mark reads the source of an answer, to see that it is still `...`.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    before = IPython.display.display
    IPython.display.display = lambda data, **_: displayed.append(data.get("text/plain"))
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, name, "exec"), space)
    finally:
        IPython.display.display = before
    return out.getvalue(), displayed


def tags_of(cell):
    """The set of a cell's tags."""
    return set(cell.metadata.get("tags", []))


def the_cell(book, tag):
    """The one cell of a notebook that carries `tag`."""
    found = [cell for cell in book.cells if tag in tags_of(cell)]
    assert len(found) == 1, f"{len(found)} cells are tagged {tag!r}"
    return found[0]


# ---------------------------------------------------------------- what strict nbval compares


def sanitising():
    """[(pattern, replacement)] of tests/nbval_sanitize.cfg, in its order, as nbval applies them."""
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "tests" / "nbval_sanitize.cfg", encoding="utf-8")
    return [(parser[part]["regex"], parser[part]["replace"]) for part in parser.sections()]


def sanitized(text):
    """A text without what differs from machine to machine."""
    for pattern, replacement in sanitising():
        text = re.sub(pattern, replacement, text)
    return text


def texts_of(cells):
    """[(start of the source, text of the streams, [(kind, text/plain, text/html)])] of executed cells, sanitised."""
    return [(cell.source[:50], stream_text(cell), displays(cell)) for cell in cells]


def stream_text(cell):
    """What a cell printed, sanitised; lines of stderr are marked."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            mark = "stderr: " if output.name == "stderr" else ""
            parts.append(mark + output.text)
    return sanitized("".join(parts))


def displays(cell):
    """[(kind of output, text/plain, text/html)] of what a cell displayed, sanitised."""
    found = []
    for output in cell.outputs:
        if "data" in output:
            texts = (output.data.get(kind) for kind in ("text/plain", "text/html"))
            found.append((output.output_type, *(text and sanitized(text) for text in texts)))
    return found
