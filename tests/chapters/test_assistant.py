"""03d_assistant: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

import torch

import tools
from aigc_helpers import panels
from aigc_helpers.models import assistant
from tests.marking import run_exercises
from tests.panel_checks import assert_readable, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "03d_assistant.ipynb"


def test_no_other_slope_has_a_smaller_error():
    x, y = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    best = assistant.best_slope(x, y)
    least = assistant.mean_squared_error(best, x, y)
    for away in (-1.0, -0.01, 0.01, 1.0):
        assert assistant.mean_squared_error(best + away, x, y) > least


def test_every_control_of_the_panel_is_seen_and_every_word_is_readable():
    panel = panels.assistant.slope()
    use_every_control(panel)
    assert_readable(panel)


def test_the_panel_says_the_error():
    panel = panels.assistant.slope()
    errors = {}
    for value in (0.0, 0.8, 2.0):
        panel.set(slope=value)
        errors[value] = float(panel.status.value.partition("error ")[2].split(".<")[0])
    assert errors[0.8] < 0.1 < errors[0.0] < errors[2.0]


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 3


FAULTS = [
    in_notebook(
        NAME,
        "the wrong sum below",
        "/ (x * x).sum()",
        "/ (y * y).sum()",
        "test_no_other_slope_has_a_smaller_error",
    ),
    in_panels(
        "assistant",
        "the panel shows another error",
        "mean_squared_error(slope, x, y)",
        "mean_squared_error(slope, y, x)",
        "test_the_panel_says_the_error",
    ),
]
