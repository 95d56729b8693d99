"""The panels and pictures of 01_gan, around a generator and a discriminator.

be_the_generator() lets you be the generator, against the optimal discriminator, game_on_a_line()
is that game in one dimension; arena() is a duel of two small networks in the plane; latent_walk()
shows what lies between two digits; fool_the_discriminator() raises a logit by changing pixels;
failure_clinic() puts three failures beside their cures. The pictures come first.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers import plotting
from aigc_helpers.arguments import require_one_of, require_whole
from aigc_helpers.data import TOYS_2D, load_embedded_digits, to_signed, toy_modes
from aigc_helpers.metrics import energy_distance, load_features, mode_count
from aigc_helpers.models.gan import (
    FAILURES,
    HEAD_START,
    LOSSES,
    Duel,
    centre_distance,
    climb,
    discriminator_loss,
    fixed_noise,
    generator_loss,
    gradient_norm,
    make_twins,
    modes_covered,
)
from aigc_helpers.panels.core import Panel, choice, frozen, log_slider, slider
from aigc_helpers.plotting import ReusableFigure
from aigc_helpers.weights import load_model

# ---------------------------------------------------------------- pictures of the page

NUM_SHOWN = 8  # real digits, and fakes, in the diagram
DARK_FAKE = "#A34700"  # for words: the colour of fakes has too little contrast on paper


def game_diagram():
    """Figure: the two networks of the game, with real digits and the finished network's fakes."""
    fig, ax = plotting.canvas(3.5, width=8.6)
    _draw_noise(ax, 0.3, 0.6)
    _draw_box(ax, 1.35, 0.6, "G", "generator", DARK_FAKE)
    _draw_sheet(fig, 2.95, 0.45, finished_digits(NUM_SHOWN), "fakes G(z)", DARK_FAKE)
    real = load_embedded_digits("train").subset(NUM_SHOWN, 3).images
    _draw_sheet(fig, 2.95, 2.05, real, "real samples x", plotting.REAL)
    _draw_box(ax, 5.6, 1.4, "D", "discriminator", plotting.INK)
    _draw_scale(ax, 7.15, 0.75)
    for start, end in (
        ((0.85, 1.05), (1.3, 1.05)),
        ((2.4, 1.05), (2.85, 1.05)),
        ((4.75, 1.15), (5.55, 1.65)),
        ((4.75, 2.6), (5.55, 2.05)),
        ((6.65, 1.85), (7.1, 1.85)),
    ):
        _draw_line(ax, start, end, plotting.INK, "-")
    _draw_line(ax, (7.1, 1.6), (6.65, 1.6), DARK_FAKE, "--")
    ax.plot([6.1, 6.1, 1.85], [1.37, 0.2, 0.2], "--", color=DARK_FAKE, linewidth=1.6)
    _draw_line(ax, (1.85, 0.2), (1.85, 0.56), DARK_FAKE, "--")
    teaches = " the gradient of D_logit tells G how to change its fakes "
    ax.text(
        3.95, 0.2, teaches, ha="center", va="center", fontsize=9.5, color=DARK_FAKE,
        backgroundcolor=plotting.PAPER,
    )  # fmt: skip
    return fig


def finished_digits(n, seed=5):
    """n digits (n, 1, 28, 28) of the chapter's trained generator."""
    return draw_stored(torch.randn(n, 64, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def draw_stored(z):
    """Digits (N, 1, 28, 28) that the chapter's trained generator draws from noise z (N, 64).

    While `assets/` holds no weights for it, each noise vector picks a real digit of the embedded
    set in their place: the weights are made by the page that shows this.
    """
    try:
        return load_model("gan")(z)
    except (ValueError, RuntimeError):
        images = to_signed(load_embedded_digits("train").images)
        return images[(torch.sigmoid(z[:, 0]) * len(images)).long().clamp_max(len(images) - 1)]


def _draw_noise(ax, x, y):
    values = torch.randn(10, generator=torch.Generator().manual_seed(1)).tolist()
    for k, value in enumerate(values):
        ax.bar(x + 0.05 * k, 0.28 * value, 0.035, bottom=y + 0.45, color=plotting.GREY)
    ax.text(x + 0.23, y + 0.95, "noise z", ha="center", fontsize=10)


def _draw_box(ax, x, y, name, role, colour):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.12"
    box = FancyBboxPatch((x, y), 1.0, 0.9, style, facecolor="white", edgecolor=colour, linewidth=2)
    ax.add_patch(box)
    ax.text(x + 0.5, y + 0.52, name, ha="center", va="center", fontsize=20, color=colour)
    ax.text(x + 0.5, y + 0.15, role, ha="center", va="center", fontsize=9, color=colour)


def _draw_sheet(fig, x, y, images, title, colour):
    """Eight digits, four in a row, in an axes of their own, their lower left corner at x, y."""
    width, height = fig.get_size_inches()
    ax = fig.add_axes([x / width, y / height, 1.8 / width, 0.9 / height])
    plotting.draw_images(ax, images, 4)
    ax.set_title(title, fontsize=10, color=colour, pad=3)


def _draw_scale(ax, x, y):
    """The axis of D_logit, from "surely fake" to "surely real"."""
    ax.plot([x + 0.3, x + 0.3], [y + 0.1, y + 2.1], color=plotting.INK, linewidth=1.5)
    for k, (height, word) in enumerate(((0.1, "\u22124  fake"), (1.1, "0"), (2.1, "+4  real"))):
        colour = (DARK_FAKE, plotting.INK, plotting.REAL)[k]
        ax.plot([x + 0.24, x + 0.36], [y + height] * 2, color=plotting.INK, linewidth=1.5)
        ax.text(x + 0.46, y + height, word, va="center", fontsize=10, color=colour)
    ax.text(x + 0.5, y + 2.35, "D_logit", ha="center", fontsize=11)


def _draw_line(ax, start, end, colour, dash, bend="arc3"):
    arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.6, "linestyle": dash}
    ax.annotate("", end, start, arrowprops=arrow | {"connectionstyle": bend})


def two_bells(x, p, q, place):
    """Figure: the densities p and q on the grid x, their heights at a place, and p / (p + q)."""
    fig, ax = plotting.figure(7.2, 2.4)
    near = x.abs() < 5
    ratio = p / (p + q)
    at = int((x - place).abs().argmin())
    ax.fill_between(x[near], p[near], color=plotting.REAL, alpha=0.3, label="real: p")
    ax.fill_between(x[near], q[near], color=plotting.FAKE, alpha=0.3, label="fake: q")
    for height, colour, width in ((q[at], plotting.FAKE, 2), (p[at], plotting.REAL, 5)):
        ax.plot([place, place], [0, height], color=colour, linewidth=width, solid_capstyle="butt")
    ax.plot(x[near], ratio[near], color=plotting.INK, linestyle="--", label="p / (p + q)")
    ax.plot(place, ratio[at], "o", color=plotting.INK)
    ax.set(xlabel="x", ylim=(0, 1.05))
    ax.legend(loc="upper right")
    return fig


def loss_curves():
    """Figure: the five losses against D_logit: D's for a real sample, for a fake, and G's."""
    D_logit = torch.linspace(-4, 4, 161)
    zero = torch.zeros(1)
    fig, axes = plotting.figure(8.8, 3.4, ncols=3)
    titles = ("D, for a real sample", "D, for a fake", "G, for its fake")
    for k, ax in enumerate(axes):
        lines = {loss: _loss_line(D_logit, zero, loss, k) for loss in LOSSES}
        if k < 2:
            lines.pop("minimax")  # D's is the same as in the next row
        for loss, values in lines.items():
            colour, dash = LINE_STYLES[loss]
            ax.plot(D_logit, values, dash, color=colour, label=loss)
        ax.axvline(0, color=plotting.GREY, linewidth=0.6)
        ax.set(title=titles[k], xlabel="D_logit", ylim=(-4.2, 6.2))
    axes[0].set_ylabel("loss")
    handles, names = axes[2].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=5)
    return fig


