"""The authoring tool of the notebooks.

    python -m aigc_helpers.notebooks run [NAME ...] [--slowest N]   execute in place, then strip
    python -m aigc_helpers.notebooks export [--check]               cells tagged `export` -> aigc_helpers/models/
    python -m aigc_helpers.notebooks strip [--check]                remove what must not be committed
    python -m aigc_helpers.notebooks lint                           the rules of the house
    python -m aigc_helpers.notebooks stamp OWNER/REPO[@REF]         badges and install cells for a published project
    python -m aigc_helpers.notebooks colab [NAME ...] [--out DIR]   self-contained copies, in dist/colab/
    python -m aigc_helpers.notebooks --check                        export, strip and lint, changing nothing

Cell tags: `export` (written to the package), `setup` (needed by exercises and panels), `panel`, `colab` (the install
cell), `exercise` (a blank to fill), `mark` (the cell that marks it), `solution` (Markdown that folds its solution).
"""

from .book import ROOT, NotebookError, code_cells, exercises, paths, read, subset, with_solutions
from .carrying import colab
from .cli import main
from .exporting import export
from .linting import lint
from .running import execute, run
from .stamping import stamp
from .stripping import strip, stripped

__all__ = [
    "ROOT", "NotebookError", "code_cells", "colab", "execute", "exercises", "export", "lint", "main", "paths", "read",
    "run", "stamp", "strip", "stripped", "subset", "with_solutions",
]  # fmt: skip
