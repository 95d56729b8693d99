"""A glyph cache: the words on a live panel are painted once and then copied.

A panel writes nearly the same words at every move of a slider. To shape and paint their letters anew takes up to half
of the time of a redraw; to copy a small picture of them takes next to nothing.
"""

import functools
import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg


class CachedTextCanvas(FigureCanvasAgg):
    """Matplotlib's canvas with the renderer below."""

    def get_renderer(self):
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if getattr(self, "_size", None) != size:
            self.renderer = CachedTextRenderer(*size)
            self._size = size
        return self.renderer


class CachedTextRenderer(RendererAgg):
    """Matplotlib's renderer, except that words which it has written before are copied, onto whole pixels."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        """Write `s` from the point (x, y), in pixels, y downwards."""
        if gc.get_alpha() != 1:  # a copy would be faded twice
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        picture, left, lower = paint(s, prop, angle, ismath, gc.get_rgb(), gc.get_antialiased(), self.dpi)
        if picture is not None:
            self.draw_image(gc, round(x) + left, int(self.height) - round(y) + lower, picture)


@functools.lru_cache(maxsize=1024)
def paint(s, prop, angle, ismath, colour, antialiased, dpi):
    """The words `s` as a picture (h, w, 4), its bottom row first as `draw_image` wants it.

    Returns (picture or None for blanks, pixels from the point of writing right to its edge, and up to its lower edge).
    """
    width, height, _ = RendererAgg(1, 1, dpi).get_text_width_height_descent(s, prop, ismath)
    reach = math.ceil(math.hypot(width, height)) + 4  # at any angle the words end within
    page = RendererAgg(2 * reach, 2 * reach, dpi)
    gc = page.new_gc()
    gc.set_foreground(colour, isRGBA=True)
    gc.set_antialiased(antialiased)
    page.draw_text(gc, reach, reach, s, prop, angle, ismath)
    pixels = np.asarray(page.buffer_rgba())[::-1]
    rows, columns = np.nonzero(pixels[:, :, 3])
    if not len(rows):
        return None, 0, 0
    left, lower = int(columns.min()), int(rows.min())
    return pixels[lower : rows.max() + 1, left : columns.max() + 1].copy(), left - reach, lower - reach
