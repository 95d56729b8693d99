"""Equations that run, and exercises that mark themselves.

A check prints a line like

    ✓ eq. (2): the mean of three dice: expected 10.5 (rtol 0.01), measured 10.4813

that is: what was checked, the value that it had to have and how near, and the value that came out. If it is not near
enough the cell stops with an error. All up to the last comma is the same on every machine and compared by the tests;
the measured value is not. In Jupyter, importing this module also puts a word of advice under errors that
come from the surroundings: cells run out of order, a missing package, no memory left.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import math
import sys
import textwrap

import numpy as np
import torch


class CheckFailed(AssertionError):
    """A check did not hold; the message has both numbers."""


# ---------------------------------------------------------------- equations


def check(name, got, want, rtol=1e-5, atol=0.0) -> None:
    """Check that |got - want| <= atol + rtol * |want|, everywhere and with the same shape.

    got, want: numbers, (nested) lists of numbers, arrays or tensors. A NaN in either never passes. Whole numbers are
    compared as such: 2**53 + 1 is not 2**53.
    Prints `name`, `want` to as many digits as the tolerance can tell apart, the tolerance, and what was measured: the
    value, or for a larger array the largest difference.
    Raises CheckFailed with both values (for arrays: at the worst place), ValueError for a tolerance that is none.
    """
    for tolerance in (rtol, atol):
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            raise ValueError(f"check({name!r}): tolerances must be finite and not negative, got {rtol}, {atol}")
    got = _array(name, "got", got)
    expected = _array(name, "want", want)
    if got.shape != expected.shape:
        shapes = f"got shape {got.shape}, want shape {expected.shape}"
        raise CheckFailed(f"{name}: {shapes}{_values(got, expected)}")
    difference = _compare(name, got, expected, rtol, atol)
    shown = _shown(expected, rtol, atol)
    _say(f"✓ {name}: expected {shown} ({_tolerance(rtol, atol)}), measured {_measured(got, difference)}")


def check_below(name, got, bound, baseline=None) -> None:
    """Check that got < bound (for an array: every entry). NaN fails.

    baseline: where the bound is itself a measured number, what it is, in words, such as "the untrained network's";
    then the words are printed as expected, and the number with what was measured.
    Raises CheckFailed with both values, ValueError for a bound that is not one number.
    """
    _check_bound(name, got, bound, baseline, "below")


def check_above(name, got, bound, baseline=None) -> None:
    """Check that got > bound (for an array: every entry). NaN fails. For `baseline` see `check_below`."""
    _check_bound(name, got, bound, baseline, "above")


def _check_bound(name, got, bound, baseline, word):
    got = _array(name, "got", got)
    bound = _array(name, "the bound", bound)
    if bound.ndim:
        raise ValueError(f"{name}: the bound must be one number, got shape {bound.shape}")
    if baseline is not None and not (isinstance(baseline, str) and baseline.strip()):
        raise ValueError(f"{name}: baseline must say in words what the bound is, got {baseline!r}")
    got = got.astype(np.float64)
    bound = bound.astype(np.float64)
    fails = ~(got < bound) if word == "below" else ~(got > bound)  # a comparison with NaN is false
    if fails.any() or not got.size:
        first = f"got {got[fails][0].item()!r}" if got.size else "got nothing"
        raise CheckFailed(f"{name}: {first}, want a number {word} {bound.item()!r}")
    nearest = _plain(got.max().item() if word == "below" else got.min().item())
    if got.size > 1:
        nearest = f"at {'most' if word == 'below' else 'least'} {nearest}"
    limit = _plain(bound.item())
    if baseline is None:
        _say(f"✓ {name}: expected {word} {limit}, measured {nearest}")
    else:
        _say(f"✓ {name}: expected {word} {baseline}, measured {nearest} against {limit}")


def _array(name, which, value):
    """Numbers of any kind as an array: of float64, or of Python's whole numbers, which have any number of digits."""
    try:
        array = _numbers(value)
    except (TypeError, ValueError):  # such as lists of unequal lengths
        array = None
    kind = array.dtype.kind if array is not None else "nothing"
    items = array.ravel() if kind == "O" else ()  # whole numbers of any size, perhaps among floats
    whole = kind in "biu" or (kind == "O" and all(_is_whole(item) for item in items))
    if not whole and kind != "f" and not (kind == "O" and all(isinstance(item, float | int) for item in items)):
        raise CheckFailed(f"{name}: {which} must be a number or an array of numbers, not {_brief(value)}")
    if whole and (array.size <= 1000 or not _fit_into_floats(array)):
        return array.astype(object)
    return array.astype(np.float64)


