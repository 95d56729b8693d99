"""The panels of 04b_diffusion_beyond: ways back with one density, and what guidance draws on a line.

two_ways()        trajectories of the ODE and of SDEs, and the histogram of the points at any time
guided_line()     p(x | y), the tilted density, and what guidance draws
few_evaluations() digits in 1, 2, 4 or more network evaluations, by three models
"""

from __future__ import annotations

import torch

from aigc_helpers import plotting
from aigc_helpers.models.diffusion import draw_digits
from aigc_helpers.models.diffusion_beyond import (
    Mixture,
    coefficients,
    draw_consistent,
    guided_score,
    ks_distance,
    predict_correct,
    simulate,
    tilted_log_prob,
)
from aigc_helpers.panels.core import Panel, choice, frozen, slider

NUM_POINTS = 2000
NUM_DRAWN = 12
SCHEDULE = "linear"
BARS = {"density": True, "color": plotting.SKY, "histtype": "stepfilled"}


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _even(num_steps):
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def _start(seed, num=NUM_POINTS):
    return torch.randn(num, 1, generator=_seeded(seed), dtype=torch.float64)


# ---------------------------------------------------------------- one density, many ways


def walk_of(mixture, noise_scale, steps, drift, seed):
    """All positions of the points from time 1 to time 0: a list of (N, 1)."""
    return simulate(
        mixture.score,
        _start(seed),
        _even(steps),
        SCHEDULE,
        noise_scale,
        _seeded(100 + seed),
        pull=drift == "noise and its drift",
        keep=True,
    )


def two_ways():
    """Trajectories from noise to three modes on a line, and a histogram of all points at any time.

    What moves: how much fresh noise is added (noise scale), whether its drift is added too, the number of
    steps, the time at which the histogram is taken, the seed.
    What to see: the trajectories change, the histogram does not, unless the drift is left out.
    Source: Song 2020, arXiv 2011.13456.
    """
    mixture = Mixture([[-1.5], [0.2], [1.4]], 0.25, [0.5, 0.2, 0.3])
    margins = {"left": 0.07, "right": 0.98, "top": 0.89, "bottom": 0.15, "wspace": 0.16}
    ratios = {"width_ratios": [1.5, 1.0]}
    page = plotting.ReusableFigure(7.4, 3.3, margins, ncols=2, gridspec_kw=ratios)
    line = torch.linspace(-4, 4, 201, dtype=torch.float64)[:, None]
    state = {"key": None, "walk": None}

    def walk(*key):
        if state["key"] != key:
            state.update(key=key, walk=walk_of(mixture, *key))
        return state["walk"]

    def draw(noise_scale, drift, steps, time, seed):
        points = walk(noise_scale, steps, drift, seed)
        times = _even(steps)
        k = round((1 - time) * steps)
        moment = times[k].item()
        level = coefficients(moment, SCHEDULE)
        fig, (left, right) = page.wipe()
        lines = torch.cat([x[:NUM_DRAWN] for x in points], dim=1).T
        left.plot(times, lines, linewidth=0.9)
        left.axvline(moment, color=plotting.INK, linestyle="--", linewidth=1.2)
        left.set(xlim=(1.0, 0.0), ylim=(-4, 4), xlabel="t")
        left.set_title(f"noise scale {noise_scale:g}, {drift}", fontsize=10)
        shown = points[k][:, 0].clamp(-4, 4)
        right.hist(shown, bins=64, range=(-4, 4), **BARS)
        right.plot(line, mixture.log_prob(line, *level).exp(), color=plotting.ORANGE)
        right.set(xlim=(-4, 4), ylim=(0, 0.95), yticks=[])
        right.set_title(f"all points at t = {moment:.2f}", fontsize=10)
        gap = ks_distance(points[k], mixture, *level)
        return fig, f"Largest gap between the points' shares and the curve's: {gap:.3f}."

    return Panel(
        "Two ways back",
        draw,
        controls={
            "noise_scale": slider("noise scale", 0.0, 2.0, 0.0, step=0.25),
            "drift": choice("what is added", ["noise and its drift", "noise alone"]),
            "steps": slider("steps", 10, 100, 60, step=10),
            "time": slider("time shown", 0.0, 1.0, 0.0, step=0.05),
            "seed": slider("seed", 0, 9, 0, step=1),
        },
        frames=[
            ("Noise scale 0", {"time": 0.3}),
            ("Noise scale 1", {"noise_scale": 1.0}),
            ("Noise scale 1, at the end", {"time": 0.0}),
            ("Noise alone", {"drift": "noise alone"}),
        ],
        alt="Trajectories of twelve points from noise to three modes, and a histogram of all points.",
    )


