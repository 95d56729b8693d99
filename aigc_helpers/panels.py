"""Panels: controls beside a picture, alive in JupyterLab, VS Code and Colab, a picture everywhere else.

How a panel avoids the known traps of widgets in notebooks:

- It draws to PNG bytes and sets them as an `<img>` in an `HTML` widget: no pyplot, no `Output` widget.
  Nothing is printed from a callback, so nothing can flicker, stack up or land in another cell.
- Callbacks may run in another thread than cells do (JupyterLab with ipykernel 7), so one lock guards state and drawing.
- An exception in a callback, which JupyterLab would hide, is shown in the status line.
- Long work runs in short chunks, one a click or one a tick of a `Play` widget; the kernel is free in between.
- The displayed output also holds a storyboard drawn by the same function, for readers without a kernel.

Works with ipywidgets 7.7.1 (Colab) and 8.
"""

from __future__ import annotations

import base64
import html
import io
import math
import threading
import time

import torch

from aigc_helpers import plotting


def slider(label, low, high, value, step=0.1, fmt=".2f"):
    """A slider with an editable number beside it; whole numbers when low, value and step are ints."""
    import ipywidgets as widgets

    whole = all(isinstance(n, int) for n in (low, value, step))
    make = widgets.IntSlider if whole else widgets.FloatSlider
    return make(value=value, min=low, max=high, step=step, description=label,
                readout_format="d" if whole else fmt, **_look())  # fmt: skip


def log_slider(label, low, high, value, step=0.1):
    """A slider over powers of ten; `low` and `high` are exponents, `value` is the number itself."""
    import ipywidgets as widgets

    return widgets.FloatLogSlider(value=value, min=low, max=high, step=step, base=10, description=label,
                                  readout_format=".1e", **_look())  # fmt: skip


def choice(label, options, value=None):
    """A drop-down list; options is a list, or a dict of shown text -> value."""
    import ipywidgets as widgets

    options = list(options.items()) if isinstance(options, dict) else [(str(option), option) for option in options]
    options = [(text, _NONE if option is None else option) for text, option in options]
    value = options[0][1] if value is None else value
    return widgets.Dropdown(options=options, value=value, description=label, **_look())


_NONE = object()  # stands for None in a list: ipywidgets takes a value of None for "nothing chosen" and shows a blank


def _value(control):
    return None if control.value is _NONE else control.value


def switch(label, value=False):
    """A check box."""
    import ipywidgets as widgets

    return widgets.Checkbox(value=value, description=label, indent=False)


def text_box(label, value=""):
    """A field of three lines for the reader's own words; its value is a str, which may be anything at all."""
    import ipywidgets as widgets

    look = _look()
    return widgets.Textarea(value=value, description=label, style=look["style"], rows=3,
                            layout={**look["layout"], "height": "auto"})  # fmt: skip


