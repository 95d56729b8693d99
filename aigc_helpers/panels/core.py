"""Panels: controls beside a picture, alive in JupyterLab, VS Code and Colab, a picture everywhere else.

How a panel avoids the known traps of widgets in notebooks:

- It draws to PNG bytes and sets them as an `<img>` in an `HTML` widget: no pyplot, no `Output` widget.
  Nothing is printed from a callback, so nothing can flicker, stack up or land in another cell.
- Callbacks may run in another thread than cells do (JupyterLab with ipykernel 7). So a panel owns what it works
  on (its state, its figure, its random generator, its copy of a model: see `frozen`), one lock guards state and
  drawing, the storyboard's included, and all drawing in the process takes turns (`plotting.style`).
- A cell that is run again closes the panels that it made before: a `Play` widget lives in the page's model, not in
  the view that is gone, and would go on ticking for a panel that nobody sees.
- An exception in a callback, which JupyterLab would hide, is shown in the status line.
- Long work runs in short chunks, one a click or one a tick of a `Play` widget; the kernel is free in between.
- The displayed output also holds a storyboard drawn by the same function, for readers without a kernel.

Works with ipywidgets 7.7.1 (Colab) and 8.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import math
import sys
import threading
import time
import weakref

import ipywidgets as widgets
import torch

from aigc_helpers import plotting

LABEL_WIDTH, CONTROL_WIDTH, COLUMN_WIDTH = "102px", "296px", "304px"
SCALE = 1.25  # pixels of a panel's picture to one CSS pixel
TICK_MS = 60  # between two ticks of Run
NARROW = 2  # a button with a name of at most so many characters is narrow: five of them stand in a row
MAX_TICKS = 10**6


# ---------------------------------------------------------------- controls


def slider(label, low, high, value, step=0.1, fmt=".2f"):
    """A slider with an editable number beside it; whole numbers when low, value and step are ints."""
    whole = all(isinstance(n, int) for n in (low, value, step))
    make = widgets.IntSlider if whole else widgets.FloatSlider
    return make(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        readout_format="d" if whole else fmt,
        **_sizes(),
    )


def log_slider(label, low, high, value, step=0.1):
    """A slider over powers of ten; `low` and `high` are exponents, `value` is the number itself."""
    return widgets.FloatLogSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        base=10,
        description=label,
        readout_format=".1e",
        **_sizes(),
    )


def is_off_step(control, value):
    """Whether a browser would move this control, set to `value`, to its nearest step."""
    if not isinstance(control, (widgets.FloatSlider, widgets.IntSlider, widgets.FloatLogSlider)):
        return False
    place = math.log(value, control.base) if isinstance(control, widgets.FloatLogSlider) else value
    steps = (place - control.min) / control.step
    return abs(steps - round(steps)) > 1e-6 or not control.min <= place <= control.max


def _require_steps(title, preset, values, controls):
    """A preset between two steps of a slider would not show what its button says."""
    for name, value in values.items():
        if is_off_step(controls[name], value):
            raise ValueError(
                f"Panel {title!r}: the button {preset!r} sets {name} to {value}, which is no step of its slider: "
                "choose another step or value, or a `choice`"
            )


def choice(label, options, value=None):
    """A drop-down list; options is a list, or a dict of shown text -> value."""
    if isinstance(options, dict):
        pairs = list(options.items())
    else:
        pairs = [(str(option), option) for option in options]
    pairs = [(text, _NONE if option is None else option) for text, option in pairs]
    value = pairs[0][1] if value is None else value
    return widgets.Dropdown(options=pairs, value=value, description=label, **_sizes())


_NONE = object()  # stands for None in a list: ipywidgets takes None for "nothing chosen", a blank


def _value(control):
    return None if control.value is _NONE else control.value


def switch(label, value=False):
    """A check box."""
    return widgets.Checkbox(value=value, description=label, indent=False)


def text_box(label, value=""):
    """A field of three lines for the reader's own words; its value is a str, which may be anything at all."""
    sizes = _sizes()
    sizes["layout"]["height"] = "auto"
    return widgets.Textarea(value=value, description=label, rows=3, **sizes)


