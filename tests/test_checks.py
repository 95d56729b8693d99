"""Checks fail when they should and print the same line whenever they pass; exercises mark themselves."""

import contextlib
import io
import math
import random
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aigc_helpers import checks
from aigc_helpers.checks import CheckFailed, check, check_above, check_below, exercise

NAN, INF = float("nan"), float("inf")


def line_of(capsys):
    return capsys.readouterr().out


def compared(line):
    """The part of a ✓ line that is the same on every machine."""
    return re.sub(r", measured [^\n]*", "", line)


# ---------------------------------------------------------------- check


def random_cases(number, seed=0):
    """(want, rtol, atol) with values of all sizes and signs, scalars and arrays."""
    rng = np.random.default_rng(seed)
    for k in range(number):
        shape = [(), (1,), (5,), (3, 4), (2, 3, 4)][k % 5]
        want = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 7)
        yield want, 10.0 ** rng.integers(-9, 0), [0.0, 10.0 ** rng.integers(-9, 0)][k % 2]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda x: x.tolist()])
def test_a_check_passes_within_the_tolerance_and_fails_beyond(capsys, kind):
    rng = np.random.default_rng(1)
    for want, rtol, atol in random_cases(60):
        allowed = atol + rtol * np.abs(want)
        lines = set()
        for share in (0.0, 0.9, -0.9, *rng.uniform(-0.9, 0.9, 3)):
            check("case", kind(want + share * allowed), kind(want), rtol, atol)
            lines.add(compared(line_of(capsys)))
        assert len(lines) == 1  # whatever passes, the line is the same up to what was measured
        place = tuple(rng.integers(0, n) for n in want.shape)
        for share in (1.01, -1.01, 50.0):
            got = np.array(want)
            got[place] += share * allowed[place]
            with pytest.raises(CheckFailed) as caught:
                check("case", kind(got), kind(want), rtol, atol)
            message = str(caught.value)
            assert repr(got[place].item()) in message and repr(want[place].item()) in message
            if want.ndim:
                assert f"at {[int(i) for i in place]}" in message and f"1 of {want.size} entries" in message
        assert line_of(capsys) == ""


@pytest.mark.parametrize(
    "got, want",
    [
        (torch.zeros(2), 0.0),
        (0.0, [0.0]),
        (torch.zeros(1), torch.tensor(0.0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros((2, 3)), np.zeros(6)),
        ([], [0]),
    ],
)
def test_another_shape_fails_even_if_it_would_broadcast(got, want):
    with pytest.raises(CheckFailed, match=r"eq: got shape \(.*\), want shape \(.*\)"):
        check("eq", got, want, rtol=1, atol=10)


def test_small_arrays_of_another_shape_are_shown():
    with pytest.raises(CheckFailed, match=r"\(got \[1, 2\], want 3\)"):
        check("eq", [1, 2], 3)


@pytest.mark.parametrize("got, want", [(NAN, 1.0), (1.0, NAN), (NAN, NAN), ([1, NAN], [1, 1]), (NAN, INF)])
def test_nan_never_passes(got, want):
    with pytest.raises(CheckFailed, match="nan"):
        check("eq", got, want, rtol=0.5, atol=1e9)


def test_infinities(capsys):
    check("log 0", torch.log(torch.zeros(2)), [-INF, -INF])
    assert line_of(capsys) == "✓ log 0: expected [-inf, -inf] (rtol 1e-05), measured [-inf, -inf]\n"
    for got, want in [(1.0, INF), (-INF, INF), (INF, 1.0)]:
        with pytest.raises(CheckFailed):
            check("eq", got, want)


def test_the_worst_place_is_named():
    got = np.arange(12.0).reshape(3, 4)
    want = got.copy()
    got[0, 1] += 0.5
    got[2, 3] -= 2
    expected = r"eq: got 9.0, want 11.0 at \[2, 3\] \(rtol 1e-05\); 2 of 12 entries differ"
    with pytest.raises(CheckFailed, match=expected):
        check("eq", got, want)
    got[1, 1] = NAN
    with pytest.raises(CheckFailed, match=r"got nan, want 5.0 at \[1, 1\] .*; 3 of 12"):
        check("eq", got, want)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.float16(0.5),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor(0.5, dtype=torch.float64),
    ],
)
def test_numbers_of_every_kind_can_be_compared(capsys, value):
    check("half", value, 0.5)
    check("half", [value, 1], torch.tensor([0.5, 1]))
    check("half", 0.5, value)
    assert compared(line_of(capsys)).count("0.5") == 3
    with pytest.raises(CheckFailed):
        check("half", value, 0.51)


