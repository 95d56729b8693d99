"""The panels of 04_diffusion: noise put in, noise taken out, and what steers the way back.

forward_process()          a digit under noise, level by level, on five schedules
trajectories(run)          the paths of points from noise to a ring, by three samplers
denoised_estimate(...)     what the network takes the clean digit to be, at one level
sampling_steps(model)      the same noise through 5, 10, 20 and 50 network evaluations
guidance_scale(...)        what guidance does to accuracy and to variety
draw_and_finish(...)       a digit taken up to a noise level and back again
"""

from __future__ import annotations

import copy
import math

import torch

from aigc_helpers import plotting
from aigc_helpers.data import load_digits, to_signed, toy_modes
from aigc_helpers.models import diffusion
from aigc_helpers.models.diffusion import NO_LABEL, SAMPLERS, SCHEDULES, T
from aigc_helpers.panels.core import Panel, choice, frozen, slider

NUM_DIGITS = 20  # of the test digits, so many can be chosen


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _one_digit(digits, number):
    """Digit `number` of a set, (1, 1, 28, 28) in [-1, 1]."""
    return to_signed(digits.images[number : number + 1])


def _draw_noise_like(x, seed=0):
    return torch.randn(x.shape, generator=_seeded(seed))


# ---------------------------------------------------------------- the forward process


def forward_process():
    """A digit under noise: eq. (2), at any level of any schedule.

    What moves: the level t, the schedule, the digit and the noise.
    What to see: the digit drowns, the histogram of its pixels turns into the bell of pure noise, and
    a point slides down the schedule's curve of the signal-to-noise ratio. Schedules reach the same
    end at different speeds.
    Source: Ho 2020, arXiv 2006.11239; Nichol 2021, arXiv 2102.09672 (cosine).
    """
    digits = load_digits("test", verbose=False)
    paths = {name: diffusion.make_path(name) for name in SCHEDULES}
    decibels = {name: _signal_to_noise(path) for name, path in paths.items()}
    margins = {"left": 0.01, "right": 0.965, "top": 0.88, "bottom": 0.17, "wspace": 0.25}
    page = plotting.ReusableFigure(6.6, 2.5, margins, ncols=3)

    def draw(t, schedule, number, seed):
        x0 = _one_digit(digits, number)
        x = diffusion.diffuse(x0, t, _draw_noise_like(x0, seed), paths[schedule])
        fig, (left, middle, right) = page.wipe()
        left.imshow(x[0, 0].clamp(-2, 2).numpy(), cmap="gray", vmin=-2, vmax=2)
        left.set(xticks=[], yticks=[], title=f"x at t = {t}")
        _draw_pixels(middle, x)
        _draw_ratio(right, decibels[schedule], t)
        signal = paths[schedule].signal[t]
        noise = paths[schedule].noise[t]
        return fig, f"x = {signal:.3f} digit + {noise:.3f} noise."

    return Panel(
        "Forward process",
        draw,
        controls={
            "t": slider("level t", 0, T, 300, step=10),
            "schedule": choice("schedule", list(SCHEDULES), "cosine"),
            "number": slider("digit", 0, NUM_DIGITS - 1, 0, step=1),
            "seed": slider("noise seed", 0, 9, 0, step=1),
        },
        frames=[
            ("Cosine, t = 300", {}),
            ("Linear, t = 300", {"schedule": "linear"}),
            ("Cosine, t = 700", {"schedule": "cosine", "t": 700}),
            (f"Cosine, t = {T}", {"t": T}),
        ],
        alt="A digit under noise, the histogram of its pixels beside a bell curve, and the "
        "schedule's signal-to-noise curve.",
    )


def _signal_to_noise(path):
    """The signal-to-noise ratio (T,) of levels 1 to T in decibels, cut off at +-45."""
    return (20 * (path.signal / path.noise).log10()).clamp(-45, 45)[1:]


def _draw_pixels(ax, x):
    """The histogram of a picture's pixels, and the density of pure noise."""
    height, edges = torch.histogram(x.flatten(), bins=40, range=(-4.0, 4.0), density=True)
    grid = torch.linspace(-4, 4, 80)
    bell = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    ax.fill_between(
        edges[:-1], height.clamp(max=1.2), step="post", color=plotting.BLUE, linewidth=0
    )
    ax.plot(grid, bell, color=plotting.ORANGE, linewidth=1.2)
    ax.set(ylim=(0, 1.2), xticks=[-2, 0, 2], yticks=[], title="its pixels; pure noise")


