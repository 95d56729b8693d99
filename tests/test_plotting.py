"""Plotting: no pyplot, the reader's settings left alone, pictures of the asked size, and texts that can be read."""

import base64
import hashlib
import html
import inspect
import io
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from matplotlib import colors, rcParams
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image

from aigc_helpers import plotting
from aigc_helpers.glyphs import CachedTextCanvas, CachedTextRenderer, paint
from aigc_helpers.metrics import Score

IMAGES = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 1, 28, 28) * 50
POINTS = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(1, -1, 9)], dim=1)
TABLE = {
    "a": {"FID": Score(12.345, 1.0), "recall": Score(0.5, 0.75), "modes": 7, "note": "kept", "plain": -0.001},
    "b": {"FID": Score(1234.5, 1.0), "recall": Score(-0.0, 0.75), "modes": 0, "note": "", "plain": 99.96},
}


def drawn(draw, *args, **kwargs):
    """A figure with one axes on which `draw` has drawn."""
    fig, ax = plotting.figure(3, 2)
    draw(ax, *args, **kwargs)
    return fig


@plotting.style()
def line_on_a_canvas():
    fig, ax = plotting.canvas(1.2)
    ax.plot([0.2, 8.6], [0.1, 1.1])
    return fig


FIGURES = {
    "figure": lambda: plotting.figure(3, 2)[0],
    "image_grid": lambda: plotting.image_grid(IMAGES, ncols=3, title="six"),
    "image_columns": lambda: plotting.image_columns({"a": IMAGES, "b": IMAGES[:3]}, ncols=3),
    "curves": lambda: plotting.curves({"D": [3, 2, 1.0], "G": torch.ones(3)}, "t", smooth_weight=0.5, logy=True),
    "histogram": lambda: plotting.histogram({"a": [1, 2, 3], "b": torch.tensor([3, 2, 1])}, "t", fair=1 / 3),
    "draw_images": lambda: drawn(plotting.draw_images, IMAGES, title="t"),
    "draw_curves": lambda: drawn(plotting.draw_curves, {"a": [1, 2]}, x=[0, 5]),
    "draw_points": lambda: drawn(plotting.draw_points, POINTS, -POINTS),
    "draw_field": lambda: drawn(plotting.draw_field, torch.rand(5, 5)),
    "draw_arrows": lambda: drawn(plotting.draw_arrows, POINTS, POINTS),
    "draw_warp": lambda: drawn(plotting.draw_warp, plotting.plane(4).reshape(4, 4, 2)),
    "shapes": lambda: plotting.shapes({0.8: [(1.0, 0.1, 0.1, "k", "a"), (8.0, 0.1, 0.2, "k", "b")]}, height=1.2),
    "canvas": lambda: line_on_a_canvas(),
    "draw_gauge": lambda: drawn(plotting.draw_gauge, 0.3, 1.0, "KL"),
}
NO_FIGURE = {"style", "to_png", "show", "show_text", "tile", "smooth", "square", "plane", "log_axis", "with_palette",
             "show_table", "table_html", "number_text"}  # tested one by one below
each_figure = pytest.mark.parametrize("name", FIGURES)


def texts(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


# ---------------------------------------------------------------- figures


def test_every_public_function_is_tested_here():
    public = {name for name, value in vars(plotting).items() if inspect.isfunction(value) and name[0] != "_"}
    assert public == set(FIGURES) | NO_FIGURE


@each_figure
def test_each_returns_a_figure_and_leaves_the_settings_alone(name):
    before = dict(rcParams)
    fig = FIGURES[name]()
    assert type(fig) is Figure
    plain = np.asarray(Image.open(io.BytesIO(plotting.to_png(fig, scale=1))))
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) > 2, "nothing was drawn"
    assert dict(rcParams) == before