LINE_STYLES = {  # a loss's colour and dash
    "minimax": (plotting.PINK, "-"),
    "non-saturating": (plotting.GREEN, "-"),
    "least squares": (plotting.BLUE, "--"),
    "hinge": (plotting.AMBER, "-."),
    "wasserstein-gp": (plotting.INK, ":"),
}


def _loss_line(D_logit, zero, loss, k):
    """Values (N,): D's loss of a real sample (k = 0) or a fake (1), less the other half's; G's (2)."""
    if k == 2:
        return torch.stack([generator_loss(one[None], loss) for one in D_logit])
    if k == 0:
        both = torch.stack([discriminator_loss(one[None], zero, loss) for one in D_logit])
        return both - _half_at_zero(loss)
    both = torch.stack([discriminator_loss(zero, one[None], loss) for one in D_logit])
    return both - _half_at_zero(loss, real=True)


def _half_at_zero(loss, real=False):
    """What the other half of D's loss is at D_logit = 0."""
    if loss in ("minimax", "non-saturating"):
        return math.log(2)
    if loss == "least squares":
        return 0.5 if real else 0.0
    return 1.0 if loss == "hinge" else 0.0


def push_curves():
    """Figure: both generator losses of the game against D_logit, and how hard each pushes it up."""
    D_logit = torch.linspace(-6, 6, 241)
    fig, (left, right) = plotting.figure(8.4, 2.9, ncols=2)
    D_value = torch.sigmoid(D_logit)
    lines = {"minimax": -F.softplus(D_logit), "non-saturating": F.softplus(-D_logit)}
    pushes = {"minimax": D_value, "non-saturating": 1 - D_value}
    for ax, series in ((left, lines), (right, pushes)):
        ax.axvspan(-6, -2, color="#F8E4D4", zorder=0)
        for loss, values in series.items():
            colour, dash = LINE_STYLES[loss]
            ax.plot(D_logit, values, dash, color=colour, label=loss)
    left.set(title="generator's loss", xlabel="D_logit of a fake")
    right.set(title="push: minus the derivative", xlabel="D_logit of a fake", ylim=(-0.05, 1.25))
    right.text(-5.9, 1.08, "D is sure: a fake", fontsize=9)
    left.legend(loc="upper right")
    return fig


def feature_bells(real, fakes, distances):
    """Figure: one feature of real digits beside that of each crowd of fakes, with their bells.

    real (N,). fakes: dict crowd -> values (M,). distances: dict crowd -> what its title says.
    """
    fig, axes = plotting.figure(8.8, 2.7, ncols=len(fakes), sharex=True, sharey=True)
    values = torch.cat([real, *fakes.values()])
    x = torch.linspace(values.min().item(), values.max().item(), 200)
    edges = x[::5].numpy()
    for ax, (name, fake) in zip(axes, fakes.items(), strict=True):
        for cloud, colour, label in ((real, plotting.REAL, "real"), (fake, plotting.FAKE, "fakes")):
            ax.hist(cloud.numpy(), edges, density=True, color=colour, alpha=0.3)
            bell = torch.distributions.Normal(cloud.mean(), cloud.std()).log_prob(x).exp()
            ax.plot(x, bell, color=colour, linewidth=2, label=label)
        means = (real.mean() - fake.mean()).square().item()
        widths = (real.std() - fake.std()).square().item()
        total = distances[name]
        ax.set_title(f"{name}\nmeans {means:.2f} + widths {widths:.2f} = {total:.2f}", fontsize=10)
        ax.set(xlabel="value of the feature", yticks=[])
    axes[0].legend(loc="upper right")
    return fig


def five_dots(real, fake, k=1):
    """Figure: real dots with their balls beside fakes with theirs; what each score counts.

    real (N, 2), fake (M, 2); each ball reaches to the k-th nearest dot of the same kind.
    """
    fig, axes = plotting.figure(8.8, 3.5, ncols=3, tight=False)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.86, 0.04)
    real_radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    fake_radius = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    between = torch.cdist(real, fake)
    inside = (between <= real_radius[:, None]).any(dim=0)
    reached = (between <= fake_radius[None, :]).any(dim=1)
    holding = (between <= real_radius[:, None]).any(dim=1)
    pictures = (
        ("precision", real, real_radius, plotting.REAL, fake, inside, "fakes in a real ball"),
        ("recall", fake, fake_radius, plotting.FAKE, real, reached, "real dots in a fake ball"),
        ("coverage", real, real_radius, plotting.REAL, real, holding, "real balls with a fake"),
    )
    for ax, (name, centres, radii, colour, dots, scored, what) in zip(axes, pictures, strict=True):
        for centre, radius in zip(centres, radii.tolist(), strict=True):
            _draw_ball(ax, centre.tolist(), radius, colour)
        plotting.draw_points(ax, real, fake, size=22)
        ax.scatter(
            *dots[scored].T, s=130, facecolors="none", edgecolors=plotting.GREEN, linewidths=1.8,
            zorder=6,
        )  # fmt: skip
        plotting.square(ax, 2.6)
        share = f"{int(scored.sum())} of {len(scored)}"
        ax.set_title(f"{name}: {share}\n{what}", fontsize=10)
    return fig


def _draw_ball(ax, centre, radius, colour):
    from matplotlib.patches import Circle

    ax.add_patch(Circle(centre, radius, facecolor=colour, alpha=0.10, edgecolor="none", zorder=1))
    ax.add_patch(Circle(centre, radius, fill=False, edgecolor=colour, alpha=0.6, zorder=1))