def _draw_ratio(ax, decibels, t):
    """The curve of a schedule, with a point at level t."""
    t = max(t, 1)
    ax.plot(range(1, T + 1), decibels, color=plotting.BLUE)
    ax.plot([t], [decibels[t - 1]], "o", color=plotting.ORANGE, clip_on=False, zorder=5)
    ax.set(xlim=(0, T), ylim=(-45, 45), xticks=[0, 500, T], yticks=[-40, 0, 40])
    ax.set(xlabel="t", title="signal to noise, dB")


# ---------------------------------------------------------------- trajectories


HEUN = "ODE by Heun"
LEARNT = "network"
EXACT = "exact score"


def trajectories(run):
    """Points on their way from noise to a ring of eight Gaussians.

    Args:
        run: a trained `ToyRun` on the ring; the panel trains a copy of its own.

    What moves: the sampler, eta, the number of steps, the moment of the way that is shown, and
    whether the network or the exact score denoises. Run trains the panel's network on, 20 steps a
    tick; New network starts afresh.
    What to see: the trajectories of eta = 0 are smooth curves, those of eta = 1 random walks; a few
    steps are too coarse, and end between the modes.
    Source: Song 2020, arXiv 2010.02502 (DDIM); Karras 2022, arXiv 2206.00364 (Heun).
    """
    state = _Trajectories(run)
    margins = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.01}
    page = plotting.ReusableFigure(5.0, 4.6, margins)

    def draw(sampler, eta, num_steps, moment, denoiser):
        points = state.sample(sampler == HEUN, eta, num_steps, denoiser)
        now = min(num_steps, round(moment * num_steps))
        fig, ax = page.wipe()
        _draw_trajectories(ax, state, points[: now + 1], max(1, state.levels[now]), denoiser)
        ax.set_title(f"{sampler}, {num_steps} steps: after {now}", fontsize=10)
        evaluations = 2 * num_steps - 1 if sampler == HEUN else num_steps
        near = f"at the end {100 * state.share_near_modes():.0f} % lie on the ring's modes"
        return fig, f"{evaluations} network evaluations; {near}. Training step {state.step}."

    def start_afresh():
        state.start_afresh()
        panel.put(denoiser=LEARNT)

    panel = Panel(
        "Trajectories",
        draw,
        controls={
            "sampler": choice("sampler", ["DDPM / DDIM (eta)", HEUN]),
            "eta": slider("eta", 0.0, 1.0, 0.0),
            "num_steps": slider("steps", 2, 50, 20, step=1),
            "moment": slider("moment", 0.0, 1.0, 1.0, step=0.05),
            "denoiser": choice("denoise by", [LEARNT, EXACT]),
        },
        buttons={"New network": start_afresh},
        tick=state.train,
        frames=[
            ("eta = 0 (DDIM), 20 steps", {}),
            ("eta = 1 (DDPM), 20 steps", {"eta": 1.0}),
            ("eta = 0, 4 steps", {"eta": 0.0, "num_steps": 4}),
            ("The exact score, half-way", {"num_steps": 20, "moment": 0.5, "denoiser": EXACT}),
        ],
        alt="Trajectories of points from noise to a ring of eight modes, over arrows of the score.",
    )
    return panel


