"""The panels of 01b_gan_beyond.

two_numbers() plays the smallest GAN there is; dropped_mode() fits one bell to two, by four
divergences; earth_moving() carries fakes to data and prices the way; ask_for_a_digit() gives one
noise vector ten labels. The draw_... functions return still figures of the page.
"""

from __future__ import annotations

import math

import torch

from aigc_helpers import plotting
from aigc_helpers.data import toy_modes
from aigc_helpers.metrics import load_features, mode_count
from aigc_helpers.models.gan_beyond import (
    DIVERGENCES,
    RULES,
    divergences,
    game_matrix,
    log_normal,
    log_two_bells,
    price_function,
    trajectory,
    wasserstein_1d,
)
from aigc_helpers.panels.core import Panel, choice, frozen, slider
from aigc_helpers.plotting import ReusableFigure

# ---------------------------------------------------------------- two numbers

ROUNDS = 60  # that a trajectory shows
ARENA = 2.2  # half the side of the map


def two_numbers():
    """The smallest GAN: a fake at theta, a discriminator whose logit is the line psi x.

    What moves: the rule by which both step, the step size, the weight of the R1 penalty. What to
    see: simultaneous steps spiral out, alternating ones circle, extragradient and R1 spiral in; the
    eigenvalues of one round lie outside of the unit circle, on it, within.

    Mescheder 2018, arXiv 1801.04406. No network is trained.
    """
    margins = {"left": 0.09, "right": 0.98, "top": 0.88, "bottom": 0.15, "wspace": 0.3}
    figure = ReusableFigure(6.6, 3.4, margins, ncols=2)
    turn = torch.linspace(0, 2 * math.pi, 121)

    def draw(rule, eta, gamma):
        matrix = game_matrix(rule, eta, gamma)
        path = trajectory(matrix, ROUNDS)
        roots = torch.linalg.eigvals(matrix)
        largest = roots.abs().max().item()
        fig, (left, right) = figure.wipe()
        left.plot(*path.T, color=plotting.BLUE, linewidth=1.1, marker=".", markersize=3)
        left.plot(*path[0], "o", color=plotting.INK, markerfacecolor="none", markersize=8)
        left.plot(0, 0, "+", color=plotting.INK, markersize=11)
        edge = 0.97 * ARENA
        left.plot(*path[-1].clamp(-edge, edge), "o", color=plotting.ORANGE)
        left.set(xlim=(-ARENA, ARENA), ylim=(-ARENA, ARENA), aspect="equal")
        left.set(xlabel="θ: where the fake is", ylabel="ψ: slope of D")
        left.set_yticks([-2, -1, 0, 1, 2])
        left.set_title(f"{ROUNDS} rounds", fontsize=10)
        right.plot(turn.cos(), turn.sin(), color=plotting.GREY, linewidth=1.0)
        where, colour = side_of_circle(largest)
        right.plot(roots.real, roots.imag, "o", color=colour, markersize=5)
        right.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        right.set(xlabel="real part", ylabel="imaginary part", yticks=[-1, 0, 1])
        right.set_title(f"largest |λ| = {largest:.4f}: {where}", fontsize=10)
        distance = path[-1].norm().item()
        return fig, (
            f"Largest |eigenvalue| {largest:.4f}. After {ROUNDS} rounds: distance {distance:.3g} "
            "from the equilibrium, 1 at the start."
        )

    return Panel(
        "Two numbers",
        draw,
        controls={
            "rule": choice("rule", list(RULES)),
            "eta": slider("step size η", 0.02, 1.0, 0.2, step=0.02),
            "gamma": slider("R1 weight γ", 0.0, 6.0, 0.0, step=0.1),
        },
        presets={
            "Start": {"rule": "simultaneous", "eta": 0.2, "gamma": 0.0},
            "Half a unit of R1": {"rule": "alternating", "eta": 0.2, "gamma": 0.5},
            "Too much": {"rule": "alternating", "eta": 0.2, "gamma": 6.0},
        },
        frames=[
            ("Simultaneous steps", {}),
            ("Alternating steps", {"rule": "alternating"}),
            ("Extragradient", {"rule": "extragradient"}),
            ("Alternating steps, R1 weight 0.5", {"rule": "alternating", "gamma": 0.5}),
        ],
        alt="The path of two numbers over sixty rounds, and the two eigenvalues of one round beside "
        "the unit circle.",
    )