@pytest.mark.parametrize(
    "wrong", [None, "0.5", ..., 1j, {}, object(), [1, [2, 3]], [1, None], torch.tensor(1j)]
)
def test_what_is_not_a_number_fails(wrong):
    with pytest.raises(CheckFailed, match="eq: got must be a number or an array of numbers, not"):
        check("eq", wrong, 0.5)
    with pytest.raises(CheckFailed, match="eq: want must be a number"):
        check("eq", 0.5, wrong)


def test_long_values_are_cut_in_messages():
    with pytest.raises(CheckFailed) as caught:
        check("eq", "x" * 1000, 1)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("rtol, atol", [(-1e-5, 0), (0, -1), (NAN, 0), (0, NAN), (INF, 0)])
def test_tolerances_must_make_sense(rtol, atol):
    with pytest.raises(ValueError, match="tolerances must be finite and not negative"):
        check("eq", 1, 1, rtol, atol)


@pytest.mark.parametrize(
    "want, options, shown",
    [
        (math.log(2), {}, "0.69315 (rtol 1e-05)"),
        (-math.log(4), {}, "-1.3863 (rtol 1e-05)"),
        (-math.log(4), {"rtol": 1e-2}, "-1.39 (rtol 0.01)"),
        (2.049, {"rtol": 0, "atol": 0.06}, "2.05 (atol 0.06)"),
        (0.5, {}, "0.5 (rtol 1e-05)"),
        (0.5, {"rtol": 0, "atol": 1e-3}, "0.5 (atol 0.001)"),
        (1e-17, {"atol": 1e-6}, "0 (rtol 1e-05, atol 1e-06)"),
        (-0.0, {}, "0 (rtol 1e-05)"),
        (3, {"rtol": 0.5}, "3 (rtol 0.5)"),
        (2.9, {"rtol": 0.5}, "3 (rtol 0.5)"),
        (1234567, {}, "1234567 (rtol 1e-05)"),
        (0.37, {"rtol": 0, "atol": 1e-2}, "0.37 (atol 0.01)"),
        (100.04, {"rtol": 0, "atol": 0.05}, "100 (atol 0.05)"),
        (123.456, {"rtol": 0, "atol": 0.02}, "123.5 (atol 0.02)"),
        (0.1, {"rtol": 0}, "0.1 (exactly)"),
        (7.0, {"rtol": 0}, "7 (exactly)"),
        (6.02e23, {}, "6.02e+23 (rtol 1e-05)"),
        ([0.5, 1 / 3, 1e-12], {}, "[0.5, 0.33333, 0] (rtol 1e-05)"),
        (torch.Size([64, 1, 28, 28]), {}, "[64, 1, 28, 28] (rtol 1e-05)"),
        (np.eye(3) / 3, {}, "shape (3, 3), from 0 to 0.33333 (rtol 1e-05)"),
        (np.zeros((0, 3)), {}, "shape (0, 3) (rtol 1e-05)"),
    ],
)
def test_the_expected_value_is_shown_to_the_digits_that_matter(capsys, want, options, shown):
    assert check("eq. (4)", want, want, **options) is None
    assert compared(line_of(capsys)) == f"✓ eq. (4): expected {shown}\n"


def test_rounding_noise_in_the_expected_value_does_not_reach_the_line(capsys):
    draw = random.Random(0)
    same = 0
    for _ in range(200):
        want = draw.uniform(-10, 10)
        for noise in (0, 1e-12, -1e-12):
            check("eq", want * (1 + noise), want * (1 + noise))
        same += len(set(compared(line_of(capsys)).splitlines())) == 1
    assert same == 200


