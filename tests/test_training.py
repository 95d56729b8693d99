"""The helpers around a training loop: batches, interrupts, the NaN watch, the live display."""

import base64
import contextlib
import copy
import html
import os
import pathlib
import queue
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import warnings

import IPython
import IPython.display
import ipywidgets
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from jupyter_client import KernelManager

from aigc_helpers import training
from aigc_helpers.training import (
    History,
    TrainingDiverged,
    autocast,
    budget,
    pick_device,
    seed_everything,
    steps,
)

ROOT = pathlib.Path(training.__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}
needs_posix_signals = pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No setting of the person who runs the tests reaches them, and no progress bar their screen."""
    for name in ("AIGC_BUDGET", "AIGC_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIGC_PROGRESS", "0")


# ---------------------------------------------------------------- seeds, device, precision, budget


def test_seed_everything_seeds_the_three_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert seed_everything(3) is None
    first = draw()
    seed_everything(4)
    other = draw()
    seed_everything(3)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", True, None])
def test_seed_everything_refuses_what_is_not_a_seed(seed):
    with pytest.raises(ValueError, match="^seed_everything: seed must be a whole number from 0 to 4294967295"):
        seed_everything(seed)


@pytest.mark.parametrize("has_cuda, expected", [(True, "cuda"), (False, "cpu")])
def test_pick_device_takes_cuda_then_cpu(monkeypatch, has_cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert pick_device() == torch.device(expected)


def test_pick_device_can_be_overridden(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("AIGC_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "xla"])
def test_pick_device_names_the_variable_that_is_wrong(monkeypatch, name):
    monkeypatch.setenv("AIGC_DEVICE", name)
    with pytest.raises(ValueError, match=f"AIGC_DEVICE='{name}'"):
        pick_device()


@pytest.mark.parametrize(
    "found, expected",
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True, "avx512_bf16": False}, False),
    ],
)
def test_autocast_on_a_cpu_follows_its_capabilities(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with autocast("cpu"):
        result = torch.ones(2, 2) @ torch.ones(2, 2)
    assert result.dtype == (torch.bfloat16 if expected else torch.float32)


@pytest.mark.parametrize("expected", [True, False])
def test_autocast_asks_older_releases_too(monkeypatch, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: expected, raising=False)
    assert isinstance(autocast("cpu"), torch.autocast) is expected
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert isinstance(autocast("cpu"), contextlib.nullcontext)


@pytest.mark.parametrize("native", [True, False])
def test_autocast_on_a_gpu_wants_native_bf16(monkeypatch, native):
    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no GPU at all
        context = autocast(torch.device("cuda", 0))
    assert isinstance(context, torch.autocast) is native
    assert isinstance(autocast("mps"), contextlib.nullcontext)


@pytest.mark.parametrize(
    "setting, n, expected",
    [
        (None, 1500, 1500),
        ("", 1500, 1500),
        ("0.1", 1500, 150),
        ("2", 7, 14),
        ("0.001", 10, 1),
        (" 0.5 ", 9, 4),
    ],
)
def test_budget(monkeypatch, setting, n, expected):
    if setting is not None:
        monkeypatch.setenv("AIGC_BUDGET", setting)
    result = budget(n)
    assert result == expected and isinstance(result, int)


@pytest.mark.parametrize("setting", ["much", "0", "-1", "nan", "inf", "1,5"])
def test_budget_names_the_variable_that_is_wrong(monkeypatch, setting):
    monkeypatch.setenv("AIGC_BUDGET", setting)
    with pytest.raises(ValueError, match=f"AIGC_BUDGET='{setting}' is not a positive number"):
        budget(10)


@pytest.mark.parametrize("n", [0, -3, 1.5, "10"])
def test_budget_wants_a_whole_number_of_steps(n):
    with pytest.raises(ValueError, match="^budget: n must be a whole number of at least 1"):
        budget(n)


# ---------------------------------------------------------------- the record of a run


def test_history_records_every_kind_of_number():
    history = History()
    history.log(D=0.5, G=torch.tensor(2.0, requires_grad=True))
    history.log(D=np.float32(0.25), G=torch.ones(1, dtype=torch.bfloat16))
    assert history.step == 2 and history["D"] == [0.5, 0.25] and history["G"] == [2.0, 1.0]
    assert all(type(value) is float for value in history["D"] + history["G"])
    assert repr(history) == "History(2 steps of D, G)" and repr(History()) == "History(0 steps of nothing)"


def test_history_hands_out_copies():
    history = History()
    history.log(self=1.0)  # any name will do
    history["self"].append(9.0)
    history.losses["self"].append(9.0)
    assert history.losses == {"self": [1.0]}


@pytest.mark.parametrize("value", [torch.ones(3), "much", None, [1, 2], 1j, torch.tensor(1j)])
def test_history_wants_one_number(value):
    history = History()
    with pytest.raises(ValueError, match="'D' must be one number"):
        history.log(G=1.0, D=value)
    assert history.step == 0 and history.losses == {}


def test_history_wants_the_same_names_every_step():
    history = History()
    with pytest.raises(ValueError, match="needs a loss"):
        history.log()
    history.log(D=1, G=2)
    with pytest.raises(ValueError, match="same losses in every step: D, G; got D$"):
        history.log(D=1)
    history.log(G=2, D=1)
    assert history.step == 2
    with pytest.raises(KeyError, match="no loss 'F' was logged; there are: D, G"):
        history["F"]
    with pytest.raises(KeyError, match="there are: none"):
        History()["F"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(-torch.inf)])
def test_history_stops_at_a_loss_that_is_not_finite(value):
    history = History()
    history.log(D=1, G=1)
    with pytest.raises(TrainingDiverged, match=r"the loss 'G' is \S+ at step 2") as caught:
        history.log(D=1, G=value)
    message = str(caught.value)
    assert "smaller learning rate" in message and message.count("\n") <= 2
    assert history.losses == {"D": [1.0], "G": [1.0]} and history.step == 1


def test_history_plots_through_plotting(monkeypatch):
    import aigc_helpers

    calls = []
    fake = types.SimpleNamespace(curves=lambda losses, **options: calls.append((losses, options)) or "figure")
    monkeypatch.setitem(sys.modules, "aigc_helpers.plotting", fake)
    monkeypatch.setattr(aigc_helpers, "plotting", fake, raising=False)
    history = History()
    history.log(D=1)
    assert history.plot(title="GAN") == "figure"
    assert calls == [({"D": [1.0]}, {"title": "GAN", "ylabel": "loss", "smooth_weight": 0.9})]


def test_history_draws_a_real_figure():
    from matplotlib.figure import Figure

    history = History()
    for k in range(5):
        history.log(D=k, G=5 - k)
    figure = history.plot()
    assert isinstance(figure, Figure) and len(figure.axes[0].get_legend_handles_labels()[1]) == 2


# ---------------------------------------------------------------- batches


def test_an_epoch_visits_every_item_once_and_the_next_in_another_order():
    batches = [batch for _, batch in steps(torch.arange(12), num_steps=8, batch_size=3)]
    first, second = torch.cat(batches[:4]).tolist(), torch.cat(batches[4:]).tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second and first != sorted(first)


def test_batches_are_full_and_the_rest_of_an_epoch_is_left_out():
    data = torch.arange(10)
    seen = [(step, batch) for step, batch in steps(data, num_steps=7, batch_size=4)]
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert all(batch.shape == (4,) for _, batch in seen)
    for k in (0, 2, 4):  # two batches an epoch, without a repetition
        assert len(set(seen[k][1].tolist() + seen[k + 1][1].tolist())) == 8


def test_batches_keep_rows_of_all_tensors_together():
    x = torch.arange(20)
    digits = types.SimpleNamespace(images=x.reshape(20, 1, 1, 1).to(torch.uint8), labels=x)
    for data in (digits, (digits.images, x), [digits.images, x]):
        for _, (images, labels) in steps(data, num_steps=6, batch_size=5):
            assert images.dtype == torch.uint8 and images.shape == (5, 1, 1, 1)
            assert images.flatten().tolist() == labels.tolist()
    [(_, batch)] = steps((x,), num_steps=1, batch_size=5)
    assert isinstance(batch, tuple) and len(batch) == 1


def test_the_batch_of_a_step_depends_on_seed_and_step_only():
    def batches(seed, history=None):
        run = steps(torch.arange(50), 30, 8, seed=seed, history=history)
        for step, batch in run:
            torch.rand(3), np.random.rand(), random.random()
            if history is not None:
                history.log(loss=1)
            yield step, batch.tolist()

    everything = dict(batches(7))
    seed_everything(1)
    assert dict(batches(7)) == everything
    assert dict(batches(8)) != everything
    half_done = History()
    for _ in range(17):
        half_done.log(loss=1)
    assert dict(batches(7, half_done)) == {k: everything[k] for k in range(18, 31)}


def test_the_data_move_to_the_device_once(monkeypatch):
    moves = []
    original = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: moves.append(a) or original(self, *a, **k))
    batches = [x for _, (x, _) in steps((torch.ones(8, 2), torch.ones(8)), 6, 4, device="meta")]
    assert all(x.device.type == "meta" and x.shape == (4, 2) for x in batches)
    assert len(moves) == 2 + 3  # two tensors, and the order of each of three epochs


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 11}, r"batch_size 11 is larger than the data \(10 items\)"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": 1.5}, "^steps: num_steps must be a whole number of at least 1, got 1.5"),
        ({"num_steps": True}, "num_steps must be a whole number"),
        ({"batch_size": None}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": None}, "seed must be a whole number"),
        ({"data": (torch.ones(3), torch.ones(4))}, r"the tensors differ in length, \[3, 4\]"),
        ({"data": np.ones(10)}, "data must be Digits"),
        ({"data": ()}, "data must be Digits"),
        ({"data": torch.tensor(1.0)}, "data must be Digits"),
        ({"history": []}, r"history must be a History\(\) or None, got list"),
    ],
)
def test_steps_refuses_arguments_that_make_no_sense_at_the_call(change, message):
    arguments = {"data": torch.ones(10), "num_steps": 5, "batch_size": 2} | change
    with pytest.raises(ValueError, match=message):
        steps(**arguments)


@pytest.mark.parametrize("times", [0, 2])
def test_a_step_is_logged_exactly_once(times):
    history = History()
    with pytest.raises(RuntimeError, match=rf"step 1 ended with {times} steps in the history"):
        for _ in steps(torch.ones(10), 5, 2, history=history):
            for _ in range(times):
                history.log(loss=1)


# ---------------------------------------------------------------- training: interrupts and NaN

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def make_model(lr=1e-2, kind=torch.optim.Adam):
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    )
    return model, kind(model.parameters(), lr=lr)


def train(model, optimizer, history, num_steps, in_step=lambda step: None):
    """What a notebook's cell does. Returns the numbers of the steps done."""
    done = []
    for step, (x, y) in steps((X, Y), num_steps, batch_size=32, history=history, seed=5):
        in_step(step)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.log(loss=loss)
        done.append(step)
    return done


