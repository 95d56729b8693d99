"""One visual voice: the figures of all notebooks.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so a picture is the same under
any `MPLBACKEND`, in a widget callback's thread, and in a test. `show(fig, alt)` puts it on the page.

The colours are the colour-blind-safe set of Okabe & Ito (2008). Figures carry their own near-white
background, so that text keeps its contrast in JupyterLab's dark theme too.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
import re
import threading
import warnings

import numpy as np
import torch

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, YELLOW, AMBER, INK, GREY, PAPER = "#56B4E9", "#F0E442", "#E69F00", "#222222", "#6B6B6B", "#FCFCFA"
CYCLE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, INK)
REAL, FAKE = BLUE, ORANGE  # one meaning each, in every figure of the series
DPI = 100  # so that a figure's inches are its CSS pixels / 100

_STYLE = {
    "font.size": 10, "axes.titlesize": 11,
    "axes.labelsize": 10, "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "legend.frameon": False, "legend.fontsize": 9.5,
    "lines.linewidth": 1.8, "xtick.labelsize": 9, "ytick.labelsize": 9, "figure.dpi": DPI,
    "axes.titley": 1.0,  # a fixed place: to look for a free one costs 5 ms an axes at every drawing
}  # fmt: skip


_drawing = threading.RLock()


@contextlib.contextmanager
def style():
    """The house style, for the duration of a `with` block; the reader's own settings are left alone.

    One thread at a time: Matplotlib's settings belong to the whole process, and a panel may draw in another thread
    than the cell that runs. Without turns each would draw with, and put back, the other's settings.
    """
    import matplotlib
    from cycler import cycler

    with _drawing, matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=CYCLE)}):
        yield


def figure(width=8.0, height=3.0, ncols=1, nrows=1, tight=True, **kwargs):
    """A figure of `width` x `height` inches (100 CSS pixels each) and its axes.

    Returns (fig, ax) or (fig, array of axes). `tight=False` leaves the margins to the caller (faster: live panels).
    Raises ValueError for a width or height that is no number of inches.
    """
    for name, inches in (("width", width), ("height", height)):
        _require_number(f"figure: {name}", inches, 50)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        fig = Figure(figsize=(width, height), layout="constrained" if tight else None)
        FigureCanvasAgg(fig)
        return fig, fig.subplots(nrows, ncols, **kwargs)


class ReusableFigure:
    """The figure of a live panel: made once, wiped and drawn upon again at every move.

    To make a figure, its axes and their tick marks costs more than to draw on them; and the cycles of old figures
    cost pauses of the garbage collector. Words that stay the same are not painted anew (see `glyphs`).
    `margins` is for `subplots_adjust`, the rest as in `figure`. It belongs to one panel: no two share one.
    """

    def __init__(self, width=6.6, height=4.0, margins=None, **kwargs):
        from aigc_helpers.glyphs import CachedTextCanvas

        self.fig, self.axes = figure(width, height, tight=False, **kwargs)
        CachedTextCanvas(self.fig)
        self.fig.subplots_adjust(**(margins or {}))
        self._kept = tuple(self.fig.axes)

    def wipe(self):
        """Take everything off that was drawn, and return (fig, axes) as `figure` does."""
        for ax in [*self.fig.axes]:
            if ax in self._kept:
                _wipe(ax)
            else:
                ax.remove()
        for text in [*self.fig.texts]:
            text.remove()
        if self.fig.get_suptitle():
            self.fig.suptitle("")
        return self.fig, self.axes


def _wipe(ax):
    """Take everything off an axes that was drawn on it; its place, its ticks and its scale stay."""
    for artist in [*ax.lines, *ax.collections, *ax.images, *ax.patches, *ax.texts, ax.get_legend()]:
        if artist is not None:
            artist.remove()
    ax.containers.clear()
    ax.relim()
    ax.autoscale(True)
    ax.set_prop_cycle(color=CYCLE)
    ax.set_title("")
    ax.set_axis_on()


def _require_number(name, value, most):
    """ValueError unless 0 < value <= most."""
    if not isinstance(value, int | float | np.number) or not 0 < value <= most:  # NaN fails this too
        raise ValueError(f"{name} must be a number above 0 and at most {most}, got {value!r}")


def to_png(fig, scale=2.0, colours=None) -> bytes:
    """PNG of a figure at `scale` pixels a CSS pixel; `colours` reduces the palette (smaller files).

    Characters that no font here has come out as boxes; one warning names them and says what to do.
    """
    from PIL import Image

    _require_number("to_png: scale", scale, 10)
    with style():
        fig.set_dpi(DPI * scale)
        _draw_page(fig)
    image = Image.frombuffer("RGBA", fig.canvas.get_width_height(), fig.canvas.buffer_rgba()).convert("RGB")
    if colours:
        image = with_palette(image, colours)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=9 if colours else 1)
    return out.getvalue()


def with_palette(image, colours=256):
    """A Pillow image in so many colours, for a smaller file, in which thin lines and small dots keep theirs.

    Pillow's default counts pixels, so that paper and greys get nearly the whole palette, and the rest is mixed.
    """
    from PIL import Image

    return image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _draw_page(fig):
    """Draw the figure; of Matplotlib's warnings for missing characters, one for each, make a single one."""
    # Nearly all figures end here: the font that comes with Matplotlib has no Chinese, which begins at U+2E80.
    if max("".join(_words(fig)), default="") < "\u2e80":
        fig.canvas.draw()
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fig.canvas.draw()
    missing = [re.match(r"Glyph (\d+) .* missing", str(warning.message)) for warning in caught]
    for warning, found in zip(caught, missing, strict=True):
        if not found:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    characters = "".join(dict.fromkeys(chr(int(found[1])) for found in missing if found))
    if characters:
        advice = "write it in English, or name a font that has them in matplotlib.rcParams['font.sans-serif']"
        warnings.warn(f"no font here has {characters}, so boxes are drawn: {advice}", stacklevel=3)


