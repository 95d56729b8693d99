"""06_side_by_side: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

from functools import partial

import tools
from tests.marking import run_exercises
from tests.seeded_faults import in_notebook

NAME = "06_side_by_side.ipynb"
page = partial(in_notebook, NAME)


# ---------------------------------------------------------------- the game, morph, text, clinic


# ---------------------------------------------------------------- where the truth is known

TRUTH_FAULTS = []


# ---------------------------------------------------------------- digits, likelihood, copies

DIGITS_FAULTS = []


# ---------------------------------------------------------------- exercises and faults


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 0


FAULTS = [] + TRUTH_FAULTS + DIGITS_FAULTS