def assert_same_state(one, other):
    (model_a, optimizer_a, history_a), (model_b, optimizer_b, history_b) = one, other
    for a, b in zip(model_a.state_dict().values(), model_b.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    states = optimizer_a.state_dict()["state"], optimizer_b.state_dict()["state"]
    assert states[0].keys() == states[1].keys() and len(states[0]) == 6
    for key, state in states[0].items():
        assert all(
            torch.equal(state[name], states[1][key][name]) for name in ("step", "exp_avg", "exp_avg_sq")
        )
    assert history_a.losses == history_b.losses and history_a.step == history_b.step


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@needs_posix_signals
def test_interrupted_at_random_and_continued_equals_uninterrupted(capsys):
    reference = (*make_model(), History())
    num_steps = 2000  # twice what a hundred stops need: on a busy machine timers come late
    train(*reference, num_steps)
    capsys.readouterr()
    handler = signal.getsignal(signal.SIGINT)
    draw = random.Random(0)
    run, stops = (*make_model(), History()), 0
    while run[2].step < num_steps:
        timers = []
        target = run[2].step + draw.randint(1, 10)

        def in_step(step, target=target, timers=timers):
            if step == target:  # at some moment of this step, or of the next
                timers.append(threading.Timer(draw.uniform(0, 0.002), interrupt))
                timers[0].start()

        try:
            train(*run, num_steps, in_step)
            for timer in timers:
                timer.join()
        except KeyboardInterrupt:  # the timer was late: the loop had just ended, and nothing was in progress
            pass
        out = capsys.readouterr().out
        stops += out.count("stopped after step")
        assert signal.getsignal(signal.SIGINT) is handler
        if "stopped" in out:
            assert f"stopped after step {run[2].step}; the same history goes on from here\n" in out
    assert stops >= 100
    assert_same_state(run, reference)


@needs_posix_signals
def test_the_loop_ends_normally_after_the_interrupted_step(capsys):
    run = (*make_model(), History())
    assert train(*run, 50, lambda step: step == 7 and interrupt()) == [1, 2, 3, 4, 5, 6, 7]
    assert capsys.readouterr().out == "stopped after step 7; the same history goes on from here\n"
    assert train(*run, 9) == [8, 9]
    assert capsys.readouterr().out == "going on after step 7; a new History() starts afresh\n"


@needs_posix_signals
def test_interrupts_without_a_history_and_in_the_last_step(capsys):
    for num_steps in (5, 3):
        done = [step for step, _ in steps(torch.ones(8), num_steps, 2) if step != 3 or interrupt() is None]
        assert done == [1, 2, 3]
    assert capsys.readouterr().out == "stopped after step 3\n"


@needs_posix_signals
def test_a_second_interrupt_stops_at_once():
    handler = signal.getsignal(signal.SIGINT)
    reached = []
    with pytest.raises(KeyboardInterrupt):
        for step, _ in steps(torch.ones(8), 5, 2):
            interrupt()
            reached.append(step)
            interrupt()
            reached.append("not this")
    assert reached == [1] and signal.getsignal(signal.SIGINT) is handler


@needs_posix_signals
def test_an_interrupt_in_a_loop_inside_a_loop_stops_both(capsys):
    seen = []
    for outer, _ in steps(torch.ones(8), 5, 2):
        for inner, _ in steps(torch.ones(8), 5, 2):
            seen.append((outer, inner))
            if (outer, inner) == (2, 3):
                interrupt()
    assert seen == [(1, k) for k in range(1, 6)] + [(2, 1), (2, 2), (2, 3)]
    assert capsys.readouterr().out == "stopped after step 3\nstopped after step 2\n"


def test_leaving_the_loop_gives_the_stop_button_back():
    handler = signal.getsignal(signal.SIGINT)
    for _ in steps(torch.ones(8), 5, 2):
        assert signal.getsignal(signal.SIGINT) is not handler
        break
    assert signal.getsignal(signal.SIGINT) is handler
    try:
        for _ in steps(torch.ones(8), 5, 2):
            raise ZeroDivisionError
    except ZeroDivisionError:  # its traceback is still alive here, as it is after a failed cell
        assert signal.getsignal(signal.SIGINT) is handler


def test_a_process_that_ignores_interrupts_goes_on_ignoring_them():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in steps(torch.ones(8), 2, 2):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@needs_posix_signals
def test_a_loop_dropped_by_another_thread_leaves_no_deaf_stop_button():
    before = signal.getsignal(signal.SIGINT)
    try:
        loop = steps(torch.ones(8), 5, 2)
        next(loop)
        closed = queue.Queue()
        thread = threading.Thread(target=lambda: closed.put(loop.close()))
        thread.start()
        thread.join()
        assert closed.get_nowait() is None
        with pytest.raises(KeyboardInterrupt):
            interrupt()
            time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_steps_works_off_the_main_thread():
    results = queue.Queue()
    handler = signal.getsignal(signal.SIGINT)
    run = (*make_model(), History())
    thread = threading.Thread(target=lambda: results.put(train(*run, 20)))
    thread.start()
    thread.join()
    assert results.get_nowait() == list(range(1, 21)) and signal.getsignal(signal.SIGINT) is handler
    reference = (*make_model(), History())
    train(*reference, 20)
    assert_same_state(run, reference)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), MemoryError()])