@each_figure
def test_the_readers_settings_do_not_show(name, monkeypatch):
    torch.manual_seed(0)
    wanted = plotting.to_png(FIGURES[name](), scale=1)
    for key in ("figure.facecolor", "axes.facecolor", "text.color", "axes.labelcolor", "xtick.color"):
        monkeypatch.setitem(rcParams, key, "green")
    for key in ("font.size", "lines.linewidth", "legend.fontsize", "axes.titlesize"):
        monkeypatch.setitem(rcParams, key, 17.0)
    torch.manual_seed(0)
    assert plotting.to_png(FIGURES[name](), scale=1) == wanted


def luminance(colour):
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_formula():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


def test_ink_and_grey_can_be_read_on_paper():
    assert contrast(plotting.INK, plotting.PAPER) >= 4.5
    assert contrast(plotting.GREY, plotting.PAPER) >= 4.5


@each_figure
def test_every_text_can_be_read(name):
    fig = FIGURES[name]()
    fig.canvas.draw()
    assert {colors.to_hex(part.get_facecolor()) for part in (fig, *fig.axes)} == {plotting.PAPER.lower()}
    for text in fig.findobj(Text):
        if text.get_text():
            assert contrast(text.get_color(), plotting.PAPER) >= 4.5, text.get_text()


@pytest.mark.parametrize("colours", [None, 16])
@pytest.mark.parametrize(("size", "scale"), [((3, 2), 1), ((3, 2), 2), ((4.5, 1.2), 1.5)])
def test_png_has_the_size_asked_for(size, scale, colours):
    image = Image.open(io.BytesIO(plotting.to_png(plotting.figure(*size)[0], scale, colours)))
    assert image.format == "PNG" and image.mode == ("P" if colours else "RGB")
    assert image.size == (round(size[0] * 100 * scale), round(size[1] * 100 * scale))


def test_a_reduced_palette_makes_smaller_files():
    fig = drawn(plotting.draw_field, torch.rand(40, 40, generator=torch.Generator().manual_seed(0)))
    full, reduced = plotting.to_png(fig), plotting.to_png(fig, colours=32)
    assert len(reduced) < len(full) / 2
    assert len(Image.open(io.BytesIO(reduced)).getcolors()) <= 32


