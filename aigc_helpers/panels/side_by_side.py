"""The panels and pictures of 06_side_by_side: one function a panel."""

from __future__ import annotations

import torch

from aigc_helpers import plotting
from aigc_helpers.panels.core import Panel, choice, slider

# ---------------------------------------------------------------- pictures


# ---------------------------------------------------------------- spot the fake


# ---------------------------------------------------------------- where the truth is known


# ---------------------------------------------------------------- digits: equal seconds, trade-off


# ---------------------------------------------------------------- between two digits