def test_a_step_without_memory_ends_the_loop_and_the_run_can_go_on(error):
    reference = (*make_model(), History())
    train(*reference, 12)
    run, handler = (*make_model(), History()), signal.getsignal(signal.SIGINT)

    def in_step(step):
        if step == 5:
            raise error

    with pytest.raises(type(error)):
        train(*run, 12, in_step)
    assert run[2].step == 4 and signal.getsignal(signal.SIGINT) is handler
    assert train(*run, 12) == list(range(5, 13))
    assert_same_state(run, reference)


def test_data_too_large_for_the_device_fail_at_the_call(monkeypatch):
    """A GPU without room for the data, which are moved before the first step: nothing is left half done."""
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 47.00 GiB.")

    history, handler = History(), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", full)
        with pytest.raises(torch.OutOfMemoryError):
            steps(torch.ones(8), 3, 2, history=history)
    assert history.step == 0 and signal.getsignal(signal.SIGINT) is handler
    for _ in steps(torch.ones(8), 3, 2, history=history):
        history.log(loss=1)
    assert history.step == 3


def test_a_cell_run_twice(capsys):
    run = (*make_model(), History())
    train(*run, 20)
    again = (*make_model(), History())
    train(*again, 20)
    assert_same_state(run, again)  # with everything made anew: the same numbers
    assert capsys.readouterr().out == ""
    assert train(*again, 20) == [] and train(*again, 10) == []  # with the same history: nothing to do
    line = "training is complete already, at step 20; a new History() starts afresh\n"
    assert capsys.readouterr().out == line * 2
    assert train(*again, 23) == [21, 22, 23]  # with more steps: the rest
    assert_same_state(run, again) if run[2].step == 23 else train(*run, 23)
    assert_same_state(run, again)