def _sizes():
    return {"style": {"description_width": LABEL_WIDTH}, "layout": {"width": CONTROL_WIDTH}}


def frozen(model):
    """A copy of a model for a panel to own: on the CPU, in evaluation mode, without gradients.

    The page may train its model on, move it to a GPU or change its mode while a panel, in another thread, draws.
    """
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


# ---------------------------------------------------------------- which cell a panel belongs to


class _Cells:
    """The live panels of each cell, so that a cell which is run again can close those that it replaces."""

    def __init__(self):
        self.panels = {}  # a cell's identity -> weak references to its panels
        self.running = None

    def listen(self):
        """Hear of every cell that starts. The one that is running now has started already: ask for it."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if getattr(shell, "kernel", None) is None:  # a script, a test, a terminal: no cell is run again
            return
        message = shell.get_parent() or {}
        cell_id = message.get("metadata", {}).get("cellId")
        self.running = _identity(cell_id, message.get("content", {}).get("code", ""))
        shell.events.register("pre_run_cell", self.start)

    def start(self, info):
        """What IPython calls before each cell: its earlier panels are closed, before anything is made anew."""
        self.running = _identity(getattr(info, "cell_id", None), info.raw_cell)
        for reference in self.panels.pop(self.running, ()):
            panel = reference()
            if panel is not None:
                panel.close()

    def add(self, panel):
        if self.running is not None:
            self.panels.setdefault(self.running, []).append(weakref.ref(panel))


def _identity(cell_id, source):
    """JupyterLab and VS Code name the cell; elsewhere (Colab) the same text is taken for the same cell."""
    return cell_id or hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()


_cells = _Cells()
_cells.listen()


# ---------------------------------------------------------------- the panel


class Panel:
    """Controls beside a picture.

    title     a few words, shown above the panel
    draw      draw(**values) -> figure, or (figure, status line); called with the value of every control, under
              `torch.no_grad()` and the panel's lock
    controls  dict name -> widget, from `slider`, `choice`, `switch`, ...
    buttons   dict label -> function without arguments, called before a redraw
    tick      function without arguments that does one chunk of work (aim below 100 ms); gives Run and Pause
    changed   function (name, value) called before the redraw when a control changes
    presets   dict label -> {control: value}: buttons that set several controls at once
    frames    list of (caption, change): the storyboard for readers without a kernel; change is {control: value},
              or a function that changes your own state and may return such a dict
    reset     function without arguments, called when the storyboard is drawn: puts your own state back
    alt       what the picture shows, in a sentence

    Raises ValueError for an empty `alt`.
    """

    def __init__(
        self,
        title,
        draw,
        controls,
        *,
        alt,
        buttons=None,
        tick=None,
        changed=None,
        presets=None,
        frames=(),
        reset=None,
    ):
        if not alt.strip():
            raise ValueError(
                f"Panel {title!r}: alt needs a sentence that says what the picture shows"
            )
        self.title = title
        self.alt = alt
        self.draw = draw
        self.controls = dict(controls)
        self.tick = tick
        self.changed = changed
        self.frames = list(frames)
        self.seq = 0
        self.error = None
        self.last_ms = 0.0
        self.closed = False
        self._lock = threading.RLock()
        self._quiet = False
        # In a narrow window, or zoomed, the picture shrinks to fit.
        self.picture = widgets.HTML(layout={"max_width": "100%", "min_width": "0"})
        self.status = widgets.HTML()
        self.buttons = {
            name: self._button(name, function) for name, function in (buttons or {}).items()
        }
        for name, values in (presets or {}).items():
            _require_steps(title, name, values, self.controls)
            self.buttons[name] = self._button(name, lambda values=values: self._take(values))
        self.play = self._make_play() if tick else None
        for name, control in self.controls.items():
            control.observe(
                lambda change, name=name: self._on_change(name, change), names="value"
            )
        self.box = self._arrange()
        _cells.add(self)
        with self._lock:
            self._storyboard = self._draw_storyboard()
            if reset:
                reset()
            self.redraw()

    # ---- what tests and notebook code use

    @property
    def values(self):
        """The value of every control, by name."""
        return {name: _value(control) for name, control in self.controls.items()}

    def set(self, **values):
        """Set several controls as if the reader had moved them; the picture is drawn once."""
        self._guard(lambda: self._take(values))

    def put(self, **values):
        """Set controls without calling `changed` and without drawing."""
        with self._lock:
            before = self._quiet
            self._quiet = True
            try:
                for name, value in values.items():
                    self.controls[name].value = _NONE if value is None else value
            finally:
                self._quiet = before

    def redraw(self):
        """Draw the picture for the present values; an exception goes to the status line."""
        self._guard()

    def pause(self):
        """Stop `tick`, as the Pause button does."""
        self._set_playing(False)

    def close(self):
        """End the panel: Run stops, no control calls anybody any more, and its widgets are freed."""
        with self._lock:
            if self.closed:
                return
            self.pause()
            self.closed = True
            for widget in _all_widgets(self.box):
                widget.unobserve_all()
                widget.close()

    def show(self):
        """Display the live panel, with its storyboard for readers without a kernel."""
        from IPython.display import display

        png, (width, height) = self._storyboard
        text = f"{self.title}. {self.alt}"
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": base64.b64encode(png).decode("ascii"),
            "text/plain": text,
        }
        size = {"width": width, "height": height, "alt": text}
        display(bundle, metadata={"image/png": size}, raw=True)

    _ipython_display_ = show  # a panel that is a cell's last line is shown

    # ---- events

    def _take(self, values):
        """Set controls and call `changed` for each, without drawing."""
        for name, value in values.items():
            self.put(**{name: value})
            if self.changed:
                self.changed(name, _value(self.controls[name]))

    def _on_change(self, name, change):
        value = change["new"]
        before = change["old"]
        if self._quiet:
            return
        if isinstance(value, float) and math.isclose(value, before, abs_tol=1e-9):
            return  # a slider in the page answers 3.4 with 3.4000000000000004: no event of the reader
        if self.changed:
            self._guard(lambda: self.changed(name, _value(self.controls[name])))
        else:
            self._guard()

    def _guard(self, work=None):
        """Do `work`, draw, and report: the one way of every event."""
        with self._lock:
            if self.closed:  # a message that was on its way when the cell was run again
                return
            start = time.perf_counter()
            try:
                if work:
                    work()
                fig, text = self._drawn()
                self.picture.value = self._img(fig, text)
                self.error = None
            except Exception as problem:  # a callback's traceback would be lost: say it where the reader looks
                self.error = problem
                text = f"{type(problem).__name__}: {problem}"
                self._set_playing(False)
            self.last_ms = 1000 * (time.perf_counter() - start)
            self.seq += 1
            self.status.value = self._status(text)

    def _drawn(self):
        """The figure for the present values, and the status line."""
        with torch.no_grad(), plotting.style():
            drawn = self.draw(**self.values)
        return drawn if isinstance(drawn, tuple) else (drawn, "")

    def _img(self, fig, text):
        width, height = (round(inches * plotting.DPI) for inches in fig.get_size_inches())
        data = base64.b64encode(plotting.to_png(fig, scale=SCALE)).decode("ascii")
        alt = html.escape(f"{self.alt} {text}".strip(), quote=True)
        return (
            f'<img alt="{alt}" width="{width}" height="{height}" '
            f'style="max-width:100%;height:auto;border-radius:6px" src="data:image/png;base64,{data}">'
        )

    def _status(self, text):
        state = "error" if self.error else "ok"
        mark = "&#9888; " if self.error else ""
        colour = "color:#B00020;background:#fff;" if self.error else ""
        return (
            f'<div class="aigc-status" role="status" data-seq="{self.seq}" data-state="{state}" '
            f'data-ms="{self.last_ms:.0f}" '
            f'style="line-height:1.35;max-width:{CONTROL_WIDTH};{colour}">'
            f"{mark}{html.escape(text)}</div>"
        )

    def _button(self, label, function):
        least = "52px" if len(label) <= NARROW else "76px"
        button = widgets.Button(description=label, layout={"width": "auto", "min_width": least})
        button.on_click(lambda _: self._guard(function))
        return button

    # ---- Run and Pause

    def _make_play(self):
        play = widgets.Play(min=0, max=MAX_TICKS, step=1, interval=TICK_MS)
        play.observe(lambda _: self._guard(self.tick), names="value")
        if play.has_trait("playing"):  # ipywidgets 8: text buttons drive the hidden player
            play.layout.display = "none"
            self.buttons["Run"] = self._player_button("Run", True)
            self.buttons["Pause"] = self._player_button("Pause", False)
        return play  # ipywidgets 7 cannot be started from Python: its own buttons are shown

    def _player_button(self, label, on):
        button = widgets.Button(
            description=label, layout={"width": "auto", "min_width": "76px"}
        )
        button.on_click(lambda _: self._set_playing(on))
        return button

    def _set_playing(self, on):
        play = getattr(self, "play", None)
        if play is not None and not self.closed and play.has_trait("playing"):
            play.playing = on

    # ---- layout

    def _arrange(self):
        wrap = widgets.Layout(flex_flow="row wrap", width="300px")
        rows = [*self.controls.values(), widgets.HBox(list(self.buttons.values()), layout=wrap)]
        if self.play is not None:
            rows.append(self.play)
        heading = widgets.HTML(
            f'<b class="aigc-title" style="font-size:14px">{html.escape(self.title)}</b>'
        )
        left = widgets.VBox(
            [heading, *rows, self.status], layout=widgets.Layout(width=COLUMN_WIDTH)
        )
        layout = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        box = widgets.HBox([left, self.picture], layout=layout)
        box.add_class("aigc-panel")
        return box

    def _draw_storyboard(self):
        """The frames, two in a row, each under its caption: PNG bytes and the size in CSS pixels."""
        start = self.values
        pictures = []
        for caption, change in self.frames or [("", {})]:
            if callable(change):
                change = change()
            if isinstance(change, dict):
                self.put(**change)
            fig, _ = self._drawn()
            pictures.append((caption, plotting.to_png(fig, scale=SCALE)))
        self.put(**start)
        return _compose(pictures)


def _all_widgets(widget):
    """A widget, its style and layout, and those of everything inside it."""
    for child in getattr(widget, "children", ()):
        yield from _all_widgets(child)
    for part in ("style", "layout"):
        if isinstance(getattr(widget, part, None), widgets.Widget):
            yield getattr(widget, part)
    yield widget


def _compose(pictures, ncols=2, gap=16):
    """Captioned pictures side by side as one PNG; returns (bytes, (width, height) in CSS pixels)."""
    from PIL import Image

    images = [(caption, Image.open(io.BytesIO(png))) for caption, png in pictures]
    ncols = min(ncols, len(images))
    head = 34 if any(caption for caption, _ in images) else 0
    width, height = images[0][1].size
    nrows = -(-len(images) // ncols)
    size = (ncols * (width + gap) - gap, nrows * (height + head + gap) - gap)
    page = Image.new("RGB", size, plotting.PAPER)
    for k, (caption, image) in enumerate(images):
        left = (k % ncols) * (width + gap)
        top = (k // ncols) * (height + head + gap)
        if caption:
            page.paste(_caption(caption, width, head), (left, top))
        page.paste(image, (left, top + head))
    out = io.BytesIO()
    plotting.with_palette(page).save(out, "PNG", compress_level=9)
    shown = min(900, round(page.width / SCALE))
    return out.getvalue(), (shown, round(page.height * shown / page.width))


def _caption(text, width, height):
    """A caption drawn with matplotlib's own font, so that it is the same on every machine."""
    from PIL import Image

    dots = plotting.DPI * SCALE
    fig, ax = plotting.figure(width / dots, height / dots, tight=False)
    ax.set_position([0, 0, 1, 1])
    ax.set_axis_off()
    ax.text(
        0.01,
        0.5,
        text,
        va="center",
        fontsize=10,
        weight="bold",
        color=plotting.INK,
        transform=ax.transAxes,
    )
    picture = Image.open(io.BytesIO(plotting.to_png(fig, scale=SCALE)))
    return picture.resize((width, height))