def side_of_circle(largest):
    """In words, and as a colour, where the largest eigenvalue of this size lies."""
    if largest > 1 + 1e-6:
        return "outside the circle", plotting.ORANGE
    if largest > 1 - 1e-6:
        return "on the circle", plotting.INK
    return "inside the circle", plotting.GREEN


# ---------------------------------------------------------------- a dropped mode

LINE = torch.linspace(-6.0, 6.0, 301, dtype=torch.float64)
CENTRES = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64)
LOG_WIDTHS = torch.linspace(math.log(0.25), math.log(2.5), 24, dtype=torch.float64)


def dropped_mode():
    """One bell of fakes, data with two: which divergence covers both, which drops one?

    What moves: the centre and the width of the fakes, the share of the right-hand bell, and the
    divergence that is drawn as a map. What to see: KL(p || q) and 2 JSD are least at a wide bell
    between both; KL(q || p) and 2 KL(m || p) at a narrow one on the larger.

    Nowozin 2016, arXiv 1606.00709, fits one bell to two by several divergences.
    """
    margins = {"left": 0.03, "right": 0.97, "top": 0.88, "bottom": 0.15, "wspace": 0.2}
    figure = ReusableFigure(6.8, 3.3, margins, ncols=2)
    known = {}  # the latest map, by what it was made for

    def find_map(name, share):
        if (name, share) not in known:
            known.clear()
            known[name, share] = divergence_map(name, share)
        return known[name, share]

    def draw(name, centre, width, share):
        values = find_map(name, share)
        least = find_least(name, share)
        log_p = log_two_bells(LINE, share)
        log_q = log_normal(LINE, centre, width)
        now = divergences(log_p, log_q, LINE)[name].item()
        fig, (left, right) = figure.wipe()
        left.fill_between(LINE.numpy(), log_p.exp().numpy(), color=plotting.REAL, alpha=0.3, label="p, data")
        left.plot(LINE.numpy(), log_q.exp().numpy(), color=plotting.FAKE, label="q, fakes")
        left.set(xlim=(-4, 4), ylim=(0, 1.15), yticks=[])
        left.legend(loc="upper right")
        left.set_title("densities", fontsize=10)
        extent = (*CENTRES[[0, -1]].tolist(), *LOG_WIDTHS[[0, -1]].tolist())
        shown = values.clamp_max(2 * values.min() + 1).numpy()
        smooth = {"interpolation": "bilinear"}
        right.imshow(shown, origin="lower", extent=extent, aspect="auto", cmap="Greys", **smooth)
        star = {"color": plotting.YELLOW, "markeredgecolor": plotting.INK, "markersize": 14}
        right.plot(least["centre"], math.log(least["width"]), "*", **star)
        right.plot(centre, math.log(width), "o", color=plotting.FAKE, markeredgecolor="white")
        widths = (0.25, 0.5, 1.0, 2.0)
        right.set_yticks([math.log(w) for w in widths], [f"{w:g}" for w in widths])
        right.set(xlabel="centre of the fakes", ylabel="width")
        right.set_title(f"{name}: light is low", fontsize=10)
        best = f"least {values.min():.3f} at centre {least['centre']:.1f}"
        return fig, f"{name} is {now:.3f} here; {best}, width {least['width']:.2f} (star)."

    def find_least(name, share):
        """The settings of the fakes at which a divergence is least."""
        values = find_map(name, share).round(decimals=9)  # of two that are as low, the left one
        row, column = divmod(values.argmin().item(), len(CENTRES))
        # On the sliders' steps: they would round it in the page, and the panel would draw again.
        centre = round(CENTRES[column].item(), 2)
        return {"name": name, "centre": centre, "width": round(LOG_WIDTHS[row].exp().item(), 2)}

    def go():
        panel.put(**find_least(panel.values["name"], panel.values["share"]))

    panel = Panel(
        "A dropped mode",
        draw,
        controls={
            "name": choice("divergence", list(DIVERGENCES), "2 JSD"),
            "centre": slider("centre", -3.0, 3.0, 0.5, step=0.05),
            "width": slider("width", 0.25, 2.5, 0.8, step=0.01),
            "share": slider("right-hand share", 0.05, 0.5, 0.5, step=0.05),
        },
        buttons={"To the least": go},
        frames=[
            (f"{name} at its least", lambda name=name: find_least(name, 0.5))
            for name in DIVERGENCES
        ],
        alt="The density of the data with two bells, that of the fakes with one, and a map of a "
        "divergence over the centre and width of the fakes with a star at its least value.",
    )
    return panel


