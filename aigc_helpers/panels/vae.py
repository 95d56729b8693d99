"""The panels and pictures of 02_vae: a hidden number, a gradient through a draw, a latent space.

vae_diagram()         the model in one picture
latent_map(...)       two latent numbers: what is decoded anywhere, and where real digits lie
be_the_encoder()      prior, posterior and your own q as curves; the bound and its gap
reparameterise()      which gradient reaches the mean and the width of a random draw
conv_shapes()         the shapes on the way through the convolutional VAE
labelled_rows(...)    rows of pictures with their names
morph(...)            from one digit to another: between pixels, and in the latent space
beta_dial(...)        what the weight of the rate does to posteriors, reconstructions and samples
holes(...)            random latent vectors, decoded by an autoencoder and by a VAE
between(...)          the line between two codes, decoded by an autoencoder and by a VAE
noise_line()          which directions of the data are worth their rate
"""

from __future__ import annotations

import math

import torch

from aigc_helpers import plotting
from aigc_helpers.data import load_embedded_digits, toy_2d
from aigc_helpers.models import vae
from aigc_helpers.panels.core import Panel, choice, frozen, slider, switch
from aigc_helpers.weights import load_model

TARGET = 1.0  # what a sample should hit in `reparameterise`
LATENT_LIMIT = 3.0  # the map of two latent numbers is shown over [-3, 3]^2
DIAL_LIMIT = 3.5  # ... and the plane of the dial over [-3.5, 3.5]^2
NUM_TILES = 13  # in a row of the map
DARK_Q = "#A34700"  # for words: the orange of q has too little contrast on paper
DIGIT_COLOURS = (
    "#0072B2", "#B36B00", "#009E73", "#B0457C", "#1F83B5",
    "#D55E00", "#7A7A1F", "#882255", "#2B8C7E", "#555555",
)  # fmt: skip


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _draw_pictures(ax, logits, ncols, title=None):
    """A grid of the probabilities of white that these logits (N, 784) mean."""
    plotting.draw_images(ax, torch.sigmoid(logits) * 2 - 1, ncols, title)


def _bell(x, mean, std):
    """The density of N(mean, std^2) at x."""
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


# ---------------------------------------------------------------- the model in one picture


def vae_diagram():
    """Figure: a digit, its code with a doubt, the digit that is rebuilt, and digits drawn anew."""
    fig, ax = plotting.canvas(3.5)
    x, rebuilt, drawn = finished_pictures()
    _draw_sheet(fig, 0.15, 1.75, 1.0, x, 1, "a picture x")
    _draw_box(ax, 1.55, 1.8, "encoder", plotting.BLUE)
    _draw_code(fig, 2.95, 1.75)
    _draw_box(ax, 4.75, 1.8, "decoder", plotting.GREEN)
    _draw_sheet(fig, 6.1, 1.75, 1.0, rebuilt, 1, "p(white | z)")
    _draw_sheet(fig, 7.35, 1.72, 1.35, drawn, 3, "new digits")
    for start, end in (
        ((1.18, 2.25), (1.52, 2.25)),
        ((2.48, 2.25), (2.9, 2.25)),
        ((4.35, 2.25), (4.72, 2.25)),
        ((5.68, 2.25), (6.05, 2.25)),
    ):
        _draw_line(ax, start, end, plotting.INK, "-")
    _draw_brackets(ax)
    return fig


def finished_pictures():
    """A digit x (1, 784) in [-1, 1], x rebuilt, and nine digits drawn anew by the kept models.

    Black while `assets/` holds no weights for them: they are made by the page that shows this.
    """
    x = vae.binarise(load_embedded_digits("train").subset(4, 3).images[2:3], _seeded())
    try:
        model = load_model("vae")
    except (ValueError, RuntimeError):
        return 2 * x - 1, torch.full((1, 784), -1.0), torch.full((9, 784), -1.0)
    with torch.no_grad():
        rebuilt = torch.sigmoid(model.decode(model.encode(x)[0]))
        drawn = torch.sigmoid(model.decode(torch.randn(9, 32, generator=_seeded(4))))
    return 2 * x - 1, 2 * rebuilt - 1, 2 * drawn - 1


def _draw_box(ax, x, y, name, colour):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.12"
    box = FancyBboxPatch((x, y), 0.9, 0.9, style, facecolor="white", edgecolor=colour, linewidth=2)
    ax.add_patch(box)
    ax.text(x + 0.45, y + 0.45, name, ha="center", va="center", fontsize=11)


def _draw_sheet(fig, x, y, side, images, ncols, title):
    """Images in an axes of their own, a square with its lower left corner at x, y."""
    width, height = fig.get_size_inches()
    ax = fig.add_axes([x / width, y / height, side / width, side / height])
    plotting.draw_images(ax, images, ncols)
    ax.set_title(title, fontsize=10, pad=4)


