"""Generated from notebooks/07_scaling.ipynb: edit it there, then run `python -m tools export`."""


import torch


def seeded(seed=0):
    """A private random generator, so that a cell gives the same numbers however often it is run."""
    return torch.Generator().manual_seed(seed)
