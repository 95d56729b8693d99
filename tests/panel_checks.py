"""What the tests of panels share: look at a panel's picture, move all that can be moved, find texts nobody can read."""

import base64
import io
import re
import threading
import time

import ipywidgets
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from aigc_helpers import plotting
from aigc_helpers.panels import core

# What a reader may type into a text box.
WORDS = ["", "  ", "To be", "生成式 AI", "🙂🎲", "<img src=x onerror=alert(1)>\n&amp;", "a" * 10_000]


def picture(panel):
    """The picture that a panel shows, as grey values (h, w)."""
    data = re.search(r"base64,([^\"]+)", panel.picture.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), dtype=float)


def other_value(control):
    """A legal value that differs from the present one."""
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return next(v for v in values if v != control.value)
    if isinstance(control.value, bool):
        return not control.value
    low, high = control.min, control.max
    if isinstance(control, ipywidgets.FloatLogSlider):
        return 10**low if control.value > 10 ** ((low + high) / 2) else 10**high
    return low if control.value > (low + high) / 2 else high


# What _standard_work takes, in ms of one thread, on the two cores on which the limits of the panels were set.
STANDARD_MS = 100.0


def answers_within(panel, milliseconds, tries=4, **move):
    """Whether a panel answers a move in so much of its thread's own time, in the best of some tries.

    A processor that is busy with other things does not count, and one that is slower than the usual one, by itself or
    because a neighbour shares its core, is measured by a standard picture drawn right after: the limit grows with it.
    """
    back = {name: panel.values[name] for name in move}
    for _ in range(tries):
        taken = _thread_ms(lambda: panel.set(**move))
        if taken < milliseconds or taken < milliseconds * slowness():
            return True
        panel.set(**back)
    return False


def _thread_ms(work):
    before = time.thread_time()
    work()
    return 1000 * (time.thread_time() - before)


def slowness():
    """How much longer the standard work takes than on the usual machine; at least 1."""
    return max(1.0, min(_thread_ms(_standard_work) for _ in range(3)) / STANDARD_MS)


def _standard_work():
    """A picture with 2,000 dots, and a small network: the kinds of work that a panel does."""
    fig, axes = plotting.figure(7, 3, ncols=2, tight=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator)
    h = x @ torch.randn(2, 256, generator=generator)
    for _ in range(4):
        h = torch.relu(h @ torch.full((256, 256), 0.01))
    axes[0].scatter(*x.T, s=4)
    axes[1].plot(h[:, 0])
    plotting.to_png(fig)


def check_drawing(draw):
    """A picture of a page, drawn in the project's style: no text is cut off, and none is too faint to read."""
    with plotting.style():
        fig = draw()
        assert cropped_texts(fig) == []
        assert faint_texts(fig) == []


def luminance(colour):
    """Relative luminance (...) of colours (..., 3) in 0..1: WCAG 2.1."""
    colour = np.asarray(colour, dtype=float)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def faint_texts(fig):
    """The texts of a figure whose contrast with what is behind most of them is below 4.5 : 1, each with its contrast."""
    texts = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    plotting.to_png(fig, scale=1.0)
    fig.set_layout_engine("none")
    boxes, colours = [text.get_window_extent() for text in texts], [text.get_color() for text in texts]
    for text in texts:
        text.set_color("none")  # a box behind the text stays
    plotting.to_png(fig, scale=1.0)
    behind, faint = np.asarray(fig.canvas.buffer_rgba())[::-1, :, :3] / 255, []  # rows from below, as boxes count them
    for text, box, colour in zip(texts, boxes, colours, strict=True):
        text.set_color(colour)
        low, high = (np.clip(np.round(corner).astype(int), 0, None) for corner in (box.min, box.max))
        pixels = behind[low[1] : high[1] + 1, low[0] : high[0] + 1].reshape(-1, 3)
        if len(pixels):  # else it is outside of the figure: an axis label that nobody sees
            a, b = luminance(to_rgb(text.get_color())), np.median(luminance(pixels))
            contrast = (max(a, b) + 0.05) / (min(a, b) + 0.05)
            faint += [(text.get_text(), round(contrast, 1))] if contrast < 4.5 else []
    return faint


def cropped_texts(fig):
    """The texts of a figure that end more than a pixel beyond its edge."""
    plotting.to_png(fig, scale=1.0)
    unseen = set()  # the marks of an axis's ticks outside of what it shows, or of an axes switched off
    for axis in [axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks() + axis.get_minor_ticks()
        ticks = [tick for tick in ticks if not (axis.axes.axison and low <= tick.get_loc() <= high)]
        unseen |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    width, height = fig.canvas.get_width_height()
    cropped = []
    for text in fig.findobj(Text):
        (left, low), (right, high) = text.get_window_extent().get_points()
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            cropped += [text.get_text()] if min(left, low) < -1 or right > width + 1 or high > height + 1 else []
    return cropped


def use_every_control(panel, quiet=()):
    """Move each control and back: one drawing, and another picture unless the control is in `quiet`; then each button, and Run."""
    start = panel.values
    for key, control in panel.controls.items():
        seq, before = panel.seq, picture(panel)
        if isinstance(control, ipywidgets.Textarea):
            control.value = control.value[::-1] + "e"
        else:
            control.value = (not control.value) if isinstance(control.value, bool) else other_value(control)
        assert panel.error is None, f"{panel.title}, {key}: {panel.error}"
        assert panel.seq == seq + 1, f"{panel.title}, {key} did not draw once"
        assert key in quiet or not np.array_equal(before, picture(panel)), f"{panel.title}, {key}: the same picture"
        control.value = start[key]
    for label in set(panel.buttons) - {"Run", "Pause"}:
        seq = panel.seq
        panel.buttons[label].click()
        assert panel.error is None and panel.seq == seq + 1, f"{panel.title}, {label}: {panel.error}"
        for key, control in panel.controls.items():  # off its steps, a slider in the page answers with a move of its own
            assert not core.is_off_step(control, control.value), f"{panel.title}, {label}: {key} = {control.value}"
    if panel.tick:
        seen = [picture(panel)]
        for _ in range(3):
            panel._guard(panel.tick)
            assert panel.error is None, f"{panel.title}, Run: {panel.error}"
            assert not np.array_equal(seen[-1], picture(panel)), f"{panel.title}: Run goes on with the same picture"
            seen.append(picture(panel))
    assert_readable(panel)


def assert_readable(panel):
    with torch.no_grad(), plotting.style():
        drawn = panel.draw(**panel.values)
    fig = drawn[0] if isinstance(drawn, tuple) else drawn
    assert cropped_texts(fig) == [], panel.title
    assert faint_texts(fig) == [], panel.title


def moved_together(make, rounds=4):
    """Move two panels of one kind at the same time, each in a thread of its own.

    make() returns a new panel. Returns how many pictures differ from those of a panel that was moved alone.
    """
    key, control = next((k, c) for k, c in make().controls.items() if not isinstance(c, ipywidgets.Textarea))
    values = [control.value, other_value(control)]
    if isinstance(control.value, bool):
        values = [control.value, not control.value]

    def move(panel):
        shown = []
        for k in range(rounds):
            panel.set(**{key: values[k % 2]})
            shown.append(panel.picture.value)
        return shown

    alone = move(make())
    panels = [make(), make()]
    results = [None, None]

    def work(k):
        results[k] = move(panels[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(a != b for result in results for a, b in zip(result, alone, strict=True))
