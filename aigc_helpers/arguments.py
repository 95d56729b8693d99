"""Arguments that make no sense, refused in one sentence: where, which argument, what it must be, what it was.

The pages' functions and the helpers call these first, so that a slip gives a message at once and not a NaN an hour
later. `where` is the function that was called, `name` its argument. Each raises ValueError.
"""

from __future__ import annotations

import math
import numbers
import operator

import torch


def require_whole(where, name, value, least=None, most=None) -> int:
    """`value` as an int within bounds (either may be None).

    Any integer type will do (NumPy's, a tensor of one integer); True and 3.0 will not.
    """
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or not _within(whole, least, most):
        raise ValueError(f"{where}: {name} must be a whole number{_bounds(least, most)}, got {value!r}")
    return whole


def require_number(where, name, value, least=None, most=None, above=None) -> float:
    """`value` if it is a finite number within bounds; `above` is a bound that is itself refused."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not _within(value, least, most) or (above is not None and not value > above):
        beyond = "" if above is None else f" above {above}"
        raise ValueError(
            f"{where}: {name} must be a finite number{beyond}{_bounds(least, most)}, got {value!r}"
        )
    return value


def require_one_of(where, name, value, options):
    """`value` if it is one of the options."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{where}: unknown {name} {value!r}; choose one of {', '.join(map(str, options))}")
    return value


def require_floats(where, name, x, size=None) -> torch.Tensor:
    """`x` if it is a tensor of floating-point numbers, its last axis of `size` if that is given, and not empty."""
    shape = "(...)" if size is None else f"(..., {size})"
    tensor = torch.is_tensor(x) and x.is_floating_point() and x.numel() > 0
    if not tensor or (size is not None and x.shape[-1:] != (size,)):
        got = f"{x.dtype} of shape {tuple(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise ValueError(f"{where}: {name} must be a tensor {shape} of floats, not empty, got {got}")
    return x


def require_finite(where, name, x) -> torch.Tensor:
    """`x` if it is a tensor of floating-point numbers, not empty, without NaN or infinity."""
    require_floats(where, name, x)
    wrong = int((~x.isfinite()).sum())
    if wrong:
        raise ValueError(f"{where}: {name} must be finite, but {wrong} of {x.numel()} entries are NaN or infinite")
    return x


def require_filled(where, *tensors) -> None:
    """Refuse a tensor without entries: the mean of nothing is NaN."""
    for x in tensors:
        if x.numel() == 0:
            raise ValueError(f"{where}: needs at least one sample, got shape {tuple(x.shape)}")


def require_probabilities(where, *distributions) -> None:
    """Refuse tensors (..., V) that are not probabilities: at least 0, and 1 in all along the last axis."""
    for p in distributions:
        total = p.detach().sum(dim=-1)
        if not (p >= 0).all() or not ((total - 1).abs() < 1e-4).all():  # NaN fails this too
            raise ValueError(f"{where}: probabilities must be at least 0 and sum to 1, got {p.detach()}")


def require_points(where, x, y=None) -> None:
    """Refuse x unless it is (N, d) and finite and y, if given, holds a class 0, 1, ... for each point."""
    require_finite(where, "x", x)
    if x.ndim != 2:
        raise ValueError(f"{where}: x must have a shape (N, d), got {tuple(x.shape)}")
    if y is not None and (y.shape != x.shape[:1] or y.is_floating_point() or y.min() < 0):
        raise ValueError(f"{where}: y must hold a class 0, 1, ... for each of {len(x)} points")


def require_classes(where, x, y) -> int:
    """How many classes 0..K-1 the points x (N, d) have by y (N,); each must have a point."""
    require_points(where, x, y)
    counts = y.long().bincount()
    if (counts == 0).any():
        raise ValueError(f"{where}: no point of class {counts.argmin().item()}: number the classes 0..K-1")
    return len(counts)


def require_invertible(where, cov) -> None:
    """Refuse covariances (K, d, d) of which one has no inverse."""
    if torch.linalg.cholesky_ex(cov).info.any():
        few = "too few points for an invertible covariance"
        raise ValueError(f"{where}: {few}: give more, or a larger ridge")


# ---------------------------------------------------------------- samplers of text


def require_settings(temperature, top_k, top_p) -> None:
    """Refuse settings of a sampler that mean nothing: they would give strange text, and no error."""
    if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:  # NaN fails
        raise ValueError(f"temperature must be a finite number, 0 or above, got {temperature!r}")
    whole = isinstance(top_k, int) and not isinstance(top_k, bool)
    if top_k is not None and not (whole and top_k >= 1):
        raise ValueError(f"top_k must be a whole number, 1 or above, got {top_k!r}; None keeps all tokens")
    if top_p is not None and not (isinstance(top_p, int | float) and 0 < top_p <= 1):
        raise ValueError(f"top_p must be a number above 0 and at most 1, got {top_p!r}; None keeps all tokens")


def require_logits(logits) -> torch.Tensor:
    """The logits (..., V) in float32, if they give probabilities."""
    if not torch.is_tensor(logits) or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be a tensor (..., V) with V at least 1, got {logits!r}")
    logits = logits.float()
    largest = logits.amax(dim=-1)  # NaN if one of them is
    if not largest.isfinite().all():
        raise ValueError(
            "logits must be numbers below infinity, and in each row at least one of them finite; "
            "a NaN often means that the training has diverged"
        )
    return logits


def require_prompt(tokens, num_new) -> None:
    """Refuse a prompt that is not (N, T) with T at least 1, and a num_new that is no whole number."""
    if not torch.is_tensor(tokens) or tokens.ndim != 2 or tokens.shape[1] == 0:
        got = tuple(tokens.shape) if torch.is_tensor(tokens) else tokens
        raise ValueError(f"tokens must be (N, T) with T at least 1 (say, a new line), got {got!r}")
    if not isinstance(num_new, int) or num_new < 0:
        raise ValueError(f"num_new must be a whole number, 0 or above, got {num_new!r}")


def require_context(num_tokens, context) -> None:
    """Refuse no tokens at all, and more than a model's context holds."""
    if num_tokens == 0:
        raise ValueError("there are no tokens: give at least one, say that of a new line")
    if num_tokens > context:
        message = f"{num_tokens} tokens are more than the context of {context} holds"
        raise ValueError(f"{message}: give the last ones only")


def require_windows(num_tokens, context, stride=None) -> None:
    """Refuse a text too short for one window and its target, and a stride that leaves tokens out."""
    if stride is not None and not 1 <= stride <= context:
        raise ValueError(f"stride must be 1 to {context}, the model's context, got {stride!r}")
    if num_tokens <= context:
        raise ValueError(f"{num_tokens} tokens make no window: give {context + 1} or more")


def _within(value, least, most):
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least, most):
    if least is None and most is None:
        return ""
    if most is None:
        return f" of at least {least}"
    if least is None:
        return f" of at most {most}"
    return f" from {least} to {most}"
