"""Equations that run, and exercises that mark themselves.

A check prints what was *expected*, never what was measured. So its line is the same on every machine,
and a notebook's stored output can be compared word for word; the check itself fails if the equation,
or the code of it, is wrong. In Jupyter, importing this module also puts a word of advice under errors that
come from the surroundings: cells run out of order, a missing package, no memory left.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import math
import sys

import numpy as np
import torch


class CheckFailed(AssertionError):
    """A check did not hold; the message has both numbers."""


# ---------------------------------------------------------------- equations


def check(name, got, want, rtol=1e-5, atol=0.0) -> None:
    """Check that |got - want| <= atol + rtol * |want|, everywhere and with the same shape.

    got, want: numbers, (nested) lists of numbers, arrays or tensors. A NaN in either never passes.
    Prints `name`, `want` to as many digits as the tolerance can tell apart, and the tolerance.
    Raises CheckFailed with both values (for arrays: at the worst place).
    """
    if not all(isinstance(tolerance, int | float) and 0 <= tolerance < math.inf for tolerance in (rtol, atol)):
        raise ValueError(f"check({name!r}): tolerances must be finite and not negative, got {rtol}, {atol}")
    got, expected = _array(name, "got", got), _array(name, "want", want)
    if got.shape != expected.shape:
        shapes = f"got shape {got.shape}, want shape {expected.shape}"
        raise CheckFailed(f"{name}: {shapes}{_values(got, expected)}")
    _compare(name, got, expected, rtol, atol)
    _say(f"✓ {name}: {_shown(want, expected, rtol, atol)} ({_tolerance(rtol, atol)})")


def check_true(name, condition) -> None:
    """Check that a condition (a bool, or a tensor or array with one) is true. Prints the name."""
    if isinstance(condition, torch.Tensor | np.ndarray | np.generic) and math.prod(condition.shape) == 1:
        condition = condition.item()
    if not isinstance(condition, bool):  # a NaN, for one, would count as true
        raise CheckFailed(f"{name}: the condition must be True or False, got {_brief(condition)}")
    if not condition:
        raise CheckFailed(f"{name}: this is not so")
    _say(f"✓ {name}")


def check_below(name, got, bound, show=True) -> None:
    """Check that got < bound (for an array: every entry). NaN fails.

    show: print the bound. Leave it out (False) if the bound is itself a measured number, such as a
    baseline: the printed line must be the same on every machine.
    """
    _check_bound(name, got, bound, show, "below", lambda g, b: g < b)


def check_above(name, got, bound, show=True) -> None:
    """Check that got > bound (for an array: every entry). NaN fails. For `show` see `check_below`."""
    _check_bound(name, got, bound, show, "above", lambda g, b: g > b)


def _check_bound(name, got, bound, show, word, holds):
    got, bound = _array(name, "got", got), _array(name, "the bound", bound)
    if bound.ndim:
        raise ValueError(f"{name}: the bound must be one number, got shape {bound.shape}")
    fails = ~holds(got, bound)  # a comparison with NaN is false, so NaN fails
    if fails.any() or not got.size:
        first = f"got {got[fails][0].item()!r}" if got.size else "got nothing"
        raise CheckFailed(f"{name}: {first}, want a number {word} {bound.item()!r}")
    _say(f"✓ {name}: {word} {_plain(bound.item())}" if show else f"✓ {name}")


def _array(name, which, value):
    """Numbers of any kind as a float64 array."""
    numbers = value
    try:
        if torch.is_tensor(value):
            numbers = value.detach().cpu()
            numbers = numbers.double().numpy() if numbers.is_floating_point() else numbers.numpy()
        elif isinstance(value, list | tuple):
            numbers = [_array(name, which, item) for item in value]
        array = np.asarray(numbers)
    except (TypeError, ValueError):  # such as lists of unequal lengths
        array = None
    if array is None or array.dtype.kind not in "biuf":  # bool, int, unsigned, float
        raise CheckFailed(f"{name}: {which} must be a number or an array of numbers, not {_brief(value)}")
    return array.astype(np.float64)


def _brief(value):
    text = f"{type(value).__name__} {' '.join(repr(value).split())}"
    return text if len(text) <= 80 else text[:77] + "..."


def _values(got, want):
    """Both values in words if they are small enough to read."""
    return f" (got {got.tolist()}, want {want.tolist()})" if max(got.size, want.size) <= 6 else ""


def _compare(name, got, want, rtol, atol):
    """Raise CheckFailed at the worst place where two arrays of one shape differ too much."""
    with np.errstate(invalid="ignore"):  # inf - inf
        excess = np.where(got == want, -1.0, np.abs(got - want) - (atol + rtol * np.abs(want)))
    excess = np.where(np.isnan(excess), np.inf, excess)  # a NaN is the worst of all
    if not (excess > 0).any():
        return
    place = np.unravel_index(excess.argmax(), excess.shape)
    where, count = "", ""
    if want.ndim:
        where = f" at {[int(i) for i in place]}"
        count = f"; {int((excess > 0).sum())} of {want.size} entries differ"
    g, w = got[place].item(), want[place].item()
    raise CheckFailed(f"{name}: got {g!r}, want {w!r}{where} ({_tolerance(rtol, atol)}){count}")


# How the expected value is shown. The last digits of a computed value differ between machines, so only
# digits that are coarser than the tolerance are printed.


def _shown(want, array, rtol, atol):
    if not array.size:
        return f"shape {array.shape}"
    if isinstance(want, int):
        return str(want)
    finite = np.abs(array[np.isfinite(array)])
    tolerance = atol + rtol * (finite.max() if finite.size else 0.0)
    if not array.ndim:
        return _digits(array.item(), tolerance)
    if array.size <= 6 and array.ndim == 1:
        return f"[{', '.join(_digits(x, tolerance) for x in array.tolist())}]"
    low, high = _digits(array.min().item(), tolerance), _digits(array.max().item(), tolerance)
    return f"shape {array.shape}, from {low} to {high}"


def _digits(x, tolerance):
    """`x` to the digits that are coarser than `tolerance`: 0.693147 with 2e-5 gives 0.6931."""
    if not math.isfinite(x) or not tolerance:
        return _plain(x)
    if abs(x) <= tolerance:
        return "0"
    last = math.floor(math.log10(tolerance)) + 1  # the power of ten of the last digit shown
    return f"{x:.{max(1, math.floor(math.log10(abs(x))) - last + 1)}g}"


def _plain(x):
    return str(int(x)) if x.is_integer() else f"{x:.6g}"


def _tolerance(rtol, atol):
    given = [f"{word} {value:g}" for word, value in (("rtol", rtol), ("atol", atol)) if value]
    return ", ".join(given) or "exactly"


def _say(line):
    """Print, also to an output that cannot show a tick, such as a Windows console."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