def _fit_into_floats(whole):
    """Whether float64, which is quicker, has each of these whole numbers exactly."""
    return whole.dtype.kind != "O" and max(abs(int(whole.min())), abs(int(whole.max()))) < 2**53


def _numbers(value):
    if torch.is_tensor(value):
        value = value.detach().cpu()
        return value.double().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, list | tuple):
        parts = [_numbers(item) for item in value]
        if len({part.shape for part in parts}) > 1:
            raise ValueError("parts of different shapes")
        return np.stack(parts) if parts else np.zeros(0)
    return np.asarray(value, dtype=object) if _is_whole(value) else np.asarray(value)


def _is_whole(value):
    return isinstance(value, int | np.integer | np.bool_)


def _brief(value):
    text = f"{type(value).__name__} {' '.join(repr(value).split())}"
    return text if len(text) <= 80 else text[:77] + "..."


def _values(got, want):
    """Both values in words if they are small enough to read."""
    return f" (got {got.tolist()}, want {want.tolist()})" if max(got.size, want.size) <= 6 else ""


def _compare(name, got, want, rtol, atol):
    """The largest difference. Raise CheckFailed at the worst place where two arrays differ too much."""
    if not want.size:
        return 0.0
    exact = got.dtype == want.dtype == object  # whole numbers: their difference is one too
    if not exact:
        got = got.astype(np.float64)
        want = want.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.where(got == want, 0, abs(got - want))
        excess = np.where(got == want, -1, difference - (atol + rtol * abs(want)))
    excess = excess.astype(np.float64)
    excess[np.isnan(excess)] = np.inf  # a NaN is the worst of all
    if not (excess > 0).any():
        return difference.max()
    place = np.unravel_index(excess.argmax(), excess.shape)
    where = ""
    count = ""
    if want.ndim:
        where = f" at {[int(i) for i in place]}"
        count = f"; {int((excess > 0).sum())} of {want.size} entries differ"
    g = _item(got[place])
    w = _item(want[place])
    raise CheckFailed(f"{name}: got {g!r}, want {w!r}{where} ({_tolerance(rtol, atol)}){count}")


def _item(value):
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


# How the expected value is shown. The last digits of a computed value differ between machines, so only
# digits that the tolerance can tell apart are printed.


def _shown(array, rtol, atol):
    if not array.size:
        return f"shape {array.shape}"
    finite = [abs(x) for x in array.ravel() if math.isfinite(x)]
    tolerance = atol + rtol * float(max(finite, default=0.0))
    if not array.ndim:
        return _digits(array.item(), tolerance)
    if array.size <= 6 and array.ndim == 1:
        return f"[{', '.join(_digits(x, tolerance) for x in array.tolist())}]"
    low = _digits(array.min(), tolerance)
    high = _digits(array.max(), tolerance)
    return f"shape {array.shape}, from {low} to {high}"


def _measured(got, difference):
    if not got.size:
        return "the same"
    if not got.ndim:
        return _plain(got.item())
    if got.size <= 6 and got.ndim == 1:
        return f"[{', '.join(_plain(x) for x in got.tolist())}]"
    return f"a largest difference of {float(difference):.1e}" if difference else "no difference"


def _digits(x, tolerance):
    """`x` to the digits that `tolerance` can tell apart: 0.693147 with 2e-5 gives 0.6931, 2.049 with 0.06 gives 2.05.

    A coarse tolerance gets the digit below it too, so that nobody reads "expected 2, within 0.06, measured 2.1". A fine
    one does not: that digit may be the rounding noise of another machine.
    """
    if isinstance(x, int | np.integer) or not math.isfinite(x) or not tolerance:
        return _plain(x)
    x = float(x)
    if abs(x) <= tolerance:
        return "0"
    coarse = tolerance > 1e-3 * abs(x)
    # The power of ten of the last digit shown; a tolerance of 0.01 may be 0.00999... in binary.
    last = math.floor(math.log10(tolerance) + 1e-9) if coarse else math.ceil(math.log10(tolerance) - 1e-9)
    return f"{x:.{max(1, math.floor(math.log10(abs(x))) - last + 1)}g}"