def test_a_reduced_palette_keeps_the_colours_of_small_dots_beside_a_grey_photograph():
    photograph = torch.rand(400, 400, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    page = Image.merge("RGB", [Image.fromarray(photograph.numpy())] * 3)
    dots = [colors.to_rgb(colour) for colour in plotting.CYCLE]
    for k, colour in enumerate(dots):
        page.paste(colors.to_hex(colour), (10 * k, 0, 10 * k + 3, 3))
    kept = plotting.with_palette(page).convert("RGB")
    for k, colour in enumerate(dots):
        assert max(abs(a - 255 * b) for a, b in zip(kept.getpixel((10 * k + 1, 1)), colour, strict=True)) < 12


# ---------------------------------------------------------------- show


def test_show_emits_a_picture_and_its_description(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *args, **kwargs: shown.append((args, kwargs)))
    plotting.show(plotting.figure(3, 2)[0], "An empty frame.")
    [((bundle,), options)] = shown
    assert set(bundle) == {"image/png", "text/plain"} and bundle["text/plain"] == "An empty frame."
    assert options == {"raw": True, "metadata": {"image/png": {"width": 300, "height": 200, "alt": "An empty frame."}}}
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (600, 400)


@pytest.mark.parametrize("alt", ["", "  \n", None])
def test_show_refuses_to_show_without_a_description(alt):
    with pytest.raises(ValueError, match="describe the figure in a sentence"):
        plotting.show(plotting.figure(3, 2)[0], alt)
    with pytest.raises(ValueError, match="say in a sentence"):
        plotting.show_text("words", alt)


def test_a_text_is_shown_as_it_is_and_never_taken_for_markup(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    words = "<script>alert(1)</script> & </pre>\n  \"two\" lines"
    plotting.show_text(words, 'What "it" wrote.')
    page = shown[0]["text/html"]
    assert shown[0]["text/plain"] == 'What "it" wrote.' and 'aria-label="What &quot;it&quot; wrote."' in page
    assert page.count("<") == 2 and "<script" not in page
    assert html.unescape(page[page.index(">") + 1 : page.rindex("</pre>")]) == words


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, "numpy"])
def test_tile_puts_each_image_in_its_place(kind, flat):
    images = torch.tensor([0, 51, 102, 153, 255], dtype=torch.uint8).reshape(5, 1, 1, 1).repeat(1, 1, 4, 4)
    images[3, 0, 0, 1] = 255
    if kind is not torch.uint8:
        images = images.float() / 127.5 - 1
    images = images.flatten(1) if flat else images
    out = plotting.tile(images.numpy() if kind == "numpy" else images, ncols=3, pad=2)
    assert out.shape == (2 * 6 + 2, 3 * 6 + 2)
    tops, lefts = (2, 8), (2, 8, 14)
    for k, value in enumerate((0, 0.2, 0.4, 0.6, 1.0)):
        top, left = tops[k // 3], lefts[k % 3]
        assert out[top + 3, left + 3] == pytest.approx(value, abs=1e-6)
        assert out[top + 3, left] == pytest.approx(value, abs=1e-6)
    assert out[8, 3] == 1.0 and out[9, 2] == pytest.approx(0.6, abs=1e-6), "rows stay rows"
    assert not out[:, [0, 1, 6, 7, 12, 13, 18, 19]].any() and not out[[0, 1, 6, 7, 12, 13]].any(), "black between"
    assert not out[8:12, 14:18].any(), "black where no image is left"


def test_tile_clips_what_a_tanh_cannot_reach():
    out = plotting.tile(torch.tensor([-3.0, 3.0]).reshape(2, 1), ncols=2, pad=0)
    assert out.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (torch.zeros(1, 4).bool(), 0.0),
        (torch.ones(1, 4).bool(), 1.0),
        (torch.full((1, 4), 20), 20 / 255),
        (torch.full((1, 4), 20, dtype=torch.int32), 20 / 255),
        (torch.full((1, 4), -0.5).double(), 0.25),
        (torch.full((1, 4), -0.5).bfloat16(), 0.25),
        (torch.full((1, 4), -0.5).half(), 0.25),
        (np.full((1, 4), 20, dtype=np.uint8), 20 / 255),
    ],
)
def test_tile_reads_every_type_of_pixel_in_its_own_range(images, wanted):
    assert plotting.tile(images, ncols=1, pad=0)[1, 1] == pytest.approx(wanted)


def test_image_grid_grows_with_its_rows():
    one, two = (plotting.image_grid(IMAGES[:n], ncols=3).get_size_inches() for n in (3, 6))
    assert two[1] == pytest.approx(2 * one[1]) and two[0] == one[0]


# ---------------------------------------------------------------- curves, bars, tables


def test_smooth_by_hand():
    assert plotting.smooth([4.0, 8.0, 0.0], 0.0) == [4, 8, 0]
    wanted = [4.0, (0.25 * 4 + 0.5 * 8) / 0.75, (0.125 * 4 + 0.25 * 8 + 0.5 * 0) / 0.875]
    assert plotting.smooth([4.0, 8.0, 0.0], 0.5) == pytest.approx(wanted)
    assert plotting.smooth([3.0] * 50, 0.9) == pytest.approx([3.0] * 50), "a constant stays, from the first step"
    assert plotting.smooth([], 0.5) == []


def test_curves_draw_the_values_and_their_smooth_version():
    ax = plotting.curves({"a": [4.0, 8.0, 0.0], "b": [1.0, 1, 1]}, "T", ylabel="loss", smooth_weight=0.5).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines[::2]] == [[4, 8, 0], [1, 1, 1]]
    assert list(ax.lines[1].get_ydata()) == plotting.smooth([4.0, 8.0, 0.0], 0.5)
    assert ax.lines[0].get_alpha() == 0.2 and ax.lines[1].get_xdata().tolist() == [1, 2, 3]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("T", "step", "loss")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert len({line.get_linestyle() for line in ax.lines[1::2]}) == 2, "told apart without colour too"


