"""What surrounds a training loop, so that the loop itself can stay on the page.

    history = History()
    for step, (images, labels) in steps(digits, num_steps=1500, batch_size=128, history=history):
        loss = ...                                 # the model, the loss and the optimizer are yours
        history.log(loss=loss)

`steps` hands out batches, shows the progress and makes the stop button safe; `History` records the
losses and stops at the first NaN. Nothing in this file calls a model or an optimizer.
"""

from __future__ import annotations

import base64
import contextlib
import html
import math
import os
import random
import secrets
import signal
import sys
import time

import numpy as np
import torch

from aigc_helpers._environment import read_switch
from aigc_helpers.arguments import require_whole

# ---------------------------------------------------------------- seeds, device, precision, budget


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices).

    Weight initialisation and dropout draw from these. `steps` does not: it has a generator of its
    own, so the order of the data stays the same whatever else draws random numbers.
    Raises ValueError unless 0 <= seed < 2**32, the range that NumPy takes.
    """
    seed = require_whole("seed_everything", "seed", seed, least=0, most=2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device() -> torch.device:
    """The device to train on: a CUDA GPU if there is one, otherwise the CPU.

    The environment variable AIGC_DEVICE overrides the choice ("cpu", "cuda:1", "mps").
    Raises ValueError if PyTorch cannot use what it names.
    """
    # Apple's "mps" is used only when asked for: some operators are missing there, and its numbers
    # differ from the CPU's, so that what the text says about a run may not be what you see.
    wanted = os.environ.get("AIGC_DEVICE")
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        message = f"AIGC_DEVICE={wanted!r}: PyTorch has no such device here. Unset it, or set it to 'cpu'."
        raise ValueError(message) from None
    return device


def autocast(device):
    """A context that computes in bfloat16 where the hardware is fast at it; elsewhere it does nothing.

    bfloat16 keeps float32's range and drops digits, so the losses need no scaling. It is used on
    CPUs with AVX512-BF16 or AMX-BF16 and on GPUs that have it natively (older ones emulate it, slowly).
    """
    device = _device(device)
    if device.type == "cpu" and _cpu_has_bf16():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _device(value):
    """`value` as a torch.device, or one clear ValueError."""
    try:
        return torch.device(value)
    except (TypeError, RuntimeError):
        raise ValueError(f"device must be 'cpu', 'cuda' or another that PyTorch knows, got {value!r}") from None


def _cpu_has_bf16():
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # public, but not in older releases
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(avx512_bf16 and avx512_bf16())


def budget(n: int) -> int:
    """The number of steps to train: `n` times the environment variable AIGC_BUDGET, at least 1.

    AIGC_BUDGET is 1 by default; 0.2 makes every training run of the series five times shorter, on a
    slow machine or in a test. Raises ValueError if it is not a positive number.
    """
    n = require_whole("budget", "n", n, least=1)
    text = os.environ.get("AIGC_BUDGET") or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:  # NaN fails this too
        raise ValueError(f"AIGC_BUDGET={text!r} is not a positive number. Set it to 0.5, say, or unset it.")
    return max(1, round(n * factor))


# ---------------------------------------------------------------- the record of a run


# A bounded step from here cannot lead back: far above any loss, far below float32's 3e38.
DIVERGED_ABOVE = 1e15


class TrainingDiverged(RuntimeError):
    """A loss became NaN, infinite, or absurdly large (1e15 and more)."""


class History:
    """The losses of a training run: one number for each name and step.

    step:    how many steps are recorded.
    seconds: training time so far, without the time taken by drawing the live curve.
    losses:  everything recorded, name -> list of numbers; history["D"] is the list of D alone.
    """

    def __init__(self):
        self.step = 0
        self.seconds = 0.0
        self._losses: dict[str, list[float]] = {}

    def log(self, /, **losses) -> None:
        """Record this step's losses: numbers, or tensors with one element. Call it once a step.

        Raises TrainingDiverged at the first NaN or infinity, or 1e15 on either side of zero. Raises ValueError for
        something that is not one number, and for names other than those of the steps before.
        """
        if not losses:
            raise ValueError("history.log needs a loss, as in history.log(loss=loss)")
        if self._losses and losses.keys() != self._losses.keys():
            wanted = ", ".join(self._losses)
            got = ", ".join(losses)
            raise ValueError(f"history.log needs the same losses in every step: {wanted}; got {got}")
        values = {name: _number(name, value) for name, value in losses.items()}
        for name, value in values.items():
            if not abs(value) < DIVERGED_ABOVE:  # NaN fails this too
                raise TrainingDiverged(_divergence(name, value, self.step + 1))
        for name, value in values.items():
            self._losses.setdefault(name, []).append(value)
        self.step += 1

    @property
    def losses(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in self._losses.items()}

    def __getitem__(self, name) -> list[float]:
        if name not in self._losses:
            raise KeyError(f"no loss {name!r} was logged; there are: {', '.join(self._losses) or 'none'}")
        return list(self._losses[name])

    def __repr__(self):
        return f"History({self.step} steps of {', '.join(self._losses) or 'nothing'})"

    def plot(self, title=None, ylabel="loss", smooth_weight=0.9):
        """A figure of all losses; the raw numbers stay visible, faint, behind the smoothed lines."""
        from . import plotting

        return plotting.curves(self.losses, title=title, ylabel=ylabel, smooth_weight=smooth_weight)


def _number(name, value):
    """A loss as a float. On a GPU this waits for the step to be computed; the NaN watch has to."""
    try:
        return float(value.detach().item() if torch.is_tensor(value) else value)
    except (TypeError, ValueError, RuntimeError):
        got = f"a tensor of shape {tuple(value.shape)}" if torch.is_tensor(value) else repr(value)
        message = f"history.log: {name!r} must be one number, got {got}. Is a .mean() missing?"
        raise ValueError(message) from None


def _divergence(name, value, step):
    return (
        f"the loss {name!r} is {value} at step {step}: the training has diverged.\n"
        "Try a smaller learning rate first; then look for a log or a division that can meet 0.\n"
        "The weights are spoilt by now: make the model, its optimizer and the History() anew."
    )


# ---------------------------------------------------------------- the loop


def steps(data, num_steps, batch_size, device="cpu", history=None, seed=0):
    """Iterate over training steps: yields (step, batch), with step = 1, 2, ..., num_steps.

    data:    a tensor (N, ...), a tuple of tensors with the same N, or `Digits`, which counts as
             (images, labels). It is held in memory, and moved to `device` once.
    batch:   a tensor (batch_size, ...), or a tuple of them, as `data` is. Batches are always full.
    history: a `History`; log to it once a step. If it holds some steps already, because the loop was
             interrupted, the loop goes on after them; if it holds all of them, one line says so.
    seed:    each epoch is a fresh permutation that depends on (seed, epoch) alone. So a run that was
             interrupted and continued sees the same batches as one that was not.

    The stop button (or Ctrl-C) waits for the step to be finished; then the loop ends as if it were
    complete, and one line says where. Pressed again, it stops at once with a KeyboardInterrupt.

    Use it directly in a `for` statement: then leaving the loop, in whatever way, also gives the stop
    button its usual meaning back. Raises ValueError for arguments that make no sense.
    Outside Jupyter the progress is a line of text, which AIGC_PROGRESS=0 (false, no, off) turns off.
    """
    tensors, as_tuple = _tensors(data)
    num_steps = require_whole("steps", "num_steps", num_steps, least=1)
    batch_size = require_whole("steps", "batch_size", batch_size, least=1)
    seed = require_whole("steps", "seed", seed, least=0)
    if batch_size > len(tensors[0]):
        raise ValueError(f"batch_size {batch_size} is larger than the data ({len(tensors[0])} items)")
    if history is not None and not isinstance(history, History):
        raise ValueError(f"history must be a History() or None, got {type(history).__name__}")
    device = _device(device)
    read_switch("AIGC_PROGRESS")  # a word that means nothing is refused here, not after the first step
    batches = _Batches([tensor.to(device) for tensor in tensors], batch_size, seed, as_tuple)
    return _loop(batches, num_steps, history)


def _tensors(data):
    """`data` as a list of tensors of one length, and whether a batch of it is a tuple."""
    if hasattr(data, "images") and hasattr(data, "labels"):
        data = (data.images, data.labels)
    as_tuple = isinstance(data, tuple | list)
    tensors = list(data) if as_tuple else [data]
    if not tensors or not all(torch.is_tensor(tensor) and tensor.ndim for tensor in tensors):
        raise ValueError("data must be Digits, a tensor (N, ...) or a tuple of tensors; see torch.as_tensor")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(f"data: the tensors differ in length, {[len(tensor) for tensor in tensors]}")
    return tensors, as_tuple


class _Batches:
    """Batch number k = 1, 2, ... of an endless sequence of shuffled epochs; depends on (seed, k) only."""

    def __init__(self, tensors, batch_size, seed, as_tuple):
        self.tensors = tensors
        self.batch_size = batch_size
        self.seed = seed
        self.as_tuple = as_tuple
        self.per_epoch = len(tensors[0]) // batch_size
        self.epoch = None
        self.order = None

    def __getitem__(self, step):
        epoch, position = divmod(step - 1, self.per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = self._permutation(epoch)
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        batch = tuple(tensor.index_select(0, chosen) for tensor in self.tensors)
        return batch if self.as_tuple else batch[0]

    def _permutation(self, epoch):
        # NumPy's SeedSequence mixes the two numbers: (seed 0, epoch 1) and (seed 1, epoch 0) share nothing.
        # Drawn on the CPU, whatever the device, so that the order is the same everywhere.
        mixed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        return torch.randperm(len(self.tensors[0]), generator=generator).to(self.tensors[0].device)


def _loop(batches, num_steps, history):
    """The generator behind `steps`."""
    start = history.step if history is not None else 0
    if start >= num_steps:
        print(f"training is complete already, at step {start}; a new History() starts afresh")
        return
    if start:
        print(f"going on after step {start}; a new History() starts afresh")
    with _StopButton() as stop, contextlib.closing(_Progress(start, num_steps, history)) as progress:
        for step in range(start + 1, num_steps + 1):
            began = time.perf_counter()
            yield step, batches[step]
            if history is not None:
                _check_logged(history, step)
                history.seconds += time.perf_counter() - began
            progress.advance(step)
            if stop.pressed:
                break
    if stop.pressed and step < num_steps:
        print(f"stopped after step {step}" + ("" if history is None else "; the same history goes on from here"))


def _check_logged(history, step):
    if history.step != step:
        raise RuntimeError(
            f"step {step} ended with {history.step} steps in the history: "
            "call history.log(...) exactly once in every step"
        )


class _StopButton:
    """While active, an interrupt (SIGINT) only sets `pressed`; a second one raises KeyboardInterrupt.

    Without it, an interrupt can land inside `optimizer.step()`, with half of the weights updated.
    """

    def __init__(self):
        self.pressed = False
        self.active = False
        self.before = None

    def __enter__(self):
        self.before = signal.getsignal(signal.SIGINT)
        if callable(self.before):  # otherwise interrupts are ignored or end the process: leave it so
            with contextlib.suppress(ValueError):  # not in the main thread, which gets all interrupts
                signal.signal(signal.SIGINT, self)
                self.active = True
        return self

    def __call__(self, signum, frame):
        if not self.active:  # before the first step, or after the last
            return self.before(signum, frame)
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if isinstance(self.before, _StopButton):  # a loop inside a loop: the outer one stops as well
            self.before(signum, frame)

    def __exit__(self, *_):
        if self.active:
            self.active = False
            if signal.getsignal(signal.SIGINT) is self:
                with contextlib.suppress(ValueError):  # another thread dropped the loop
                    signal.signal(signal.SIGINT, self.before)


# ---------------------------------------------------------------- the live display

REFRESH_SECONDS = 1.0  # between two pictures
DRAWING_SHARE = 0.05  # of the time, at most
WIDTH = 480  # of the curve, in CSS pixels
HEIGHT = 180


class _Progress:
    """How far the loop is: a live curve in Jupyter, a line of text elsewhere; throttled."""

    def __init__(self, start, num_steps, history):
        self.start = start
        self.step = start
        self.num_steps = num_steps
        self.history = history
        self.began = time.perf_counter()
        self.view = _view(self)
        self._draw()
        self.next_draw = time.perf_counter() + REFRESH_SECONDS  # the first picture is slow: it imports things

    def advance(self, step):
        self.step = step
        if time.perf_counter() >= self.next_draw:
            self._draw()

    def close(self):
        self.view.close()

    def _draw(self):
        began = time.perf_counter()
        self.view.draw()
        ended = time.perf_counter()
        self.next_draw = ended + max(REFRESH_SECONDS, (ended - began) / DRAWING_SHARE)

    def meter(self):
        """Progress in words, such as ` 37%|###    | 370/1000 [00:12<00:21, 30.1step/s]`."""
        from tqdm import tqdm

        seconds = time.perf_counter() - self.began
        options = {"ncols": 70, "initial": self.start, "unit": "step"}
        return tqdm.format_meter(self.step, self.num_steps, seconds, **options)

    def latest(self):
        """The newest losses in words, such as `D 0.693, G 1.02`."""
        losses = self.history.losses if self.history is not None else {}
        return ", ".join(f"{name} {values[-1]:.3g}" for name, values in losses.items())


def _view(progress):
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_jupyter = getattr(shell, "kernel", None) is not None
    return _NotebookView(progress) if in_jupyter else _TextView(progress)


class _TextView:
    """A tqdm bar on stderr."""

    def __init__(self, progress):
        from tqdm import tqdm

        self.progress = progress
        self.bar = tqdm(
            total=progress.num_steps,
            initial=progress.start,
            unit="step",
            disable=not read_switch("AIGC_PROGRESS", default=True),
        )

    def draw(self):
        self.bar.n = self.progress.step
        self.bar.set_postfix_str(self.progress.latest())

    def close(self):
        self.draw()
        self.bar.close()


class _NotebookView:
    """An HTML widget with the meter and the curve, which a picture replaces when the loop is over.

    Setting a widget's value adds nothing to the cell's output. So the output is one bundle with one
    text, whatever the number of steps; and the saved notebook, read without a kernel, shows the
    final curve.
    """

    def __init__(self, progress):
        import ipywidgets
        from IPython.display import display

        self.progress = progress
        self.text = "training curve" if progress.history is not None else ""  # a bar leaves nothing behind
        self.widget = ipywidgets.HTML()
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": self.text}
        self.display_id = secrets.token_hex(8)
        display(bundle, raw=True, display_id=self.display_id)

    def draw(self):
        meter = html.escape(self.progress.meter())
        self.widget.value = f'<pre style="margin: 0">{meter}</pre>{self._image()}'

    def _image(self):
        progress = self.progress
        if progress.history is None:
            return ""
        losses = progress.latest() or "no losses yet"
        alt = html.escape(f"{self.text} at step {progress.step} of {progress.num_steps}: {losses}")
        png = _curve_png(progress.history, progress.num_steps, scale=1)
        return f'<img alt="{alt}" width="{WIDTH}" height="{HEIGHT}" src="data:image/png;base64,{png}">'

    def close(self):
        from IPython.display import update_display

        bundle = {"text/plain": self.text}
        metadata = {}
        if self.progress.history is not None:
            bundle["image/png"] = _curve_png(self.progress.history, self.progress.step, scale=2)
            metadata["image/png"] = {"width": WIDTH, "height": HEIGHT, "alt": self.text}
        update_display(bundle, raw=True, metadata=metadata, display_id=self.display_id)
        self.widget.close()  # after the update: the page never shows a widget without its model


def _curve_png(history, last_step, scale) -> str:
    """The losses as a small PNG, in base64. Long runs are thinned to means over blocks of steps."""
    from . import plotting

    block = max(1, history.step // 120)
    kept = history.step // block
    means = {k: np.reshape(v[: kept * block], (kept, block)).mean(1) for k, v in history.losses.items()}
    ylabel = next(iter(means)) if len(means) == 1 else "loss"  # a single line has no legend
    fig, ax = plotting.figure(WIDTH / 100, HEIGHT / 100, tight=False)
    fig.subplots_adjust(left=0.13, right=0.95, bottom=0.27, top=0.95)
    plotting.draw_curves(ax, means, ylabel=ylabel, x=np.arange(1, kept + 1) * block)
    if len(means) > 1:  # above the axes, where no curve runs through it
        fig.subplots_adjust(top=0.87)
        with plotting.style():
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(means), borderpad=0, borderaxespad=0.3)
    ax.set_xlim(0, max(1, last_step))
    png = plotting.to_png(fig, scale)
    return base64.b64encode(png).decode("ascii")