def _draw_code(fig, x, y):
    """The prior, an encoder's q and one draw from it, in an axes of their own."""
    width, height = fig.get_size_inches()
    with plotting.style():
        ax = fig.add_axes([x / width, y / height, 1.4 / width, 1.0 / height])
    z = torch.linspace(-3, 3, 121)
    ax.plot(z, _bell(z, 0.0, 1.0), "--", color=plotting.GREY, linewidth=1.3)
    ax.plot(z, _bell(z, 1.1, 0.35), color=plotting.ORANGE)
    ax.plot(0.85, 0, "o", color=plotting.INK, markersize=6, clip_on=False)
    ax.text(0.85, -0.12, "z", ha="center", va="top", fontsize=11)
    ax.text(-2.9, 0.5, "prior\np(z)", fontsize=9)
    ax.text(0.6, 0.95, "q(z|x)", ha="right", fontsize=9, color=DARK_Q)
    ax.set(xlim=(-3, 3), ylim=(0, 1.25), yticks=[], xticks=[])
    ax.spines["left"].set_visible(False)
    ax.set_title("a code, and its doubt", fontsize=10, pad=4)


def _draw_line(ax, start, end, colour, dash):
    arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.6, "linestyle": dash}
    ax.annotate("", end, start, arrowprops=arrow)


def _draw_brackets(ax):
    """The two terms of the loss, below what each compares; and the way from the prior."""
    rows = (
        (2.95, 4.35, 1.3, "rate: how far is q from the prior?"),
        (0.65, 6.6, 0.78, "distortion: how much does x surprise the decoder?"),
        (3.65, 8.0, 0.26, "new digits: z straight from the prior, and through the decoder"),
    )
    for left, right, y, text in rows:
        ax.plot([left, left, right, right], [y + 0.12, y, y, y + 0.12], color=plotting.GREY)
        ax.text((left + right) / 2, y - 0.05, text, ha="center", va="top", fontsize=9.5)


# ---------------------------------------------------------------- two latent numbers


def latent_map(model=None, pictures=None, labels=None):
    """The latent plane of a VAE with two latent numbers, and what its decoder draws anywhere in it.

    What moves: the cross, by its two coordinates; with pictures, also what the map shows.
    What to see: the ten digits have regions that touch, and on the way from one to the next the
    drawing bends; where real digits lie densely it is sharpest.
    Args: a VAE with z_dim = 2, the kept one if none; test pictures (N, 784) in {0, 1} with labels
    (N,), of which at most 600 are shown, for a second view.
    """
    model = frozen(load_model("vae_map") if model is None else model)
    mosaic = map_of_tiles(model)
    codes = None
    if pictures is not None:
        labels = labels[:600].clone()
        with torch.no_grad():
            codes, _ = model.encode(pictures[:600])
    margins = {"left": 0.05, "right": 0.99, "top": 0.92, "bottom": 0.08, "wspace": 0.06}
    page = plotting.ReusableFigure(6.2, 3.7, margins, ncols=2, width_ratios=[1.4, 1])

    def draw(z1, z2, view="tiles"):
        fig, (left, right) = page.wipe()
        if view == "tiles":
            _draw_tiles(left, mosaic)
        else:
            _draw_codes(left, codes, labels)
        cross = {"markersize": 20, "markeredgewidth": 3, "zorder": 5, "clip_on": False}
        left.plot(z1, z2, "+", color=plotting.ORANGE, **cross)
        here = torch.tensor([[z1, z2]])
        _draw_pictures(right, model.decode(here), 1, f"decoded at ({z1:.2f}, {z2:.2f})")
        if codes is None:
            return fig, f"The cross is at ({z1:.2f}, {z2:.2f})."
        near = ((codes - here).norm(dim=1) < 0.5).sum().item()
        return fig, f"{near} of {len(codes)} test digits lie within half a unit."

    controls = {
        "z1": slider("z1", -LATENT_LIMIT, LATENT_LIMIT, 0.0, step=0.05),
        "z2": slider("z2", -LATENT_LIMIT, LATENT_LIMIT, 0.0, step=0.05),
    }
    frames = [
        ("At (0, 0)", {}),
        ("At (1.2, 0)", {"z1": 1.2, "z2": 0.0}),
        ("At (0, 1.2)", {"z1": 0.0, "z2": 1.2}),
        ("At (-2.8, -2.8)", {"z1": -2.8, "z2": -2.8}),
    ]
    if codes is not None:
        views = {"what is drawn there": "tiles", "where test digits lie": "codes"}
        controls["view"] = choice("show", views, "codes")
        frames = [
            ("At (0, 0)", {"view": "codes"}),
            ("At (0, 0), what is drawn", {"view": "tiles"}),
            ("At (1.2, 0)", {"z1": 1.2, "view": "codes"}),
            ("At (-2.8, -2.8)", {"z1": -2.8, "z2": -2.8}),
        ]
    return Panel(
        "Latent map",
        draw,
        controls=controls,
        presets={"Centre": {"z1": 0.0, "z2": 0.0}, "Corner": {"z1": -2.8, "z2": -2.8}},
        frames=frames,
        alt="The latent plane: decoded digits or codes of digits, a cross, and the picture there.",
    )