def digit_networks():
    """Figure: the shapes on the way through `DigitGenerator` (above) and `DigitDiscriminator`."""
    blue, orange, ink = plotting.REAL, plotting.FAKE, plotting.INK
    generator = (
        (0.75, 0.1, 0.75, ink, "z\n64 numbers"),
        (2.2, 0.25, 0.25, orange, "dense\n64 x 7 x 7"),
        (3.55, 0.25, 0.25, orange, "block\n64 x 7 x 7"),
        (4.95, 0.45, 0.45, orange, "shuffle\n32 x 14 x 14"),
        (6.4, 0.45, 0.45, orange, "block\n32 x 14 x 14"),
        (7.95, 0.85, 0.85, ink, "shuffle: a fake\n1 x 28 x 28"),
    )
    discriminator = (
        (0.75, 0.85, 0.85, ink, "real or fake\n1 x 28 x 28"),
        (2.2, 0.45, 0.45, blue, "unshuffle\n4 x 14 x 14"),
        (3.55, 0.45, 0.45, blue, "convolve\n32 x 14 x 14"),
        (4.95, 0.25, 0.25, blue, "stride 2\n64 x 7 x 7"),
        (6.4, 0.17, 0.17, blue, "stride 2\n64 x 4 x 4"),
        (7.95, 0.1, 0.1, ink, "with the spread:\nD_logit"),
    )
    return plotting.shapes({2.8: generator, 1.1: discriminator}, height=3.3)


def training_strip(strip, scores, losses):
    """Figure: the same noise drawn by the generator as it trains, above both losses and the FID.

    strip: dict step -> images (N, 1, 28, 28). scores: dict step -> FID. losses: dict of lists.
    """
    fig, grid = plotting.figure(8.8, 6.2, nrows=2, ncols=len(strip), height_ratios=[1.5, 1])
    for ax, (step, images) in zip(grid[0], strip.items(), strict=True):
        plotting.draw_images(ax, images, 2, f"step {step:,}")
    spec = grid[1, 0].get_gridspec()
    for ax in grid[1]:
        ax.remove()
    half = len(strip) // 2
    with plotting.style():
        left = fig.add_subplot(spec[1, :half])
        right = fig.add_subplot(spec[1, half:])
    plotting.draw_curves(left, losses, "the losses do not tell", "step", smooth_weight=0.98)
    fids = list(scores.values())
    title = "FID tells (log scale)"
    plotting.draw_curves(right, {"FID": fids}, title, "step", x=list(scores), logy=True)
    right.plot(list(scores), fids, "o", color=plotting.BLUE)
    return fig


def race_curves(positions, target):
    """Figure: positions, dict loss -> list of runs; each run a line from the start to the data."""
    fig, ax = plotting.figure(7.2, 2.8)
    for loss, runs in positions.items():
        colour, dash = LINE_STYLES[loss]
        for k, run in enumerate(runs):
            ax.plot(run, dash, color=colour, linewidth=1.4, label=loss if k == 0 else None)
    ax.axhline(target, color=plotting.REAL, linestyle=":", label="the data")
    ax.set(xlabel="round", ylabel="position of the fakes", title="Two losses, three runs each")
    ax.legend(loc="center right")
    return fig


def listing_curves(rows):
    """Figure: FID against steps, on log scales. rows: those of the experiment `listing_long`."""
    colours = {"the listing": plotting.FAKE, "only beta1": plotting.GREY, "+ beta1": plotting.GREEN}
    fig, ax = plotting.figure(7.2, 2.8)
    for kind, colour in colours.items():
        names = [name for name in rows if name.startswith(kind)]
        num_steps = [int(name.split()[-2].replace(",", "")) for name in names]
        means = [float(rows[name]["FID"].split(" (")[0]) for name in names]
        ax.plot(num_steps, means, "o-", color=colour, label=kind)
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="FID")
    plotting.log_axis(ax, subs=(1, 2, 5))
    ax.legend(loc="upper right")
    return fig


def course_curves(courses):
    """Figure: the number of each failure over the rounds, failing against cured.

    courses: dict failure -> finished `Twins`.
    """
    fig, axes = plotting.figure(8.6, 2.7, ncols=len(courses), squeeze=False)
    for ax, (failure, course) in zip(axes[0], courses.items(), strict=True):
        lines = {}
        for name, numbers in zip(("failing", "cured"), course.numbers(), strict=True):
            lines[name] = [max(number, 1e-9) for number in numbers]
        played = [course.rounds * (k + 1) for k in range(course.moments)]
        title = f"{failure}:\n{course.label}"
        logy = failure == "vanishing gradient"
        plotting.draw_curves(ax, lines, title, "round", x=played, logy=logy)
        for line, colour in zip(ax.lines, (plotting.PINK, plotting.GREEN), strict=True):
            line.set_color(colour)  # blue and orange are for real and fake
        ax.legend()
        ax.get_legend().set_visible(ax is axes[0][-1])  # one legend for all
    return fig


def unnamed_curves(courses):
    """Figure: A, B, C, how far right the fakes' centre is in the failing twins; exercise 2 asks which is which.

    courses: as for `course_curves`.
    """
    fig, axes = plotting.figure(8.6, 2.2, ncols=3)
    order = ("vanishing gradient", "collapse", "oscillation")
    for ax, name, failure in zip(axes, "ABC", order, strict=True):
        centres = [failing.fake[:, 0].mean().item() for failing, _ in courses[failure].tape]
        ax.plot(range(1, len(centres) + 1), centres, ".-", color=plotting.INK)
        ax.set(title=name, xlabel="moment", ylim=(-1.6, 1.6))
    axes[0].set_ylabel("x of the fakes' centre")
    return fig


# ---------------------------------------------------------------- be the generator

CENTRES = ((-0.9, -0.7), (0.9, -0.7), (-0.9, 0.9))  # of the three real clouds
SIGMA = 0.3  # their standard deviation
VIEW = 3.0  # half the side of the map
EVERYWHERE = 8.0  # half the side of a square that holds both densities at every setting