def test_divergence_stops_within_one_step():
    torch.manual_seed(1)
    weight = torch.zeros(6, 1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1e6)
    handler = signal.getsignal(signal.SIGINT)
    history, raw = History(), []
    with pytest.raises(TrainingDiverged) as caught:
        for _, x in steps(X, 1000, 32, history=history):
            loss = (x @ weight - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            raw.append(loss.item())
            history.log(fit=loss)
    first = 1 + int(np.argmax(~(np.abs(raw) < 1e15)))
    assert len(raw) == first < 50 and history.step == first - 1
    assert f"the loss 'fit' is {raw[-1]} at step {first}" in str(caught.value)
    assert signal.getsignal(signal.SIGINT) is handler


# ---------------------------------------------------------------- the display


def test_text_progress_outside_jupyter(monkeypatch, capfd):
    def run():
        history = History()
        for _ in steps(torch.ones(8), 5, 2, history=history):
            history.log(D=0.5, G=2)
        return capfd.readouterr()

    for off in ("0", "false", "No", "off"):
        monkeypatch.setenv("AIGC_PROGRESS", off)
        assert run() == ("", "")
    for on in (None, "", "1", "true", "Yes", "on"):
        monkeypatch.delenv("AIGC_PROGRESS") if on is None else monkeypatch.setenv("AIGC_PROGRESS", on)
        shown = run()
        assert shown.out == "" and "100%" in shown.err and "5/5" in shown.err and "D 0.5, G 2" in shown.err


def test_an_unknown_word_for_the_progress_is_refused_at_the_call(monkeypatch):
    monkeypatch.setenv("AIGC_PROGRESS", "nope")
    with pytest.raises(ValueError, match="^AIGC_PROGRESS='nope' is neither on"):
        steps(torch.ones(8), 5, 2)


class FakeClock:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("drawing", [0.001, 0.2])
def test_drawing_is_rare_and_not_counted_as_training(monkeypatch, drawing):
    clock, draws = FakeClock(), []

    class View:
        def draw(self):
            draws.append(clock.now)
            clock.now += drawing if len(draws) > 1 else 3.0  # the first one imports matplotlib

        close = draw

    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "_view", lambda progress: View())
    history = History()
    for _ in steps(torch.ones(8), 4000, 2, history=history):
        clock.now += 0.03
        history.log(loss=1)
    assert history.seconds == pytest.approx(4000 * 0.03)
    assert draws[0] == 0 and 4 <= draws[1] < 4.1
    live = draws[1:-1]  # apart from the first picture and the last
    between = np.diff(live)
    assert between.min() >= max(1.0, drawing / 0.05) and between.max() < max(1.0, drawing / 0.05) + 0.3
    assert len(live) * drawing <= 0.051 * clock.now


