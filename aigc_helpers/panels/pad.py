"""A drawing pad for panels: a square that is drawn on with a mouse, a pen or a finger.

make_pad(value)      the pad as a control of a panel, or None where anywidget is not installed
rasterize(strokes)   what was drawn as an image like those of MNIST, (1, 1, 28, 28) in [-1, 1]
SKETCHES             a few drawings by hand: name -> strokes

A drawing is a list of strokes, a stroke a list of points [x, y] from 0 to 1, y downwards. The pad is
the only widget of the series with JavaScript of its own; it needs no network, only `anywidget`.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from PIL import Image, ImageDraw

MAX_STROKES = 100
MAX_POINTS = 5000  # of all strokes together
FINE = 8  # a pixel of the image is drawn as so many small ones a side, and then averaged
BOX = 20  # MNIST's digits fill a box of so many pixels, and their mass is centred
PEN = 2.4  # the width of a stroke, in pixels

SCRIPT = """
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 280;
  canvas.className = "aigc-pad";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Drawing pad: draw a digit with the mouse or a finger");
  Object.assign(canvas.style, { width: "200px", height: "200px", cursor: "crosshair",
    touchAction: "none", borderRadius: "6px", display: "block", margin: "2px 0" });
  const pen = canvas.getContext("2d");
  let stroke = null;

  function paint() {
    pen.fillStyle = "#111111";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.strokeStyle = "#ffffff";
    pen.lineWidth = 20;
    pen.lineCap = pen.lineJoin = "round";
    for (const line of [...model.get("value"), ...(stroke ? [stroke] : [])]) {
      pen.beginPath();
      line.forEach(([x, y], k) => pen[k ? "lineTo" : "moveTo"](280 * x, 280 * y));
      if (line.length == 1) pen.lineTo(280 * line[0][0] + 0.1, 280 * line[0][1]);
      pen.stroke();
    }
  }
  function point(event) {
    const box = canvas.getBoundingClientRect();
    const share = (at, low, size) => Math.min(1, Math.max(0, Math.round(1000 * (at - low) / size) / 1000));
    return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
  }
  function lift() {
    if (!stroke) return;
    model.set("value", [...model.get("value"), stroke]);
    stroke = null;
    model.save_changes();
    paint();
  }
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = [point(event)];
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    stroke.push(point(event));
    paint();
  });
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  model.on("change:value", paint);
  paint();
  el.appendChild(canvas);
}
export default { render };
"""


def make_pad(value):
    """A pad whose `value` is a drawing; it changes when a stroke ends. None without anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None
    if "google.colab" in sys.modules:  # Colab shows widgets of others only after it is told to
        from google.colab import output

        output.enable_custom_widget_manager()

    class Pad(anywidget.AnyWidget):
        _esm = SCRIPT
        value = traitlets.List().tag(sync=True)
        options = list(SKETCHES.items())  # drawings that are at hand, as a list of choices has them

    return Pad(value=value)


def rasterize(strokes):
    """The image (1, 1, 28, 28) in [-1, 1] of a drawing: scaled into MNIST's box, its mass centred.

    Black for no strokes. Raises ValueError for what is no drawing.
    """
    lines = _read(strokes)
    side = 28 * FINE
    page = Image.new("L", (side, side), 0)
    if lines:
        points = np.concatenate(lines)
        low = points.min(axis=0)
        size = max(0.3, (points.max(axis=0) - low).max())  # a dot is not blown up
        middle = (points.max(axis=0) + low) / 2
        scale = (BOX - PEN) / size
        brush = ImageDraw.Draw(page)
        for line in lines:
            _draw_line(brush, FINE * (scale * (line - middle) + 14))
    image = np.asarray(page.resize((28, 28), Image.Resampling.BOX), dtype=np.float32) / 255
    return torch.from_numpy(2 * _centred(image) - 1)[None, None]


def _read(strokes):
    """The strokes as arrays (n, 2) within [0, 1]."""
    wanted = "rasterize: a drawing is a list of strokes, a stroke a list of points [x, y]"
    lines = []
    try:
        for stroke in strokes:
            line = np.asarray(stroke, dtype=np.float64)
            if len(line):
                lines.append(line)
    except (TypeError, ValueError):
        raise ValueError(f"{wanted}, got {strokes!r:.60}") from None
    good = all(line.ndim == 2 and line.shape[1] == 2 and np.isfinite(line).all() for line in lines)
    if not good:
        raise ValueError(f"{wanted}, got {strokes!r:.60}")
    if len(lines) > MAX_STROKES or sum(map(len, lines)) > MAX_POINTS:
        raise ValueError(f"rasterize: at most {MAX_STROKES} strokes and {MAX_POINTS} points")
    return [line.clip(0, 1) for line in lines]


def _draw_line(brush, line):
    """A stroke with round ends and corners, in small pixels."""
    width = round(PEN * FINE)
    half = width / 2
    corners = [tuple(point) for point in line]
    if len(corners) > 1:
        brush.line(corners, fill=255, width=width)
    for x, y in corners:
        brush.ellipse([x - half, y - half, x + half, y + half], fill=255)


def _centred(image):
    """The image moved by whole pixels, so that its mass is in the middle."""
    total = image.sum()
    if total == 0:
        return image
    places = np.arange(28)
    down = round(13.5 - (image.sum(axis=1) @ places) / total)
    right = round(13.5 - (image.sum(axis=0) @ places) / total)
    return np.roll(image, (down, right), axis=(0, 1))


def _arc(cx, cy, rx, ry, start, end, n=24):
    """Points on an ellipse from one angle to another, in degrees; 0 is right, 90 is down."""
    points = []
    for k in range(n + 1):
        angle = math.radians(start + (end - start) * k / n)
        points.append([round(cx + rx * math.cos(angle), 3), round(cy + ry * math.sin(angle), 3)])
    return points


SKETCHES = {
    "a seven": [[[0.27, 0.24], [0.72, 0.22], [0.64, 0.4], [0.52, 0.62], [0.46, 0.82]]],
    "an S": [_arc(0.5, 0.33, 0.17, 0.15, -30, -270) + _arc(0.5, 0.65, 0.19, 0.17, -90, 140)],
    "a four, open": [[[0.36, 0.2], [0.3, 0.52], [0.7, 0.5]], [[0.64, 0.28], [0.62, 0.84]]],
    "a zigzag": [[[0.25, 0.25], [0.7, 0.3], [0.3, 0.5], [0.72, 0.55], [0.28, 0.78]]],
}