def _look():
    return {"style": {"description_width": "102px"}, "layout": {"width": "296px"}}


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
    alt       what the picture shows, in a sentence
    """

    def __init__(self, title, draw, controls, *, alt, buttons=None, tick=None, changed=None, presets=None, frames=()):
        import ipywidgets as widgets

        if not alt.strip():
            raise ValueError(f"Panel {title!r}: alt needs a sentence that says what the picture shows")
        self.title, self.alt, self.draw, self.controls = title, alt, draw, dict(controls)
        self.tick, self.changed, self.frames = tick, changed, list(frames)
        self.seq, self.error, self.last_ms = 0, None, 0.0
        self._lock, self._quiet = threading.RLock(), False
        narrow = {"max_width": "100%", "min_width": "0"}  # in a narrow window, or zoomed, the picture shrinks to fit
        self.picture, self.status = widgets.HTML(layout=narrow), widgets.HTML()
        self.buttons = {name: self._button(name, function) for name, function in (buttons or {}).items()}
        for name, values in (presets or {}).items():
            self.buttons[name] = self._button(name, lambda values=values: self._take(values))
        self.play = self._make_play() if tick else None
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._on_change(name, change), names="value")
        self.box = self._layout()
        self._storyboard = self._draw_storyboard()
        self.redraw()

    # ---- what tests and notebook code use

    @property
    def values(self):
        """The value of every control, by name."""
        return {name: _value(control) for name, control in self.controls.items()}

    def set(self, **values):
        """Set several controls as if the reader had moved them; the picture is drawn once."""
        self._guarded(lambda: self._take(values))

    def put(self, **values):
        """Set controls without calling `changed` and without drawing."""
        with self._lock:
            before, self._quiet = self._quiet, True
            try:
                for name, value in values.items():
                    self.controls[name].value = _NONE if value is None else value
            finally:
                self._quiet = before

    def redraw(self):
        """Draw the picture for the present values; an exception goes to the status line."""
        self._guarded(lambda: None)

    def pause(self):
        """Stop `tick`, as the Pause button does."""
        self._playing(False)

    def show(self):
        """Display the live panel, with its storyboard for readers without a kernel."""
        from IPython.display import display

        png, (width, height) = self._storyboard
        display(
            {
                "application/vnd.jupyter.widget-view+json": {
                    "version_major": 2, "version_minor": 0, "model_id": self.box.model_id},
                "image/png": base64.b64encode(png).decode("ascii"),
                "text/plain": f"{self.title}. {self.alt}",
            },
            metadata={"image/png": {"width": width, "height": height, "alt": f"{self.title}. {self.alt}"}},
            raw=True,
        )  # fmt: skip

    # ---- events

    def _take(self, values):
        """Set controls and call `changed` for each, without drawing."""
        for name, value in values.items():
            self.put(**{name: value})
            if self.changed:
                self.changed(name, _value(self.controls[name]))

    def _on_change(self, name, change):
        value, before = change["new"], change["old"]
        if self._quiet or (isinstance(value, float) and math.isclose(value, before, abs_tol=1e-9)):
            return  # a slider in the page answers 3.4 with 3.4000000000000004: no event of the reader
        self._guarded((lambda: self.changed(name, _value(self.controls[name]))) if self.changed else (lambda: None))

    def _guarded(self, work):
        """Run `work`, draw, and report: the one path of every event."""
        with self._lock:
            start = time.perf_counter()
            try:
                work()
                with torch.no_grad(), plotting.style():
                    drawn = self.draw(**self.values)
                fig, text = drawn if isinstance(drawn, tuple) else (drawn, "")
                self.picture.value = self._img(fig, text)
                self.error = None
            except Exception as problem:  # a callback's traceback would be lost: say it where the reader looks
                self.error, text = problem, f"{type(problem).__name__}: {problem}"
                self._playing(False)
            self.last_ms = 1000 * (time.perf_counter() - start)
            self.seq += 1
            self.status.value = self._status(text)

    def _img(self, fig, text):
        width, height = (round(inches * plotting.DPI) for inches in fig.get_size_inches())
        data = base64.b64encode(plotting.to_png(fig, scale=1.25)).decode("ascii")
        alt = html.escape(f"{self.alt} {text}".strip(), quote=True)
        return (f'<img alt="{alt}" width="{width}" height="{height}" '
                f'style="max-width:100%;height:auto;border-radius:6px" src="data:image/png;base64,{data}">')

    def _status(self, text):
        state = "error" if self.error else "ok"
        mark = "&#9888; " if self.error else ""
        colour = "color:#B00020;background:#fff;" if self.error else ""
        return (f'<div class="aigc-status" role="status" data-seq="{self.seq}" data-state="{state}" '
                f'data-ms="{self.last_ms:.0f}" style="line-height:1.35;max-width:296px;{colour}">'
                f"{mark}{html.escape(text)}</div>")  # fmt: skip

    def _button(self, label, function):
        import ipywidgets as widgets

        button = widgets.Button(description=label, layout={"width": "auto", "min_width": "76px"})
        button.on_click(lambda _: self._guarded(function))
        return button

    # ---- Run and Pause

    def _make_play(self):
        import ipywidgets as widgets

        play = widgets.Play(min=0, max=10**6, step=1, interval=60)
        play.observe(lambda _: self._guarded(self.tick), names="value")
        if play.has_trait("playing"):  # ipywidgets 8: text buttons drive the hidden player
            play.layout.display = "none"
            for label, on in (("Run", True), ("Pause", False)):
                self.buttons[label] = widgets.Button(description=label, layout={"width": "auto", "min_width": "76px"})
                self.buttons[label].on_click(lambda _, on=on: self._playing(on))
        return play  # ipywidgets 7 cannot be started from Python: its own play and pause buttons are shown

    def _playing(self, on):
        if getattr(self, "play", None) is not None and self.play.has_trait("playing"):
            self.play.playing = on

    # ---- looks

    def _layout(self):
        import ipywidgets as widgets

        wrap = widgets.Layout(flex_flow="row wrap", width="300px")
        rows = [*self.controls.values(), widgets.HBox(list(self.buttons.values()), layout=wrap)]
        if self.play is not None:
            rows.append(self.play)
        heading = widgets.HTML(f'<b style="font-size:14px">{html.escape(self.title)}</b>')
        left = widgets.VBox([heading, *rows, self.status], layout=widgets.Layout(width="304px"))
        box = widgets.HBox([left, self.picture], layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start"))
        box.add_class("aigc-panel")
        return box

    def _draw_storyboard(self):
        """The frames, two in a row, each under its caption: PNG bytes and the size in CSS pixels."""
        start, pictures = self.values, []
        for caption, change in self.frames or [("", {})]:
            change = change() if callable(change) else change
            self.put(**(change if isinstance(change, dict) else {}))
            with torch.no_grad(), plotting.style():
                drawn = self.draw(**self.values)
            fig = drawn[0] if isinstance(drawn, tuple) else drawn
            pictures.append((caption, plotting.to_png(fig, scale=1.25)))
        self.put(**start)
        return _compose(pictures)


def _compose(pictures, ncols=2, gap=16):
    """Captioned pictures side by side as one PNG; returns (bytes, (width, height) in CSS pixels)."""
    from PIL import Image

    images = [(caption, Image.open(io.BytesIO(png))) for caption, png in pictures]
    ncols = min(ncols, len(images))
    head = 34 if any(caption for caption, _ in images) else 0
    width, height = images[0][1].size
    nrows = -(-len(images) // ncols)
    page = Image.new("RGB", (ncols * (width + gap) - gap, nrows * (height + head + gap) - gap), plotting.PAPER)
    for k, (caption, image) in enumerate(images):
        left, top = (k % ncols) * (width + gap), (k // ncols) * (height + head + gap)
        if caption:
            page.paste(_caption(caption, width, head), (left, top))
        page.paste(image, (left, top + head))
    out = io.BytesIO()
    plotting.with_palette(page).save(out, "PNG", compress_level=9)
    shown = min(900, round(page.width / 1.25))
    return out.getvalue(), (shown, round(page.height * shown / page.width))


def _caption(text, width, height):
    """A caption drawn with matplotlib's own font, so that it looks the same on every machine."""
    from PIL import Image

    fig, ax = plotting.figure(width / 125, height / 125, tight=False)
    ax.set_position([0, 0, 1, 1])
    ax.set_axis_off()
    ax.text(0.01, 0.5, text, va="center", fontsize=10, weight="bold", color=plotting.INK, transform=ax.transAxes)
    return Image.open(io.BytesIO(plotting.to_png(fig, scale=1.25))).resize((width, height))
