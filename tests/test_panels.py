"""Panels without a browser: set values, click buttons, look at the picture; under ipywidgets 8 and 7.7.1."""

import html
import io
import os
import pathlib
import re
import subprocess
import sys
import threading

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from aigc_helpers import plotting
from aigc_helpers.panels import Panel, choice, core, frozen, log_slider, slider, switch, text_box
from tests.panel_checks import cropped_texts, faint_texts, moved_together, picture

HERE = pathlib.Path(__file__).parent


def draw_dot(x=0.0, **_):
    fig, ax = plotting.figure(2, 1, tight=False)
    ax.plot([x], [0], "o")
    ax.set(xlim=(-2, 2))
    return fig, f"x is {x:.1f}"


def make(**kwargs):
    settings = {"draw": draw_dot, "controls": {"x": slider("x", -1.0, 1.0, 0.0)}, "alt": "A dot on a line."} | kwargs
    return Panel("Dot", **settings)


def test_moving_a_control_changes_picture_status_and_sequence_number():
    panel = make()
    before, seq = picture(panel), panel.seq
    panel.controls["x"].value = 0.5
    assert not np.array_equal(before, picture(panel))
    assert "x is 0.5" in panel.status.value and f'data-seq="{seq + 1}"' in panel.status.value
    assert 'data-state="ok"' in panel.status.value


def test_picture_has_alt_text_with_the_status_and_a_fixed_size():
    value = make().picture.value
    assert 'alt="A dot on a line. x is 0.0"' in value
    assert 'width="200"' in value and 'height="100"' in value


def test_text_from_outside_is_escaped():
    panel = make(draw=lambda **_: (draw_dot()[0], "<script>alert(1)</script>\"'"))
    assert "<script>" not in panel.status.value + panel.picture.value


@pytest.mark.parametrize(
    "words", ["", "  ", "To be", "生成式 AI", "🙂🎲", "<img src=x onerror=alert(1)>\n&amp;", "a" * 10_000]
)
def test_what_a_reader_types_reaches_the_drawing_unchanged_and_the_page_escaped(words):
    seen = []

    def draw(prompt):
        seen.append(prompt)
        return draw_dot()[0], f"You wrote: {prompt}"

    panel = make(draw=draw, controls={"prompt": text_box("prompt", "ROMEO:")})
    assert seen[-1] == "ROMEO:" and panel.controls["prompt"].description == "prompt"
    panel.controls["prompt"].value = words
    assert seen[-1] == words
    assert "<img src=x" not in panel.status.value + panel.picture.value
    assert panel.error is None and html.escape(words).strip() in panel.status.value


def test_an_exception_is_shown_in_the_status_line_and_is_gone_after_the_next_good_draw():
    def draw(x):
        if x > 0.5:
            raise ValueError("too far <right>")
        return draw_dot(x)

    panel = make(draw=draw)
    good = panel.picture.value
    panel.controls["x"].value = 1.0
    assert 'data-state="error"' in panel.status.value and "ValueError: too far &lt;right&gt;" in panel.status.value
    assert panel.picture.value == good, "the last good picture stays"
    panel.controls["x"].value = 0.1
    assert 'data-state="ok"' in panel.status.value and panel.error is None


def test_buttons_run_then_draw():
    clicks = []
    panel = make(buttons={"Go": lambda: clicks.append(1)})
    seq = panel.seq
    panel.buttons["Go"].click()
    assert clicks == [1] and panel.seq == seq + 1


@pytest.mark.parametrize(("control", "value"), [(slider("s", 0.0, 1.0, 0.5, step=0.1), 0.55),
                                                (slider("s", 0, 4, 2, step=2), 3), (slider("s", 0.0, 1.0, 0.5), 1.1),
                                                (log_slider("s", -2, 3, 0.1, step=0.1), 450.0)])  # fmt: skip
def test_a_preset_that_is_no_step_of_its_slider_is_refused(control, value):
    """A browser would move the slider, and draw once more: another value than the button says."""
    with pytest.raises(ValueError, match=f"the button 'Jump' sets s to {value}, which is no step of its slider"):
        Panel("Test", lambda s: None, {"s": control}, alt="Nothing.", presets={"Jump": {"s": value}})