def map_of_tiles(model):
    """One picture of the digits decoded on a square lattice of the plane, first row at the top."""
    ticks = tile_positions()
    z2, z1 = torch.meshgrid(ticks.flip(0), ticks, indexing="ij")
    with torch.no_grad():
        logits = model.decode(torch.stack([z1, z2], dim=-1).reshape(-1, 2))
    return plotting.tile(torch.sigmoid(logits) * 2 - 1, NUM_TILES, pad=0)


def tile_positions():
    """The centres (NUM_TILES,) of the map's tiles on either axis."""
    half = LATENT_LIMIT / NUM_TILES
    return torch.linspace(-LATENT_LIMIT + half, LATENT_LIMIT - half, NUM_TILES)


def _draw_tiles(ax, mosaic):
    edge = (-LATENT_LIMIT, LATENT_LIMIT, -LATENT_LIMIT, LATENT_LIMIT)
    ax.imshow(mosaic, extent=edge, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _square_with_ticks(ax)
    ax.set_title("what is drawn where (z1 across, z2 up)", fontsize=10)


def _draw_codes(ax, codes, labels):
    """Each code (N, 2) as the numeral of its digit."""
    ax.axhline(0, color="#D8D8D4", linewidth=0.8, zorder=0)
    ax.axvline(0, color="#D8D8D4", linewidth=0.8, zorder=0)
    for digit in labels.unique().tolist():
        dots = codes[labels == digit]
        ax.scatter(*dots.T, s=22, marker=f"${digit}$", color=DIGIT_COLOURS[digit], linewidths=0)
    _square_with_ticks(ax)
    ax.set_title("test digits at their means (z1 across, z2 up)", fontsize=10)


def _square_with_ticks(ax):
    plotting.square(ax, LATENT_LIMIT)
    ax.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])


# ---------------------------------------------------------------- the bound, as curves


def be_the_encoder():
    """You are the encoder: set the mean and the width of q(z), and watch the bound.

    What moves: the observation x, the bell q, and whether the posterior is shown. The model is the
    page's: z from N(0, 1), and x from N(2 z, 1).
    What to see: the bound alone leads to the best q. Shown at last, the posterior lies under it,
    between the prior and what x alone says; the bound touches log p(x) only there.
    """
    z = torch.linspace(-4, 4, 241)
    margins = {"left": 0.02, "right": 0.99, "top": 0.86, "bottom": 0.15, "wspace": 0.22}
    page = plotting.ReusableFigure(6.4, 3.5, margins, ncols=2, width_ratios=[3, 1])

    def draw(x, mu, sigma, posterior):
        evidence = vae.linear_evidence(x)
        bound = linear_bound(x, mu, sigma)
        fig, (left, right) = page.wipe()
        mean, variance = vae.linear_posterior(x)
        truth = (mean, math.sqrt(variance)) if posterior else None
        _draw_bells(left, z, x, truth, (mu, sigma))
        _draw_bound(right, bound, evidence if posterior else None)
        if not posterior:
            return fig, f"ELBO {bound:.2f} nats. How high can it go?"
        gap = evidence - bound
        return fig, f"ELBO {bound:.2f}, gap {gap:.2f}; log p(x) = {evidence:.2f} nats."

    return Panel(
        "Be the encoder",
        draw,
        controls={
            "x": slider("you see x", -4.0, 6.0, 3.0),
            "mu": slider("q: mean", -3.0, 3.0, 0.3, step=0.05),
            "sigma": slider("q: width", 0.1, 2.0, 0.8, step=0.01),
            "posterior": switch("show the posterior", False),
        },
        presets={"The prior": {"mu": 0.0, "sigma": 1.0}},
        frames=[
            ("A first try", {}),
            ("What x alone says: 1.5, 0.5", {"mu": 1.5, "sigma": 0.5}),
            ("As high as it goes: 1.2, 0.45", {"mu": 1.2, "sigma": 0.45}),
            ("The same, and the posterior", {"posterior": True}),
            ("Twice as wide", {"sigma": 0.9}),
            ("Half as wide", {"sigma": 0.22}),
        ],
        alt="Bells of prior, posterior and q over z; a column for the bound, a line for log p(x).",
    )


def linear_bound(x, mu, sigma, w=2.0, s=1.0):
    """The ELBO of the page's linear model at x, for q = N(mu, sigma^2), in closed form."""
    misfit = (x - w * mu) ** 2 + (w * sigma) ** 2
    likelihood = -0.5 * math.log(2 * math.pi * s**2) - misfit / (2 * s**2)
    return likelihood - 0.5 * (mu**2 + sigma**2 - 1 - 2 * math.log(sigma))