def test_one_curve_needs_no_legend_and_takes_its_own_x():
    ax = plotting.curves({"a": [1.0, 10.0]}, x=torch.tensor([0.0, 0.5]), logy=True).axes[0]
    assert ax.get_legend() is None and ax.lines[0].get_xdata().tolist() == [0, 0.5] and ax.get_yscale() == "log"


def test_histogram_shows_shares():
    ax = plotting.histogram({"a": [1, 3], "b": torch.tensor([0, 0])}, fair=0.5).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75, 0, 0]
    assert [bar.get_center()[0] for bar in ax.patches] == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert ax.lines[0].get_ydata()[0] == 0.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["equal shares", "a", "b"]


def cells_of(page):
    """[(tag, whether it is measured, text)] of each cell of a table, row by row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    return [
        [(tag, 'class="measured"' in rest, html.unescape(text)) for tag, rest, text in re.findall(r"<(t[hd])([^>]*)>(.*?)</t[hd]>", row)]
        for row in rows
    ]


def test_a_table_is_html_with_a_caption_in_which_numbers_are_measured_and_words_are_not():
    page = plotting.table_html(TABLE, "Scores of 2,000 <images>", {"FID": "low", "recall": "high"}, corner="model")
    assert "<caption" in page and "Scores of 2,000 &lt;images&gt;</caption>" in page and "<img" not in page
    found = cells_of(page)
    assert [text for _, _, text in found[0]] == ["model", "FID ↓", "recall ↑", "modes", "note", "plain"]
    assert [text for _, _, text in found[1]] == ["a", "12.3", "0.500", "7", "kept", "-0.001"]
    assert [text for _, _, text in found[2]] == ["b", "1,234", "0.00", "0", "", "100.0"]
    assert [text for _, _, text in found[3]] == ["real data (floor)", "1.00", "0.750", "", "", ""]
    assert [measured for _, measured, _ in found[1]] == [False, True, True, True, False, True]
    assert all(tag == "th" for tag, _, _ in found[0]) and found[1][0][0] == "th" and found[1][1][0] == "td"


def test_a_table_without_a_floor_with_another_name_for_it_and_with_holes():
    assert len(cells_of(plotting.table_html({"a": {"x": 1.0}}, "c"))) == 2
    page = plotting.table_html({"a": {"x": Score(1.0, 2.0)}}, "c", floor="other digits")
    assert cells_of(page)[-1][0] == ("th", False, "other digits")
    page = plotting.table_html({"a": {"x": 1.0}, "b": {"y": "<b>"}}, "c")
    assert [[text for _, _, text in row] for row in cells_of(page)] == [["", "x", "y"], ["a", "1.00", ""], ["b", "", "<b>"]]


@pytest.mark.parametrize(("rows", "caption"), [({}, "c"), ({"a": {"x": 1}}, " "), ({"a": {"x": 1}}, None)])
def test_a_table_of_nothing_or_without_a_caption_is_refused(rows, caption):
    with pytest.raises(ValueError, match="^show_table: "):
        plotting.table_html(rows, caption)


def test_show_table_emits_html_and_the_caption(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.update(data))
    plotting.show_table({"a": {"x": 1.25}}, "What is measured.")
    page = plotting.table_html({"a": {"x": 1.25}}, "What is measured.")
    assert shown == {"text/html": page, "text/plain": "What is measured."}
    plotting.show_table({"a": {"x": 1.25}}, "What is measured.", fold="Numbers & more")
    head, tail = shown["text/html"].split(page)
    assert head.split() == ["<details>", "<summary>Numbers", "&amp;", "more</summary>"] and tail.strip() == "</details>"
    assert shown["text/plain"] == "What is measured."


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.004, "0.004"), (-0.0004, "-4.0e-04"), (-0.0, "0.00"), (0.0996, "0.100"), (-0.3, "-0.300"), (9.99, "9.99"), (-12.34, "-12.3"),
     (1e4, "10,000"), (3, "3"), ("12", "12"), (0.125, "0.125"), (np.int64(4), "4"), (809856, "809,856"), (float("nan"), "nan"),
     (-float("inf"), "-inf"), (2e-5, "2.0e-05"), (torch.tensor(0.5), "0.500")],
)  # fmt: skip
def test_numbers_in_a_table(value, wanted):
    assert plotting.number_text(value) == wanted


# ---------------------------------------------------------------- the plane


def test_plane_and_field_agree_on_where_low_y_is():
    points = plotting.plane(3, limit=2.0)
    assert points.tolist()[:4] == [[-2, -2], [0, -2], [2, -2], [-2, 0]]
    fig, ax = plotting.figure(2, 2)
    image = plotting.draw_field(ax, points[:, 1].reshape(3, 3), limit=2.0)
    assert image.origin == "lower" and image.get_extent() == [-2, 2, -2, 2]
    assert image.get_array()[0].tolist() == [-2] * 3
    assert ax.get_xlim() == (-2, 2) and ax.get_ylim() == (-2, 2) and image.get_clim() == (0, 1)


def test_real_and_fake_points_differ_in_shape():
    fig, ax = plotting.figure(2, 2)
    plotting.draw_points(ax, POINTS.requires_grad_(), None)
    plotting.draw_points(ax, None, POINTS + 1)
    real, fake = ax.collections
    np.testing.assert_allclose(fake.get_offsets(), (POINTS + 1).detach().numpy())
    assert (real.get_label(), fake.get_label()) == ("real", "fake")
    assert len(real.get_paths()[0].vertices) != len(fake.get_paths()[0].vertices)


def test_arrows_warp_gauge_and_square():
    fig, ax = plotting.figure(2, 2)
    plotting.draw_arrows(ax, POINTS, POINTS, scale=3.0)
    np.testing.assert_allclose(ax.collections[0].U, 3 * POINTS[:, 0].detach())
    plotting.draw_warp(ax, plotting.plane(4).reshape(4, 4, 2))
    lines = np.array(ax.collections[1].get_segments())
    assert lines.shape == (8, 4, 2) and lines[0, :, 1].tolist() == pytest.approx([-2.4] * 4)
    assert lines[4, :, 0].tolist() == pytest.approx([-2.4] * 4)
    fig, ax = plotting.figure(2, 2)
    plotting.draw_gauge(ax, 5.0, 2.0, "KL")
    assert [bar.get_width() for bar in ax.patches] == [2.0, 2.0] and ax.get_title() == "KL 5.00"
    plotting.square(ax, 1.5)
    assert ax.get_xlim() == (-1.5, 1.5) and ax.get_aspect() == 1
    assert not any(spine.get_visible() for spine in ax.spines.values())


# ---------------------------------------------------------------- characters that no font here has


def labelled(words, place="title"):
    fig, ax = plotting.figure(3, 2)
    ax.plot([1, 2], label="a")
    if place == "text":
        ax.text(0.5, 0.5, words)
    elif place == "figure":
        fig.text(0.5, 0.5, words)
    elif place == "legend":
        ax.plot([2, 1], label=words)
        ax.legend()
    else:
        ax.set(**{place: words})
    return fig


@pytest.fixture
def only_the_font_of_matplotlib(monkeypatch):
    """Whatever fonts this machine has, and whatever its owner prefers."""
    monkeypatch.setitem(rcParams, "font.family", ["DejaVu Sans"])


@pytest.mark.parametrize("place", ["title", "xlabel", "ylabel", "text", "figure", "legend"])
def test_a_chinese_label_without_a_font_gives_one_warning_that_says_what_to_do(only_the_font_of_matplotlib, place):
    with pytest.warns(UserWarning) as caught:
        png = plotting.to_png(labelled("生成 loss 生成", place), scale=1)
    assert [str(warning.message) for warning in caught] == [
        "no font here has 生成, so boxes are drawn: write it in English, or name a font that has them in "
        "matplotlib.rcParams['font.sans-serif']"
    ]
    assert Image.open(io.BytesIO(png)).size == (300, 200)


def test_other_warnings_while_chinese_is_drawn_are_passed_on(only_the_font_of_matplotlib, monkeypatch):
    fig = labelled("生")
    draw = fig.canvas.draw
    monkeypatch.setattr(fig.canvas, "draw", lambda: (warnings.warn("something else", stacklevel=1), draw()))
    with pytest.warns(UserWarning) as caught:
        plotting.to_png(fig)
    assert [str(warning.message)[:14] for warning in caught] == ["something else", "no font here h"]


@pytest.mark.parametrize("words", ["loss", "", "σ² → ∇ log p, ½ KL ≥ 0", "größer, naïve, −1", "✓ x̂"])
def test_labels_of_the_notebooks_need_no_warning(only_the_font_of_matplotlib, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plotting.to_png(labelled(words))


# ---------------------------------------------------------------- in a process of its own


DRAW_ALL = """
import sys
sys.path.insert(0, sys.argv[1])
import test_plotting
assert "matplotlib.pyplot" not in sys.modules, "imported by the test itself"
print(test_plotting.digest())
assert "matplotlib.pyplot" not in sys.modules, "imported by a drawing"
"""

IMPORTS = """
import pathlib, sys, time
import torch
import numpy
before, began = set(sys.modules), time.perf_counter()
import aigc_helpers
folder = pathlib.Path(aigc_helpers.__file__).parent
for path in sorted([*folder.glob("*.py"), *folder.glob("models/*.py")]):
    if path.stem not in ("__init__", "glyphs", "train") and path.parts[-2:] != ("models", "scaling.py"):
        __import__(".".join(("aigc_helpers", *path.relative_to(folder).with_suffix("").parts)))