def _words(fig):
    """The texts of a figure but for its tick labels, which would have to be made first."""
    yield from (text.get_text() for text in fig.texts)
    for ax in fig.axes:
        legend = ax.get_legend()
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *(legend.get_texts() if legend else ())):
            yield text.get_text()


def show(fig, alt: str) -> None:
    """Display a figure with a description `alt` for readers who do not see it.

    The description is also the output's plain text. It must not hold a measured number: strict nbval compares it.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("show(fig, alt): describe the figure in a sentence, for readers who do not see it")
    from IPython.display import display

    width, height = (round(inches * DPI) for inches in fig.get_size_inches())
    png = base64.b64encode(to_png(fig, colours=256)).decode("ascii")
    meta = {"image/png": {"width": width, "height": height, "alt": alt}}
    display({"image/png": png, "text/plain": alt}, metadata=meta, raw=True)


def show_text(text: str, alt: str) -> None:
    """Display a text that a model wrote, or was given, exactly as it is: nothing in it is taken for markup.

    `alt` says in a sentence what it is; it must not hold a measured number, as in `show`.
    """
    if not isinstance(text, str):
        raise ValueError(f"show_text(text, alt): text must be a str, got {text!r}")
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("show_text(text, alt): say in a sentence what the text is")
    from IPython.display import display

    look = "white-space:pre-wrap;border-left:3px solid #0072B2;padding:4px 10px;margin:0;line-height:1.35"
    label = html.escape(alt, quote=True)
    page = f'<pre class="aigc-text" aria-label="{label}" style="{look}">{html.escape(text)}</pre>'
    display({"text/html": page, "text/plain": alt}, raw=True)


def _array(x):
    return x.detach().float().cpu().numpy() if torch.is_tensor(x) else np.asarray(x, dtype=float)


# ---------------------------------------------------------------- images


def tile(images, ncols=10, pad=1) -> np.ndarray:
    """One picture (H, W) in 0..1 from images (N, 1, h, w) or (N, h*w); black between them.

    Whole numbers are pixels 0..255, bool is black or white, and numbers with a point lie in [-1, 1]; what a sampler
    puts beyond is cut off. Images (N, 3, h, w) are red, green and blue, and so is the picture, (H, W, 3).
    """
    images = images.detach().cpu() if torch.is_tensor(images) else torch.as_tensor(images)
    if images.is_floating_point():
        x = (images.float() + 1) / 2
    elif images.dtype == torch.bool:
        x = images.float()
    else:
        x = images.float() / 255
    nrows = _num_rows(x, ncols)
    channels = 3 if x.ndim == 4 and x.shape[1] == 3 else 1
    side = math.isqrt(x[0].numel() // channels)
    x = x.reshape(len(x), channels, side, side).clamp(0, 1)
    out = torch.zeros(channels, nrows * (side + pad) + pad, ncols * (side + pad) + pad)
    for k, image in enumerate(x):
        top, left = (pad + (k // ncols) * (side + pad), pad + (k % ncols) * (side + pad))
        out[:, top : top + side, left : left + side] = image
    return out[0].numpy() if channels == 1 else out.permute(1, 2, 0).numpy()


def _num_rows(images, ncols):
    """How many rows a grid of images takes. Raises ValueError for no images, or no columns."""
    if not isinstance(ncols, int) or not 1 <= ncols <= 1000:
        raise ValueError(f"ncols must be a whole number from 1 to 1000, got {ncols!r}")
    if not hasattr(images, "shape") or not len(images.shape) or not len(images):
        raise ValueError(f"images must be a tensor or an array (N, 1, h, w) or (N, h*w), N at least 1, got {images!r}")
    return math.ceil(len(images) / ncols)


@style()
def draw_images(ax, images, ncols=10, title=None):
    """Draw a grid of images on an axes: grey ones, or coloured ones (N, 3, h, w)."""
    ax.imshow(tile(images, ncols), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)


def image_grid(images, ncols=10, title=None, zoom=1.7):
    """Figure with a grid of images, each 28-pixel tile about `zoom` times its size."""
    nrows = _num_rows(images, ncols)
    fig, ax = figure(min(8.5, ncols * 0.29 * zoom), nrows * 0.29 * zoom + (0.3 if title else 0.0))
    draw_images(ax, images, ncols, title)
    return fig


def image_columns(groups, ncols=8, zoom=1.3):
    """Figure with several image grids side by side; groups is a dict title -> images."""
    nrows = max(_num_rows(x, ncols) for x in groups.values())
    side = min(ncols * 0.29 * zoom, 8.8 / len(groups))
    fig, axes = figure(side * len(groups), nrows * side / ncols + 0.25, ncols=len(groups), squeeze=False)
    for ax, (title, images) in zip(axes[0], groups.items(), strict=True):
        draw_images(ax, images, ncols, title)
    return fig


# ---------------------------------------------------------------- curves and bars


def smooth(values, weight):
    """Exponential moving average with bias correction; weight 0 leaves the values as they are."""
    out, mean, norm = [], 0.0, 0.0
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(mean / norm)
    return out


def curves(series, title=None, xlabel="step", ylabel=None, smooth_weight=0.0, x=None, logy=False, size=(7.2, 2.7)):
    """Figure with one line a series (dict name -> values); smoothed lines keep the raw values faint behind."""
    fig, ax = figure(*size)
    draw_curves(ax, series, title, xlabel, ylabel, smooth_weight, x, logy)
    return fig


@style()
def draw_curves(ax, series, title=None, xlabel="step", ylabel=None, smooth_weight=0.0, x=None, logy=False):
    """`curves` on an axes of a figure of your own."""
    for colour, dash, (name, values) in zip(CYCLE, ("-", "--", "-.", ":") * 2, series.items(), strict=False):
        values = _array(values)
        xs = np.arange(1, len(values) + 1) if x is None else _array(x)
        if smooth_weight and len(values) > 2:
            ax.plot(xs, values, color=colour, alpha=0.2, linewidth=0.8)
            values = smooth(values, smooth_weight)
        ax.plot(xs, values, dash, color=colour, label=name)
    if logy:
        positive = np.concatenate([y[y > 0] for y in map(_array, series.values())])
        log_axis(ax, (1.0,) if _powers_of_ten(positive) > 1 else (1.0, 2.0, 5.0))
    if len(series) > 1:
        ax.legend()
    _label(ax, title, xlabel, ylabel)


def _powers_of_ten(values):
    """How many of 0.1, 1, 10, ... lie between the least and the greatest of these positive values."""
    if len(values) == 0:
        return 2
    low, high = np.log10([values.min(), values.max()])
    return math.floor(high) - math.ceil(low) + 1


def log_axis(ax, subs=(1.0,), axis="y", write="{:g}".format):
    """A log axis labelled 0.01, 0.1, 1: easier to read than powers of ten, and drawn without the slow mathtext.

    subs: where the marks of a decade stand; (1, 2, 5) suits values that span little more than one.
    axis: "x" or "y". write: how a label says its number.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set(**{f"{axis}scale": "log"})
    chosen = {"x": ax.xaxis, "y": ax.yaxis}[axis]
    chosen.set_major_locator(LogLocator(subs=subs))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    chosen.set_minor_locator(NullLocator())


