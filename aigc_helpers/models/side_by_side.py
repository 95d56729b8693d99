"""Generated from notebooks/06_side_by_side.ipynb: edit it there, then run `python -m tools export`."""

import torch


def mean_squared_error(slope, x, y):
    """Mean of (y - slope x)^2 over points x (N,), y (N,): a number, as a tensor."""
    return torch.square(y - slope * x).mean()


def best_slope(x, y):
    """Eq. (1): the slope of the line through the origin nearest to the points x (N,), y (N,)."""
    return (x * y).sum() / (x * x).sum()