def divergence_map(name, share):
    """A divergence at each width (rows) and centre (columns) of the fakes: (24, 25)."""
    log_p = log_two_bells(LINE, share)
    widths = LOG_WIDTHS.exp()[:, None, None]
    log_q = log_normal(LINE, CENTRES[:, None], widths)
    return divergences(log_p.expand_as(log_q), log_q, LINE)[name]


# ---------------------------------------------------------------- moving earth

NUM_HEAPS = 12


def earth_moving():
    """Twelve fakes are carried to twelve real samples on a line; a price function bounds the work.

    What moves: where the fakes are, how wide they lie, which fake goes to which real sample. What
    to see: the sorted pairing is the cheapest; the price function, with a slope of 1 or -1
    everywhere, has a gap of exactly that much; both go on growing with the distance.
    """
    margins = {"left": 0.09, "right": 0.98, "top": 0.92, "bottom": 0.07, "hspace": 0.45}
    figure = ReusableFigure(6.4, 3.8, margins, nrows=2, height_ratios=[1.3, 1])
    generator = torch.Generator().manual_seed(3)
    real = torch.randn(NUM_HEAPS, generator=generator, dtype=torch.float64) - 2.0
    noise = torch.randn(NUM_HEAPS, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    far_left = torch.full((1,), -6.0, dtype=torch.float64)
    far_right = torch.full((1,), 7.0, dtype=torch.float64)

    def draw(shift, spread, pairing):
        fake = shift + spread * noise
        order = order_of(fake, real, pairing)
        work = (fake[order] - real.sort().values).abs().mean().item()
        knots, prices = price_function(real, fake)
        prices = prices - (prices.max() + prices.min()) / 2  # only differences matter
        at_real = prices[torch.searchsorted(knots, real)]
        at_fake = prices[torch.searchsorted(knots, fake)]
        fig, (top, bottom) = figure.wipe()
        for start, end in zip(fake[order], real.sort().values, strict=True):
            top.plot([start, end], [0, 1], color=plotting.GREY, linewidth=1.0)
        top.plot(real, torch.ones(NUM_HEAPS), "o", color=plotting.REAL, markersize=6)
        top.plot(fake, torch.zeros(NUM_HEAPS), "x", color=plotting.FAKE, markersize=7)
        top.set(xlim=(-6, 7), ylim=(-0.2, 1.2))
        top.set_yticks([0, 1], ["fakes", "real"])
        top.set_title(f"work for each fake: {work:.2f}", fontsize=10)
        line = torch.cat([far_left, knots, far_right])
        flat_ends = torch.cat([prices[:1], prices, prices[-1:]])
        bottom.plot(line, flat_ends, color=plotting.GREEN)
        bottom.plot(real, at_real, "o", color=plotting.REAL, markersize=5)
        bottom.plot(fake, at_fake, "x", color=plotting.FAKE, markersize=6)
        bottom.set(xlim=(-6, 7), ylim=(-4.5, 4.5), yticks=[])
        gap = (at_real.mean() - at_fake.mean()).item()
        bottom.set_title(f"price function: mean at real minus at fakes {gap:.2f}", fontsize=10)
        least = wasserstein_1d(real, fake).item()
        return fig, f"Work {work:.2f}; the least is W = {least:.2f}; the price gap is {gap:.2f}."

    return Panel(
        "Moving earth",
        draw,
        controls={
            "shift": slider("shift", -4.0, 4.0, -2.0),
            "spread": slider("spread", 0.2, 2.0, 1.5),
            "pairing": choice("pairing", ["as drawn", "reversed", "sorted"]),
        },
        frames=[
            ("As drawn", {}),
            ("Reversed", {"pairing": "reversed"}),
            ("Sorted", {"pairing": "sorted"}),
            ("Sorted, fakes far from the data", {"shift": 4.0, "spread": 0.5}),
        ],
        alt="Twelve crosses and twelve dots on two lines, joined in pairs, above a zigzag price "
        "function.",
    )


def order_of(fake, real, pairing):
    """Which fake goes to the k-th smallest real sample."""
    if pairing == "sorted":
        return fake.argsort()
    if pairing == "reversed":
        return fake.argsort(descending=True)
    return real.argsort()


# ---------------------------------------------------------------- ask for a digit

STOPS = 9


def ask_for_a_digit(generator):
    """One noise vector, any label: choose the digit, walk the noise.

    What moves: the label, two noise vectors and the position between them. What to see: the label
    decides which digit is drawn; the noise decides the hand, its slant and its thickness, which the
    ten labels share.

    generator: a module (z (N, z_dim), labels (N,)) -> images (N, 1, 28, 28) in [-1, 1].
    Mirza & Osindero 2014, arXiv 1411.1784.
    """
    G = frozen(generator)
    with torch.random.fork_rng(devices=[]):  # the page's random numbers stay where they were
        classifier = load_features()
    margins = {"left": 0.02, "right": 0.98, "top": 0.92, "bottom": 0.02, "hspace": 0.35}
    figure = ReusableFigure(5.8, 3.9, margins, nrows=3, height_ratios=[2.6, 1, 1])

    def draw(digit, a, b, t):
        z_a = torch.randn(G.z_dim, generator=torch.Generator().manual_seed(a))
        z_b = torch.randn(G.z_dim, generator=torch.Generator().manual_seed(b))
        shares = torch.linspace(0, 1, STOPS)[:, None]
        walk = (1 - shares) * z_a + shares * z_b
        here = (1 - t) * z_a + t * z_b
        z = torch.cat([here[None], walk, here.expand(10, -1)])
        labels = torch.cat([torch.full((1 + STOPS,), digit), torch.arange(10)])
        images = G(z, labels)
        shares_read = classifier(images[:1].reshape(1, 1, 28, 28)).softmax(dim=1)[0]
        fig, (top, middle, bottom) = figure.wipe()
        plotting.draw_images(top, images[:1], 1, f"label {digit}, t = {t:.2f}")
        plotting.draw_images(middle, images[1 : 1 + STOPS], STOPS, "the same label along the way")
        column = 15 + t * (STOPS - 1) * 29  # in pixels of the strip
        middle.plot(column, 33, "^", color=plotting.ORANGE, markersize=8, clip_on=False)
        plotting.draw_images(bottom, images[1 + STOPS :], 10, "the same noise, all ten labels")
        read = shares_read.argmax().item()
        return fig, f"Asked for {digit}; the classifier reads {read} ({shares_read.max():.0%})."

    return Panel(
        "Ask for a digit",
        draw,
        controls={
            "digit": slider("digit", 0, 9, 3, step=1),
            "a": slider("from seed", 0, 99, 4, step=1),
            "b": slider("to seed", 0, 99, 11, step=1),
            "t": slider("t", 0.0, 1.0, 0.0, step=0.02),
        },
        frames=[
            ("A three", {}),
            ("The same noise, a seven", {"digit": 7}),
            ("A seven, other noise", {"t": 1.0}),
            ("A five, half-way", {"digit": 5, "t": 0.5}),
        ],
        alt="A large digit of the chosen label, a strip of nine along the way from one noise vector "
        "to another, and a strip of all ten labels with the same noise.",
    )


# ---------------------------------------------------------------- still figures


def draw_faults():
    """A dropped mode and a stray clump: densities above, what each adds to 2 KL(m || p) below."""
    fig, axes = plotting.figure(8.4, 4.2, ncols=2, nrows=2, sharex=True, sharey="row")
    two = log_two_bells(LINE, 0.1)
    one = log_normal(LINE, -1.5, 0.4)
    faults = {"a tenth of the data dropped": (two, one), "a tenth of the fakes stray": (one, two)}
    for (top, bottom), (title, (log_p, log_q)) in zip(axes.T, faults.items(), strict=True):
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        charge = 2 * log_m.exp() * (log_m - log_p)
        top.fill_between(LINE.numpy(), log_p.exp().numpy(), color=plotting.REAL, alpha=0.3, label="p, data")
        top.plot(LINE.numpy(), log_q.exp().numpy(), color=plotting.FAKE, label="q, fakes")
        top.plot(LINE.numpy(), log_m.exp().numpy(), "--", color=plotting.INK, linewidth=1.1, label="m, average")
        top.set_title(title)
        top.set(xlim=(-3.5, 3.5), yticks=[])
        bottom.fill_between(LINE.numpy(), charge.numpy(), color=plotting.PINK, alpha=0.6)
        bottom.axhline(0, color=plotting.GREY, linewidth=0.8)
        total = torch.trapezoid(charge, LINE).item()
        bottom.set_title(f"2 m log(m/p): area {total:.2f} nats", fontsize=10)
        bottom.set_xlabel("x")
    axes[0, 1].legend(loc="upper right")
    return fig


def draw_clouds(samples, shown=800):
    """A scatter plot for each entry of samples, name -> points (N, 2), with what is counted."""
    centres, sigma = toy_modes("grid")
    fig, axes = plotting.figure(2.25 * len(samples), 2.8, ncols=len(samples))
    for ax, (name, points) in zip(axes, samples.items(), strict=True):
        count = mode_count(points, centres, sigma, points)
        kind = "real" if name == "real data" else "fake"
        plotting.draw_points(ax, **{kind: points[:shown]}, size=3)
        plotting.square(ax, limit=2.25)
        short = name.replace("pairs + R1 + R2 (R3GAN)", "R3GAN's loss")
        near = f"{100 * count.quality.value:.0f} % near one"
        ax.set_title(f"{short}\n{count.covered.value} of 25 modes, {near}", fontsize=9)
    return fig


def draw_diagram():
    """The conditional GAN in boxes and arrows."""
    fig, ax = plotting.figure(8.2, 2.7, tight=False)
    ax.set_position([0, 0, 1, 1])
    ax.set(xlim=(0, 10), ylim=(0, 4))
    ax.set_axis_off()
    plain = {"ha": "center", "va": "center", "fontsize": 11}
    boxes = {
        "noise z": (0.9, 3.2, "white"),
        "label y": (0.9, 2.0, plotting.YELLOW),
        "real digit x\nand its label": (0.95, 0.7, "#CFE3F1"),
        "generator G": (3.3, 3.2, "#F8DCC4"),
        "fake G(z, y)": (5.5, 3.2, "#F8DCC4"),
        "discriminator D": (7.3, 2.0, "#DDDDD8"),
        "logit": (9.4, 2.0, "white"),
    }
    for text, (left, low, colour) in boxes.items():
        frame = {"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": plotting.GREY}
        ax.text(left, low, text, bbox=frame, **plain)
    arrows = [
        ((1.4, 3.2), (2.6, 3.2)),
        ((1.5, 2.2), (2.5, 2.9)),
        ((4.0, 3.2), (4.85, 3.2)),
        ((6.1, 2.85), (6.7, 2.4)),
        ((1.4, 2.0), (6.4, 2.0)),
        ((1.85, 0.8), (6.6, 1.6)),
        ((8.2, 2.0), (9.1, 2.0)),
    ]
    for start, end in arrows:
        style = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.2}
        ax.annotate("", xy=end, xytext=start, arrowprops=style)
    ax.text(4.2, 1.82, "the same label", ha="center", va="top", fontsize=9, color=plotting.INK)
    return fig
