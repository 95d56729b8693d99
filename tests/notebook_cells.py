"""Run chosen cells of a notebook inside the test process: quick, and the panels' objects are at hand."""

import pathlib

import nbformat

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def run_cells(name, tags, after_cell=None):
    """Execute the code cells of notebooks/`name` that carry any of `tags`; returns their namespace.

    after_cell(namespace) is called after each cell, to hand in what a training cell would have made.
    """
    namespace = {"__name__": "__main__"}
    for index, cell in enumerate(nbformat.read(NOTEBOOKS / name, as_version=4).cells):
        if cell.cell_type == "code" and set(tags) & set(cell.metadata.get("tags", [])):
            exec(compile(cell.source, f"{name}, cell {index}", "exec"), namespace)
            if after_cell:
                after_cell(namespace)
    return namespace
