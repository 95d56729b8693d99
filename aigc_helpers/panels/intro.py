"""The panels and pictures of 00_intro: one function for each."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from matplotlib.patches import Circle

from aigc_helpers import plotting
from aigc_helpers.arguments import require_finite, require_number, require_one_of, require_whole
from aigc_helpers.data import load_digits, to_signed
from aigc_helpers.models import intro
from aigc_helpers.models.diffusion import draw_digits
from aigc_helpers.models.gpt import generate
from aigc_helpers.panels.core import Panel, choice, slider
from aigc_helpers.plotting import BLUE, GREEN, GREY, INK, ORANGE, SKY, ReusableFigure
from aigc_helpers.weights import load_model

NUM_DIGITS = 12  # of each image model
NUM_CHARACTERS = 100
NUM_FRESH = 2000  # points of each class that neither classifier has seen
GRID = 40  # points a side, for a picture of the plane
NUM_TRIES = 10_000  # of the whole series of tosses
NUM_JUDGED = 100  # pictures whose ratios the panel of the photocopier counts
ONE = (8.0, 2.0)  # mean and width of the ones' ink
COPIER = "the photocopier"
PALE = "#E9EEF2"  # the inside of a box
AXIS = torch.linspace(-12, 12, 1201).double()  # of the densities of section 8
HUMP = 0.6  # the width of a hump
FORWARD = "KL(p ‖ q)"
REVERSE = "KL(q ‖ p)"


# ---------------------------------------------------------------- how the models of later chapters draw


def draw_gan(generator, n, seed=0):
    """n digits (n, 1, 28, 28) in [-1, 1]: noise through the generator of chapter 01."""
    require_whole("draw_gan", "n", n, least=1)
    return generator(torch.randn(n, 64, generator=torch.Generator().manual_seed(seed)))


def draw_vae(decoder, n, seed=0):
    """n digits from codes of the prior: the grey values of the decoder of chapter 02."""
    require_whole("draw_vae", "n", n, least=1)
    logits = decoder(torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)))
    return (2 * torch.sigmoid(logits) - 1).view(-1, 1, 28, 28)


def draw_diffusion(unet, n, seed=0, num_steps=10, label=None):
    """n digits, of random classes or all of one, in num_steps steps of the U-Net of chapter 04."""
    require_whole("draw_diffusion", "n", n, least=1)
    require_whole("draw_diffusion", "num_steps", num_steps, least=1, most=1000)
    random = torch.Generator().manual_seed(seed)
    if label is None:
        labels = torch.randint(10, (n,), generator=random)
    else:
        require_whole("draw_diffusion", "label", label, least=0, most=9)
        labels = torch.full((n,), label)
    return draw_digits(unet, labels, num_steps, generator=random)


# ---------------------------------------------------------------- points in the plane, densities on a line


def two_clouds(n, right=1.0, up=0.5, turn=0.0, outliers=0, seed=0):
    """n points of each of two clouds, then orange outliers; classes: 0 for orange, 1 for blue.

    right, up: where the orange cloud lies; turn: its direction, in degrees.
    Returns points (2n + outliers, 2) and classes (2n + outliers,).
    """
    require_whole("two_clouds", "n", n, least=1)
    require_whole("two_clouds", "outliers", outliers, least=0)
    random = torch.Generator().manual_seed(seed)
    spread = torch.tensor([[0.85, 0.0], [0.0, 0.4]])
    blue = torch.randn(n, 2, generator=random) @ spread + torch.tensor([-0.9, -0.4])
    c = math.cos(math.radians(turn))
    s = math.sin(math.radians(turn))
    rotation = torch.tensor([[c, s], [-s, c]])
    orange = torch.randn(n, 2, generator=random) @ spread @ rotation + torch.tensor([right, up])
    far = 0.15 * torch.randn(outliers, 2, generator=random) + torch.tensor([2.1, 1.9])
    y = torch.cat([torch.ones(n), torch.zeros(n + outliers)]).long()
    return torch.cat([blue, orange, far]), y


def bell(mean, width):
    """A Gaussian on AXIS as probabilities; means and widths (...) give (..., 1201)."""
    mean = torch.as_tensor(mean).double()[..., None]
    width = torch.as_tensor(width).double()[..., None]
    require_finite("bell", "mean", mean)
    require_finite("bell", "width", width)
    if not (width > 0).all():
        raise ValueError(f"bell: width must be above 0, got {width.min().item()}")
    return (-0.5 * ((AXIS - mean) / width).square()).softmax(dim=-1)


def humps(gap):
    """The data p on AXIS: 60 % at -gap / 2, 40 % at +gap / 2, each of width HUMP."""
    require_number("humps", "gap", gap, least=0, most=12)
    return 0.6 * bell(-gap / 2, HUMP) + 0.4 * bell(gap / 2, HUMP)


def divergence(p, q, way):
    """KL(p ‖ q) or KL(q ‖ p), nats, as `way` says."""
    require_one_of("divergence", "way", way, (FORWARD, REVERSE))
    return intro.kl(p, q) if way == FORWARD else intro.kl(q, p)


def best_bell(gap, way):
    """Mean and width of the Gaussian that minimises a divergence, and that least value.

    It tries a grid of Gaussians, and then a finer one around the best of them.
    """
    p = humps(gap)
    means = torch.linspace(-3, 3, 25).double()
    widths = torch.linspace(0.3, 3, 19).double()
    for _ in range(2):
        pairs = torch.cartesian_prod(means, widths)
        values = divergence(p, bell(pairs[:, 0], pairs[:, 1]), way)
        least = values.argmin()
        mean, width = pairs[least]
        means = mean + torch.linspace(-0.25, 0.25, 11)
        widths = width + torch.linspace(-0.15, 0.15, 13)
    return mean.item(), width.item(), values[least].item()


# ---------------------------------------------------------------- the head: five rows, and the map


@plotting.style()
def strip(ncols=16):
    """Five rows of digits, A to E: GAN, real, VAE, ten Gaussians, diffusion."""
    real = load_digits("train", verbose=False)
    pixels = to_signed(real.images[:10_000]).flatten(1)
    gaussians = intro.GaussianClassifier(pixels, real.labels[:10_000], ridge=0.04)
    drawn, _ = gaussians.sample(ncols, torch.Generator().manual_seed(3))
    held_out = load_digits("test", verbose=False).images[20 : 20 + ncols]
    with torch.no_grad():
        rows = {
            "A": draw_gan(load_model("gan"), ncols, seed=3),
            "B": to_signed(held_out),
            "C": draw_vae(load_model("vae"), ncols, seed=3),
            "D": drawn.clamp(-1, 1).view(-1, 1, 28, 28),
            "E": draw_diffusion(load_model("diffusion"), ncols, seed=3),
        }
    fig, axes = plotting.figure(8.6, 2.95, nrows=len(rows), tight=False)
    fig.subplots_adjust(left=0.04, right=0.995, top=0.995, bottom=0.005, hspace=0.05)
    for ax, (name, images) in zip(axes, rows.items(), strict=True):
        plotting.draw_images(ax, images, ncols=ncols)
        ax.text(-0.02, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=12)
    return fig


CHAPTERS = [  # number, what, column, row, whether it stands
    ("00", "introduction", 0, 1.5, True),
    ("01", "GAN", 1, 0, True),
    ("01b", "beyond GAN", 2, 0, True),
    ("02", "VAE", 1, 1, True),
    ("02b", "beyond VAE", 2, 1, True),
    ("03", "GPT", 1, 2, True),
    ("03b", "beyond GPT-2", 2, 2, True),
    ("03c", "masked models", 3, 2, True),
    ("03d", "assistant", 4, 2, True),
    ("03e", "rewards", 5, 2, True),
    ("04", "diffusion", 1, 3, True),
    ("04b", "beyond diffusion", 2, 3, True),
    ("05", "text to image", 3, 3, True),
    ("05b", "DALL·E 1 and 2", 4, 3, True),
    ("06", "side by side", 5, 0, True),
    ("07", "scaling", 5, 1, True),
]
LEADS_TO = [
    ("00", "01"), ("00", "02"), ("00", "03"), ("00", "04"),
    ("01", "01b"), ("02", "02b"), ("03", "03b"), ("03b", "03c"), ("03c", "03d"),
    ("03d", "03e"), ("04", "04b"), ("04b", "05"), ("05", "05b"),
]  # fmt: skip
WAYS = ("in one go, against a judge", "in one go, from a code", "one token after another",
        "from noise, in many steps")  # fmt: skip


@plotting.style()
def series_map():
    """The chapters as boxes, in four rows: how each kind of model draws."""
    fig, ax = plotting.figure(8.8, 3.5, tight=False)
    fig.subplots_adjust(left=0.0, right=1.0, top=1.0, bottom=0.0)
    wide = 1.30
    places = {}
    for number, what, column, row, stands in CHAPTERS:
        places[number] = (0.75 + 1.55 * column, -1.05 * row)
        _box(ax, *places[number], f"{number}\n{what}", wide, 0.62, stands)
    for first, then in LEADS_TO:
        x0, y0 = places[first]
        x1, y1 = places[then]
        _arrow(ax, (x0 + wide / 2, y0), (x1 - wide / 2, y1))
    for row, way in enumerate(WAYS):
        ax.text(1.66, 0.43 - 1.05 * row, way, fontsize=9, style="italic", color=GREY, va="center")
    x, y = places["06"]
    ax.text(x, y + 0.43, "all of them", fontsize=9, style="italic", color=GREY, ha="center", va="center")
    ax.set(xlim=(0, 9.3), ylim=(-3.6, 0.68))
    ax.set_axis_off()
    return fig


def _box(ax, x, y, text, wide, high, solid=True, colour=BLUE):
    """A box around a text; dashed and grey if it is not solid."""
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch(
            (x - wide / 2, y - high / 2), wide, high, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=PALE if solid else "none", edgecolor=colour if solid else GREY,
            linestyle="-" if solid else (0, (4, 3)), linewidth=1.5 if solid else 1.1,
        )
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK if solid else GREY)


def _arrow(ax, start, end, colour=GREY, dashed=False):
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 1}
    if dashed:
        style["linestyle"] = (0, (4, 3))
    ax.annotate("", end, start, arrowprops=style)


# ---------------------------------------------------------------- two kinds of model


@plotting.style()
def two_kinds(image):
    """The two kinds of model as boxes and arrows: which way each goes between picture and class.

    image: a picture (1, 28, 28) uint8 of a seven, as an example.
    """
    fig, ax = plotting.figure(8.8, 2.7, tight=False)
    fig.subplots_adjust(left=0.0, right=1.0, top=1.0, bottom=0.0)
    _chain(ax, 0.0, "Discriminative", "p(y | x)", image, picture_first=True)
    _chain(ax, 4.5, "Generative", "p(x | y)", image, picture_first=False)
    ax.plot([4.4, 4.4], [0.2, 2.5], color=GREY, linewidth=0.8)
    _arrow(ax, (8.05, 0.72), (5.15, 0.72), dashed=True)
    words = {"ha": "center", "va": "center", "fontsize": 9.5, "color": GREY}
    ax.text(6.6, 0.42, "and, with p(y), back by Bayes' rule", **words)
    ax.text(2.1, 0.42, "no way back: it cannot draw", **words)
    ax.set(xlim=(0, 8.8), ylim=(0, 2.7))
    ax.set_axis_off()
    return fig


def _chain(ax, left, title, words, image, picture_first):
    """A picture x, a model and a class y in a row, with arrows from left to right."""
    ax.text(left + 2.1, 2.45, title, ha="center", va="center", fontsize=12)
    x, y = (left + 0.65, left + 3.6) if picture_first else (left + 3.6, left + 0.65)
    inset = ax.inset_axes([x - 0.42, 1.0, 0.84, 0.84], transform=ax.transData)
    plotting.draw_images(inset, image[None], ncols=1)
    ax.text(x, 2.05, "picture x", ha="center", va="center", fontsize=10)
    ax.text(y, 2.05, "class y", ha="center", va="center", fontsize=10)
    _box(ax, y, 1.42, "seven", 0.9, 0.5, colour=GREY)
    _box(ax, left + 2.13, 1.42, words, 1.1, 0.7, colour=ORANGE)
    _arrow(ax, (left + 1.12, 1.42), (left + 1.56, 1.42))
    _arrow(ax, (left + 2.7, 1.42), (left + 3.13, 1.42))


def features_of(source, digit):
    """Ink (per cent) and breadth (columns) of all pictures of one digit: (N, 2)."""
    images = source.images[source.labels == digit, 0].float() / 255  # (N, 28, 28): 1 is ink
    ink = 100 * images.mean(dim=(1, 2))
    column_has_ink = (images > 0.5).any(dim=1)  # (N, 28)
    breadth = column_has_ink.sum(dim=1).float()
    return torch.stack([ink, breadth], dim=1)


@plotting.style()
def ink_histograms(ink_of_ones, ink_of_sevens):
    """Histograms of ink (N,), in per cent, with the Gaussian that fits each best over it."""
    fig, ax = plotting.figure(6.4, 2.8)
    axis = torch.linspace(0, 26, 261)
    classes = {"ones": (ink_of_ones, ORANGE), "sevens": (ink_of_sevens, BLUE)}
    for name, (ink, colour) in classes.items():
        bins = {"bins": 52, "range": (0, 26), "density": True}
        mean = ink.mean()
        width = ink.std(correction=0)
        words = f"{name}: mean {mean:.1f}, width {width:.1f}"
        ax.hist(ink.numpy(), color=colour, alpha=0.3, label=words, **bins)
        ax.plot(axis, intro.gaussian(axis, mean, width), color=colour)
    ax.set(xlabel="ink, in per cent of the page", ylabel="density", xlim=(0, 26))
    ax.legend()
    return fig


# ---------------------------------------------------------------- fitting


@plotting.style()
def likelihood_of_mean(x, width=1.5, means=(6.0, 8.6, 11.0)):
    """Left: points x (N,) under three Gaussians of one width; right: the log-likelihood for every mean."""
    fig, (left, right) = plotting.figure(8.6, 2.7, ncols=2)
    axis = torch.linspace(2, 16, 281)
    for mean, colour in zip(means, (ORANGE, GREEN, BLUE), strict=True):
        left.plot(axis, intro.gaussian(axis, mean, width), color=colour, label=f"mean {mean:g}")
        value = intro.gaussian(x, mean, width).log().sum()
        right.plot(mean, value, "o", color=colour)
    earlier = [(x[:k] == x[k]).sum().item() for k in range(len(x))]  # equal points stand on each other
    left.plot(x, 0.012 + 0.026 * torch.tensor(earlier), "o", color=INK, markersize=6)
    left.set(xlabel="ink", ylabel="density", ylim=(0, 0.36), title=f"Five points, three models of width {width:g}")
    left.legend()
    totals = intro.gaussian(x, axis[:, None], width).log().sum(dim=1)
    right.plot(axis, totals, color=GREY, zorder=0)
    right.set(xlabel="mean of the model", title="Log-likelihood of the five", xlim=(4, 14), ylim=(-44, -5))
    return fig


@plotting.style()
def ink_posteriors(ink, is_seven, w, b):
    """Three answers to "how probable is a seven?": counted, by two Gaussians, by a logistic curve.

    ink (N,), is_seven (N,) in {0, 1}; w, b: the weight and the offset of the logistic curve.
    """
    fig, ax = plotting.figure(6.4, 2.9)
    axis = torch.linspace(2, 24, 221)
    joint = []
    for k in (0, 1):
        x = ink[is_seven == k]
        joint.append(len(x) / len(ink) * intro.gaussian(axis, x.mean(), x.std(correction=0)))
    edges = torch.linspace(2, 24, 23)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (ink >= low) & (ink < high)
        if inside.sum() >= 20:
            ax.plot((low + high) / 2, is_seven[inside].float().mean(), "o", color=GREY)
    ax.plot([], [], "o", color=GREY, label="counted: share of sevens")
    ax.plot(axis, joint[1] / (joint[0] + joint[1]), color=BLUE, label="generative: eq. (3)")
    ax.plot(axis, torch.sigmoid(w * axis + b), "--", color=ORANGE, label="discriminative: eq. (6)")
    ax.set(xlabel="ink, in per cent", ylabel="p(seven | ink)", ylim=(-0.03, 1.03))
    ax.legend(loc="lower right")
    return fig


# ---------------------------------------------------------------- two features


@plotting.style()
def signs(points):
    """Points (N, 2) in four quarters around their mean; colour: the sign of the product."""
    fig, ax = plotting.figure(4.6, 3.3)
    mean = points.mean(dim=0)
    product = (points - mean).prod(dim=1)
    for chosen, colour, marker, name in (
        (product > 0, GREEN, "o", "product above 0"),
        (product <= 0, ORANGE, "x", "product below 0"),
    ):
        ax.scatter(*points[chosen].T, s=14, color=colour, marker=marker, linewidths=1, label=name)
    ax.axvline(mean[0], color=GREY, linewidth=1)
    ax.axhline(mean[1], color=GREY, linewidth=1)
    ax.set(xlabel="ink, in per cent", ylabel="breadth, in columns")
    ax.legend(loc="lower right")
    return fig


@plotting.style()
def two_spots(mean, cov, spots):
    """Rings of a Gaussian of two features, and spots {name: (2,)} equally far from its mean."""
    fig, ax = plotting.figure(4.4, 3.5)
    for radius in (1, 2, 3):
        ring = _ring(mean, cov, radius)
        ax.plot(*ring, color=BLUE, linewidth=1.3)
        lowest = ring[:, ring[1].argmin()]
        ax.annotate(f"{radius}", lowest, (0, 2), textcoords="offset points", color=BLUE, ha="center", va="bottom")
    ax.plot(*mean, "+", color=INK, markersize=9)
    for name, spot in spots.items():
        ax.plot([mean[0], spot[0]], [mean[1], spot[1]], color=GREY, linewidth=1, linestyle=":")
        ax.plot(*spot, "o", color=ORANGE)
        ax.annotate(name, spot, (7, -4), textcoords="offset points", fontsize=11)
    ax.set(xlabel="ink, in per cent", ylabel="breadth, in columns", aspect="equal")
    return fig


def _ring(mean, cov, radius):
    """Points (2, 60) on the ring at the Mahalanobis distance `radius`, the root of that in eq. (5)."""
    angle = torch.linspace(0, 2 * math.pi, 60)
    circle = torch.stack([angle.cos(), angle.sin()])
    return mean[:, None] + radius * torch.linalg.cholesky(cov) @ circle


@plotting.style()
def round_to_cloud(eps, x):
    """Left: round noise eps (N, 2); right: what it became, x (N, 2). Four points keep a colour."""
    fig, axes = plotting.figure(8.0, 3.3, ncols=2)
    corners = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    marked = torch.cdist(corners, eps).argmin(dim=1)
    for ax, points in zip(axes, (eps, x), strict=True):
        ax.scatter(*points.T, s=5, color=GREY, alpha=0.4, linewidths=0)
        for k, colour in zip(marked, (BLUE, ORANGE, GREEN, plotting.PINK), strict=True):
            ax.plot(*points[k], "o", color=colour, markersize=9, markeredgecolor="white")
        ax.set_aspect("equal")
    axes[0].set(title="Two independent numbers", xlabel="ε₁", ylabel="ε₂")
    axes[1].set(title="Multiplied, mixed and shifted", xlabel="ink", ylabel="breadth")
    return fig


@plotting.style()
def fitted_and_drawn(x, y, drawn, which, spot):
    """Left: points x (N, 2) of classes y (N,) in {0, 1}; right: points (M, 2) that a model drew, of classes (M,).

    spot (2,): a point to ask the model about, marked at the left.
    """
    fig, axes = plotting.figure(7.0, 3.5, ncols=2)
    clouds = {"Training points": (x, y), "Drawn by the model": (drawn, which)}
    for ax, (title, (points, classes)) in zip(axes, clouds.items(), strict=True):
        plotting.draw_points(ax, points[classes == 1], points[classes == 0], size=11)
        ax.set(title=title, xlim=(-3.3, 2.6), ylim=(-2.1, 3.1), xlabel="x₁", ylabel="x₂", aspect="equal")
    axes[0].plot(*spot, "*", color=INK, markersize=11)
    axes[0].annotate("spot", spot, (-7, 4), textcoords="offset points", fontsize=10, ha="right")
    return fig


@plotting.style()
def missing_value(x, y, w, b, usual):
    """Points x (N, 2) with classes y (N,), the boundary w·x + b = 0, and the line x₂ = usual."""
    fig, ax = plotting.figure(4.9, 3.6)
    plotting.draw_points(ax, x[y == 1], x[y == 0], size=9)
    axis = torch.tensor([-3.5, 3.5])
    ax.plot(axis, -(w[0] * axis + b) / w[1], color=INK)
    ax.text(3.4, 1.3, "boundary", fontsize=9.5, ha="right")
    turn = -(w[1] * usual + b) / w[0]
    ax.plot([-3.5, turn], [usual, usual], color=BLUE, linewidth=3)
    ax.plot([turn, 3.5], [usual, usual], color=ORANGE, linewidth=3)
    ax.text(-3.4, usual + 0.2, "here it says blue", fontsize=9.5, color=INK)
    ax.text(3.4, usual - 0.45, "here orange", fontsize=9.5, color=INK, ha="right")
    ax.set(xlim=(-3.5, 3.5), ylim=(-4, 4), xlabel="x₁", ylabel="x₂")
    return fig


# ---------------------------------------------------------------- odd pictures


def odd_pictures(digits, classes):
    """Five kinds of pictures that are no digits, made of digits (N, 784) in [-1, 1] with classes (N,).

    Returns {kind: pictures (M, 784)}. The lower half comes from a digit of another class.
    """
    images = digits.view(-1, 28, 28)
    chance = torch.rand(len(images), len(images), generator=torch.Generator().manual_seed(1))
    chance[classes[:, None] == classes] = -1.0  # never one of the same class
    partner = images[chance.argmax(dim=1)]
    halves = torch.cat([images[:, :14], partner[:, 14:]], dim=1)
    noise = torch.rand(1000, 784, generator=torch.Generator().manual_seed(2))
    return {
        "ink and paper swapped": -digits,
        "pure noise": 2 * noise - 1,
        "lower half of another": halves.flatten(1),
        "blurred": blur(digits),
        "an empty page": -torch.ones(1, 784),
    }


def blur(digits):
    """Digits (N, 784), each pixel the mean of 3 x 3 pixels around it."""
    padded = F.pad(digits.view(-1, 28, 28), (1, 1, 1, 1), value=-1.0)
    return F.avg_pool2d(padded, 3, stride=1).flatten(1)


@plotting.style()
def picture_rows(kinds, ncols=12, model=None):
    """One row of pictures for each of {kind: pictures (N, 784)}, its name at the left.

    With a model, under each picture the class that has the largest p(y | x).
    """
    high, gap = (0.5, 0.08) if model is None else (0.72, 0.44)
    fig, axes = plotting.figure(8.2, high * len(kinds), nrows=len(kinds), tight=False)
    bottom = 0.01 if model is None else 0.3 / (high * len(kinds))  # room for the last row's classes
    fig.subplots_adjust(left=0.24, right=0.995, top=0.99, bottom=bottom, hspace=gap)
    for ax, (name, pictures) in zip(axes, kinds.items(), strict=True):
        plotting.draw_images(ax, pictures[:ncols], ncols=ncols)
        ax.text(-0.02, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=10.5)
        named = [] if model is None else model.posterior(pictures[:ncols]).argmax(dim=1).tolist()
        for k, digit in enumerate(named):
            ax.text((k + 0.5) / ncols, -0.08, digit, transform=ax.transAxes, ha="center", va="top", fontsize=10)
    return fig


@plotting.style()
def familiarity(log_p):
    """A row of dots for each of {kind: log p(x) (N,)}; the first kind, real digits, gives the grey band.

    The band holds 98 of 100 of the first kind. Kinds that lie far to the left are drawn at the edge, with their median.
    """
    fig, ax = plotting.figure(8.2, 0.42 * len(log_p) + 0.75)
    real = next(iter(log_p.values()))
    low, middle, high = real.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    left = middle - 1.6 * (middle - low)
    random = torch.Generator().manual_seed(0)
    ax.axvspan(low, high, color=GREY, alpha=0.15, linewidth=0)
    ax.axvline(middle, color=GREY, linewidth=1, linestyle=":")
    for row, values in enumerate(log_p.values()):
        height = -row + 0.5 * (torch.rand(len(values[:200]), generator=random) - 0.5)
        colour = BLUE if row == 0 else ORANGE
        shown = values[:200]
        inside = shown >= left
        ax.scatter(shown[inside], height[inside], s=18 if len(values) == 1 else 5, color=colour, linewidths=0)
        if not inside.any():
            words = f"◀  far to the left: median {values.quantile(0.5):,.0f}".replace("-", "−")
            ax.text(left, -row, words, va="center", fontsize=9.5)
    ax.set_yticks([-row for row in range(len(log_p))], list(log_p))
    ax.set(xlabel="log p(x) of the ten Gaussians", xlim=(left, None), ylim=(0.5 - len(log_p), 0.5))
    return fig


@plotting.style()
def axes_of_cloud(cov, mean, pictures, shown=(1, 10, 100, 400)):
    """Left: some axes of a cloud of digits, from the widest on, as pictures. Right: what each kind of picture adds.

    cov (784, 784), mean (784,); pictures: {name: (N, 784)}. The squared Mahalanobis distance is a sum over the axes,
    (deviation along the axis / width along it) squared; the curves are this sum, running from the widest axis on.
    """
    variance, axes_found = torch.linalg.eigh(cov.double())
    variance = variance.flip(0)
    directions = axes_found.flip(1)  # column by column, the widest axis first
    fig = plotting.figure(8.6, 3.3)[0]
    fig.clear()
    grid = fig.add_gridspec(2, 4, width_ratios=(1, 1, 0.32, 4.4))
    for place, k in enumerate(shown):
        ax = fig.add_subplot(grid[place // 2, place % 2])
        axis = directions[:, k - 1]
        plotting.draw_images(ax, (axis / axis.abs().max()).float()[None], ncols=1, title=f"axis {k}")
    ax = fig.add_subplot(grid[:, 3])
    for (name, points), colour, line in zip(
        pictures.items(), (GREY, BLUE, ORANGE, GREEN), ("-", "-", "--", "-."), strict=False
    ):
        along = (points - mean).double() @ directions
        total = (along.square() / variance).mean(dim=0).cumsum(dim=0)
        ax.plot(range(1, len(total) + 1), total, line, color=colour, label=f"{name}: {total[-1]:.0f}")
    ax.set(xlabel="axes, from the widest to the narrowest", ylabel="squared distance, running sum", xlim=(0, 784))
    ax.legend(loc="upper left")
    return fig


# ---------------------------------------------------------------- who wins, and what becomes of copies of copies


def many_features(n, together=0.0, seed=0):
    """n points (n, 20) of two classes (n,): features independent, or with a part in common."""
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    gap = torch.full((20,), 0.3)
    gap[1::2] = 0.15  # every second feature tells less
    noise = torch.randn(n, 20, generator=random) + together * torch.randn(n, 1, generator=random)
    return noise + (2 * y - 1)[:, None] * gap, y


def learning_curves(sizes, repeats, together):
    """Shares of wrong answers (repeats, sizes, 4): naive Bayes, logistic regression plain, and with a decay.

    Three are of 4,000 fresh points; the fourth is the plain one's share on the points that it was trained on.
    """
    x_test, y_test = many_features(4000, together, seed=999)
    rates = []
    for r in range(repeats):
        training_sets = [many_features(n, together, seed=1000 * r + n) for n in sizes]
        rates.append([_error_rates(x, y, x_test, y_test) for x, y in training_sets])
    return torch.tensor(rates)


def _error_rates(x, y, x_test, y_test):
    """The four shares of `learning_curves`, for one training set."""
    naive = intro.GaussianClassifier(x, y, shared=True, diagonal=True)
    plain_w, plain_b = intro.fit_logistic(x, y, decay=1e-6)
    pulled_w, pulled_b = intro.fit_logistic(x, y, decay=40 / len(x))
    wrong = (
        naive.log_joint(x_test).argmax(dim=1) != y_test,
        (x_test @ plain_w + plain_b > 0) != y_test,
        (x_test @ pulled_w + pulled_b > 0) != y_test,
        (x @ plain_w + plain_b > 0) != y,
    )
    return [answers.float().mean().item() for answers in wrong]


@plotting.style()
def who_wins(sizes, rates):
    """Error rates with bands, a frame a world; rates: {world: (repeats, sizes, 3)}."""
    fig, axes = plotting.figure(8.6, 3.4, ncols=2, sharey=True)
    models = (
        ("generative: naive Bayes", BLUE, "o-"),
        ("logistic regression, plain", ORANGE, "s--"),
        ("logistic regression, decay", GREEN, "^-."),
    )
    for ax, (world, values) in zip(axes, rates.items(), strict=True):
        for k, (name, colour, line) in enumerate(models):
            mean = 100 * values[..., k].mean(dim=0)
            spread = 100 * values[..., k].std(dim=0)
            ax.plot(sizes, mean, line, color=colour, label=name, markersize=4.5)
            ax.fill_between(sizes, mean - spread, mean + spread, color=colour, alpha=0.13, linewidth=0)
        ax.set(xscale="log", xlabel="training points", title=world, ylim=(10, 48))
        ax.set_xticks(sizes, [str(n) for n in sizes], fontsize=9)
        ax.minorticks_off()
    axes[0].set_ylabel("wrong answers, per cent")
    axes[0].legend(loc="upper right")
    return fig


@plotting.style()
def widths_by_generation(runs):
    """The fitted width over the generations; runs: {name: (seeds, generations)}. Bands: 8 seeds of 10."""
    fig, ax = plotting.figure(7.2, 3.2)
    colours = (ORANGE, BLUE, GREEN)
    for (name, widths), colour in zip(runs.items(), colours, strict=True):
        x = torch.arange(1, widths.shape[1] + 1)
        low, high = widths.quantile(torch.tensor([0.1, 0.9]), dim=0)
        ax.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(x, widths.quantile(0.5, dim=0), color=colour, label=name)
    ax.axhline(1, color=INK, linewidth=1, linestyle=":")
    title = f"Line: median of {len(widths)} seeds. Band: from the 10th to the 90th in 100."
    ax.set(xlabel="generation", ylabel="width of the model", ylim=(0, 1.75), xlim=(1, len(x)), title=title)
    ax.legend(loc="upper right", ncols=3)
    return fig


@plotting.style()
def frechet(real, drawn):
    """What a Fréchet distance compares: a Gaussian for points real (N, 2), and one for points drawn (M, 2)."""
    fig, ax = plotting.figure(4.4, 4.2)
    for points, colour, name in ((real, BLUE, "real"), (drawn, ORANGE, "drawn")):
        ax.scatter(*points.T, s=12, color=colour, linewidths=0, alpha=0.6, label=name)
        mean = points.mean(dim=0)
        ax.plot(*mean, "+", color=colour, markersize=12)
        for radius in (1, 2):
            ax.plot(*_ring(mean, intro.covariance(points), radius), color=colour, linewidth=1.4)
    return _in_the_plane(fig, ax, "Fréchet distance: two Gaussians")


@plotting.style()
def discs(real, drawn, neighbours=3):
    """What precision counts: a disc around each of points real (N, 2), out to its third neighbour.

    A point of drawn (M, 2) in no disc is a cross.
    """
    fig, ax = plotting.figure(4.4, 4.2)
    reach = torch.cdist(real, real).sort(dim=1).values[:, neighbours]
    for point, radius in zip(real, reach, strict=True):
        ax.add_patch(Circle(point.tolist(), radius.item(), facecolor=SKY, alpha=0.25, linewidth=0))
    among = (torch.cdist(drawn, real) <= reach).any(dim=1)
    ax.scatter(*real.T, s=12, color=BLUE, linewidths=0, label="real")
    for chosen, marker, name in ((among, "o", "drawn, in a disc"), (~among, "x", "drawn, in none")):
        ax.scatter(*drawn[chosen].T, s=16, color=ORANGE, marker=marker, linewidths=1, label=name)
    return _in_the_plane(fig, ax, f"Precision: {int(among.sum())} of {len(drawn)} drawn in a disc")


def _in_the_plane(fig, ax, title):
    """The frame that `frechet` and `discs` share."""
    ax.set(title=title, xlim=(-4.2, 4.2), ylim=(-3.6, 4.6), xticks=[], yticks=[], aspect="equal")
    ax.legend(loc="upper left", ncols=3, fontsize=8.5, handletextpad=0.1, columnspacing=0.8)
    return fig


@plotting.style()
def integrand(p, q):
    """p and q on AXIS, and below them p log(p / q): the area under it is KL(p ‖ q)."""
    fig, axes = plotting.figure(6.4, 3.9, nrows=2, sharex=True)
    _draw_densities(axes[0], p, q)
    _draw_integrand(axes[1], p, q, FORWARD)
    axes[1].set_xlabel("x")
    return fig


def _draw_densities(ax, p, q, name="model q"):
    step = AXIS[1] - AXIS[0]
    ax.fill_between(AXIS, p / step, color=SKY, alpha=0.6, linewidth=0, label="data p")
    ax.plot(AXIS, q / step, color=ORANGE, label=name)
    ax.set(xlim=(-6, 6), ylim=(0, 0.9), yticks=[], xticks=[-4, -2, 0, 2, 4])
    ax.legend(loc="upper right")


def _draw_integrand(ax, p, q, way):
    """The integrand of a divergence: what is above 0 in orange, what is below in blue."""
    step = AXIS[1] - AXIS[0]
    first, second = (p, q) if way == FORWARD else (q, p)
    ratio = first.clamp(min=1e-300).log() - second.clamp(min=1e-300).log()
    height = first / step * ratio
    ax.fill_between(AXIS, height.clamp(min=0), color=ORANGE, alpha=0.5, linewidth=0)
    ax.fill_between(AXIS, height.clamp(max=0), color=BLUE, alpha=0.5, linewidth=0)
    ax.axhline(0, color=INK, linewidth=0.8)
    top = 2.0
    ax.set(xlim=(-6, 6), ylim=(-0.6, top), yticks=[0], xticks=[-4, -2, 0, 2, 4])
    names = "p log(p / q)" if way == FORWARD else "q log(q / p)"
    ax.text(0.01, 0.88, names, transform=ax.transAxes, fontsize=10)
    if height.max() > top:
        ax.text(0.99, 0.88, "goes on above", transform=ax.transAxes, fontsize=9, color=GREY, ha="right")


MILESTONES = [  # year, what, kind
    (1948, "Shannon draws text from letter statistics [1]", "idea"),
    (1950, "Turing: can machines think? [2]", "idea"),
    (1955, "The name “artificial intelligence” [3]", "idea"),
    (1958, "Rosenblatt: the perceptron learns [4]", "idea"),
    (1966, "ELIZA: a program that people talk to [5]", "system"),
    (1986, "Back-propagation trains hidden layers [6]", "idea"),
    (2012, "AlexNet: deep networks win at images [7]", "system"),
    (2013, "Variational autoencoder, chapter 02 [8]", "chapter"),
    (2014, "Generative adversarial networks, chapter 01 [9]", "chapter"),
    (2015, "Diffusion models, chapter 04 [10]", "chapter"),
    (2017, "Transformer, chapter 03 [11]", "chapter"),
    (2018, "GPT, chapter 03 [12]", "chapter"),
    (2020, "Diffusion draws sharp pictures, chapter 04 [13]", "chapter"),
    (2021, "Latent diffusion: pictures from sentences [14]", "system"),
    (2022, "Assistants, tuned by feedback [15]", "system"),
    (2022, "Flow matching: diffusion's near relative [16]", "idea"),
    (2025, "Open weights that reason at length [17]", "system"),
]


@plotting.style()
def timeline():
    """Seventeen steps from 1948 to 2025, and two times of cut funding."""
    fig, ax = plotting.figure(8.6, 4.8)
    colours = {"idea": BLUE, "system": GREEN, "chapter": ORANGE}
    for row, (year, what, kind) in enumerate(MILESTONES):
        left = year > 1990  # where there is room beside the dot
        ax.plot(year, -row, "s" if kind == "chapter" else "o", color=colours[kind], markersize=7)
        ax.annotate(
            f"{year}  {what}", (year, -row), (-9 if left else 9, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", fontsize=9,
        )  # fmt: skip
    bottom = 0.2 - len(MILESTONES)
    for start, end in ((1974, 1980), (1987, 1993)):
        ax.barh(bottom, end - start, left=start, height=0.9, color=GREY, alpha=0.35)
        ax.text((start + end) / 2, bottom, "winter", ha="center", va="center", fontsize=8.5)
    ax.text(1995, bottom, "“AI winters”: funding was cut", va="center", fontsize=9)
    words = {"idea": "an idea", "system": "a system", "chapter": "what you build in a chapter"}
    for kind, colour in colours.items():
        ax.plot([], [], "s" if kind == "chapter" else "o", color=colour, label=words[kind])
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 0.1))
    ax.set(xlim=(1945, 2028), ylim=(-len(MILESTONES) - 0.4, 1), yticks=[], xlabel="year")
    ax.spines["left"].set_visible(False)
    return fig


# ---------------------------------------------------------------- four trained models


def four_models():
    """The trained models of chapters 01 to 04, drawing side by side.

    What moves: the sampling steps and the label of the diffusion model, the temperature of the
    GPT; Draw takes fresh noise for all four. What to see: few steps blur, a low temperature
    repeats itself, a high one misspells, and not every image has the label that was asked for.
    """
    generator = load_model("gan")
    decoder = load_model("vae")
    unet = load_model("diffusion")
    gpt, characters = load_model("gpt")
    margins = {"left": 0.01, "right": 0.99, "top": 0.94, "bottom": 0.30, "wspace": 0.05}
    reusable = ReusableFigure(6.6, 2.7, margins, ncols=3)
    state = {"seed": 0}

    # Remembered, so that a slider draws anew only what it changes.
    @functools.lru_cache(maxsize=64)
    def diffuse(seed, num_steps, label):
        return draw_diffusion(unet, NUM_DIGITS, seed, num_steps, label)

    @functools.lru_cache(maxsize=64)
    def write(seed, temperature):
        start = characters.encode("\n")[None]
        random = torch.Generator().manual_seed(seed)
        tokens = generate(gpt, start, NUM_CHARACTERS, random, temperature=temperature)
        return characters.decode(tokens[0]).strip("\n")

    def draw(num_steps, label, temperature):
        seed = state["seed"]
        images = {
            "GAN": draw_gan(generator, NUM_DIGITS, seed),
            "VAE": draw_vae(decoder, NUM_DIGITS, seed),
            "Diffusion": diffuse(seed, num_steps, label),
        }
        fig, axes = reusable.wipe()
        for ax, (title, drawn) in zip(axes, images.items(), strict=True):
            plotting.draw_images(ax, drawn, ncols=4, title=title)
        _write_lines(fig, write(seed, temperature))
        return fig, f"Draw number {seed + 1}."

    def draw_again():
        state["seed"] += 1

    def put_back():
        state["seed"] = 0

    def another_draw():
        draw_again()
        return {"label": None, "temperature": 0.8}

    return Panel(
        "Four models",
        draw,
        controls={
            "num_steps": slider("sampling steps", 1, 10, 10, step=1),
            "label": choice("digit", {"all ten": None} | {str(k): k for k in range(10)}),
            "temperature": slider("temperature", 0.2, 1.5, 0.8),
        },
        buttons={"Draw (0.3 s)": draw_again},
        frames=[
            ("10 sampling steps, temperature 0.8", {}),
            ("2 sampling steps, temperature 0.2", {"num_steps": 2, "temperature": 0.2}),
            ("1 sampling step, temperature 1.5", {"num_steps": 1, "temperature": 1.5}),
            ("10 sampling steps, digit 7", {"num_steps": 10, "label": 7, "temperature": 0.8}),
            ("Fresh noise", another_draw),
        ],
        reset=put_back,
        alt="Twelve digits each by the GAN, the VAE and the diffusion model, and lines of text by "
        "the GPT below them.",
    )


def _write_lines(fig, text):
    """The first three lines of a text at the foot of the figure."""
    lines = [line[:66] for line in text.split("\n")[:3]]
    words = "GPT: " + "\n     ".join(lines)
    fig.text(0.02, 0.25, words, va="top", family="monospace", fontsize=9, parse_math=False)


# ---------------------------------------------------------------- one feature, two classes


def one_feature():
    """Ones (orange) and sevens (blue) by their ink: Bayes' rule, eq. (3), in numbers.

    What moves: the ink x, the share of sevens, the mean and the width of the sevens. What to see:
    the answer follows the heights of the two curves; with equal widths it is an S, else it bends.
    """
    margins = {"left": 0.09, "right": 0.98, "top": 0.91, "bottom": 0.13, "hspace": 0.28}
    reusable = ReusableFigure(6.4, 4.2, margins, nrows=2)
    axis = torch.linspace(0, 24, 241)

    def draw(ink, share, mean, width):
        one = (1 - share) * intro.gaussian(axis, ONE[0], ONE[1])
        seven = share * intro.gaussian(axis, mean, width)
        here = torch.tensor(ink)
        height_one = intro.gaussian(here, ONE[0], ONE[1]).item()
        height_seven = intro.gaussian(here, mean, width).item()
        joint_one = (1 - share) * height_one
        joint_seven = share * height_seven
        answer = joint_seven / (joint_one + joint_seven)
        fig, (top, bottom) = reusable.wipe()
        for values, joint, colour, name in (
            (one, joint_one, ORANGE, "ones"),
            (seven, joint_seven, BLUE, "sevens"),
        ):
            top.fill_between(axis, values, color=colour, alpha=0.25, linewidth=0)
            top.plot(axis, values, color=colour, label=name)
            top.plot(ink, joint, "o", color=colour)
        top.set(xlim=(0, 24), ylim=(0, 0.25), yticks=[0, 0.1, 0.2], ylabel="p(y) p(x | y)")
        top.legend(loc="upper right")
        top.set_title(f"p(seven | ink {ink:.1f}) = {answer:.2f}")
        bottom.plot(axis, seven / (one + seven), color=INK)
        bottom.plot(ink, answer, "o", color=INK)
        bottom.set(xlim=(0, 24), ylim=(-0.05, 1.05), yticks=[0, 0.5, 1])
        bottom.set(xlabel="ink x, in per cent of the page", ylabel="p(seven | x)")
        for ax in (top, bottom):
            ax.axvline(ink, color=GREY, linewidth=1, linestyle=":")
        return fig, (
            f"One: {1 - share:.2f} × {height_one:.4f} = {joint_one:.4f}. "
            f"Seven: {share:.2f} × {height_seven:.4f} = {joint_seven:.4f}. "
            f"{joint_seven:.4f} / ({joint_one:.4f} + {joint_seven:.4f}) = {answer:.3f}."
        )

    return Panel(
        "One feature",
        draw,
        controls={
            "ink": slider("ink x", 0.0, 24.0, 10.0),
            "share": slider("share of sevens", 0.02, 0.98, 0.4, 0.02),
            "mean": slider("mean, sevens", 4.0, 18.0, 12.0),
            "width": slider("width, sevens", 1.0, 6.0, 3.0),
        },
        frames=[
            ("Ink 10, two sevens in five", {}),
            ("Ink 10, six sevens in a hundred", {"share": 0.06}),
            ("Sevens as wide as ones", {"share": 0.4, "width": 2.0}),
            ("Both clouds at the same mean", {"mean": 8.0, "width": 4.0}),
        ],
        alt="Above, the curves of the ones and the sevens over the amount of ink, each scaled by its "
        "share; below, how probable a seven is at each amount of ink.",
    )


# ---------------------------------------------------------------- two views of the same points


def views():
    """The same points under a discriminative and under a generative model.

    What moves: the orange cloud (place, direction), the number of points, outliers, the seed.
    What to see: logistic regression's boundary stays straight; the Gaussians' bends where the
    covariances differ, swings more with few points, and is pulled by outliers on its own side.
    """
    margins = {"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.01, "wspace": 0.04}
    reusable = ReusableFigure(6.6, 3.45, margins, ncols=2)
    grid = plotting.plane(GRID)

    def draw(right, up, turn, n, outliers, seed):
        x, y = two_clouds(n, right, up, turn, outliers, seed)
        w, b = intro.fit_logistic(x, y)
        model = intro.GaussianClassifier(x, y, ridge=1e-2)
        fig, axes = reusable.wipe()
        straight = (grid @ w + b).reshape(GRID, GRID)  # log-odds: smooth, also where p is 0 or 1
        log_joint = model.log_joint(grid)
        bent = (log_joint[:, 1] - log_joint[:, 0]).reshape(GRID, GRID)
        plotting.draw_field(axes[0], 0.25 + 0.5 * torch.sigmoid(straight))
        plotting.square(axes[1])
        fresh, truth = two_clouds(NUM_FRESH, right, up, turn, 0, seed=99)
        discriminative = ((fresh @ w + b > 0) == truth).float().mean()
        generative = (model.posterior(fresh).argmax(dim=1) == truth).float().mean()
        titles = [
            f"{name}: {round(2 * NUM_FRESH * (1 - share.item())):,} wrong"
            for name, share in (("Discriminative", discriminative), ("Generative", generative))
        ]
        _draw_boundary(axes[0], straight, titles[0], x, y)
        _draw_boundary(axes[1], bent, titles[1], x, y)
        _draw_rings(axes[1], model, 0, plotting.ORANGE)
        _draw_rings(axes[1], model, 1, plotting.BLUE)
        return fig, (
            f"Of {2 * NUM_FRESH:,} fresh points, the left picture's line sorts "
            f"{100 * discriminative:.1f} % correctly, the right one's {100 * generative:.1f} %."
        )

    return Panel(
        "Two views",
        draw,
        controls={
            "right": slider("left–right", -2.0, 2.0, 1.0),
            "up": slider("up–down", -1.5, 1.5, 0.5),
            "turn": slider("turn", 0, 180, 0, step=5),
            "n": slider("points a class", 4, 200, 60, step=1),
            "outliers": slider("outliers", 0, 20, 0, step=1),
            "seed": slider("seed", 0, 20, 0, step=1),
        },
        frames=[
            ("60 points a class", {}),
            ("Orange turned by 90°", {"turn": 90}),
            ("Twenty outliers on orange's side", {"turn": 0, "outliers": 20}),
            ("Four points a class, seed 3", {"outliers": 0, "n": 4, "seed": 3}),
            ("Four points a class, seed 5", {"seed": 5}),
            ("Four points a class, seed 8", {"seed": 8}),
        ],
        alt="Left: points over the shaded probability of blue, with its line; right: the same "
        "points with rings around each class and the line that follows from them.",
    )


def _draw_boundary(ax, log_odds, title, x, y):
    """The points, and the line where the log-odds of blue (GRID, GRID) are 0: half and half."""
    axis = torch.linspace(-2.4, 2.4, GRID)
    ax.contour(axis, axis, log_odds, levels=[0.0], colors=plotting.INK, linewidths=1.6)
    plotting.draw_points(ax, x[y == 1], x[y == 0])
    ax.set_title(title)


def _draw_rings(ax, model, k, colour):
    """Rings one and two standard deviations around the mean of class k."""
    for radius in (1, 2):
        ax.plot(*_ring(model.mean[k], model.cov[k], radius), color=colour, linewidth=1.4)


# ---------------------------------------------------------------- typical against likely


def coin():
    """A series of tosses: how often which share of heads is seen, and how likely each series is.

    What moves: the number of tosses, the coin. What to see: the likeliest single series, all heads,
    is seen now and then among few tosses and never among many; what is seen is the typical share.
    """
    margins = {"left": 0.11, "right": 0.97, "top": 0.92, "bottom": 0.14, "hspace": 0.25}
    reusable = ReusableFigure(6.4, 4.0, margins, nrows=2)

    def draw(tosses, heads):
        p = heads / 100
        num_heads = _toss(tosses, p)
        all_heads = int((num_heads == tosses).sum())
        fig, (top, bottom) = reusable.wipe()
        counts = torch.bincount(num_heads, minlength=tosses + 1)
        shares = torch.arange(tosses + 1) / tosses
        seen = counts > 0  # a thousand bars without height would take their time
        width = 330 * min(0.16, max(0.9 / tosses, 0.002))  # in points: the axis has 330 a unit
        top.vlines(shares[seen].numpy(), 0, counts[seen].numpy(), color=BLUE, linewidth=width)
        top.set(xlim=(-0.1, 1.1), ylabel="tries of 10,000", xticks=[0, 0.25, 0.5, 0.75, 1])
        top.set_ylim(0, 1.05 * counts.max().item())
        top.set_title(f"Seen in {NUM_TRIES:,} tries of {tosses:,} tosses")
        log_p = tosses * (shares * math.log(p) + (1 - shares) * math.log(1 - p))
        bottom.plot(shares.numpy(), log_p.numpy(), color=GREY)
        bottom.plot(1.0, log_p[-1], "o", color=ORANGE)
        typical = tosses * (p * math.log(p) + (1 - p) * math.log(1 - p))
        bottom.plot(p, typical, "o", color=BLUE)
        low = min(log_p[0].item(), log_p[-1].item())
        bottom.set(xlim=(-0.1, 1.1), ylim=(1.1 * low, -0.1 * low), xticks=[0, 0.25, 0.5, 0.75, 1])
        bottom.set(xlabel="share of heads", ylabel="log p, one series")
        return fig, (
            f"All heads (orange): log p = {log_p[-1].item():.1f}, seen {all_heads:,} times in "
            f"{NUM_TRIES:,}. A series with {heads} % heads (blue): log p = {typical:.1f}."
        )

    return Panel(
        "The coin",
        draw,
        controls={
            "tosses": slider("tosses", 1, 1000, 5, step=1),
            "heads": slider("heads, per cent", 50, 95, 60, step=5),
        },
        frames=[
            ("5 tosses", {}),
            ("20 tosses", {"tosses": 20}),
            ("100 tosses", {"tosses": 100}),
            ("1,000 tosses", {"tosses": 1000}),
        ],
        alt="Above, how often each share of heads came up; below, the log-probability of one single "
        "series of tosses with that share, a straight line that rises towards all heads.",
    )


def _toss(tosses, p):
    """How many heads (NUM_TRIES,) each try has."""
    random = torch.Generator().manual_seed(0)
    num_tosses = torch.full((NUM_TRIES,), float(tosses))
    return torch.binomial(num_tosses, torch.full((NUM_TRIES,), p), generator=random).long()


# ---------------------------------------------------------------- a bell curve over two humps


def fit_by_hand():
    """A Gaussian q, fitted by hand to data p with two humps, by either divergence.

    What moves: mean and width of q, the gap between the humps, which divergence is minimised.
    What to see: the least KL(p ‖ q) covers both humps, the least KL(q ‖ p) keeps to the larger.
    """
    margins = {"left": 0.04, "right": 0.98, "top": 0.92, "bottom": 0.07, "hspace": 0.16}
    reusable = ReusableFigure(6.2, 4.0, margins, nrows=2)
    remembered = functools.lru_cache(maxsize=256)(best_bell)

    def draw(mean, width, gap, way):
        p = humps(gap)
        q = bell(mean, width)
        value = divergence(p, q, way)
        step = AXIS[1] - AXIS[0]
        fig, (top, bottom) = reusable.wipe()
        _draw_densities(top, p, q, "your q")
        _draw_integrand(bottom, p, q, way)
        top.set_title(f"{way} = {value:.3f} nats")
        least = max(0.0, remembered(gap, way)[2])
        text = f"The best bell has {least:.3f}."
        if way == FORWARD:
            floor = intro.entropy(p) + step.log()  # of a density: less the log of the grid's step
            text += (
                f" Cross-entropy = {floor + value:.3f} nats a point, of which H(p) = {floor:.3f}."
            )
        return fig, text

    def solve():
        mean, width, _ = remembered(panel.values["gap"], panel.values["way"])
        panel.put(mean=round(mean, 2), width=round(width, 2))

    panel = Panel(
        "Fit it by hand",
        draw,
        controls={
            "mean": slider("mean", -3.0, 3.0, 1.0, 0.05),
            "width": slider("width", 0.3, 3.0, 0.5, 0.05),
            "gap": slider("gap", 0.0, 5.0, 4.0),
            "way": choice("minimise", [FORWARD, REVERSE]),
        },
        buttons={"Show me the best": solve},
        frames=[
            ("Narrow, in the wrong position", {}),
            ("Broad, over both humps", {"mean": -0.4, "width": 2.1}),
            ("Narrow, on the larger hump", {"mean": -2.0, "width": 0.6}),
            ("The same q, by the other divergence", {"way": REVERSE}),
        ],
        alt="Data with two humps as an area, and a bell curve over it; below, the integrand whose "
        "area is the divergence.",
    )
    return panel


# ---------------------------------------------------------------- a photocopier


def three_models(train, new, labels):
    """What the three models of exercise 7 hand in, {"A", "B", "C": pictures (200, 784)}, and the copier's name.

    train (M, 784): the training digits, of which one model copies one in ten; new (N, 784), labels (N,): test digits.
    """
    kinds = [_copies(train, new, 11, 0.0), _close_ones(train, new[labels == 1]), _copies(train, new, 13, 0.1)]
    order = torch.randperm(3, generator=torch.Generator().manual_seed(14)).tolist()
    pictures = {name: kinds[k] for name, k in zip("ABC", order, strict=True)}
    return pictures, "ABC"[order.index(2)]


def _copies(train, new, seed, share):
    """200 pictures (200, 784): a share are training pictures with noise, the rest new."""
    random = [torch.Generator().manual_seed(seed + k) for k in range(3)]
    old = train[torch.randint(len(train), (200,), generator=random[0])]
    noise = 0.05 * torch.randn(200, 784, generator=random[1])
    is_copy = torch.rand(200, 1, generator=random[2]) < share
    return torch.where(is_copy, (old + noise).clamp(-1, 1), new[250:450])


def _close_ones(train, ones, n=200):
    """Held-out ones (n, 784): those with the smallest ratios that are not copies by eq. (10)."""
    ratio = intro.copy_ratio(ones, train)
    order = ratio.argsort()
    order = order[ratio[order] > 0.4]
    closest = order[: max(10, len(order) // 6)]
    return ones[closest[torch.arange(n) % len(closest)]]


def photocopier(known, honest):
    """Pictures, the stored digit nearest to each, and the ratio of eq. (10).

    known: the digits (N, 784) that the photocopier stores; honest: {name: pictures (M, 784)} of
    models that do not store any, M at least NUM_JUDGED.
    What moves: who draws, the photocopier's noise; Draw takes others. What to see: a copy has a
    ratio near 0 until the noise is strong, anything new one just below 1.
    """
    margins = {"left": 0.10, "right": 0.995, "top": 0.88, "bottom": 0.01, "hspace": 0.06}
    reusable = ReusableFigure(6.6, 2.35, margins, nrows=2)
    state = {"draw": 0}

    def draw(who, noise):
        if who == COPIER:
            random = torch.Generator().manual_seed(state["draw"])
            chosen = torch.randint(len(known), (NUM_JUDGED,), generator=random)
            grain = torch.randn(NUM_JUDGED, known.shape[1], generator=random)
            drawn = (known[chosen] + noise * grain).clamp(-1, 1)
        else:
            start = 8 * state["draw"] % NUM_JUDGED
            drawn = honest[who][:NUM_JUDGED].roll(-start, dims=0)
        ratio = intro.copy_ratio(drawn, known)
        _, nearest = intro.nearest_two(drawn[:8], known)
        fig, axes = reusable.wipe()
        plotting.draw_images(axes[0], drawn[:8].view(-1, 1, 28, 28), ncols=8)
        plotting.draw_images(axes[1], known[nearest[:, 0]].view(-1, 1, 28, 28), ncols=8)
        for k, value in enumerate(ratio[:8].tolist()):
            frame = {"facecolor": "none", "edgecolor": ORANGE if value <= 1 / 3 else "none", "pad": 2}
            axes[0].text(29 * k + 15, -4, f"{value:.2f}", ha="center", va="bottom", bbox=frame)
        axes[0].text(-3, -4, "ratio", ha="right", va="bottom", fontsize=9.5)
        for ax, words in zip(axes, ("drawn", "nearest\nstored"), strict=True):
            ax.text(-3, 15, words, ha="right", va="center", fontsize=9.5)
        return fig, (
            f"Of {NUM_JUDGED} pictures, {int((ratio <= 1 / 3).sum())} have a ratio of at most 1/3. "
            f"The mean ratio is {ratio.mean():.2f}."
        )

    def draw_again():
        state["draw"] += 1

    def put_back():
        state["draw"] = 0

    return Panel(
        "The photocopier",
        draw,
        controls={
            "who": choice("who draws", [COPIER, *honest]),
            "noise": slider("its noise", 0.0, 1.0, 0.05, 0.05),
        },
        buttons={"Draw others": draw_again},
        frames=[
            ("The photocopier, noise 0.05", {}),
            ("The photocopier, noise 0.5", {"noise": 0.5}),
            *[(name[0].upper() + name[1:], {"who": name, "noise": 0.05}) for name in honest],
        ],
        reset=put_back,
        alt="Eight pictures, above each its ratio, and below each the stored digit nearest to it.",
    )