@pytest.fixture
def notebook(monkeypatch):
    """As if in a Jupyter kernel: collects what is displayed, and every value of the widget."""
    seen = types.SimpleNamespace(displays=[], updates=[], values=[], closed=[])

    class HTML(ipywidgets.HTML):
        def __setattr__(self, name, value):
            if name == "value":
                seen.values.append(value)
            super().__setattr__(name, value)

        def close(self):
            seen.closed.append(len(seen.updates))
            super().close()

    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setattr(ipywidgets, "HTML", HTML)
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: seen.displays.append((a, k)))
    monkeypatch.setattr(IPython.display, "update_display", lambda *a, **k: seen.updates.append((a, k)))
    monkeypatch.setattr(training, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(training, "DRAWING_SHARE", 1e9)
    return seen


def png_size(text):
    content = base64.b64decode(text, validate=True)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def test_live_display_in_jupyter(notebook, capfd):
    history = History()
    for _ in steps(torch.ones(8), 3, 2, history=history):
        history.log(D=0.5, G=2)
    [((live,), options)] = notebook.displays
    assert options["raw"] is True and options["display_id"]
    assert live.keys() == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert live["text/plain"] == "training curve"
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"]

    assert len(notebook.values) == 4  # before the first step, and after each
    assert "0/3" in notebook.values[0] and "no losses yet" in notebook.values[0]
    last = re.fullmatch(
        r'<pre style="margin: 0">(.*)</pre><img alt="(.*)" width="480" height="180" '
        r'src="data:image/png;base64,(.*)">',
        notebook.values[-1],
    )
    assert "3/3" in html.unescape(last[1])
    assert last[2] == "training curve at step 3 of 3: D 0.5, G 2"
    assert png_size(last[3]) == (480, 180)

    [((final,), update)] = notebook.updates
    assert update["raw"] is True and update["display_id"] == options["display_id"]
    assert final.keys() == {"image/png", "text/plain"} and final["text/plain"] == live["text/plain"]
    assert png_size(final["image/png"]) == (960, 360)
    shown = update["metadata"]["image/png"]
    assert (shown["width"], shown["height"], shown["alt"]) == (480, 180, "training curve")
    assert notebook.closed == [1]  # once, after the update
    assert capfd.readouterr() == ("", "")


def test_live_display_without_a_history(notebook):
    assert len(list(steps(torch.ones(8), 3, 2))) == 3
    [((live,), _)] = notebook.displays
    [((final,), _)] = notebook.updates
    assert live["text/plain"] == "" and final == {"text/plain": ""}
    assert "<img" not in notebook.values[-1] and "3/3" in notebook.values[-1]


def test_the_final_picture_stays_after_an_error(notebook):
    history = History()
    with pytest.raises(TrainingDiverged):
        for step, _ in steps(torch.ones(8), 9, 2, history=history):
            history.log(D=1.0 if step < 5 else float("nan"))
    [((final,), _)] = notebook.updates
    assert png_size(final["image/png"]) == (960, 360) and notebook.closed == [1]


def test_a_long_run_is_thinned_for_the_live_curve(monkeypatch):
    from aigc_helpers import plotting

    drawn = {}
    monkeypatch.setattr(
        plotting, "draw_curves", lambda ax, series, **options: drawn.update(series, **options)
    )
    history = History()
    for k in range(1000):
        history.log(D=k)
    training._curve_png(history, 1000, scale=1)
    assert len(drawn["D"]) == len(drawn["x"]) == 125 and drawn["ylabel"] == "D"
    assert drawn["D"][0] == np.mean(range(8)) and drawn["x"][0] == 8 and drawn["x"][-1] == 1000


# ---------------------------------------------------------------- in a real kernel

CELLS = [
    """
import time
import torch
from aigc_helpers import training
from aigc_helpers.training import History, budget, steps
training.REFRESH_SECONDS, training.DRAWING_SHARE = 0.05, 0.5  # a live picture in a short run, too
""",
    """
history = History()
for step, x in steps(torch.arange(64.0), num_steps=budget(60), batch_size=8, history=history):
    time.sleep(0.01)
    history.log(D=x.mean() / step, G=1 / step)
print("trained")
""",
    """
for rate in (1, 2):
    for step, x in steps(torch.arange(64.0), num_steps=budget(20), batch_size=8, history=History()):
        time.sleep(0.01)
        break
""",
]


def start_nbval(path, factor):
    (path.parent / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    command = "-m pytest -q -p no:cacheprovider --nbval --nbval-current-env".split()
    environment = {**ENVIRONMENT, "AIGC_BUDGET": factor}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.Popen(
        [sys.executable, *command, path.name],
        cwd=path.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.notebook
def test_strict_nbval_passes_at_two_budgets_and_can_fail(tmp_path, monkeypatch):
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbclient.NotebookClient(book, timeout=60).execute()

    outputs = [output for cell in book.cells for output in cell.outputs]
    assert [output.output_type for output in outputs] == [
        "display_data",
        "stream",
        "display_data",
        "display_data",
    ]
    for output in outputs:
        if output.output_type == "display_data":
            assert output.data.keys() == {"image/png", "text/plain"}
            assert output.data["text/plain"] == "training curve"
            assert png_size(output.data["image/png"]) == (960, 360)

    good, bad = tmp_path / "good" / "book.ipynb", tmp_path / "bad" / "book.ipynb"
    good.parent.mkdir()
    bad.parent.mkdir()
    nbformat.write(book, good)
    extra = nbformat.v4.new_code_cell(CELLS[1].strip(), execution_count=4)
    extra.outputs = copy.deepcopy(book.cells[1].outputs)
    book.cells.append(extra)
    book.cells[-1].outputs[0].data["text/plain"] = "another text"
    nbformat.write(book, bad)
    runs = [start_nbval(good, "1"), start_nbval(bad, "0.1")]  # two at a time
    reports = [run.communicate(timeout=120)[0].decode("utf-8", "replace") for run in runs]
    assert runs[0].returncode == 0 and "3 passed" in reports[0], reports[0]
    # Shorter runs pass as well, and the one cell with another text stored does not.
    assert runs[1].returncode == 1 and "1 failed, 3 passed" in reports[1], reports[1]
    assert "Cell 3" in reports[1] and "another text" in reports[1]


KERNEL_SETUP = """
import signal, time
import torch
from aigc_helpers.checks import check
from aigc_helpers.training import History, steps
def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters()), History()
def train(model, optimizer, history, pause=0.0):
    for step, x in steps(torch.eye(4).repeat(8, 1), num_steps=200, batch_size=8, history=history):
        time.sleep(pause)
        loss = (model(x) - x.sum(1, keepdim=True) * 3).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        history.log(loss=loss)
def everything(model, optimizer, history):
    states = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    return [*model.state_dict().values(), *states, torch.tensor(history["loss"])]
run = make()
"""
KERNEL_DIGEST = """
import hashlib
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in everything(*run))).hexdigest())
"""
KERNEL_COMPARE = """
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
reference = make()
train(*reference)
pairs = zip(everything(*run), everything(*reference), strict=True)
print(run[2].step, all(torch.equal(a, b) for a, b in pairs))
"""


@pytest.fixture(scope="module")
def kernel():
    """The manager and the client of a kernel that the tests below share."""
    manager = KernelManager()
    manager.start_kernel(env=ENVIRONMENT)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def execute(kernel):
    """A function that runs code in the kernel and, once something is displayed, interrupts it."""
    manager, client = kernel

    def run(code, interrupts=0):
        messages = []

        def hook(message):
            messages.append(message)
            if message["msg_type"] == "display_data":
                for k in range(interrupts):
                    threading.Timer(0.3 + 0.3 * k, manager.interrupt_kernel).start()

        reply = client.execute_interactive(code, timeout=60, output_hook=hook)
        text = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
        return reply["content"], text

    return run


@pytest.mark.notebook
@needs_posix_signals
def test_the_stop_button_of_a_real_kernel(execute):
    assert execute(KERNEL_SETUP)[0]["status"] == "ok"
    reply, text = execute("train(*run, pause=0.01)\nprint('cell done')", interrupts=1)
    assert reply["status"] == "ok"
    stopped = re.fullmatch(r"stopped after step (\d+); the same history goes on from here\ncell done\n", text)
    assert 0 < int(stopped[1]) < 200
    reply, text = execute("train(*run)")
    assert text == f"going on after step {stopped[1]}; a new History() starts afresh\n"
    assert execute(KERNEL_COMPARE)[1] == "True\n200 True\n"
    reply, _ = execute(
        "for _ in steps(torch.ones(8), 3, 2): time.sleep(60)", interrupts=2
    )  # a step that hangs
    assert reply["status"] == "error" and reply["ename"] == "KeyboardInterrupt"


@pytest.mark.notebook
def test_a_kernel_killed_in_mid_training_and_started_again_trains_the_same(kernel, execute):
    """The second kernel finds nothing of the first: the whole run, made anew, is that of a kernel never killed."""
    manager, client = kernel
    assert execute(KERNEL_SETUP + "train(*run)")[0]["status"] == "ok"
    wanted = execute(KERNEL_DIGEST)[1]
    assert re.fullmatch(r"[0-9a-f]{64}\n", wanted)
    client.execute("run = make()\ntrain(*run, pause=0.02)")
    while client.get_iopub_msg(timeout=30)["msg_type"] != "display_data":  # the first picture: training has begun
        pass
    time.sleep(0.3)
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert execute("model, optimizer, history = run")[0]["ename"] == "NameError"
    assert execute(KERNEL_SETUP + "train(*run)")[0]["status"] == "ok"
    assert execute(KERNEL_DIGEST)[1] == wanted
    reply, text = execute("model(torch.ones(1))")
    assert reply["ename"] == "NameError" and text.startswith("Advice: if a cell further up makes 'model', run that one")


def test_importing_is_cheap():
    code = (
        "import sys, numpy, torch; before = set(sys.modules)\n"
        "import aigc_helpers.training, aigc_helpers.checks\n"
        "heavy = {'matplotlib', 'ipywidgets', 'IPython', 'sklearn', 'torchmetrics', 'tqdm', 'safetensors'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