@pytest.mark.parametrize(
    "got, want, measured",
    [
        (0.6931, 0.6931472, "0.6931"),
        (10, 10, "10"),
        (2**64, 2**64, "18446744073709551616"),
        ([1.0, 2.00001], [1, 2], "[1, 2.00001]"),
        (np.full((3, 3), 0.25), np.full((3, 3), 0.2500004), "a largest difference of 4.0e-07"),
        (np.eye(3), np.eye(3), "no difference"),
        (1e300, 1e300, "1e+300"),
        (-0.0, 0, "0"),
    ],
)
def test_what_was_measured_is_shown_last(capsys, got, want, measured):
    check("eq. (4)", got, want, rtol=1e-3)
    assert line_of(capsys).endswith(f", measured {measured}\n")


@given(st.floats(-1e6, 1e6), st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_the_expected_number_that_is_shown_is_the_expected_number(want, rtol):
    """Round trip: what the reader reads is within the tolerance of what was wanted."""
    shown = checks._shown(np.asarray(want), rtol, 1e-9)
    assert abs(float(shown) - want) <= 10 * (rtol * abs(want) + 1e-9)


@given(st.integers(-(2**70), 2**70))
def test_whole_numbers_are_shown_and_compared_whole(n):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        check("n", n, n, rtol=0)
    assert printed.getvalue() == f"✓ n: expected {n} (exactly), measured {n}\n"
    with pytest.raises(CheckFailed):
        check("n", n + 1, n, rtol=0)
    with pytest.raises(CheckFailed):
        check("n", [n, n], [n, n - 1], rtol=0)


def test_many_whole_numbers_are_compared_exactly_too():
    many = np.full(5000, 2**60)
    check("many", many, many, rtol=0)
    off = many.copy()
    off[17] += 1
    with pytest.raises(CheckFailed, match=r"at \[17\]"):
        check("many", off, many, rtol=0)


# ---------------------------------------------------------------- inequalities


def test_bounds_are_strict(capsys):
    assert check_below("loss", 0.4, 0.5) is None and check_above("accuracy", torch.tensor(0.9), 0.5) is None
    check_below("loss", 0.3, 0.4123456789, baseline="the untrained network's")
    check_above("all", [2, 3], torch.tensor(1))
    assert line_of(capsys).splitlines() == [
        "✓ loss: expected below 0.5, measured 0.4",
        "✓ accuracy: expected above 0.5, measured 0.9",
        "✓ loss: expected below the untrained network's, measured 0.3 against 0.412346",
        "✓ all: expected above 1, measured at least 2",
    ]
    for got in (0.5, 0.6, NAN, INF, [0.4, 0.6], [0.4, NAN], [], None):
        with pytest.raises(CheckFailed):
            check_below("loss", got, 0.5)
    for got in (0.5, 0.4, NAN, -INF, [0.6, 0.4], [0.6, NAN], []):
        with pytest.raises(CheckFailed):
            check_above("accuracy", got, 0.5)
    for one in (check_below, check_above):
        with pytest.raises(CheckFailed):
            one("bound", 1.0, NAN)
        with pytest.raises(ValueError, match=r"the bound must be one number, got shape \(2,\)"):
            one("bound", 1.0, [2, 3])
        for baseline in (False, "", " ", 0.5):
            with pytest.raises(ValueError, match="baseline must say in words"):
                one("bound", 1.0, 1.0, baseline)
    assert line_of(capsys) == ""


def test_bounds_show_both_numbers_when_they_fail():
    with pytest.raises(CheckFailed, match="loss: got 0.7, want a number below 0.5"):
        check_below("loss", [0.4, 0.7, 0.9], 0.5)
    with pytest.raises(CheckFailed, match="accuracy: got 0.1, want a number above 0.5"):
        check_above("accuracy", 0.1, 0.5, baseline="chance")
    with pytest.raises(CheckFailed, match="loss: got nothing"):
        check_below("loss", [], 0.5)


def test_an_output_without_a_tick(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    check("D*", 0.5, 0.5)
    sys.stdout.flush()
    assert buffer.getvalue().decode("ascii").strip() == "? D*: expected 0.5 (rtol 1e-05), measured 0.5"


# ---------------------------------------------------------------- exercises


def mark_double(f):
    check("double", f(2), 4)
    check("double", f(torch.tensor([1.0, 3.0])), [2.0, 6.0])


def mark_seven(value):
    check("seven", value, 7)


def untouched(x): ...


def untouched_with_docstring(x):
    """Return twice x."""
    # your code here
    ...


def untouched_pass(x, factor=2):
    pass


def returns_ellipsis(x):
    result = ...
    return result


def returns_ellipsis_inside(x):
    return x, ...


def not_implemented(x):
    raise NotImplementedError("your turn")


class UntouchedLayer(torch.nn.Module):
    def forward(self, x):
        """Return twice x."""
        ...


class NoForward(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    "answer",
    [
        ...,
        (..., 3),
        [1, [...]],
        untouched,
        untouched_with_docstring,
        untouched_pass,
        lambda x: ...,
        returns_ellipsis,
        returns_ellipsis_inside,
        not_implemented,
        UntouchedLayer(),
        NoForward(),
    ],
)
def test_an_exercise_not_attempted(capsys, answer):
    assert exercise("E1", answer, mark_double) is None
    assert line_of(capsys) == "E1: not attempted yet\n"


def test_a_class_not_attempted(capsys):
    exercise("E1", UntouchedLayer, lambda layer: mark_double(layer()))
    assert line_of(capsys) == "E1: not attempted yet\n"


def test_a_stub_is_not_marked_at_all(capsys):
    exercise("E1", untouched, lambda f: None)  # a mark that would let anything pass
    assert line_of(capsys) == "E1: not attempted yet\n"


def doubles_in_place(x):
    x *= 2
    return x


def trebles_in_place(x):
    x *= 3
    return x


class DoublesInPlace(torch.nn.Module):
    def forward(self, x, factor=2):
        return x.mul_(factor)


class TreblesInPlace(torch.nn.Module):
    def forward(self, x, factor=2):
        return x.mul_(factor + 1)


def mark_from_its_own_tensor(x, call):
    """A mark that computes what it wants after the call, from what it handed over."""

    def mark(answer):
        check("double", call(answer, x), 2 * x if not isinstance(x, dict | list) else 2 * torch.ones(3))

    return mark


IN_PLACE = [
    (torch.ones(3), lambda f, x: f(x)),
    (np.ones(3), lambda f, x: f(x)),
    (torch.ones(3), lambda f, x: f(x=x)),
    ([torch.ones(3)], lambda f, x: f(x[0])),
    ({"x": torch.ones(3)}, lambda f, x: f(**x)),
]


@pytest.mark.parametrize(("x", "call"), IN_PLACE)
def test_answers_that_work_in_place_are_judged_by_what_they_return(capsys, x, call):
    mark = mark_from_its_own_tensor(x, call)
    exercise("E1", doubles_in_place, mark)
    assert line_of(capsys) == "E1: correct\n"
    exercise("E1", trebles_in_place, mark)
    assert line_of(capsys).startswith("E1: not yet - ")


@pytest.mark.parametrize("given_as", ["class", "module"])
def test_modules_that_work_in_place_are_judged_by_what_they_return(capsys, given_as):
    x = torch.ones(3)
    for owner, verdict in ((DoublesInPlace, "correct"), (TreblesInPlace, "not yet")):
        answer = owner if given_as == "class" else owner()

        def mark(answer):
            layer = answer() if isinstance(answer, type) else answer
            check("double", layer(x), 2 * x)
            check("double, by name", layer(x=x, factor=2), 2 * x)

        exercise("E1", answer, mark)
        assert line_of(capsys).startswith(f"E1: {verdict}")
    assert "__call__" not in vars(DoublesInPlace), "the class is left as it was"


def test_a_gradient_flows_through_the_copies(capsys):
    w = torch.tensor([1.0, 2.0], requires_grad=True)

    def mark(f):
        check("slope", torch.autograd.grad(f(w).sum(), w)[0], [2.0, 2.0])

    exercise("E1", lambda x: 2 * x, mark)
    assert line_of(capsys) == "E1: correct\n"


def test_a_forgotten_return_is_hinted_at(capsys):
    def forgot(x):
        x * 2

    exercise("E1", forgot, mark_double)
    assert line_of(capsys) == "E1: not yet - the function returns None: is its `return` missing?\n"


def test_a_right_value_and_a_right_function(capsys):
    def loud(x):
        print("debugging", x)
        return x * 2

    assert exercise("E1", 7, mark_seven) is None
    for answer in (lambda x: 2 * x, loud, lambda x: x + x):
        exercise("E2", answer, mark_double)
    assert line_of(capsys) == "E1: correct\n" + "E2: correct\n" * 3


def test_a_function_that_works_in_place_may_return_none(capsys):
    def zero(x):
        x.zero_()

    def mark(f):
        x = torch.ones(2)
        f(x)
        check("zeros", x, [0, 0])

    exercise("E1", zero, mark, in_place=True)
    assert line_of(capsys) == "E1: correct\n"


def test_constants_are_not_taken_for_stubs(capsys):
    def five(x):
        return 5

    def word(x):
        """With a docstring."""
        return "five"

    exercise("E1", five, lambda f: check("five", f(0), 5))
    exercise("E2", word, lambda f: f(0) == "five")
    exercise("E3", five, mark_double)
    assert (
        line_of(capsys) == "E1: correct\nE2: correct\nE3: not yet - double: got 5, want 4 (rtol 1e-05)\n"
    )


@pytest.mark.parametrize("result, verdict", [(True, "correct"), (False, "not yet - the mark says no")])
@pytest.mark.parametrize("kind", [bool, np.bool_, torch.tensor])
def test_a_mark_may_return_its_verdict(capsys, kind, result, verdict):
    exercise("E1", 7, lambda value: kind(result))
    assert line_of(capsys) == f"E1: {verdict}\n"


def raises(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    "answer, mark, reason",
    [
        (8, mark_seven, r"seven: got 8, want 7 \(rtol 1e-05\)"),
        (None, mark_seven, "seven: got must be a number or an array of numbers, not NoneType None"),
        ("7", mark_seven, "seven: got must be a number .*"),
        (NAN, mark_seven, "seven: got nan, want 7.0 .*"),
        (lambda x: x + 2, mark_double, r"double: got 3\.0, want 2\.0 at \[0\] .*"),
        (lambda: 3, mark_double, "TypeError: .* takes 0 positional arguments but 1 was given"),
        (3, mark_double, "TypeError: 'int' object is not callable"),
        (torch.nn.Identity(), mark_double, r"double: got 2, want 4 .*"),
        (raises(ZeroDivisionError("by\nzero")), mark_double, "ZeroDivisionError: by zero"),
        (raises(SystemExit(1)), mark_double, "SystemExit: 1"),
        (raises(RecursionError()), mark_double, "RecursionError: "),
        (raises(AssertionError()), mark_double, "an assertion does not hold"),
        (raises(ValueError("x" * 500)), mark_double, r"ValueError: x+\.\.\."),
    ],
)
def test_a_wrong_answer_gives_one_line_with_the_reason(capsys, answer, mark, reason):
    assert exercise("E1", answer, mark) is None
    out = line_of(capsys)
    assert re.fullmatch(f"E1: not yet - {reason}\n", out), out
    assert "correct" not in out and len(out) < 230


def test_an_interrupt_is_not_an_answer():
    with pytest.raises(KeyboardInterrupt):
        exercise("E1", raises(KeyboardInterrupt()), mark_double)


def test_a_mark_must_be_a_function():
    with pytest.raises(ValueError, match="mark must be a function of the answer, got int 3"):
        exercise("E1", ..., 3)


# ---------------------------------------------------------------- errors, with a word of advice


def raised(code):
    try:
        exec(code, {"torch": torch})
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "code, words",
    [
        ("digits[0]", "if a cell further up makes 'digits', run that one first"),
        ("import aigc_no_such_package.part", "run `%pip install aigc_no_such_package` and restart the kernel"),
        ("raise torch.OutOfMemoryError('CUDA out of memory.')", "Make the batch or the model smaller"),
        ("raise MemoryError", "Make the batch or the model smaller"),
        ("torch.empty(10**18)", "AIGC_DEVICE=cpu leaves the GPU alone"),
    ],
)
def test_errors_from_the_surroundings_get_a_word_of_advice(code, words):
    text = checks.advice(raised(code))
    assert text.startswith("Advice: ") and words in text and text.count("\n") <= 1


@pytest.mark.parametrize(
    "code", ["pass", "1 / 0", "raise NameError", "raise RuntimeError('boom')", "def f():\n    x\n    x = 1\nf()", "[][0]"]
)
def test_other_errors_get_none(code):
    assert checks.advice(raised(code)) == ""


def test_check_failed_is_an_assertion_error():
    assert issubclass(CheckFailed, AssertionError) and checks.CheckFailed is CheckFailed