class _Trajectories:
    """What the panel owns: a network in training, and the points of the last sampling."""

    def __init__(self, run):
        self.run = copy.deepcopy(run)
        self.centres, self.sigma = toy_modes("ring")
        self.start = torch.randn(400, 2, generator=_seeded(5))
        self.levels = []  # of the points below
        self.points = []
        self.made_for = None

    @property
    def step(self):
        return len(self.run.losses)

    def train(self):
        self.run.train(20)

    def start_afresh(self):
        self.run = diffusion.ToyRun(seed=self.step % 7 + 1)

    def denoise(self, x, t, denoiser):
        """(x0, eps) at level t for points x (N, 2)."""
        if denoiser == EXACT:
            return diffusion.mixture_guess(x, t, self.run.path, self.centres, self.sigma)
        return self.run.guess(x, t)

    def sample(self, heun, eta, num_steps, denoiser):
        """The points (400, 2) after each step; made anew only if something else was asked for before."""
        eta = 0.0 if heun else eta
        asked = (heun, eta, num_steps, denoiser, self.run, self.step)
        if asked != self.made_for:
            self.levels = diffusion.sampling_levels(T, num_steps)
            self.points = diffusion.sample(
                lambda x, t: self.denoise(x, t, denoiser),
                self.start,
                self.run.path,
                num_steps,
                eta,
                heun,
                _seeded(6),
                keep=True,
            )
            self.made_for = asked
        return self.points

    def share_near_modes(self):
        """The share of the final points within three widths of a mode."""
        nearest = torch.cdist(self.points[-1], self.centres).min(dim=1).values
        return (nearest < 3 * self.sigma).float().mean().item()


def _draw_trajectories(ax, state, points, t, denoiser):
    """24 trajectories and the present points of all 400, over the score at level t."""
    grid = plotting.plane(12, 3.0)
    score = -state.denoise(grid, t, denoiser)[1]
    plotting.draw_arrows(ax, grid, score, plotting.SKY, 0.13)
    ways = torch.stack(points)[:, :24]
    ax.plot(*ways.movedim(2, 0), color=plotting.GREY, linewidth=0.8)
    plotting.draw_points(ax, fake=points[-1])
    plotting.square(ax, 3.0)


# ---------------------------------------------------------------- the denoised estimate


ERROR_LEVELS = (20, *range(100, T, 100), T)


def denoised_estimate(model, digits):
    """What the network takes the clean digit and the noise to be, from one look at a noisy digit.

    Args:
        model: a trained `UNet` that predicts the velocity on the straight path.
        digits: `Digits` that it has not seen; a hundred of them give the curve of the error.

    What moves: the level t, and the digit.
    What to see: near the data the estimate is right; then it may be sharp and wrong; near pure noise
    it is a mean over digits, as eq. (3) says.
    """
    model = frozen(model)
    path = diffusion.make_path("straight")

    def denoise(x0, t, seed):
        x = diffusion.diffuse(x0, t, _draw_noise_like(x0, seed), path)
        label = torch.full((len(x),), NO_LABEL)
        with torch.no_grad():
            return x, *diffusion.guesser(model, path, "velocity", label)(x, t)

    many = to_signed(digits.images[:100])
    errors = [_mean_square(denoise(many, t, t)[1] - many) for t in ERROR_LEVELS]
    margins = {"left": 0.01, "right": 0.965, "top": 0.86, "bottom": 0.2, "wspace": 0.1}
    widths = [1, 1, 1, 0.25, 1]
    page = plotting.ReusableFigure(6.6, 2.2, margins, ncols=5, width_ratios=widths)

    def draw(t, number):
        x0 = _one_digit(digits, number)
        x, estimate, noise = denoise(x0, t, seed=0)
        error = _mean_square(estimate - x0)
        fig, axes = page.wipe()
        axes[3].set_axis_off()
        _draw_picture(axes[0], x, 2, f"x at t = {t}")
        _draw_picture(axes[1], noise, 2, "estimated noise")
        _draw_picture(axes[2], estimate, 1, "estimated digit")
        _draw_errors(axes[4], errors, t, error)
        return fig, f"Squared error of the estimated digit: {error:.3f}."

    return Panel(
        "Denoised estimate",
        draw,
        controls={
            "t": slider("level t", 20, T, 500, step=20),
            "number": slider("digit", 0, NUM_DIGITS - 1, 0, step=1),
        },
        frames=[(f"t = {t}", {"t": t}) for t in (300, 700, 900, T)],
        alt="A noisy digit, the model's estimates of the noise and of the digit, and the error "
        "against the level.",
    )


def _mean_square(x):
    return x.square().mean().item()


def _draw_picture(ax, image, limit, title):
    """One picture (1, 1, 28, 28), black at -limit and white at limit."""
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=-limit, vmax=limit)
    ax.set(xticks=[], yticks=[], title=title)