def test_presets_set_several_controls_with_one_draw_and_call_changed_for_each():
    seen = []
    panel = make(controls={"x": slider("x", -1.0, 1.0, 0.0), "y": slider("y", -1, 1, 0, step=1)},
                 presets={"Corner": {"x": 1.0, "y": 1}}, changed=lambda name, value: seen.append((name, value)))  # fmt: skip
    seq = panel.seq
    panel.buttons["Corner"].click()
    assert panel.values == {"x": 1.0, "y": 1} and seen == [("x", 1.0), ("y", 1)]
    assert panel.seq == seq + 1, "one event, one drawing"


def test_a_rounding_error_of_the_page_is_no_event():
    panel = make()
    panel.controls["x"].value = 0.3
    seq = panel.seq
    panel.controls["x"].value = 0.30000000000000004
    assert panel.seq == seq


def test_put_is_silent():
    panel = make(changed=lambda *_: pytest.fail("put must not call changed"))
    seq = panel.seq
    panel.put(x=0.7)
    assert panel.values["x"] == 0.7 and panel.seq == seq


def test_draw_runs_without_gradients_and_events_with_them():
    modes = []
    panel = make(draw=lambda x: (modes.append(torch.is_grad_enabled()), draw_dot(x))[1],
                 buttons={"Train": lambda: modes.append(torch.is_grad_enabled())})  # fmt: skip
    modes.clear()
    panel.buttons["Train"].click()
    assert modes == [True, False]


def test_run_and_pause_drive_the_player():
    ticks = []
    panel = make(tick=lambda: ticks.append(1))
    panel.play.value += 1  # what the browser's timer does
    assert ticks == [1]
    if panel.play.has_trait("playing"):
        panel.buttons["Run"].click()
        assert panel.play.playing
        panel.buttons["Pause"].click()
        assert not panel.play.playing
        assert panel.play.layout.display == "none"
    else:
        assert "Run" not in panel.buttons and panel.play in panel.box.children[0].children


def test_an_exception_in_a_tick_stops_the_player():
    def tick():
        raise RuntimeError("diverged")

    panel = make(tick=tick)
    panel._set_playing(True)
    panel.play.value += 1
    assert "RuntimeError: diverged" in panel.status.value
    assert not getattr(panel.play, "playing", False)