def be_the_generator():
    """You are the generator: four sliders move, stretch and turn your cloud of fakes.

    The map is the answer of the optimal discriminator, p / (p + q), blue for "real"; the arrows are
    the negative gradient of the chosen loss at each fake, the bars its mean length for both losses.
    Far from the data the Jensen-Shannon divergence stays at log 2 and the minimax gradient is gone,
    while the non-saturating one is large; on top of the data both are 0 and the map has no colour.

    Goodfellow 2014, arXiv:1406.2661. No model is trained.
    """
    margins = {"left": 0.01, "right": 0.98, "top": 0.92, "bottom": 0.08, "wspace": 0.2}
    figure = ReusableFigure(6.2, 3.9, margins, ncols=2, width_ratios=[2.6, 1])
    figure.axes[1].set_position([0.76, 0.09, 0.22, 0.5])
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    real = torch.tensor(CENTRES).repeat(20, 1) + SIGMA * noise

    def draw(push, **knobs):
        fig, (left, right) = figure.wipe()
        fake = move(real.flip(0), **knobs)
        grid = plotting.plane(60, VIEW)
        plotting.draw_field(left, torch.sigmoid(optimal_logit(grid, knobs)).reshape(60, 60), VIEW)
        plotting.draw_points(left, real, fake, size=14)
        pulls = pull_on(fake, knobs)
        size = pulls[push].norm(dim=1, keepdim=True)
        length = 0.9 * torch.tanh(size / 12) / size.clamp_min(1e-12)
        plotting.draw_arrows(left, fake, pulls[push] * length)
        means = [pull.norm(dim=1).mean().item() for pull in pulls.values()]
        _draw_bars(right, means)
        jsd = divergence(knobs)
        gauge = fig.add_axes([0.72, 0.8, 0.26, 0.07])
        plotting.draw_gauge(gauge, jsd, math.log(2), "JS divergence")
        scale = f"(0: identical; log 2 = {math.log(2):.3f}: fully apart)"
        text = f"JS divergence {jsd:.3f} nats {scale}. "
        return fig, f"{text}Mean pull: minimax {means[0]:.2g}, non-saturating {means[1]:.2g}."

    far = {"shift_x": 2.0, "shift_y": 2.0}
    perfect = {"shift_x": 0.0, "shift_y": 0.0, "scale": 1.0, "angle": 0}
    return Panel(
        "Be the generator",
        draw,
        controls={
            "shift_x": slider("shift x", -2.0, 2.0, 1.2),
            "shift_y": slider("shift y", -2.0, 2.0, 0.6),
            "scale": slider("scale", 0.3, 2.0, 0.6),
            "angle": slider("turn (deg)", -180, 180, 60, step=5),
            "push": choice("loss", ["minimax", "non-saturating"]),
        },
        presets={
            "Far away": far,
            "Collapsed": {"scale": 0.3, "angle": 0},
            "Perfect": perfect,
        },
        frames=[
            ("Minimax loss", {}),
            ("Minimax loss, far away", far),
            ("Non-saturating loss, far away", {"push": "non-saturating"}),
            ("On top of the data", perfect),
        ],
        alt="Real and fake clouds in the plane over the optimal discriminator's map, arrows that "
        "pull the fakes, a gauge of the Jensen-Shannon divergence, and a bar for the pull of each "
        "generator loss.",
    )


def log_density(x, centres, sigma):
    """Log density (N,) at x (N, 2) of an even mixture of round Gaussians at centres (K, 2)."""
    squared = torch.cdist(x, centres).square() / (2 * sigma**2)
    return torch.logsumexp(-squared, dim=1) - math.log(len(centres) * 2 * math.pi * sigma**2)


def move(x, shift_x, shift_y, scale, angle):
    """Scale, turn (by `angle` degrees) and shift points x (N, 2)."""
    turn = math.radians(angle)
    cos = math.cos(turn)
    sin = math.sin(turn)
    rotation = torch.tensor([[cos, -sin], [sin, cos]])
    return scale * x @ rotation.T + torch.tensor([shift_x, shift_y])


def log_densities(x, knobs):
    """(log p, log q) at x (N, 2): of the data, and of the fakes at these settings of `move`."""
    centres = torch.tensor(CENTRES)
    log_p = log_density(x, centres, SIGMA)
    log_q = log_density(x, move(centres, **knobs), SIGMA * knobs["scale"])
    return log_p, log_q


def optimal_logit(x, knobs):
    """log p(x) - log q(x) (N,): the logit of the optimal discriminator, eq. (2) of the chapter."""
    log_p, log_q = log_densities(x, knobs)
    return log_p - log_q


def pull_on(fake, knobs):
    """{loss: minus its gradient (N, 2) at each fake}, against the optimal discriminator."""
    with torch.enable_grad():
        fake = fake.detach().requires_grad_()
        logit = optimal_logit(fake, knobs)
        losses = {"minimax": -F.softplus(logit), "non-saturating": F.softplus(-logit)}
        return {
            name: -torch.autograd.grad(loss.sum(), fake, retain_graph=True)[0]
            for name, loss in losses.items()
        }


def divergence(knobs):
    """Jensen-Shannon divergence in nats of the data and the fakes, summed over all of space.

    The grid's cells are no wider than the narrowest cloud's standard deviation, 0.09, which is
    enough for a sum of smooth densities to be right to more digits than are shown.
    """
    n = 200
    grid = plotting.plane(n, EVERYWHERE)
    log_p, log_q = log_densities(grid, knobs)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    terms = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    cell = (2 * EVERYWHERE / (n - 1)) ** 2
    return max(0.0, 0.5 * cell * terms.sum().item())


def _draw_bars(ax, means):
    ax.bar([0, 1], [max(m, 1e-5) for m in means], color=[plotting.PINK, plotting.GREEN], width=0.6)
    ax.set_xticks([0, 1], ["minimax", "non-sat."])
    plotting.log_axis(ax)
    ax.set_ylim(1e-5, 1e2)
    ax.set_title("mean pull on a fake", fontsize=10)


# ---------------------------------------------------------------- the game on a line

DATA_1D = (-1.0, 0.8)  # mean and standard deviation of the real numbers
FAR = 8.0  # how far right the fakes' mean can be