def _draw_errors(ax, errors, t, error):
    """The mean error against the level, and this digit's error as a point."""
    ax.plot(ERROR_LEVELS, errors, color=plotting.BLUE)
    ax.plot([t], [min(error, 0.5)], "o", color=plotting.ORANGE, clip_on=False, zorder=5)
    ax.set(xlim=(0, T), ylim=(0, 0.5), xticks=[0, 500, T], yticks=[0, 0.25, 0.5])
    ax.set(xlabel="t", title="squared error")


# ---------------------------------------------------------------- sampling steps


EVALUATIONS = (5, 10, 20, 50)


def sampling_steps(model):
    """Ten digits from the same noise, with 5, 10, 20 and 50 network evaluations (NFE).

    Args:
        model: a trained `UNet` that predicts the velocity on the straight path.

    What moves: the sampler. New noise draws all of it again.
    What to see: without fresh noise (DDIM, Heun) a column holds the same digit at any number of
    evaluations, more and more exactly; with it (DDPM) each row is another sample.
    """
    model = frozen(model)
    path = diffusion.make_path("straight")
    label = torch.arange(10)
    generator = _seeded(7)
    drawn = {}  # sampler -> one tensor (10, 1, 28, 28) for each number of evaluations

    def draw_anew():
        noise = torch.randn(10, 1, 28, 28, generator=generator)
        for name, settings in SAMPLERS.items():
            drawn[name] = [
                diffusion.draw_digits(
                    model,
                    label,
                    path,
                    diffusion.steps_for(evaluations, **settings),
                    x=noise,
                    generator=_seeded(),
                    **settings,
                )
                for evaluations in EVALUATIONS
            ]

    margins = {"left": 0.12, "right": 0.99, "top": 0.9, "bottom": 0.01}
    page = plotting.ReusableFigure(6.2, 2.9, margins)

    def draw(sampler):
        rows = drawn[sampler]
        fig, ax = page.wipe()
        _draw_rows(ax, rows)
        ax.set_title(f"{sampler}: the same noise in each column", fontsize=10)
        apart = [_mean_square(x - rows[-1]) ** 0.5 for x in rows[:-1]]
        parts = [f"{d:.2f} ({k} NFE)" for k, d in zip(EVALUATIONS, apart, strict=False)]
        return fig, f"Distance a pixel from the row of 50 NFE: {', '.join(parts)}."

    draw_anew()
    return Panel(
        "Sampling steps (NFE)",
        draw,
        controls={"sampler": choice("sampler", list(SAMPLERS), "DDIM")},
        buttons={"New noise (about 3 s)": draw_anew},
        frames=[(name, {"sampler": name}) for name in ("DDIM", "DDPM")],
        alt="Four rows of ten digits drawn from the same noise with 5, 10, 20 and 50 network "
        "evaluations.",
    )


def _draw_rows(ax, rows):
    """One row of ten digits for each number of evaluations."""
    ax.imshow(plotting.tile(torch.cat(rows), 10), cmap="gray", vmin=0, vmax=1, aspect="auto")
    for row, evaluations in enumerate(EVALUATIONS):
        ax.text(-4, 29 * row + 14, f"{evaluations} NFE", ha="right", va="center", fontsize=9)
    ax.set_axis_off()


# ---------------------------------------------------------------- the guidance scale


def guidance_scale(samples, accuracy, variety):
    """Ten drawings of a digit at a guidance scale, and what the scale does to all ten digits.

    Args:
        samples: dict of the scale w -> 100 pictures (100, 1, 28, 28) in [-1, 1], ten for each digit,
            in the digits' order.
        accuracy: for each scale, the share of its pictures that a classifier reads as ordered.
        variety: for each scale, how far apart the pictures of one digit are.

    What moves: the digit, and w.
    What to see: more guidance makes pictures that are easier to read, and more alike.
    Source: Ho & Salimans 2022, arXiv 2207.12598.
    """
    samples = dict(samples)
    scales = list(samples)
    accuracy = list(accuracy)
    share = [value / variety[0] for value in variety]  # of the variety at the first scale
    margins = {"left": 0.01, "right": 0.98, "top": 0.88, "bottom": 0.2, "wspace": 0.15}
    page = plotting.ReusableFigure(6.6, 2.6, margins, ncols=2, width_ratios=[1.8, 1])

    def draw(digit, w):
        index = scales.index(w)
        pictures = samples[w][10 * digit : 10 * (digit + 1)]
        fig, (left, right) = page.wipe()
        plotting.draw_images(left, pictures, 5, f"digit {digit}, w = {w:g}")
        right.plot(accuracy, "o-", color=plotting.BLUE, label="read as ordered")
        right.plot(share, "s--", color=plotting.ORANGE, label="variety, against w = 0")
        right.axvline(index, color=plotting.GREY, linewidth=1)
        right.set(ylim=(0, 1.3), xlabel="w", title="all ten digits")
        right.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        right.legend(fontsize=8)
        told = f"Read as ordered: {100 * accuracy[index]:.0f} %"
        return fig, f"{told}; variety {100 * share[index]:.0f} % of that without guidance."

    return Panel(
        "Guidance scale",
        draw,
        controls={
            "digit": slider("digit", 0, 9, 4, step=1),
            "w": choice("guidance w", {f"{scale:g}": scale for scale in scales}, scales[0]),
        },
        frames=[(f"w = {w:g}", {"w": w}) for w in (0.0, 1.0, 8.0)],
        alt="Ten drawings of a digit at a guidance scale, and curves of accuracy and variety "
        "against the scale.",
    )


