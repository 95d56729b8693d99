"""Arguments that make no sense are refused in one sentence; those that do come back."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aigc_helpers import arguments as a

NAN, INF = math.nan, math.inf


@given(st.integers(-5, 15), st.one_of(st.none(), st.integers(-5, 5)), st.one_of(st.none(), st.integers(5, 15)))
def test_a_whole_number_comes_back_exactly_if_it_lies_within_the_bounds(n, least, most):
    if (least is None or n >= least) and (most is None or n <= most):
        assert a.require_whole("f", "n", n, least, most) == n
    else:
        with pytest.raises(ValueError, match=f"^f: n must be a whole number .*, got {n}$"):
            a.require_whole("f", "n", n, least, most)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_every_type(value):
    got = a.require_whole("f", "n", value, 1, 5)
    assert got == 3 and type(got) is int


@pytest.mark.parametrize("value", [True, False, 3.0, "3", None, NAN, [3], torch.tensor([3, 4]), np.float64(3)])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="^f: n must be a whole number of at least 1, got "):
        a.require_whole("f", "n", value, 1)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [({}, ""), ({"least": 1}, " of at least 1"), ({"most": 9}, " of at most 9"), ({"least": 1, "most": 9}, " from 1 to 9")],
)
def test_the_bounds_are_said(bounds, words):
    with pytest.raises(ValueError, match=f"^f: n must be a whole number{words}, got 'x'$"):
        a.require_whole("f", "n", "x", **bounds)
    with pytest.raises(ValueError, match=f"^f: x must be a finite number{words}, got 'x'$"):
        a.require_number("f", "x", "x", **bounds)


def test_numbers_within_bounds():
    for value in (0, 0.0, 0.5, 1, np.float32(0.25)):
        assert a.require_number("f", "x", value, least=0, most=1) == value
    for value in (-1e-9, 1.1, NAN, INF, -INF, True, "0.5", None, 1j, torch.ones(2)):
        with pytest.raises(ValueError, match="^f: x must be a finite number from 0 to 1, got "):
            a.require_number("f", "x", value, least=0, most=1)
    assert a.require_number("f", "x", 1e-9, above=0) == 1e-9
    with pytest.raises(ValueError, match="^f: x must be a finite number above 0 of at most 1, got 0$"):
        a.require_number("f", "x", 0, above=0, most=1)


def test_points_and_their_classes():
    x = torch.zeros(4, 2)
    assert a.require_points("f", x) is None
    assert a.require_classes("f", x, torch.tensor([0, 2, 1, 2])) == 3
    for y in (torch.tensor([0, 1, 1, -1]), torch.zeros(4), torch.zeros(3).long()):
        with pytest.raises(ValueError, match="^f: y must hold a class 0, 1, ... for each of 4 points$"):
            a.require_points("f", x, y)
    with pytest.raises(ValueError, match=r"^f: x must have a shape \(N, d\), got \(4,\)$"):
        a.require_points("f", x[:, 0])
    with pytest.raises(ValueError, match="^f: no point of class 1: number the classes 0..K-1$"):
        a.require_classes("f", x, torch.tensor([0, 2, 0, 2]))


def test_covariances_with_an_inverse():
    eye = torch.eye(2)
    assert a.require_invertible("f", eye[None]) is None
    with pytest.raises(ValueError, match="^f: too few points for an invertible covariance: "):
        a.require_invertible("f", torch.stack([eye, 0 * eye]))


def test_one_of():
    assert a.require_one_of("f", "loss", "hinge", ["hinge", "minimax"]) == "hinge"
    with pytest.raises(ValueError, match="^f: unknown loss 'hing'; choose one of hinge, minimax$"):
        a.require_one_of("f", "loss", "hing", {"hinge": 1, "minimax": 2})


def test_tensors_of_floats():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(2, 3, dtype=dtype)
        assert a.require_floats("f", "x", x, 3) is x and a.require_finite("f", "x", x) is x
    for wrong in (torch.ones(2, 4), torch.ones(2, 3).long(), torch.ones(0, 3), [1.0], None):
        with pytest.raises(ValueError, match=r"^f: x must be a tensor \(..., 3\) of floats, not empty, got "):
            a.require_floats("f", "x", wrong, 3)
    with pytest.raises(ValueError, match="^f: x must be finite, but 2 of 3 entries are NaN or infinite$"):
        a.require_finite("f", "x", torch.tensor([NAN, 1.0, INF]))


def test_something_must_be_there():
    a.require_filled("f", torch.ones(1), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^f: needs at least one sample, got shape \(0, 2\)$"):
        a.require_filled("f", torch.ones(1), torch.ones(0, 2))


def test_probabilities():
    a.require_probabilities("f", torch.tensor([0.25, 0.75]), torch.eye(3))
    for wrong in ([0.5, 0.6], [1.5, -0.5], [NAN, 1.0]):
        with pytest.raises(ValueError, match="^f: probabilities must be at least 0 and sum to 1"):
            a.require_probabilities("f", torch.tensor([1.0]), torch.tensor(wrong))