def game_on_a_line():
    """The game in one dimension: move the fakes' mean, see D* follow and both losses pull.

    On the left p, q and the optimal discriminator p / (p + q), with an arrow for each loss: its
    mean pull on the fakes, D* held fixed. On the right the pulls at every mean. Far from the data
    minimax pulls with next to nothing, the non-saturating loss harder and harder.

    Goodfellow 2014, arXiv:1406.2661. No model is trained.
    """
    margins = {"left": 0.07, "right": 0.98, "top": 0.9, "bottom": 0.15, "wspace": 0.25}
    figure = ReusableFigure(6.6, 3.4, margins, ncols=2, width_ratios=[1.25, 1])
    x = torch.linspace(-5, FAR + 3, 260)
    means = torch.linspace(DATA_1D[0] + 0.05, FAR, 40).tolist()
    curves = {}  # the pulls at every mean, by the fakes' width

    def draw(mean, width):
        fig, (left, right) = figure.wipe()
        log_p, log_q = log_bells(x, mean, width)
        left.fill_between(x, log_p.exp(), color=plotting.REAL, alpha=0.25, linewidth=0)
        left.fill_between(x, log_q.exp(), color=plotting.FAKE, alpha=0.25, linewidth=0)
        left.plot(x, log_p.exp(), color=plotting.REAL, label="p, real")
        left.plot(x, log_q.exp(), "--", color=plotting.FAKE, label="q, fake")
        left.plot(x, torch.sigmoid(log_p - log_q), color=plotting.INK, label="D* = p/(p+q)")
        left.set(ylim=(-0.02, 1.75), xlabel="x", title="the two densities and D*")
        left.set_yticks([0, 0.5, 1])
        pulls = pulls_on_mean(mean, width)
        for k, (loss, colour) in enumerate(ARROWS_1D.items()):
            length = -math.copysign(1.2 * math.sqrt(abs(pulls[loss])), pulls[loss])
            _draw_pull(left, mean, 1.28 - 0.14 * k, length, colour)
        left.legend(loc="upper right", fontsize=8, ncols=3, columnspacing=1, handlelength=1.4)
        if width not in curves:
            curves[width] = [pulls_on_mean(one, width) for one in means]
        for loss, colour in ARROWS_1D.items():
            heights = [max(abs(pull[loss]), 1e-7) for pull in curves[width]]
            right.plot(means, heights, color=colour, label=loss)
            right.plot(mean, max(abs(pulls[loss]), 1e-5), "o", color=colour)
        plotting.log_axis(right)
        right.set(ylim=(8e-6, 1e2), xlabel="mean of the fakes", title="pull (log scale)")
        right.legend(loc="lower left", fontsize=8)
        jsd = divergence_1d(mean, width)
        text = f"JS divergence {jsd:.3f} nats of at most log 2 = {math.log(2):.3f}. "
        minimax = pulls["minimax"]
        other = pulls["non-saturating"]
        return fig, f"{text}Pull: minimax {minimax:.2g}, non-saturating {other:.2g}."

    return Panel(
        "The game on a line",
        draw,
        controls={
            "mean": slider("fakes' mean", DATA_1D[0], FAR, 1.0, step=0.25),
            "width": slider("fakes' width", 0.4, 2.0, 0.8, step=0.1),
        },
        frames=[
            ("Near", {}),
            ("Farther", {"mean": 3.0}),
            ("Far away", {"mean": 7.0}),
            ("The fakes are the data", {"mean": DATA_1D[0]}),
        ],
        alt="On the left two bell curves, real and fake, the optimal discriminator, and an arrow "
        "for the pull of each loss; on the right both pulls against the mean of the fakes.",
    )


ARROWS_1D = {"minimax": plotting.PINK, "non-saturating": plotting.GREEN}


