"""07_scaling: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

from functools import partial

from tests.seeded_faults import in_notebook

NAME = "07_scaling.ipynb"

page = partial(in_notebook, NAME)
FAULTS = []