def _draw_bells(ax, z, x, posterior, q):
    """The prior, what x alone says, q, and the posterior if it is given, all as densities of z."""
    ax.plot(z, _bell(z, 0.0, 1.0), "--", color=plotting.GREY, label="prior p(z)")
    ax.plot(z, _bell(z, x / 2, 0.5), ":", color=plotting.GREEN, label="p(x|z), scaled")
    if posterior is not None:
        ax.fill_between(z, _bell(z, *posterior), color=plotting.BLUE, alpha=0.25, linewidth=0)
        ax.plot(z, _bell(z, *posterior), color=plotting.BLUE, label="posterior p(z|x)")
    ax.plot(z, _bell(z, *q), color=plotting.ORANGE, linewidth=2.4, label="your q(z)")
    ax.set(xlim=(-4, 4), ylim=(0, 1.45), yticks=[], xlabel="hidden number z")
    ax.legend(loc="upper left", fontsize=9)
    ax.set_title(f"you see x = {x:.1f}; what was z?")


def _draw_bound(ax, bound, evidence, low=-9.0):
    """A column up to the bound; if log p(x) is given, its line, and the rest up to it hatched."""
    shown = max(bound, low)
    ax.bar([0], [shown - low], bottom=low, width=0.8, color=plotting.ORANGE)
    ax.set(xlim=(-0.7, 0.7), ylim=(low, 0), xticks=[], title="ELBO\n")
    if evidence is None:
        return
    ax.bar(
        [0], [evidence - shown], bottom=shown, width=0.8, color="white", edgecolor=plotting.GREY,
        hatch="///", linewidth=0.8,
    )  # fmt: skip
    ax.axhline(evidence, color=plotting.BLUE, linewidth=2)
    ax.set_title("ELBO, gap,\nlog p(x)")


# ---------------------------------------------------------------- a gradient through a random draw


def reparameterise():
    """Which gradient reaches mu and sigma through samples of N(mu, sigma^2).

    What moves: mu, sigma, how many samples are drawn and from which seed, and whether a sample is
    computed as mu + sigma * eps or handed over by a library.
    What to see: with the trick the green bars are noisy estimates of the known grey ones, and more
    samples bring them nearer. Without it there is no gradient at all, however many samples.
    Source: Kingma & Welling 2013, arXiv 1312.6114, section 2.4.
    """
    noise = torch.randn(100, 1000, generator=_seeded())
    margins = {"left": 0.02, "right": 0.97, "top": 0.9, "bottom": 0.13, "wspace": 0.22}
    page = plotting.ReusableFigure(6.4, 3.2, margins, ncols=2, width_ratios=[1.7, 1])

    def draw(mu, sigma, n, seed, trick):
        z, found = estimate_gradient(mu, sigma, noise[seed, :n], trick)
        known = [2 * (mu - TARGET), 2 * sigma]
        fig, (left, right) = page.wipe()
        _draw_samples(left, mu, sigma, z)
        _draw_gradients(right, known, found)
        if found is None:
            return fig, "No gradient: a sample drawn by the library has no history."
        numbers = f"Found {found[0]:.2f} and {found[1]:.2f}"
        return fig, f"{numbers}; known {known[0]:.2f} and {known[1]:.2f}."

    return Panel(
        "Reparameterise",
        draw,
        controls={
            "mu": slider("mu", -3.0, 3.0, -1.0),
            "sigma": slider("sigma", 0.2, 2.0, 0.8),
            "n": slider("samples", 1, 1000, 20, step=1),
            "seed": slider("noise seed", 0, 99, 0, step=1),
            "trick": switch("reparameterisation trick", True),
        },
        presets={"One sample": {"n": 1}, "On target": {"mu": 1.0, "sigma": 0.2}},
        frames=[
            ("With the trick, 20 samples", {}),
            ("With the trick, 1,000 samples", {"n": 1000}),
            ("Without the trick, 1,000 samples", {"trick": False}),
            ("On target (mu = 1, sigma = 0.3)", {"trick": True, "mu": 1.0, "sigma": 0.3}),
        ],
        alt="A bell curve with samples and their cost; bars: the known gradient and the one found.",
    )


def estimate_gradient(mu, sigma, eps, trick):
    """What automatic differentiation finds for the mean of (z - TARGET)^2 over samples z.

    mu, sigma: numbers. eps (n,): standard normal noise. trick: whether z keeps its history.
    Returns z (n,) and the gradient [at mu, at sigma], or None where none arrives.
    """
    mu = torch.tensor(mu, requires_grad=True)
    sigma = torch.tensor(sigma, requires_grad=True)
    with torch.enable_grad():
        z = mu + sigma * eps
        if not trick:
            z = z.detach()  # a library's sample has no history
        cost = (z - TARGET).square().mean()
    if not cost.requires_grad:
        return z, None
    gradient = torch.autograd.grad(cost, (mu, sigma))
    return z.detach(), [part.item() for part in gradient]


