"""Generated from notebooks/06_side_by_side.ipynb: edit it there, then run `python -m tools export`."""

import math


def standard_error(share, n):
    """Eq. (1): how far a share of n independent answers is off, typically."""
    return math.sqrt(share * (1 - share) / n)