seconds = time.perf_counter() - began
assert "aigc_helpers.models.gan" in sys.modules
print(seconds, *sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def digest():
    """The SHA-256 of all pictures; also run in another process."""
    total = hashlib.sha256()
    for make in FIGURES.values():
        torch.manual_seed(0)
        total.update(plotting.to_png(make(), scale=1))
    return total.hexdigest()


def in_a_process(script, *args, **settings):
    root = os.path.dirname(os.path.dirname(plotting.__file__))
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | settings
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_pictures_need_no_pyplot_and_are_the_same_under_a_backend_that_needs_a_screen():
    assert in_a_process(DRAW_ALL, os.path.dirname(__file__), MPLBACKEND="TkAgg", DISPLAY="") == [digest()]


def test_what_a_page_imports_is_cheap():
    """At most 0.3 s beyond torch on a quiet machine; twice that is allowed here, in the best of three processes.

    Not counted are the panels, which need ipywidgets, `glyphs`, which is imported when the first one is drawn, and
    what spreads a model over processes, which brings torch's FSDP along, and that sympy: 07 and its program need it,
    no other page may.
    """
    for _ in range(3):
        seconds, *new = in_a_process(IMPORTS)
        print(f"import aigc_helpers and its modules: {float(seconds):.3f} s beyond torch")
        heavy = {"matplotlib", "ipywidgets", "IPython", "sklearn", "torchmetrics", "safetensors", "PIL", "scipy", "sympy"}
        assert not heavy & set(new), f"to be imported inside functions: {heavy & set(new)}"
        if float(seconds) <= 0.6:
            return
    pytest.fail(f"{seconds} s")


# ---------------------------------------------------------------- the figure of a live panel


def test_a_reusable_figure_is_like_new_when_it_is_wiped():
    margins = {"left": 0.1, "wspace": 0.4}

    def draw(fig, axes):
        plotting.draw_curves(axes[0], {"a": [1.0, 10.0, 100.0], "b": [1.0, 2.0, 3.0]}, "t", logy=True)
        plotting.draw_field(axes[1], torch.eye(5))
        plotting.draw_points(axes[1], POINTS, -POINTS)
        return np.asarray(Image.open(io.BytesIO(plotting.to_png(fig))))

    page = plotting.ReusableFigure(4, 2, margins, ncols=2)
    draw(*page.wipe())
    fig, (left, right) = page.wipe()
    assert fig is page.fig
    plotting.draw_curves(left, {"other": [3.0, 0.1, 5.0, 7.0]}, "other", "other", "other", logy=True)
    left.bar([1, 2], [1e3, 1e5])
    plotting.draw_field(right, torch.rand(5, 5), limit=7.0)
    right.set_title("other")
    right.set_axis_off()
    plotting.draw_gauge(fig.add_axes([0.4, 0.4, 0.2, 0.2]), 1.0, 2.0, "KL")
    fig.suptitle("a heading")
    fig.text(0.5, 0.5, "a word")
    messy = np.asarray(Image.open(io.BytesIO(plotting.to_png(fig))))

    fresh = plotting.figure(4, 2, ncols=2, tight=False)
    CachedTextCanvas(fresh[0])
    fresh[0].subplots_adjust(**margins)
    wanted = draw(*fresh)
    assert not np.array_equal(messy, wanted)
    np.testing.assert_array_equal(draw(*page.wipe()), wanted)
    assert plotting.ReusableFigure(4, 2, margins, ncols=2).fig is not page.fig, "no two panels share one"


@pytest.mark.parametrize("times", [1, 2], ids=["painted", "copied"])
@pytest.mark.parametrize(("words", "angle", "colour", "alpha"), [
    ("Words, 0.25", 0, "black", None), ("steep", 90, "black", None), ("aslant", 30, "black", None), ("   ", 0, "black", None),
    (r"$\alpha_t^2$", 0, "black", None), ("red", 0, "red", None), ("half", 0, "red", 0.5), ("faint", 0, "black", 0.2),
])  # fmt: skip
def test_words_that_are_copied_look_as_matplotlib_writes_them(words, angle, colour, alpha, times):
    def pixels(renderer):
        page = renderer(300, 200, 100)
        np.asarray(page.buffer_rgba())[:] = (252, 240, 250, 255)
        gc = page.new_gc()
        gc.set_foreground(colour)
        gc.set_alpha(alpha)
        page.draw_text(gc, 100, 120, words, FontProperties(size=12), angle, "$" in words)
        return np.asarray(page.buffer_rgba()).astype(int)

    written, copied = pixels(RendererAgg), [pixels(CachedTextRenderer) for _ in range(times)][-1]
    assert np.abs(written - copied).max() <= 2, "more than the rounding of blending twice"
    assert (written.min() < 220) == bool(words.strip()), "nothing was written"


def test_words_seen_before_are_not_painted_anew():
    fig, _ = plotting.ReusableFigure(3, 2).wipe()
    for _ in range(3):
        fig.text(0.1, 0.1, "the same")
        plotting.to_png(fig)
    before = paint.cache_info()
    plotting.to_png(fig)
    after = paint.cache_info()
    assert after.hits > before.hits and after.misses == before.misses
    fig.text(0.1, 0.4, "another word")
    plotting.to_png(fig)
    assert paint.cache_info().misses == after.misses + 1


@pytest.mark.parametrize(("values", "marks"), [([0.001, 0.5, 2.0], ["0.001", "0.01", "0.1", "1"]), ([1.0, 6.0], ["1", "2", "5"])])
def test_a_log_axis_is_labelled_in_plain_numbers(values, marks):
    fig = plotting.curves({"a": values}, logy=True)
    plotting.to_png(fig)
    low, high = fig.axes[0].get_ylim()
    ticks = zip(fig.axes[0].get_yticks(), fig.axes[0].get_yticklabels(), strict=True)
    assert [label.get_text() for y, label in ticks if low <= y <= high] == marks


@pytest.mark.parametrize("values", [[0.13, 7.0], [1.5, 4.0], [0.9, 12.0], [0.002, 300.0], [2.0, 2.1]])
def test_a_log_axis_names_at_least_two_values(values):
    fig = plotting.curves({"a": values}, logy=True)
    plotting.to_png(fig)
    ax = fig.axes[0]
    low, high = ax.get_ylim()
    shown = [t.get_text() for t in ax.get_yticklabels() if t.get_text() and low <= t.get_position()[1] <= high]
    assert len(shown) >= (1 if values == [2.0, 2.1] else 2), shown