# ---------------------------------------------------------------- what guidance draws

TWO_CLASSES = ((-1.6,), (-0.4,), (0.4,), (1.6,))
WIDTH = 0.35
CHOSEN = [0, 1]
NUM_GUIDED = 1000


def draw_guided(w, noise_scale, steps, corrections, seed, mixture=None):
    """Points (N, 1) that guidance of scale w draws."""
    mixture = mixture or Mixture(TWO_CLASSES, WIDTH)
    score = guided_score(mixture.only(CHOSEN).score, mixture.score, w)
    x = _start(seed, NUM_GUIDED)
    random = _seeded(100 + seed)
    times = _even(steps)
    if not corrections:
        return simulate(score, x, times, SCHEDULE, noise_scale, random)
    return predict_correct(score, x, times, SCHEDULE, corrections, noise_scale, random)


def guided_line():
    """What classifier-free guidance draws from two classes on a line, beside the tilted density.

    What moves: the guidance w, the noise scale, the steps, Langevin steps after each, the seed.
    What to see: ODE and SDE draw different things, and neither is the tilted density; Langevin
    steps bring it about.
    Source: Ho & Salimans 2022, arXiv 2207.12598; Bradley & Nakkiran 2024, arXiv 2408.09000.
    """
    mixture = Mixture(TWO_CLASSES, WIDTH)
    labelled = mixture.only(CHOSEN)
    line = torch.linspace(-4.5, 3, 301, dtype=torch.float64)[:, None]
    margins = {"left": 0.03, "right": 0.98, "top": 0.9, "bottom": 0.12}
    page = plotting.ReusableFigure(6.6, 3.2, margins)

    def draw(w, noise_scale, steps, corrections, seed):
        x = draw_guided(w, noise_scale, steps, corrections, seed, mixture)
        tilted = tilted_log_prob(line, mixture, CHOSEN, w).exp()
        tilted = tilted / torch.trapezoid(tilted, line[:, 0])
        fig, ax = page.wipe()
        ax.hist(x[:, 0].clamp(-4.5, 3), bins=75, range=(-4.5, 3), **BARS)
        grey = {"color": plotting.GREY, "linewidth": 4, "alpha": 0.5}
        ax.plot(line, labelled.log_prob(line).exp(), label="p(x | y)", **grey)
        ax.plot(line, tilted, color=plotting.ORANGE, label="tilted density")
        ax.set(xlim=(-4.5, 3), ylim=(0, 1.9), yticks=[])
        ax.legend(loc="upper right")
        ax.set_title(f"w = {w:g}: what is drawn (histogram)", fontsize=10)
        mean = ((line[:, 0] * tilted).sum() / tilted.sum()).item()
        text = f"Mean of the points {x.mean():.2f}, of the tilted density {mean:.2f}"
        return fig, f"{text}; width of the points {x.std():.2f}."

    return Panel(
        "Guidance on a line",
        draw,
        controls={
            "w": slider("guidance w", 0.0, 6.0, 0.0, step=0.5),
            "noise_scale": slider("noise scale", 0.0, 1.0, 0.0, step=0.25),
            "steps": slider("steps", 10, 60, 40, step=10),
            "corrections": slider("Langevin steps", 0, 4, 0, step=1),
            "seed": slider("seed", 0, 9, 0, step=1),
        },
        presets={
            "The ODE": {"noise_scale": 0.0, "corrections": 0},
            "The SDE": {"noise_scale": 1.0, "corrections": 0, "steps": 60},
            "With corrections": {"noise_scale": 0.0, "corrections": 4, "steps": 40},
        },
        frames=[
            ("w = 0", {}),
            ("w = 3, ODE", {"w": 3.0}),
            ("w = 3, SDE", {"noise_scale": 1.0, "steps": 60}),
            ("w = 3, corrected", {"noise_scale": 0.0, "corrections": 4, "steps": 40}),
        ],
        alt="A histogram of guided samples on a line, beside two density curves.",
    )


