"""Generated from notebooks/06_side_by_side.ipynb: edit it there, then run `python -m tools export`."""

import math

import torch
import torch.nn.functional as F


def share_with_error(count, n):
    """A share, count of n independent answers, and its standard error: eq. (1)."""
    p = (count + 1) / (n + 2)
    return count / n, math.sqrt(p * (1 - p) / n)


@torch.no_grad()
def write_on(model, tokens, num_new, generator=None):
    """tokens (N, T) and num_new letters of a causal Backbone after them, one evaluation each.

    Without a generator it takes the likeliest letter each time.
    """
    for _ in range(num_new):
        begun = F.pad(tokens, (1, 0), value=model.mask)        # the beginning, then the letters
        p = model(begun)[:, -1].softmax(dim=-1)
        if generator is None:
            letter = p.argmax(dim=-1, keepdim=True)
        else:
            letter = torch.multinomial(p, 1, generator=generator)
        tokens = torch.cat([tokens, letter], dim=1)
    return tokens