def _draw_samples(ax, mu, sigma, z):
    """The density of N(mu, sigma^2), its samples below it, and the cost of each place."""
    x = torch.linspace(-4, 5, 200)
    ax.plot(x, torch.exp(-0.5 * ((x - mu) / sigma) ** 2) / sigma, color=plotting.BLUE)
    ax.plot(x, 0.2 * (x - TARGET) ** 2, color=plotting.GREY, linestyle="--")
    ax.plot(z, torch.full_like(z, -0.12), "|", color=plotting.ORANGE, markersize=10)
    ax.plot([TARGET, TARGET], [0, 2.3], color=plotting.INK, linewidth=0.8, linestyle=":")
    box = {"facecolor": plotting.PAPER, "alpha": 0.85, "lw": 0, "pad": 1}
    ax.text(TARGET, 2.38, "target", ha="center", zorder=5, bbox=box)
    samples = "1 sample" if len(z) == 1 else f"{len(z)} samples"
    ax.set(xlim=(-4, 5), ylim=(-0.3, 2.6), yticks=[], title=f"{samples} (orange), cost (dashed)")


def _draw_gradients(ax, known, found):
    """Two pairs of bars: the known gradient and the one that was found."""
    ax.bar([-0.2, 0.8], known, width=0.36, color=plotting.GREY)
    ax.bar([0.2, 1.2], found or [0.0, 0.0], width=0.36, color=plotting.GREEN)
    ax.axhline(0, color=plotting.INK, linewidth=0.8)
    ax.set_xticks([0, 1], ["slope at mu", "slope at sigma"])
    ax.set(ylim=(-8, 8), title="known (grey), found (green)")


# ---------------------------------------------------------------- the network, its training, and what came of it


def conv_shapes():
    """Figure: the shapes on the way through `ConvVAE`, from a picture to its code and back."""
    boxes = (  # centre, width and height of the box, colour, words below it
        (0.55, 0.8, 0.8, plotting.INK, "x\n1 x 28 x 28"),
        (1.6, 0.3, 0.3, plotting.BLUE, "unshuffle\n16 x 7 x 7"),
        (2.6, 0.3, 0.3, plotting.BLUE, "convolve\n32 x 7 x 7"),
        (3.5, 0.1, 0.75, plotting.BLUE, "dense\n256"),
        (4.4, 0.1, 0.5, plotting.ORANGE, "mu, logvar, z\n32 each"),
        (5.3, 0.1, 0.75, plotting.GREEN, "dense\n256"),
        (6.2, 0.3, 0.3, plotting.GREEN, "convolve\n32 x 7 x 7"),
        (7.2, 0.3, 0.3, plotting.GREEN, "last one\n16 x 7 x 7"),
        (8.25, 0.8, 0.8, plotting.INK, "shuffle: logits\n1 x 28 x 28"),
    )
    return plotting.shapes({1.15: boxes}, height=1.7)


def labelled_rows(rows):
    """Figure: rows of images, one below the other, with the name of each on its left.

    rows: dict name -> images (N, 784) in [-1, 1], as many in each.
    """
    num = len(next(iter(rows.values())))
    height = 6.6 / num
    fig, axes = plotting.figure(8.8, height * len(rows), nrows=len(rows), tight=False, squeeze=False)
    fig.subplots_adjust(left=0.24, right=0.995, top=0.995, bottom=0.005, hspace=0.03)
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        plotting.draw_images(ax, images, num)
        ax.text(-0.015, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=9.5)
    return fig


def morph(model, pictures, labels):
    """From one test digit to another along two straight lines: between pixels, and between codes.

    What moves: the two digits, and t, how far along the lines the large pictures stand.
    What to see: the mixture of pixels shows both digits at once, half as bright; the decoded line
    mostly shows one drawing that changes its shape.
    Args: a VAE; pictures (N, 784) in {0, 1}, of which the first hundred can be chosen; labels (N,).
    """
    model = frozen(model)
    pictures = pictures[:100].clone()
    labels = labels[:100].tolist()
    last = len(pictures) - 1
    margins = {"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.02}
    margins |= {"wspace": 0.05, "hspace": 0.25}
    grid = {"ncols": 2, "nrows": 2, "width_ratios": [1, 3.2]}
    page = plotting.ReusableFigure(6.2, 3.3, margins, **grid)

    def draw(a, b, t):
        blend, decoded = interpolate(model, pictures[a], pictures[b], t)
        fig, axes = page.wipe()
        lines = {"pixels": blend, "latent": decoded}
        for (large, strip), (name, rows) in zip(axes, lines.items(), strict=True):
            plotting.draw_images(large, rows[5:] * 2 - 1, 1, f"{name}, t = {t:.2f}")
            plotting.draw_images(strip, rows[:5] * 2 - 1, 5)
        return fig, f"From a {labels[a]} to a {labels[b]}."

    return Panel(
        "Morph",
        draw,
        controls={
            "a": slider("from digit no.", 0, last, 0, step=1),
            "b": slider("to digit no.", 0, last, min(2, last), step=1),
            "t": slider("t", 0.0, 1.0, 0.5, step=0.02),
        },
        frames=[
            ("Half-way", {}),
            ("A quarter of the way", {"t": 0.25}),
            ("Another pair, half-way", {"a": min(4, last), "b": min(7, last), "t": 0.5}),
            ("And another", {"a": min(1, last), "b": min(9, last)}),
        ],
        alt="Two rows of pictures between two digits: mixed pixels above, decoded codes below.",
    )


def interpolate(model, first, second, t):
    """Pictures (6, 784) on two lines from `first` to `second` (784,), at 0, 1/4, ..., 1 and at t.

    Returns the mixtures of pixels, and the probabilities of white decoded from mixtures of means.
    """
    ends = torch.stack([first, second])
    stops = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, t])[:, None]
    mu, _ = model.encode(ends)
    codes = (1 - stops) * mu[0] + stops * mu[1]
    blend = (1 - stops) * ends[0] + stops * ends[1]
    return blend, torch.sigmoid(model.decode(codes))