# ---------------------------------------------------------------- few evaluations

NUM_DIGITS = 6  # of a class
NUM_NOISES = 3
EVALUATIONS = (1, 2, 4, 8)


def few_evaluations(teacher, reflowed, distilled):
    """Digits in few network evaluations, by a teacher, its reflowed and its distilled student.

    What moves: which model, how many evaluations, the class, the seed of the noise.
    What to see: in one evaluation the teacher draws soft, speckled digits, the students strokes.
    Source: Liu 2022, arXiv 2209.03003; Luhman & Luhman 2021, arXiv 2101.02388.
    """
    nets = {
        "teacher": frozen(teacher),
        "reflow": frozen(reflowed),
        "distilled": frozen(distilled),
    }
    margins = {"left": 0.01, "right": 0.99, "top": 0.9, "bottom": 0.01, "hspace": 0.2}
    page = plotting.ReusableFigure(6.4, 2.7, margins, nrows=2)
    label = torch.arange(10 * NUM_DIGITS) // NUM_DIGITS
    noises = []
    in_twenty = []
    for seed in range(NUM_NOISES):
        noises.append(torch.randn(len(label), 1, 28, 28, generator=_seeded(seed)))
        in_twenty.append(draw_digits(nets["teacher"], label, 20, eta=0.0, x=noises[seed]))

    def draw(model, evaluations, digit, seed):
        chosen = slice(digit * NUM_DIGITS, (digit + 1) * NUM_DIGITS)
        reference = in_twenty[seed][chosen]
        noise = noises[seed][chosen]
        if model == "distilled":
            random = _seeded(100 + seed)
            x = draw_consistent(nets[model], label[chosen], evaluations, noise, random)
        else:
            x = draw_digits(nets[model], label[chosen], evaluations, eta=0.0, x=noise)
        fig, (top, bottom) = page.wipe()
        count = f"{evaluations} evaluation{'s' if evaluations > 1 else ''}"
        plotting.draw_images(top, x, NUM_DIGITS)
        top.set_title(f"{model}, {count}", fontsize=10)
        plotting.draw_images(bottom, reference, NUM_DIGITS)
        bottom.set_title("teacher, 20 evaluations, from the same noise", fontsize=10)
        away = (x - reference).square().mean().sqrt().item()
        return fig, f"Root mean squared difference from the row below: {away:.2f}."

    return Panel(
        "Few evaluations",
        draw,
        controls={
            "model": choice("model", list(nets)),
            "evaluations": choice("evaluations", list(EVALUATIONS)),
            "digit": slider("digit", 0, 9, 7, step=1),
            "seed": slider("noise seed", 0, NUM_NOISES - 1, 0, step=1),
        },
        frames=[
            ("Teacher, 1", {}),
            ("Teacher, 4", {"evaluations": 4}),
            ("Reflow, 1", {"model": "reflow", "evaluations": 1}),
            ("Distilled, 1", {"model": "distilled"}),
        ],
        alt="A row of digits drawn in few evaluations above one drawn in twenty.",
    )