def _label(ax, title, xlabel, ylabel):
    if title:
        ax.set_title(title)
    ax.set_xlabel(xlabel or "")
    ax.set_ylabel(ylabel or "")


@style()
def histogram(groups, title=None, xlabel="digit", ylabel="share of samples", fair=None, size=(7.2, 2.6)):
    """Figure with grouped bars; groups is a dict name -> counts (K,). `fair` draws a line at that share."""
    fig, ax = figure(*size)
    width = 0.8 / len(groups)
    for k, (colour, (name, counts)) in enumerate(zip(CYCLE, groups.items(), strict=False)):
        share = _array(counts) / max(1, float(_array(counts).sum()))
        ax.bar(np.arange(len(share)) + (k - (len(groups) - 1) / 2) * width, share, width, label=name, color=colour)
    if fair is not None:
        ax.axhline(fair, color=INK, linestyle=":", linewidth=1.2, label="equal shares")
    ax.set_xticks(range(len(share)))
    ax.legend()
    _label(ax, title, xlabel, ylabel)
    return fig


# ---------------------------------------------------------------- tables


ARROWS = {"low": " \u2193", "high": " \u2191"}


def show_table(rows, caption, better=None, floor="real data (floor)", corner="", fold=None):
    """Display a table of results as HTML: it can be copied, and is right in the dark theme and on GitHub.

    rows      dict row's name -> {column: value}. A number, or a `Score`, is measured: nbval's sanitising blanks its
              cell (class "measured"). A string is fixed by the page, and compared. A column may be missing in a row.
    caption   says what is measured, on how much, with what held equal; shown above the table. It is also the
              output's plain text, so it must not hold a measured number.
    better    column -> "low" or "high", an arrow down or up in its heading
    floor     the last row's name, where values are `Score`s: what real data get
    corner    the heading of the first column
    fold      if given, the table is folded, and this is the line to click

    Raises ValueError for no rows, or an empty caption.
    """
    from IPython.display import display

    page = table_html(rows, caption, better, floor, corner)
    if fold is not None:
        page = f"<details>\n<summary>{html.escape(fold)}</summary>\n{page}\n</details>"
    display({"text/html": page, "text/plain": caption}, raw=True)