# ---------------------------------------------------------------- draw and finish


def draw_and_finish(model, digits):
    """A digit is noised to a level and denoised from there, six times: SDEdit.

    Args:
        model: a trained `UNet` that predicts the velocity on the straight path.
        digits: `Digits`; one of the first 20 can be chosen.

    What moves: the digit, the level that it is taken to, and the label that it comes back with.
    Finish draws six results, each with fresh noise.
    What to see: the higher the level, the less of the given digit is left in what comes back.
    Source: Meng 2021, arXiv 2108.01073.
    """
    model = frozen(model)
    path = diffusion.make_path("straight")
    generator = _seeded()
    state = {"results": None, "made_for": None}

    def finish(number, t, label):
        x0 = _one_digit(digits, number).expand(6, -1, -1, -1)
        wanted = torch.full((6,), NO_LABEL if label is None else label)
        state["results"] = diffusion.finish(model, x0, wanted, path, t, generator=generator)
        state["made_for"] = (number, t, label)
        return {"number": number, "t": t, "label": label}

    margins = {"left": 0.01, "right": 0.99, "top": 0.88, "bottom": 0.02, "wspace": 0.05}
    page = plotting.ReusableFigure(6.4, 2.5, margins, ncols=2, width_ratios=[1.35, 2])

    def draw(number, t, label):
        x0 = _one_digit(digits, number)
        x = diffusion.diffuse(x0, t, _draw_noise_like(x0, t), path).clamp(-1, 1)
        asked = "without a label" if label is None else f"as a {label}"
        fig, (left, right) = page.wipe()
        title = f"digit {int(digits.labels[number])}; at t = {t}"
        plotting.draw_images(left, torch.cat([x0, x]), 2, title)
        if state["made_for"] != (number, t, label):
            plotting.draw_images(right, torch.full((6, 1, 28, 28), -0.8), 3, "press Finish")
            return fig, f"Press Finish: six ways to go on {asked}, about a second."
        plotting.draw_images(right, state["results"], 3, "finished by the model")
        return fig, f"Six results {asked}."

    start = {"number": _first_one(digits), "t": 700, "label": 7}

    def reset():
        generator.manual_seed(0)
        finish(**start)

    labels = {"no label": None} | {str(k): k for k in range(10)}
    panel = Panel(
        "Draw and finish",
        draw,
        controls={
            "number": slider("digit", 0, NUM_DIGITS - 1, start["number"], step=1),
            "t": slider("level t", 0, 950, start["t"], step=50),
            "label": choice("finish as", labels, start["label"]),
        },
        buttons={"Finish": lambda: finish(**panel.values)},
        frames=[
            (f"A one, to become a seven, from t = {t}", lambda t=t: finish(**start | {"t": t}))
            for t in (500, 700, 800, 950)
        ],
        reset=reset,
        alt="A digit, the digit under noise, and six ways in which the model finishes it.",
    )
    return panel


def _first_one(digits):
    """The number of the first 1 among those that can be chosen; 0 if there is none."""
    found = (digits.labels[:NUM_DIGITS] == 1).nonzero()
    return found[0].item() if len(found) else 0