def _plain(x):
    if isinstance(x, int | np.integer):
        return str(int(x))
    return str(int(x)) if x.is_integer() and abs(x) < 2**53 else f"{x:.6g}"


def _tolerance(rtol, atol):
    given = [f"{word} {value:g}" for word, value in (("rtol", rtol), ("atol", atol)) if value]
    return ", ".join(given) or "exactly"


def _say(line):
    """Print, also to an output that cannot show a tick, such as a Windows console."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


# ---------------------------------------------------------------- exercises


def exercise(name, answer, mark, in_place=False) -> None:
    """Mark an answer and print one line: `not attempted yet`, `not yet - <reason>` or `correct`.

    answer: a value or a function; `...`, or a function whose body is still `...`, is no attempt yet.
    mark:   a function of the answer that raises (or returns False) if it is wrong, say with `check`.
    An answer that works in place (`x -= ...`) is as good as one that does not: it gets copies of the tensors that
    the mark hands to it, so that what the mark computes from its own is not changed by the answer. in_place=True hands
    over the mark's own tensors: for an exercise whose very task is to change them.
    Whatever the answer does, this raises nothing; what is printed meanwhile is dropped.
    Raises ValueError if mark is no function.
    """
    if not callable(mark):
        raise ValueError(f"exercise({name!r}): mark must be a function of the answer, got {_brief(mark)}")
    if _contains_ellipsis(answer) or _is_stub(answer):
        verdict = "not attempted yet"
    else:
        verdict = _mark(answer, mark, in_place)
    _say(f"{name}: {verdict}")


def _mark(answer, mark, in_place):
    returned = []
    copy = _itself if in_place else _copy_of
    try:
        with contextlib.redirect_stdout(io.StringIO()), _copies_for_modules(answer, copy):
            result = mark(_watch(answer, returned, copy))
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


def _watch(answer, returned, copy):
    """The same function on copies, noting what it returns; anything but a plain function is left as it is."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def call(*args, **kwargs):
        returned.append(answer(*copy(args), **copy(kwargs)))
        return returned[-1]

    return call


def _itself(value):
    return value


def _copy_of(value):
    """Tensors and arrays, also in lists, tuples and dicts, as copies; a gradient still flows through a copy."""
    if isinstance(value, torch.nn.Parameter):
        return value  # a weight is handed over to be changed
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(_copy_of(item) for item in value)
    if type(value) is dict:
        return {key: _copy_of(item) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _copies_for_modules(answer, copy):
    """The same for an answer that is a module, or a class of modules: its `forward` gets copies."""
    owner = answer if inspect.isclass(answer) else type(answer)
    if not issubclass(owner, torch.nn.Module):
        yield
        return

    own = "__call__" in vars(owner)
    call = owner.__call__

    # Not one of PyTorch's hooks: those for all modules take no keyword arguments.
    def call_with_copies(module, *args, **kwargs):
        return call(module, *copy(args), **copy(kwargs))

    owner.__call__ = call_with_copies
    try:
        yield
    finally:
        if own:
            owner.__call__ = call
        else:
            del owner.__call__


def _is_stub(answer):
    """Whether it is a function whose body, but for a docstring, is still `...` or `pass`."""
    if not inspect.isfunction(answer):
        return False
    try:
        top = ast.parse(textwrap.dedent(inspect.getsource(answer))).body[0]
    except (OSError, SyntaxError, IndexError):  # its source is not to be had
        return False
    if not isinstance(top, ast.FunctionDef):  # a lambda
        return False
    statements = top.body[1:] if ast.get_docstring(top) is not None else top.body
    return all(_does_nothing(statement) for statement in statements)


def _does_nothing(statement):
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value is ...
    return isinstance(statement, ast.Pass)


def _has_stub(answer):
    """Whether it is a class, or a module of a class, with a method still to be written."""
    owner = type(answer) if isinstance(answer, torch.nn.Module) else answer
    return inspect.isclass(owner) and any(_is_stub(member) for member in vars(owner).values())


# ---------------------------------------------------------------- errors, with a word of advice


# What is installed by another name than it is imported by.
PACKAGES = {"sklearn": "scikit-learn", "PIL": "Pillow", "IPython": "ipython", "yaml": "PyYAML", "cv2": "opencv-python"}


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
        module = error.name.partition(".")[0]
        package = PACKAGES.get(module, module)
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
    """Every notebook imports this module in its set-up, so the advice is there from then on."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.events.register("post_run_cell", _advise)


_listen()
