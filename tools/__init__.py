"""What an author of the notebooks uses; learners never need it, and it is not installed.

    python -m tools run [NAME ...] [--slowest N]   execute in place, then strip
    python -m tools export [--check]               cells tagged `export` -> aigc_helpers/models/
    python -m tools strip [--check]                remove what must not be committed
    python -m tools lint                           the rules of the house
    python -m tools stamp OWNER/REPO[@REF]         badges and install cells for a published project
    python -m tools colab [NAME ...] [--out DIR]   self-contained copies, in dist/colab/
    python -m tools web [NAME ...] [--out DIR]     web pages whose pictures are described, in dist/web/
    python -m tools assets [NAME ...]              train the small models of aigc_helpers/assets/
    python -m tools picture                        draw the README's picture with them
    python -m tools experiment [NAME]              run an experiment in full, store its table
    python -m tools new NN_name                    start a chapter from a template
    python -m tools --check                        export, strip and lint, changing nothing

Cell tags: `export` (written to the package), `setup` (needed by exercises and panels), `panel`,
`colab` (the install cell), `train` (a long training run), `asset:NAME` (after this cell the trained
model NAME of aigc_helpers/assets/ is there), `exercise` (a blank to fill), `mark` (the cell that
marks it), `open` (beside `mark`: this mark trains), `solution` (Markdown that folds its solution).
"""

from .book import (
    ROOT,
    NotebookError,
    as_python,
    code_cells,
    exercises,
    own_cells,
    paths,
    read,
    subset,
    text_of,
    with_solutions,
    write,
)
from .bundling import colab
from .cli import main
from .exporting import export, module_name
from .linting import lint
from .running import execute, run
from .stamping import stamp
from .stripping import strip, stripped

__all__ = [
    "ROOT",
    "NotebookError",
    "as_python",
    "code_cells",
    "colab",
    "execute",
    "exercises",
    "export",
    "lint",
    "main",
    "module_name",
    "own_cells",
    "paths",
    "read",
    "run",
    "stamp",
    "strip",
    "stripped",
    "subset",
    "text_of",
    "with_solutions",
    "write",
]