# ---------------------------------------------------------------- the weight of the rate


class ToyVAE:
    """A VAE of points in the plane (a ring of eight clumps), trained in chunks.

    Its decoder is Gaussian with a fixed width of 0.1, so the distortion is the squared error over
    2 * 0.1^2, without its constant. It owns its data, its weights and its random generator.
    """

    WIDTH = 0.1

    def __init__(self, beta=1.0, seed=0):
        self.beta = beta
        self.step = 0
        self.data = toy_2d("ring", 4000, seed)
        around = torch.atan2(self.data[:, 1], self.data[:, 0]).argsort()
        self.shown = self.data[around[:: len(around) // 12]][:12]  # from all eight clumps
        self.random = _seeded(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = vae.VAE(z_dim=2, hidden=64, blocks=1, pixels=2)
        self.opt = torch.optim.Adam(self.model.parameters(), lr=3e-3)

    def terms(self, x, generator):
        """Distortion (N,) and rate (N, 2), in nats, of points x (N, 2)."""
        mu, logvar = self.model.encode(x)
        rebuilt = self.model.decode(vae.reparameterise(mu, logvar, generator))
        distortion = (x - rebuilt).square().sum(dim=1) / (2 * self.WIDTH**2)
        return distortion, vae.gaussian_kl(mu, logvar)

    def train(self, num_steps=15):
        """So many steps of Adam, on batches of 128."""
        for _ in range(num_steps):
            batch = self.data[torch.randint(len(self.data), (128,), generator=self.random)]
            distortion, rate = self.terms(batch, self.random)
            loss = distortion.mean() + self.beta * rate.sum(dim=1).mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            self.step += 1

    @torch.no_grad()
    def measure(self):
        """Mean rate and distortion of 500 points, in nats; the training goes on as if not asked."""
        distortion, rate = self.terms(self.data[:500], _seeded())
        return rate.sum(dim=1).mean().item(), distortion.mean().item()


def beta_dial(models, curve, pictures, num_steps=700):
    """What beta, the weight of the rate, does to a VAE with two latent numbers.

    What moves: beta; the data: digits (one kept model for each beta), or a toy that Run trains
    anew, 15 steps a tick, at most 1,500 (Run chooses the toy, since the digits are trained).
    What to see: with a small beta reconstructions are good and samples poor, for the posteriors
    leave gaps in the prior; with a large one every z is decoded alike.
    Args: models {beta: VAE with z_dim = 2}; curve {beta: (rate, distortion)}, in nats;
    pictures (N, 784) in {0, 1}, of which the first twelve are shown; num_steps of the toys in
    the storyboard. Source: Higgins 2017, ICLR.
    """
    dial = _Dial(models, curve, pictures)

    def tick():
        if not dial.trains:  # the digits' models are kept ones: Run means the toy
            panel.put(data="toy")
            dial.change("data", "toy")
        if dial.toy.step < 1500:
            dial.toy.train()
        else:
            panel.pause()

    def trained(beta):
        """For the storyboard: a toy trained in full."""
        dial.start(beta)
        dial.toy.train(num_steps)
        return {"data": "toy", "power": math.log10(beta)}

    powers = sorted(math.log10(beta) for beta in models)
    step = round(min((b - a for a, b in zip(powers, powers[1:], strict=False)), default=1.0), 3)
    panel = Panel(
        "The beta dial",
        dial.draw,
        controls={
            "data": choice("data", ["digits", "toy"]),
            "power": slider("log10 of beta", powers[0], powers[-1], 0.0, step=step),
        },
        tick=tick,
        changed=dial.change,
        reset=dial.start,
        frames=[
            ("Digits, beta = 0.1", {"power": -1.0}),
            ("Digits, beta = 1", {"power": 0.0}),
            ("Digits, beta = 10", {"power": 1.0}),
            ("Digits, beta = 100", {"power": 2.0}),
            (f"Toy, beta = 0.1, after {num_steps} steps", lambda: trained(0.1)),
            (f"Toy, beta = 1, after {num_steps} steps", lambda: trained(1.0)),
        ],
        alt="Rate and distortion, posteriors in the latent plane, reconstructions, and samples.",
    )
    return panel


class _Dial:
    """The state of one beta dial: the kept models, the toy in training, two figures."""

    def __init__(self, models, curve, pictures):
        self.models = {beta: frozen(model) for beta, model in models.items()}
        self.curve = dict(curve)
        self.pictures = pictures[:12].clone()
        self.z = torch.randn(400, 2, generator=_seeded())
        margins = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.07, "wspace": 0.06}
        grid = {"ncols": 2, "width_ratios": [1.0, 1.15]}
        self.pages = {
            data: plotting.ReusableFigure(6.4, 4.3, margins, **grid) for data in ("digits", "toy")
        }
        self.trains = False  # whether the toy is chosen
        self.start()

    def start(self, beta=1.0):
        """A new toy, untrained."""
        self.toy = ToyVAE(beta)

    def change(self, name, value):
        """A new beta, or a change of the data, starts the toy's training anew."""
        if name == "data":
            self.trains = value == "toy"
        self.start(10**value if name == "power" else self.toy.beta)

    def draw(self, data, power):
        fig, (left, right) = self.pages[data].wipe()
        right.set_axis_off()
        above = fig.add_axes([0.53, 0.5, 0.46, 0.42])
        below = fig.add_axes([0.53, 0.01, 0.46, 0.42])
        if data == "digits":
            beta = min(self.models, key=lambda kept: abs(math.log10(kept) - power))
            model = self.models[beta]
            rate, distortion = self.curve[beta]
            text = f"Kept model, beta = {beta:.3g}"
            _draw_posteriors(left, model, self.pictures)
            _draw_rebuilt(above, model, self.pictures)
            _draw_pictures(below, model.decode(self.z[:18]), 6, "decoded from the prior")
        else:
            toy = self.toy
            rate, distortion = toy.measure()
            text = f"Toy, beta = {toy.beta:.2g}, step {toy.step}"
            _draw_posteriors(left, toy.model, toy.shown)
            rebuilt = toy.model.decode(toy.model.encode(toy.data[:300])[0])
            _draw_toy(above, toy.data[:300], rebuilt, "data, and rebuilt")
            _draw_toy(below, toy.data[:300], toy.model.decode(self.z), "data, and from the prior")
        left.set_title(f"rate {rate:.1f}, distortion {distortion:.0f} nats", fontsize=10)
        left.set_xlabel("q(z|x) of twelve; dashed: the prior", fontsize=9)
        return fig, f"{text}: rate {rate:.2f}, distortion {distortion:.1f} nats."


UNIT_CIRCLE = torch.stack(
    [torch.linspace(0, 2 * math.pi, 60).cos(), torch.linspace(0, 2 * math.pi, 60).sin()], dim=1
)


def _draw_posteriors(ax, model, x):
    """One ellipse (one standard deviation) of q(z|x) for each row of x; the prior's is dashed."""
    mu, logvar = model.encode(x)
    for centre, std in zip(mu, (0.5 * logvar).exp(), strict=True):
        outline = centre + std * UNIT_CIRCLE
        ax.fill(*outline.T, facecolor=plotting.SKY, alpha=0.35, linewidth=0)
        ax.plot(*outline.T, color=plotting.BLUE, linewidth=1.4)
    ax.plot(*UNIT_CIRCLE.T, "--", color=plotting.GREY, linewidth=1.2)
    plotting.square(ax, DIAL_LIMIT)


def _draw_rebuilt(ax, model, x):
    """Six pictures above their reconstructions."""
    mu, _ = model.encode(x[:6])
    rebuilt = torch.sigmoid(model.decode(mu))
    plotting.draw_images(ax, torch.cat([x[:6], rebuilt]) * 2 - 1, 6, "test digits, and rebuilt")


def _draw_toy(ax, data, drawn, title):
    plotting.draw_points(ax, data, drawn, size=5)
    plotting.square(ax)
    ax.set_title(title)


# ---------------------------------------------------------------- what a prior is for


def holes(autoencoder, model, autoencoder_codes, model_codes):
    """Eight random latent vectors u, decoded by an autoencoder and by a VAE.

    What moves: the seed of u, and its reach: u is so many times a draw from N(0, I).
    What to see: at reach 1 the VAE draws digits and the autoencoder smears; moved and stretched to
    the mean and covariance of the autoencoder's own codes, u gives digits there too. Far out none
    of the rows is safe.
    Args: two VAEs of the same z_dim, the first trained without noise and KL; their codes (N, z_dim)
    of training digits. Source of the fit: Ghosh 2019, arXiv 1903.12436.
    """
    autoencoder = frozen(autoencoder)
    model = frozen(model)
    codes = [autoencoder_codes.detach().clone(), model_codes.detach().clone()]
    mean = codes[0].mean(dim=0)
    factor = torch.linalg.cholesky(torch.cov(codes[0].T))
    margins = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.01, "hspace": 0.3}
    page = plotting.ReusableFigure(6.2, 3.3, margins, nrows=3)

    def draw(seed, reach):
        u = reach * torch.randn(8, model.z_dim, generator=_seeded(seed))
        rows = {
            "autoencoder at u": autoencoder.decode(u),
            f"VAE at u (seed {seed}, reach {reach:.2f})": model.decode(u),
            "autoencoder, u fitted to its codes": autoencoder.decode(mean + u @ factor.T),
        }
        fig, axes = page.wipe()
        for ax, (name, logits) in zip(axes, rows.items(), strict=True):
            _draw_pictures(ax, logits, 8, name)
        near, nearer = (torch.cdist(u, known).min(dim=1).values.mean().item() for known in codes)
        distances = f"{near:.1f} (autoencoder), {nearer:.1f} (VAE)"
        return fig, f"Mean distance of u to the nearest code: {distances}."

    return Panel(
        "Holes: autoencoder beside VAE",
        draw,
        controls={
            "seed": slider("seed", 0, 50, 0, step=1),
            "reach": slider("reach", 0.0, 3.0, 1.0, step=0.05),
        },
        frames=[
            ("Drawn from the prior: reach 1", {}),
            ("Another seed", {"seed": 1}),
            ("Near the centre: reach 0.3", {"reach": 0.3}),
            ("Far out: reach 2.5", {"reach": 2.5}),
        ],
        alt="Pictures decoded at the same random points: autoencoder, VAE, autoencoder fitted.",
    )


def between(autoencoder, model, pairs):
    """Figure: the straight line between the codes of two digits, by an autoencoder and by a VAE.

    pairs: a list of (first, second) pictures (784,) in {0, 1}. Both rows of a pair have the same
    ends; between them stand the pictures decoded at t = 0, 1/8, ..., 1.
    """
    fig, axes = plotting.figure(8.6, 0.52 * len(pairs) + 0.35, ncols=2, nrows=len(pairs), squeeze=False)
    for row, (first, second) in zip(axes, pairs, strict=True):
        for ax, (name, net) in zip(row, {"autoencoder": autoencoder, "VAE": model}.items(), strict=True):
            logits = net.decode(line_of_codes(net, first, second))
            _draw_pictures(ax, logits, 9, name if ax in axes[0] else None)
    return fig


def line_of_codes(net, first, second, num=9):
    """Codes (num, z_dim) on the straight line between the means of q for two pictures (784,)."""
    with torch.no_grad():
        mu, _ = net.encode(torch.stack([first, second]))
    t = torch.linspace(0, 1, num)[:, None]
    return (1 - t) * mu[0] + t * mu[1]


# ---------------------------------------------------------------- which directions are worth it

VARIANCES = (4.0, 1.0, 0.25)  # of the data, along three directions


def noise_line():
    """Three directions of the data, a line for the noise of the decoder, and the rate of each.

    What moves: the decoder's noise, and beta; the line stands at beta times the noise.
    What to see: only what sticks out above the line is worth a rate. Raising beta and raising the
    noise are the same thing for the rates.
    Source: Lucas 2019, arXiv 1911.02469; derived in 02b.
    """
    margins = {"left": 0.12, "right": 0.98, "top": 0.9, "bottom": 0.16, "wspace": 0.25}
    page = plotting.ReusableFigure(6.4, 3.2, margins, ncols=2)
    names = ["1", "2", "3"]

    def draw(noise, beta):
        line = beta * noise
        rates = [worth(variance, line) for variance in VARIANCES]
        fig, (left, right) = page.wipe()
        colours = [plotting.BLUE if rate > 0 else plotting.GREY for rate in rates]
        left.bar(names, VARIANCES, color=colours, width=0.6)
        left.axhline(line, color=plotting.ORANGE, linestyle="--", linewidth=2)
        title = "log scale; dashed: beta x noise"
        left.set(ylim=(0.05, 8), title=title, ylabel="variance of the data", xlabel="direction")
        plotting.log_axis(left)
        right.bar(names, rates, color=colours, width=0.6)
        right.set(ylim=(0, 2.2), title="rate (nats)", xlabel="direction")
        alive = sum(rate > 0 for rate in rates)
        return fig, f"The line stands at {line:.2f}: {alive} of 3 directions are alive."

    return Panel(
        "Above the noise",
        draw,
        controls={
            "noise": choice("noise variance", [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0, 6.0], 0.5),
            "beta": slider("beta", 0.5, 8.0, 1.0, step=0.5),
        },
        presets={"Four times dearer": {"noise": 0.5, "beta": 4.0}},
        frames=[
            ("Noise 0.5, beta 1", {}),
            ("Noise 0.1, beta 1", {"noise": 0.1}),
            ("Noise 0.5, beta 4", {"noise": 0.5, "beta": 4.0}),
            ("Noise 2, beta 1", {"noise": 2.0, "beta": 1.0}),
        ],
        alt="Bars of three variances with a dashed line for the noise; bars of the three rates.",
    )


def worth(variance, line):
    """The rate in nats of a direction with this variance, the line being beta times the noise."""
    return max(0.0, 0.5 * math.log(variance / line))