def test_callbacks_from_several_threads_do_not_overlap():
    inside, overlaps = [], []

    def draw(x):
        overlaps.append(bool(inside))
        inside.append(1)
        result = draw_dot(x)
        inside.pop()
        return result

    panel = make(draw=draw)
    threads = [threading.Thread(target=lambda v=v: panel.set(x=v)) for v in (0.1, 0.2, 0.3, 0.4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(overlaps) and len(overlaps) >= 5


def test_storyboard_leaves_the_controls_as_they_were_and_holds_a_picture_a_frame():
    panel = make(frames=[("left", {"x": -1.0}), ("right", lambda: {"x": 1.0}), ("right of the middle", {"x": 0.5})])
    png, (width, height) = panel._storyboard
    image = Image.open(io.BytesIO(png))
    assert panel.values["x"] == 0.0 and width <= 900
    assert image.width > 2 * 200 and image.height > 2 * 100, "two in a row, two rows"
    assert abs(image.width / image.height - width / height) < 0.02


def test_show_emits_widget_picture_and_text(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.update(data=data, metadata=metadata))
    panel = make()
    panel.show()
    assert set(shown["data"]) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert shown["metadata"]["image/png"]["alt"] == shown["data"]["text/plain"] == "Dot. A dot on a line."


def test_a_panel_without_alt_text_is_refused():
    with pytest.raises(ValueError, match="alt needs a sentence"):
        make(alt=" ")


def test_controls():
    assert isinstance(slider("n", 1, 5, 2, step=1), ipywidgets.IntSlider)
    assert isinstance(slider("x", 0, 1, 0.5), ipywidgets.FloatSlider)
    assert log_slider("lr", -5, -1, 1e-3).value == pytest.approx(1e-3)
    assert choice("loss", ["a", "b"]).value == "a" and choice("loss", {"A": 1, "B": 2}, 2).value == 2
    assert switch("on", True).value is True


def test_none_in_a_list_is_a_line_like_any_other():
    seen = []
    panel = make(draw=lambda label: seen.append(label) or draw_dot()[0],
                 controls={"label": choice("finish as", {"no label": None, "7": 7, "8": 8}, 7)})  # fmt: skip
    panel.controls["label"].index = 0  # what the page sends
    assert panel.values == {"label": None} and seen[-1] is None
    assert panel.controls["label"].index == 0 and panel.controls["label"].label == "no label"
    panel.set(label=8)
    panel.set(label=None)
    assert seen[-2:] == [8, None] and panel.controls["label"].index == 0
    first = choice("finish as", {"no label": None, "7": 7})
    assert (first.index, first.label) == (0, "no label")


def test_cropped_texts_are_found():
    fig, ax = plotting.figure(3, 2, tight=False)
    fig.subplots_adjust(left=0.2, right=0.99)
    ax.set(xlim=(0, 1000), xticks=[500, 1000], yticks=[0, 1])
    fig.text(0.5, 0.5, "inside")
    fig.text(0.9, 0.5, "a long line")
    assert cropped_texts(fig) == ["1000", "a long line"]


def test_faint_texts_are_found():
    fig, ax = plotting.figure(3, 2)
    ax.text(0.1, 0.8, "clear", color=plotting.INK)
    ax.text(0.1, 0.3, "faint", color=plotting.SKY)
    assert [text for text, _ in faint_texts(fig)] == ["faint"]
    ax.set_facecolor(plotting.INK)
    assert [text for text, _ in faint_texts(fig)] == ["clear"]


# ---------------------------------------------------------------- a cell that is run again, and panels side by side


def num_widgets():
    return len(ipywidgets.widgets.widget._instances) if hasattr(ipywidgets.widgets.widget, "_instances") else len(
        ipywidgets.Widget.widgets)


def moving_dot():
    page = plotting.ReusableFigure(2, 1)

    def draw(x):
        fig, ax = page.wipe()
        ax.plot([x], [0], "o")
        ax.set(xlim=(-2, 2), title=f"x is {x:.1f}")
        return fig

    frames = [("left", {"x": -1.0}), ("right", {"x": 1.0})]
    return Panel("Dot", draw, {"x": slider("x", -1.0, 1.0, 0.0)}, alt="A dot.", frames=frames, tick=lambda: None)


def test_closing_frees_every_widget_and_ends_every_callback():
    ticks = []
    before = num_widgets()
    panel = make(tick=lambda: ticks.append(1), buttons={"Go": lambda: ticks.append(2)})
    go, play, control = panel.buttons["Go"], panel.play, panel.controls["x"]
    assert num_widgets() >= before + 20
    panel.close()
    assert num_widgets() == before and panel.closed
    seq = panel.seq
    go.click()
    play.value += 1
    control.value = 0.7
    panel.set(x=0.5)
    panel.redraw()
    panel.close()  # a second time does no harm
    assert ticks == [] and panel.seq == seq


class Info:
    """What IPython hands to a listener before it runs a cell."""

    def __init__(self, raw_cell, cell_id=None):
        self.raw_cell = raw_cell
        self.cell_id = cell_id


@pytest.fixture
def cells(monkeypatch):
    fresh = core._Cells()
    monkeypatch.setattr(core, "_cells", fresh)
    return fresh


@pytest.mark.parametrize("ids", [("a", "b"), (None, None)])
def test_a_cell_that_is_run_again_closes_its_panels_and_no_others(cells, ids):
    cells.start(Info("one()", ids[0]))
    first, second = make(), make()
    cells.start(Info("two()", ids[1]))
    other = make()
    cells.start(Info("one()", ids[0]))
    assert (first.closed, second.closed, other.closed) == (True, True, False)
    again = make()
    cells.start(Info("three()"))
    assert not again.closed and not other.closed


def test_a_cell_whose_text_was_changed_is_still_the_same_cell_where_the_page_names_it(cells):
    cells.start(Info("one()", "a"))
    panel = make()
    cells.start(Info("one(2)", "a"))
    assert panel.closed


def test_a_panel_made_outside_of_a_cell_is_left_alone(cells):
    panel = make()
    cells.start(Info("one()", "a"))
    assert not panel.closed


def test_two_panels_of_one_kind_moved_at_once_draw_what_each_draws_alone():
    assert moved_together(moving_dot, rounds=40) == 0


def test_a_panel_and_a_figure_of_the_page_drawn_at_once_keep_their_own_settings():
    import matplotlib

    before = dict(matplotlib.rcParams)
    panel = moving_dot()
    stop = threading.Event()

    def draw_pages():
        while not stop.is_set():
            plotting.to_png(plotting.curves({"a": [1, 2, 3]}))

    thread = threading.Thread(target=draw_pages)
    thread.start()
    panel.set(x=0.5)
    want = panel.picture.value
    for k in range(30):
        panel.set(x=-0.5 if k % 2 == 0 else 0.5)
    stop.set()
    thread.join()
    assert panel.picture.value == want
    assert dict(matplotlib.rcParams) == before


def test_the_storyboard_is_the_same_each_time_and_drawn_under_the_lock():
    assert moving_dot()._storyboard == moving_dot()._storyboard
    owned = []
    make(draw=lambda x: (owned.append(True), draw_dot(x))[1])
    locked = []

    class Watched(Panel):
        def _draw_storyboard(self):
            def try_it():
                got = self._lock.acquire(blocking=False)
                locked.append(not got)
                if got:
                    self._lock.release()

            other = threading.Thread(target=try_it)
            other.start()
            other.join()
            return super()._draw_storyboard()

    Watched("Dot", draw_dot, {"x": slider("x", -1.0, 1.0, 0.0)}, alt="A dot.")
    assert locked == [True]


def test_reset_puts_the_state_back_when_the_storyboard_is_drawn():
    state = {"n": 0}

    def advance():
        state["n"] += 5

    def reset():
        state["n"] = 0

    seen = []
    make(draw=lambda x: (seen.append(state["n"]), draw_dot(x))[1], frames=[("later", advance)], reset=reset)
    assert seen == [5, 0]


def test_a_frozen_model_is_a_copy_that_the_page_does_not_reach():
    model = torch.nn.Linear(2, 1)
    copy = frozen(model)
    with torch.no_grad():
        model.weight.zero_()
    assert model.training and not copy.training
    assert copy.weight.abs().sum() > 0 and not copy.weight.requires_grad and model.weight.requires_grad


def test_a_panel_that_is_the_last_line_of_a_cell_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown.append(args))
    make()._ipython_display_()
    assert len(shown) == 1


def test_the_package_knows_its_chapters():
    from aigc_helpers import panels

    with pytest.raises(AttributeError, match="there are: "):
        panels.no_such_chapter  # noqa: B018
    assert "core" not in dir(panels) and "Panel" in dir(panels)


# ---------------------------------------------------------------- the same under Colab's ipywidgets


def ipywidgets_7(tmp_path_factory):
    """A folder with ipywidgets 7.7.1, from AIGC_IPYWIDGETS7 or installed for this run; None if it cannot be had."""
    if os.environ.get("AIGC_IPYWIDGETS7"):
        return os.environ["AIGC_IPYWIDGETS7"]
    folder = tmp_path_factory.mktemp("ipywidgets7")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "ipywidgets==7.7.1", "ipython_genutils"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    return str(folder) if done.returncode == 0 else None


@pytest.mark.skipif(int(ipywidgets.__version__.split(".")[0]) < 8, reason="this is the inner run")
@pytest.mark.exhaustive
def test_all_of_this_under_ipywidgets_7_7_1(tmp_path_factory):
    folder = ipywidgets_7(tmp_path_factory)
    if folder is None:
        message = "ipywidgets 7.7.1 could not be installed (no network?)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(HERE.parent)])}
    version = subprocess.run([sys.executable, "-c", "import ipywidgets; print(ipywidgets.__version__)"], env=env, capture_output=True, text=True)
    assert version.stdout.strip() == "7.7.1"
    # All tests of the core; of the chapters' panels those that use every control and look at the storyboard.
    wanted = ["-k", "test_panels or every_control or storyboard"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *wanted, str(HERE / "test_panels.py"), str(HERE / "chapters")]
    done = subprocess.run(command, env=env, cwd=HERE.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed > 80, done.stdout[-300:]


def test_panels_import_no_pyplot():
    code = "import sys; from aigc_helpers import panels; assert 'matplotlib.pyplot' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=HERE.parent).returncode == 0