def table_html(rows, caption, better=None, floor="real data (floor)", corner=""):
    """The HTML of `show_table`."""
    if not rows:
        raise ValueError("show_table: there are no rows to show")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("show_table: the caption must say in a sentence what the table holds")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    floors = {}
    for row in rows.values():
        floors |= {column: value.floor for column, value in row.items() if hasattr(value, "floor")}
    lines = [_line("th", {"": corner} | {c: c + ARROWS.get((better or {}).get(c), "") for c in columns}, "col")]
    lines += [_table_row(name, row, columns) for name, row in rows.items()]
    if floors:
        lines.append(_table_row(floor, floors, columns, style="border-top:1px dotted"))
    head = f'<caption style="caption-side:top;text-align:left;padding:2px 0 6px">{html.escape(caption)}</caption>'
    body = "\n".join(lines)
    return f'<table class="aigc-table" style="font-size:13px">\n{head}\n{body}\n</table>'


def _line(tag, cells, scope):
    inside = "".join(f'<{tag} scope="{scope}"{_align(k)}>{html.escape(str(v))}</{tag}>' for k, v in cells.items())
    return f"<tr>{inside}</tr>"


def _table_row(name, row, columns, style=""):
    cells = [f'<th scope="row"{_align("")}>{html.escape(str(name))}</th>']
    for column in columns:
        value = row.get(column, "")
        value = getattr(value, "value", value)
        kind = "" if isinstance(value, str) else ' class="measured"'
        cells.append(f"<td{kind}{_align(column)}>{html.escape(number_text(value))}</td>")
    return f'<tr style="{style}">{"".join(cells)}</tr>' if style else f"<tr>{''.join(cells)}</tr>"


def _align(column):
    """The names of rows stand left, everything else right, so that numbers stand below each other."""
    return ' style="text-align:right"' if column else ' style="text-align:left"'