# ---------------------------------------------------------------- exercises


def exercise(name, answer, mark) -> None:
    """Mark an answer and print one line: `not attempted yet`, `not yet - <reason>` or `correct`.

    answer: a value or a function; `...`, or a function whose body is still `...`, is no attempt yet.
    mark:   a function of the answer that raises (or returns False) if it is wrong, say with `check`.
    Whatever the answer does, this raises nothing; what is printed meanwhile is dropped.
    """
    if not callable(mark):
        raise ValueError(f"exercise({name!r}): mark must be a function of the answer, got {_brief(mark)}")
    if _contains_ellipsis(answer) or _is_stub(answer):
        verdict = "not attempted yet"
    else:
        verdict = _verdict(answer, mark)
    _say(f"{name}: {verdict}")


def _verdict(answer, mark):
    returned = []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            result = mark(_watched(answer, returned))
            passed = result is None or bool(result)
    except NotImplementedError:
        return "not attempted yet"
    except (Exception, SystemExit) as error:
        return _reason(answer, returned, error)
    return "correct" if passed else _reason(answer, returned, AssertionError("the mark says no"))


def _reason(answer, returned, error):
    if any(_contains_ellipsis(value) for value in returned) or _has_stub(answer):
        return "not attempted yet"
    text = " ".join(str(error).split())
    if "NoneType" in text and any(value is None for value in returned):
        return "not yet - the function returns None: is its `return` missing?"
    if not isinstance(error, AssertionError):
        text = f"{type(error).__name__}: {text}"
    text = text or "an assertion does not hold"
    return f"not yet - {text if len(text) <= 200 else text[:197] + '...'}"


def _contains_ellipsis(answer):
    if isinstance(answer, tuple | list):
        return any(_contains_ellipsis(item) for item in answer)
    return answer is ...


def _watched(answer, returned):
    """The same function, noting what it returns; anything but a plain function is left as it is."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def call(*args, **kwargs):
        returned.append(answer(*args, **kwargs))
        return returned[-1]

    return call


def _stub(): ...


def _stub_with_docstring():
    """The docstring takes the first place among the constants, so the code is another."""
    ...


def _is_stub(answer):
    """Whether it is a function whose body is `...` or `pass`: its code is that of a stub, returning None."""
    if not inspect.isfunction(answer):
        return False
    stubs = (_stub.__code__.co_code, _stub_with_docstring.__code__.co_code)
    constants = set(answer.__code__.co_consts) - {answer.__doc__, None}
    return answer.__code__.co_code in stubs and not constants


def _has_stub(answer):
    """Whether it is a class, or a module of a class, with a method still to be written."""
    owner = type(answer) if isinstance(answer, torch.nn.Module) else answer
    return inspect.isclass(owner) and any(_is_stub(member) for member in vars(owner).values())


# ---------------------------------------------------------------- errors, with a word of advice


def advice(error) -> str:
    """What to do about an error that lies in the surroundings, not in the reader's code; "" for any other.

    Cells run out of order (or after the kernel was restarted), a package that is not there, memory that is used up.
    """
    if type(error) is NameError and error.name:
        return (
            f"Advice: if a cell further up makes {error.name!r}, run that one first: choose Run > Run All Above "
            "Selected Cell.\nIf none does, look for a slip in the name."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"Advice: if requirements.txt names {package!r}, run `%pip install {package}` and restart the kernel."
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return (
            "Advice: the memory is used up. Make the batch or the model smaller, or restart the kernel to free what "
            "earlier cells hold;\nAIGC_DEVICE=cpu leaves the GPU alone."
        )
    return ""


def _advise(result):
    """What IPython calls after each cell: the advice appears under the traceback."""
    text = advice(result.error_in_exec)
    if text:
        print(text, file=sys.stderr)


def _listen():
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.events.register("post_run_cell", _advise)


_listen()  # every notebook imports this module in its set-up, so the advice is there from then on