def _draw_pull(ax, x, y, length, colour):
    ax.plot(x, y, "o", color=colour, markersize=4)
    if abs(length) > 0.02:
        head = min(10.0, 25 * abs(length))  # never longer than the arrow
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.2, "mutation_scale": head}
        arrow |= {"shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x + length, y), (x, y), arrowprops=arrow)


def log_bells(x, mean, width):
    """(log p, log q) at x (N,): of the data, and of fakes with this mean and width."""
    log_p = torch.distributions.Normal(*DATA_1D).log_prob(x)
    log_q = torch.distributions.Normal(mean, width).log_prob(x)
    return log_p, log_q


def pulls_on_mean(mean, width):
    """{loss: minus the derivative of its mean over the fakes, with respect to their mean}.

    Positive where it pulls the fakes towards the data, that is to the left. D* is held fixed.
    """
    # Over a wide grid: far away, what little minimax pulls comes from the rare fakes near the data.
    x = torch.linspace(mean - 10, mean + 10, 2001, dtype=torch.float64)
    log_p, log_q = log_bells(x, mean, width)
    D_value = torch.sigmoid(log_p - log_q)
    slope = (x - mean) / width**2 - (x - DATA_1D[0]) / DATA_1D[1] ** 2  # of log p - log q
    q = log_q.exp()
    return {
        "minimax": -torch.trapezoid(q * D_value * slope, x).item(),
        "non-saturating": -torch.trapezoid(q * (1 - D_value) * slope, x).item(),
    }


def divergence_1d(mean, width):
    """Jensen-Shannon divergence in nats of data and fakes on the line."""
    x = torch.linspace(-12, FAR + 12, 2000)
    log_p, log_q = log_bells(x, mean, width)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    terms = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return max(0.0, 0.5 * torch.trapezoid(terms, x).item())


# ---------------------------------------------------------------- the arena

MAX_MOMENTS = 400  # that an arena keeps; of a longer game every second one is forgotten
ROUNDS_A_TICK = 10


def arena(rounds=1000):
    """A duel of two small networks in the plane that you step, run, record and rewind.

    On the left the discriminator's map (blue for "real"), real points, fakes with the way each
    wants to go, and a regular lattice of noise as the generator bends it; on the right the energy
    distance of fakes and data. The lattice folds onto the modes of the data, and between two modes
    it is only stretched: the generator is continuous. *rewind* shows any recorded moment; to train
    on from there forgets what came after it.

    rounds: how long the storyboard's game is, about.
    Goodfellow 2014, arXiv:1406.2661; the other losses' sources stand in the chapter.
    """
    game = _Game()
    margins = {"left": 0.01, "right": 0.98, "top": 0.92, "bottom": 0.13, "wspace": 0.2}
    figure = ReusableFigure(6.4, 4.0, margins, ncols=2, width_ratios=[1.9, 1])

    def draw(**_):
        fig, (left, right) = figure.wipe()
        draw_duel(left, game.duel)
        left.set_title(f"round {game.duel.round}")
        draw_distance(right, game)
        distance = game.tape[game.moment]["distance"]
        modes = count_modes(game.duel)
        return fig, f"Round {game.duel.round}. Energy distance {distance:.3f}. {modes}"

    def act(work):
        """Do some work, then let the rewind slider end at the present."""
        work()
        last = len(game.tape) - 1
        panel.put(rewind=0)  # else a shorter slider would move its own knob, an event of its own
        panel.controls["rewind"].max = max(1, last)
        panel.put(rewind=last)

    def change(name, value):
        """Rewind moves in time; learning rates act at once; any other control starts a new game."""
        if name == "rewind":
            game.rewind(value)
        elif name in ("g_lr", "d_lr"):
            game.set_learning_rate(name, value)
        else:
            game.settings[name] = value
            act(game.start)

    panel = Panel(
        "Arena",
        draw,
        controls={
            "data": choice("data", list(TOYS_2D)),
            "loss": choice("loss", list(LOSSES), "non-saturating"),
            "g_lr": log_slider("G learning rate", -5, -1.5, 1e-3),
            "d_lr": log_slider("D learning rate", -5, -1.5, 1e-3),
            "d_steps": slider("D steps per G", 1, 5, 1, step=1),
            "noise_dim": slider("noise size", 1, 8, 2, step=1),
            "rewind": slider("rewind", 0, 1, 0, step=1),
        },
        buttons={
            "Step D": lambda: act(lambda: game.move("D")),
            "Step G": lambda: act(lambda: game.move("G")),
            "New game": lambda: act(game.start),
        },
        tick=lambda: act(lambda: game.train(ROUNDS_A_TICK)),
        changed=change,
        frames=[
            ("Twenty moves of D alone", lambda: [game.move("D") for _ in range(20)] and None),
            ("Early", lambda: game.train(rounds // 12)),
            ("Later", lambda: game.train(rounds // 4)),
            ("Latest", lambda: game.train(2 * rounds // 3)),
        ],
        reset=game.start,
        alt="Discriminator's map with real points, fakes, arrows and the generator's bent lattice; "
        "a distance curve.",
    )
    return panel


class _Game:
    """A duel that can be stepped, recorded and rewound.

    tape:   what was recorded, a dict a moment. moment: which of them the duel is at.
    """

    def __init__(self):
        self.settings = {
            "data": "ring",
            "loss": "non-saturating",
            "g_lr": 1e-3,
            "d_lr": 1e-3,
            "d_steps": 1,
            "noise_dim": 2,
        }
        self.start()

    def start(self):
        """A new game with the present settings."""
        self.duel = Duel(**self.settings)
        self.tape = []
        self.moment = -1
        self._record()

    def move(self, player):
        """One move of "D" or "G"."""
        if player == "D":
            self.duel.d_move()
        else:
            self.duel.g_move()
        self._record()

    def train(self, rounds):
        """Play some rounds, recorded every `ROUNDS_A_TICK`."""
        while rounds > 0:
            self.duel.train(min(rounds, ROUNDS_A_TICK))
            rounds -= ROUNDS_A_TICK
            self._record()

    def rewind(self, moment):
        """Show a recorded moment; what came after it is forgotten only when the game goes on."""
        self.moment = min(moment, len(self.tape) - 1)
        duel = self.duel
        kept = self.tape[self.moment]
        duel.round = kept["round"]
        duel.random.set_state(kept["random"])
        for part, state in zip(self._parts(), copy.deepcopy(kept["states"]), strict=True):
            part.load_state_dict(state)
        for name in ("g_lr", "d_lr"):  # the sliders keep the learning rates of today
            self.set_learning_rate(name, self.settings[name])

    def set_learning_rate(self, name, value):
        self.settings[name] = value
        optimizer = self.duel.g_opt if name == "g_lr" else self.duel.d_opt
        for group in optimizer.param_groups:
            group["lr"] = value

    def _parts(self):
        duel = self.duel
        return [duel.G, duel.D, duel.g_opt, duel.d_opt]

    def _record(self):
        duel = self.duel
        z = torch.randn(500, duel.G.noise_dim, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            distance = energy_distance(duel.G(z), duel.real[:500])
        kept = {
            "round": duel.round,
            "distance": distance,
            "random": duel.random.get_state(),
            "states": copy.deepcopy([part.state_dict() for part in self._parts()]),
        }
        self.tape = [*self.tape[: self.moment + 1], kept]
        if len(self.tape) > MAX_MOMENTS:
            self.tape = [*self.tape[:-1:2], kept]
        self.moment = len(self.tape) - 1


def draw_duel(ax, duel):
    """D's map, real points, fakes with the way they want to go, the bent lattice of noise."""
    dim = duel.G.noise_dim
    plotting.draw_field(ax, score_map(duel), vmin=0.3, vmax=0.7)
    z = torch.randn(90, 8, generator=torch.Generator().manual_seed(2))[:, :dim]
    fake = duel.G(z).detach()
    plotting.draw_points(ax, duel.real[:300], fake, size=7)
    some = fake[:40]
    push = push_on(some, duel)
    size = push.norm(dim=1, keepdim=True).clamp_min(1e-9)
    plotting.draw_arrows(ax, some, 0.6 * torch.tanh(2.5 * size) * push / size)
    if dim > 1:
        lattice = torch.zeros(12, 12, dim)
        lattice[..., :2] = plotting.plane(12, 1.6).reshape(12, 12, 2)
        plotting.draw_warp(ax, duel.G(lattice))


def score_map(duel):
    """D's answers (40, 40) in 0..1: probabilities or, for a loss without, scores."""
    score = duel.D(plotting.plane(40)).reshape(40, 40)
    if duel.loss in ("minimax", "non-saturating"):
        return torch.sigmoid(score)
    return (score - score.min()) / (score.max() - score.min() + 1e-9)


def push_on(fake, duel):
    """Minus the gradient (N, 2) of the generator's loss at each fake."""
    with torch.enable_grad():
        fake = fake.detach().requires_grad_()
        loss = generator_loss(duel.D(fake), duel.loss) * len(fake)
        return -torch.autograd.grad(loss, fake)[0]


def count_modes(duel, n=1000):
    """A sentence such as "6 of 8 modes, 83 % of fakes near one."; empty for data without modes."""
    if duel.data not in ("ring", "grid"):
        return ""
    centres, sigma = toy_modes(duel.data)
    z = torch.randn(n, duel.G.noise_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        count = mode_count(duel.G(z), centres, sigma, duel.real[:n])
    near = f"{100 * count.quality.value:.0f} % of fakes near one"
    return f"{count.covered.value} of {count.total} modes, {near}."


def draw_distance(ax, game):
    """The energy distance of all recorded moments, with a dot at the one that is shown."""
    played = [kept["round"] for kept in game.tape]
    distances = [max(kept["distance"], 1e-4) for kept in game.tape]
    plotting.draw_curves(ax, {"distance": distances}, "distance to the data", "round", x=played)
    ax.plot(played[game.moment], distances[game.moment], "o", color=plotting.ORANGE)
    plotting.log_axis(ax)
    ax.set(xlim=(0, max(100, played[-1])), ylim=(1e-3, 3))
    if played[-1] == 0:
        ax.text(50, 0.05, "Run draws\nthe curve", ha="center", va="center", color=plotting.GREY)


# ---------------------------------------------------------------- latent walk

STOPS = 9  # digits in the strip


def latent_walk(generator):
    """What lies between two digits: move t from one noise vector to another.

    Half-way stands mostly a third drawing with bent strokes, not two digits on top of each other.
    *straight* mixes the two vectors; *arc* keeps their length as well (spherical interpolation).

    generator: a module z (N, z_dim) -> images (N, 1, 28, 28) in [-1, 1], with its `z_dim`.
    White 2016, arXiv:1609.04468, for the arc.
    """
    G = frozen(generator)
    classifier = load_features()
    margins = {"left": 0.02, "right": 0.98, "top": 0.93, "bottom": 0.03, "hspace": 0.12}
    figure = ReusableFigure(5.6, 3.6, margins, nrows=2, height_ratios=[3.1, 1])

    def draw(a, b, t, path):
        z_a = torch.randn(G.z_dim, generator=torch.Generator().manual_seed(a))
        z_b = torch.randn(G.z_dim, generator=torch.Generator().manual_seed(b))
        shares = [*torch.linspace(0, 1, STOPS).tolist(), t]
        images = G(torch.stack([interpolate(z_a, z_b, share, path) for share in shares]))
        fig, (top, bottom) = figure.wipe()
        plotting.draw_images(top, images[STOPS:], 1, f"t = {t:.2f}")
        plotting.draw_images(bottom, images[:STOPS], STOPS)
        middle = 15 + t * (STOPS - 1) * 29  # in pixels of the strip
        bottom.plot(middle, -3, "v", color=plotting.ORANGE, markersize=9, clip_on=False)
        return fig, f"The classifier reads {read_digit(classifier, images[STOPS])}."

    return Panel(
        "Latent walk",
        draw,
        controls={
            "a": slider("from seed", 0, 99, 21, step=1),
            "b": slider("to seed", 0, 99, 40, step=1),
            "t": slider("t", 0.0, 1.0, 0.5, step=0.02),
            "path": choice("path", ["straight", "arc"]),
        },
        frames=[
            ("Straight, half-way", {}),
            ("Along the arc, half-way", {"path": "arc"}),
            ("A quarter of the way", {"t": 0.25}),
            ("Another pair", {"a": 3, "b": 12, "t": 0.5}),
        ],
        alt="One large digit at the chosen point of the walk, above a strip of nine digits from "
        "start to end.",
    )


def interpolate(z_a, z_b, t, path):
    """The vector at t in [0, 1] between z_a and z_b (z_dim,), "straight" or along an "arc"."""
    if path == "straight":
        return (1 - t) * z_a + t * z_b
    length_a = z_a.norm()
    length_b = z_b.norm()
    cosine = (z_a @ z_b / (length_a * length_b)).clamp(-1, 1)
    angle = torch.acos(cosine).clamp_min(1e-4)  # 0 if a = b
    from_a = torch.sin((1 - t) * angle) * z_a / length_a
    from_b = torch.sin(t * angle) * z_b / length_b
    return ((1 - t) * length_a + t * length_b) * (from_a + from_b) / torch.sin(angle)


def read_digit(classifier, image):
    """What the classifier of the metrics reads in an image of 28 x 28 pixels: "a 7 (98 %)"."""
    shares = classifier(image.reshape(1, 1, 28, 28)).softmax(dim=1)[0]
    return f"a {shares.argmax().item()} ({100 * shares.max().item():.0f} %)"


# ---------------------------------------------------------------- fool the discriminator

CLIMB_STEPS = 60


def fool_the_discriminator(generator, discriminator):
    """Gradient ascent on the pixels of one image, to raise the discriminator's logit.

    *steps* moves along a path of 60 steps. The logit rises, from a fake or from noise, and the
    image gets no better: an adversarial example. Another start, seed or step size computes a new
    path.

    generator: z (N, z_dim) -> images (N, 1, 28, 28) in [-1, 1], with its `z_dim`.
    discriminator: such images -> logits (N,). Szegedy 2013, arXiv:1312.6199.
    """
    G = frozen(generator)
    D = frozen(discriminator)
    classifier = load_features()
    margins = {"left": 0.01, "right": 0.98, "top": 0.88, "bottom": 0.18, "wspace": 0.32}
    figure = ReusableFigure(6.4, 2.9, margins, ncols=3, width_ratios=[1, 1, 1.1])
    climbed = {}  # the latest path, by what it was made for

    def find_path(start, seed, rate):
        key = (start, seed, rate)
        if key not in climbed:
            noise = torch.Generator().manual_seed(seed)
            image = G(torch.randn(1, G.z_dim, generator=noise))
            if start == "noise":
                image = 2 * torch.rand(1, 1, 28, 28, generator=noise) - 1
            climbed.clear()
            climbed[key] = climb(D, image, rate, CLIMB_STEPS)
        return climbed[key]

    def draw(start, seed, rate, k):
        images, logits = find_path(start, seed, rate)
        fig, (left, middle, right) = figure.wipe()
        plotting.draw_images(left, images[:1], 1, "start")
        plotting.draw_images(middle, images[k : k + 1], 1, f"after {k} steps")
        steps = range(CLIMB_STEPS + 1)
        plotting.draw_curves(right, {"logit": logits}, "D's logit", "step", x=steps)
        right.plot(k, logits[k], "o", color=plotting.ORANGE)
        before = read_digit(classifier, images[0])
        after = read_digit(classifier, images[k])
        text = f"D's logit went from {logits[0]:.1f} to {logits[k]:.1f}."
        return fig, f"{text} The classifier read {before}, now {after}."

    return Panel(
        "Fool the discriminator",
        draw,
        controls={
            "start": choice("start from", ["a fake", "noise"]),
            "seed": slider("seed", 0, 99, 7, step=1),
            "rate": slider("step size", 0.02, 0.3, 0.1, step=0.02),
            "k": slider("steps", 0, CLIMB_STEPS, 30, step=1),
        },
        frames=[
            ("A fake, before", {"k": 0}),
            ("The same fake after 30 steps", {"k": 30}),
            ("Noise, before", {"start": "noise", "k": 0}),
            ("The same noise after 60 steps", {"k": 60}),
        ],
        alt="An image before and after gradient steps on its pixels, and the discriminator's "
        "rising logit.",
    )


# ---------------------------------------------------------------- failure clinic


class Moment(NamedTuple):
    """What is recorded of a duel: fakes (90, 2), a copy of D, its number, what is missed."""

    fake: torch.Tensor
    discriminator: nn.Module
    number: float
    missed: list  # which of the ring's eight modes the fakes miss


class Twins:
    """Two duels with the same seed, failing and cured, trained side by side and recorded.

    tape: a list of (Moment of the failing duel, Moment of the cured one), `moments` long when done.
    rounds: how many lie between two moments.
    """

    def __init__(self, failure, seed=0, moments=24, rounds=40):
        require_one_of("Twins", "failure", failure, FAILURES)
        require_whole("Twins", "moments", moments, least=1)
        require_whole("Twins", "rounds", rounds, least=1)
        self.failure = failure
        self.seed = seed
        self.moments = moments
        self.rounds = rounds
        self.duels = make_twins(failure, seed)
        self.head_start = HEAD_START if failure == "vanishing gradient" else 0
        self.label = {
            "collapse": "modes covered",
            "oscillation": "centre distance",
            "vanishing gradient": "G's gradient",
        }[failure]
        self.tape = []
        self.half = []  # the failing duel's moment, while the cured one has not reached it

    @property
    def done(self):
        return len(self.tape) >= self.moments

    def advance(self):
        """A part of the head start; when it is over, one duel's rounds up to the next moment."""
        if self.head_start > 0:
            for duel in self.duels:
                for _ in range(min(50, self.head_start)):
                    duel.d_move()
            self.head_start -= 50
        elif not self.done:
            duel = self.duels[len(self.half)]
            duel.train(self.rounds)
            self.half.append(self._record(duel))
        if len(self.half) == 2:
            self.tape.append(tuple(self.half))
            self.half = []

    def _record(self, duel):
        with torch.no_grad():
            fake = duel.G(fixed_noise(90))
        measure = {
            "collapse": modes_covered,
            "oscillation": centre_distance,
            "vanishing gradient": gradient_norm,
        }[self.failure]
        return Moment(fake, copy.deepcopy(duel.D), measure(duel), modes_missed(duel))

    def finish(self):
        """Train to the end; returns itself."""
        while not self.done:
            self.advance()
        return self

    def numbers(self):
        """(failing, cured): the lists of the numbers recorded so far."""
        failing = [pair[0].number for pair in self.tape]
        cured = [pair[1].number for pair in self.tape]
        return failing, cured


def modes_missed(duel):
    """Which of the ring's eight modes get less than a tenth of their share of the fakes."""
    centres, sigma = toy_modes("ring")
    with torch.no_grad():
        distance, nearest = torch.cdist(duel.G(fixed_noise(1000)), centres).min(dim=1)
    hits = nearest[distance <= 3 * sigma].bincount(minlength=len(centres))
    return (hits < 0.1 * 1000 / len(centres)).nonzero().flatten().tolist()


def failure_clinic(courses):
    """Three failures, each beside its cure: *Run* replays a training, or trains a new pair live.

    Both duels of a pair have the same seed. A slow discriminator lets the fakes run from mode to
    mode; without a penalty two players swing for ever; with the minimax loss a generator whose
    discriminator is ahead gets no gradient. A number above each map shows it.

    courses: dict failure -> finished `Twins` with seed 0; they are only read. Another seed trains a
    pair of its own, one moment a tick. A line shows the path of the fakes'
    centre, a ring each mode that they miss.
    Heusel 2017, arXiv:1706.08500; Mescheder 2018, arXiv:1801.04406; Goodfellow 2014.
    Raises ValueError if a course is missing or not finished.
    """
    missing = [name for name in FAILURES if name not in courses or not courses[name].done]
    if missing:
        raise ValueError(
            "failure_clinic: needs a finished course of each failure, "
            f"not so: {', '.join(missing)}; use {{name: panels.gan.Twins(name).finish() for name in FAILURES}}"
        )
    current = {"course": courses["collapse"]}
    num_moments = max(course.moments for course in courses.values())
    margins = {"left": 0.01, "right": 0.99, "top": 0.87, "bottom": 0.02, "wspace": 0.03}
    figure = ReusableFigure(6.4, 3.7, margins, ncols=2)

    def draw(moment, **_):
        fig, axes = figure.wipe()
        course = current["course"]
        return fig, draw_course(fig, axes, course, min(moment, len(course.tape)))

    def choose(failure, seed):
        """The course to show: that of the page, or a new pair for another seed."""
        known = courses[failure]
        if seed == known.seed:
            current["course"] = known
        else:
            current["course"] = Twins(failure, seed, known.moments, known.rounds)

    def change(name, _):
        if name != "moment":
            choose(panel.values["failure"], panel.values["seed"])
            panel.put(moment=1)

    def advance():
        """Train the next moment, or replay it; pause at the end."""
        course = current["course"]
        moment = min(panel.values["moment"] + 1, course.moments)
        if len(course.tape) < moment:
            course.advance()
        panel.put(moment=max(1, min(moment, len(course.tape))))
        if len(course.tape) >= moment == course.moments:
            panel.pause()

    def show_end(failure):
        """For the storyboard: the last moment; of the oscillation, the widest of the last eight."""
        course = courses[failure]
        current["course"] = course
        failing, _ = course.numbers()
        late = range(course.moments - min(8, course.moments), course.moments)
        best = max(late, key=failing.__getitem__) if failure == "oscillation" else late[-1]
        return {"failure": failure, "moment": best + 1}

    panel = Panel(
        "Failure clinic",
        draw,
        controls={
            "failure": choice("failure", list(FAILURES)),
            "seed": slider("seed", 0, 20, 0, step=1),
            "moment": slider("replay", 1, num_moments, 1, step=1),
        },
        tick=advance,
        changed=change,
        frames=[(name.capitalize(), lambda name=name: show_end(name)) for name in FAILURES],
        reset=lambda: choose("collapse", 0),
        alt="Two maps side by side, the failing twin and the cured, with real points, fakes and "
        "the number that shows the failure.",
    )
    return panel


def draw_course(fig, axes, course, moment):
    """Failing and cured at a recorded moment (from 1; 0: none yet); returns the status line."""
    about = f"{course.failure}, seed {course.seed}"
    if moment == 0:
        for ax in axes:
            ax.set_axis_off()
        fig.suptitle(f"{about}: not trained yet", y=0.55)
        first = f" First, {course.head_start} moves of D alone." if course.head_start else ""
        return f"{about}: a new pair. Press Run to train it.{first}"
    for k, title in enumerate(("failing", "cured")):
        ax = axes[k]
        seen = course.tape[moment - 1][k]
        score = seen.discriminator(plotting.plane(40)).reshape(40, 40)
        plotting.draw_field(ax, torch.sigmoid(score))
        plotting.draw_points(ax, course.duels[k].real[:300], seen.fake, size=8)
        trail = torch.stack([kept[k].fake.mean(dim=0) for kept in course.tape[:moment]])
        ax.plot(*trail.T, color=plotting.INK, linewidth=1.0, alpha=0.7, zorder=6)
        ax.plot(*trail[-1], "o", color=plotting.INK, markersize=5, zorder=7)
        modes = ""
        if course.failure != "oscillation":
            if course.label != "modes covered":
                modes = f", {8 - len(seen.missed)} of 8 modes"
            missed = toy_modes("ring")[0][seen.missed]
            ax.scatter(*missed.T, s=170, facecolors="none", edgecolors=plotting.PINK, zorder=2)
        ax.set_title(f"{title}{modes}\n{course.label}: {seen.number:.3g}")
    return f"{about}: round {moment * course.rounds} of {course.moments * course.rounds}."