def number_text(value):
    """A number as a table shows it, to about three digits: 0.031, 0.174, 2.46, 31.5, 1,234; a string as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 1 or size == 0:
        text = f"{value:.2f}"
    elif size >= 0.001:
        text = f"{value:.3f}"
    else:
        text = f"{value:.1e}"
    is_zero = not float(text.replace(",", ""))
    return text.removeprefix("-") if is_zero else text


# ---------------------------------------------------------------- the plane


@style()
def draw_points(ax, real=None, fake=None, size=6):
    """Scatter of real (blue dots) and fake (orange crosses) points (N, 2): told apart by shape as well as colour."""
    if real is not None:
        ax.scatter(*_array(real).T, s=size, color=REAL, alpha=0.55, linewidths=0, label="real", zorder=3)
    if fake is not None:
        ax.scatter(
            *_array(fake).T, s=size * 2, color=FAKE, marker="x", alpha=0.75, linewidths=0.9, label="fake", zorder=4
        )


@style()
def draw_field(ax, values, limit=2.4, vmin=0.0, vmax=1.0):
    """Heat map of values (n, n), rows = y from low to high, over [-limit, limit]^2: orange low, blue high."""
    image = ax.imshow(
        _array(values), origin="lower", extent=(-limit, limit, -limit, limit), cmap=_diverging(),
        vmin=vmin, vmax=vmax, interpolation="bilinear", zorder=0,
    )  # fmt: skip
    square(ax, limit)
    return image


def square(ax, limit=2.4):
    """A square window on the plane without ticks."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _diverging():
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("fake-real", ["#F4B183", "#F8E4D4", "#F6F6F4", "#DCEAF4", "#93C4E3"])


@style()
def draw_arrows(ax, points, vectors, colour=INK, scale=1.0):
    """Arrows at points (N, 2) along vectors (N, 2), in data units times `scale`."""
    points, vectors = _array(points), _array(vectors) * scale
    ax.quiver(
        *points.T, *vectors.T, color=colour, angles="xy", scale_units="xy", scale=1.0, width=0.005, zorder=5
    )  # fmt: skip


@style()
def draw_warp(ax, grid, colour=FAKE):
    """A warped lattice (n, n, 2): where a generator sends a regular grid of noise."""
    from matplotlib.collections import LineCollection

    grid = _array(grid)
    lines = [*grid, *grid.transpose(1, 0, 2)]  # one collection draws much faster than a line each
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.7, alpha=0.8, zorder=2), autolim=False)


def canvas(height, bottom=0.0, width=8.8):
    """An empty figure for a diagram, and its one axes, without a frame: it fills it, in inches from (0, bottom).

    Raises ValueError for a width or height that is no number of inches.
    """
    fig, ax = figure(width, height, tight=False)
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, width), ylim=(bottom, bottom + height))
    ax.set_axis_off()
    return fig, ax


@style()
def shapes(rows, height):
    """Figure: rows of boxes, an arrow from each to the next: the shapes on the way through a network.

    rows    y of a row's centre -> its boxes: (x of the centre, width, height, colour, the words below) of each
    height  of the figure, in inches; it is 8.8 wide, and so is the range of x
    """
    fig, ax = canvas(height)
    for y, boxes in rows.items():
        _draw_boxes(ax, y, boxes)
    return fig


def _draw_boxes(ax, y, boxes):
    from matplotlib.patches import Rectangle

    right = None
    for x, width, height, colour, words in boxes:
        corner = (x - width / 2, y - height / 2)
        ax.add_patch(Rectangle(corner, width, height, facecolor="white", edgecolor=colour, linewidth=2))
        ax.text(x, y - 0.55, words, ha="center", va="top", fontsize=9)
        if right is not None:
            arrow = {"arrowstyle": "->", "color": INK, "linewidth": 1.6}
            ax.annotate("", (x - width / 2 - 0.06, y), (right + 0.06, y), arrowprops=arrow)
        right = x + width / 2


def draw_gauge(ax, value, top, label, colour=GREEN):
    """A horizontal gauge from 0 to `top` with its value written on it."""
    ax.barh([0], [top], color="#E4E4E0", height=0.7)
    ax.barh([0], [min(value, top)], color=colour, height=0.7)
    ax.set(xlim=(0, top), ylim=(-0.5, 0.5), yticks=[], xticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(f"{label} {value:.2f}", fontsize=10)


def plane(n=40, limit=2.4) -> torch.Tensor:
    """Points (n*n, 2) of a regular grid over the square, row by row from low y: for `draw_field`."""
    axis = torch.linspace(-limit, limit, n)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
