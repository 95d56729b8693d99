"""The panels and pictures of 04_diffusion: noise put in, noise taken out, and what steers the way back.

diffusion_diagram()    the whole chapter in one picture
forward_process()      a digit under noise, at any time of three schedules
way_back()             noise on its way to a digit, by the network that comes with the series
two_points_picture()   noisy numbers, the mean of what may be behind them, and the slope
where_from()           a noisy point: what may be behind it, their mean, and the score
ddim_picture(...)      one step of the sampler in the plane
trajectories(...)      points on their way from noise to a ring
crossing_picture(...)  straight lines that cross, and the flow of their mean velocity
loss_weights()         what an error of the estimate weighs in the loss of each target
unet_shapes()          the shapes on the way through the U-Net
block_parts()          what a block of the U-Net does, in its order
denoised_estimate(...) what the network takes the clean digit to be, at one time
sampling_steps(model)  the same noise through 5, 10, 20 and 50 network evaluations
trade_off(rows)        recall and accuracy of each sampler, by its number of evaluations
guidance_scale(...)    what guidance does to accuracy and to variety
finished_rows(...)     what comes back from each time that a digit was noised to
draw_and_finish(...)   a drawing of your own, noised and denoised
clinic(...)            five clouds of points, one from a healthy model and four from sick ones
"""

from __future__ import annotations

import copy
import math

import torch

from aigc_helpers import plotting
from aigc_helpers.data import load_digits, load_embedded_digits, to_signed, toy_2d, toy_modes
from aigc_helpers.metrics import energy_distance, load_features
from aigc_helpers.models import diffusion
from aigc_helpers.models.diffusion import NO_LABEL, RECTIFIED_FLOW, SCHEDULES
from aigc_helpers.panels.core import Panel, choice, frozen, slider
from aigc_helpers.panels.pad import SKETCHES, make_pad, rasterize
from aigc_helpers.weights import load_model

NUM_DIGITS = 20  # of the test digits, so many can be chosen


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _one_digit(digits, number):
    """Digit `number` of a set, (1, 1, 28, 28) in [-1, 1]."""
    return to_signed(digits.images[number : number + 1])


def _draw_noise_like(x, seed=0):
    return torch.randn(x.shape, generator=_seeded(seed))


def _mean_square(x):
    return x.square().mean().item()


def _draw_picture(ax, image, limit, title):
    """One image (1, 1, 28, 28), black at -limit and white at limit."""
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=-limit, vmax=limit)
    ax.set(xticks=[], yticks=[], title=title)


# ---------------------------------------------------------------- the chapter in one picture


DIAGRAM_TIMES = (0, 2, 4, 6, 8)  # of the eight steps whose states are shown, from noise on
GOOD = 5  # a seed whose five is a good one


def diffusion_diagram():
    """Figure: a digit goes to noise by a formula, noise comes back to a digit by a network."""
    fig, ax = plotting.canvas(3.3)
    digit = to_signed(load_embedded_digits("train").images[4:5])
    noise = torch.randn(1, 1, 28, 28, generator=_seeded(8))
    back, drawn = finished_digits()
    for k in range(5):
        left = 0.15 + 1.12 * k
        noisy = diffusion.diffuse(digit, k / 4, noise, RECTIFIED_FLOW)
        _draw_sheet(fig, left, 2.0, 0.8, noisy, 1, f"t = {k / 4:g}")
        _draw_sheet(fig, left, 0.25, 0.8, back[4 - k], 1, "")
        if k < 4:
            _draw_arrow(ax, (left + 0.82, 2.4), (left + 1.1, 2.4), plotting.GREY)
            _draw_arrow(ax, (left + 1.1, 0.65), (left + 0.82, 0.65), plotting.GREEN)
    ax.text(2.79, 1.62, "forward: noise is added, by a formula", ha="center", color=plotting.INK)
    words = "backward: a network estimates the digit, and a part of the noise is removed"
    ax.text(2.79, 1.25, words, ha="center", color=plotting.INK, fontsize=9)
    sheet = _draw_sheet(fig, 5.95, 0.25, 2.7, drawn, 6, "drawn by the network of section 8")
    for number in misread(drawn, torch.arange(36) % 10):
        _frame_tile(sheet, number, 6)
    return fig


def misread(images, label):
    """The numbers of those images that the classifier of chapter 01 reads as another digit."""
    with torch.no_grad():
        seen = load_features()(images).argmax(dim=1)
    return (seen != label).nonzero().flatten().tolist()


def _frame_tile(ax, number, ncols):
    """A frame around one tile of `plotting.draw_images`."""
    from matplotlib.patches import Rectangle

    row, column = divmod(number, ncols)
    corner = (29 * column + 0.5, 29 * row + 0.5)
    ax.add_patch(Rectangle(corner, 28, 28, fill=False, edgecolor=plotting.ORANGE, linewidth=1.8))


def finished_digits():
    """Five states of a digit on its way from noise, and 36 digits drawn to order, by the kept model.

    Black while `assets/` holds no weights for it: they are made by the page that shows this.
    """
    black = torch.full((36, 1, 28, 28), -1.0)
    try:
        model = load_model("diffusion")
    except (ValueError, RuntimeError):
        return [black[:1]] * 5, black
    kept = diffusion.draw_digits(model, torch.tensor([5]), num_steps=8, generator=_seeded(GOOD), keep=True)
    label = torch.arange(36) % 10
    drawn = diffusion.draw_digits(model, label, num_steps=20, generator=_seeded(4))
    return [kept[k] for k in DIAGRAM_TIMES], drawn


def _draw_sheet(fig, x, y, side, images, ncols, title):
    """Images in an axes of their own, a square with its lower left corner at x, y."""
    width, height = fig.get_size_inches()
    ax = fig.add_axes([x / width, y / height, side / width, side / height])
    plotting.draw_images(ax, images.clamp(-1, 1), ncols)
    ax.set_title(title, fontsize=10, pad=4)
    return ax


def _draw_arrow(ax, start, end, colour, size=10):
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    arrow["mutation_scale"] = size
    ax.annotate("", xy=end, xytext=start, arrowprops=arrow)


# ---------------------------------------------------------------- the forward process


def forward_process():
    """A digit under noise: eq. (1), at any time of any schedule.

    What moves: the time t, the schedule, the digit and the noise.
    What to see: the digit drowns, the histogram of its pixels turns into the bell of pure noise, and
    a point slides down the schedule's curve of the signal-to-noise ratio. Schedules reach the same
    end at different speeds.
    Source: Ho 2020, arXiv 2006.11239; Nichol 2021, arXiv 2102.09672 (cosine).
    """
    digits = load_digits("test", verbose=False)
    schedules = {name: diffusion.make_schedule(name) for name in SCHEDULES}
    curves = {name: _signal_to_noise(schedule) for name, schedule in schedules.items()}
    margins = {"left": 0.01, "right": 0.965, "top": 0.88, "bottom": 0.17, "wspace": 0.25}
    page = plotting.ReusableFigure(6.6, 2.5, margins, ncols=3)

    def draw(t, schedule, number, seed):
        x0 = _one_digit(digits, number)
        x = diffusion.diffuse(x0, t, _draw_noise_like(x0, seed), schedules[schedule])
        fig, (left, middle, right) = page.wipe()
        left.imshow(x[0, 0].clamp(-2, 2).numpy(), cmap="gray", vmin=-2, vmax=2)
        left.set(xticks=[], yticks=[], title=f"x at t = {t:.2f}")
        _draw_pixels(middle, x)
        _draw_ratio(right, curves[schedule], t)
        alpha = schedules[schedule].alpha(t)
        sigma = schedules[schedule].sigma(t)
        return fig, f"x = {alpha:.3f} digit + {sigma:.3f} noise."

    return Panel(
        "Forward process",
        draw,
        controls={
            "t": slider("time t", 0.0, 1.0, 0.3, step=0.01),
            "schedule": choice("schedule", list(SCHEDULES)),
            "number": slider("digit", 0, NUM_DIGITS - 1, 0, step=1),
            "seed": slider("noise seed", 0, 9, 0, step=1),
        },
        frames=[
            ("Rectified flow, t = 0.4", {"t": 0.4}),
            ("Linear, t = 0.4", {"schedule": "linear"}),
            ("Rectified flow, t = 0.65", {"schedule": "rectified flow", "t": 0.65}),
            ("Cosine, t = 0.7", {"schedule": "cosine", "t": 0.7}),
        ],
        alt="A digit under noise, the histogram of its pixels beside a bell curve, and the "
        "schedule's signal-to-noise curve.",
    )


CURVE_TIMES = torch.linspace(0.005, 1, 200)


def _signal_to_noise(schedule):
    """The signal-to-noise ratio at CURVE_TIMES in decibels, cut off at +-45."""
    ratio = schedule.alpha(CURVE_TIMES).clamp_min(1e-6) / schedule.sigma(CURVE_TIMES)
    return (20 * ratio.log10()).clamp(-45, 45)


def _draw_pixels(ax, x):
    """The histogram of an image's pixels, and the density of pure noise."""
    height, edges = torch.histogram(x.flatten(), bins=40, range=(-4.0, 4.0), density=True)
    grid = torch.linspace(-4, 4, 80)
    bell = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    ax.fill_between(edges[:-1], height.clamp(max=1.2), step="post", color=plotting.BLUE, linewidth=0)
    ax.plot(grid, bell, color=plotting.ORANGE, linewidth=1.2)
    ax.set(ylim=(0, 1.2), xticks=[-2, 0, 2], yticks=[], title="its pixels; pure noise")


def _draw_ratio(ax, decibels, t):
    """The curve of a schedule, with a point at time t."""
    nearest = (CURVE_TIMES - t).abs().argmin()
    ax.plot(CURVE_TIMES, decibels, color=plotting.BLUE)
    ax.plot([t], [decibels[nearest]], "o", color=plotting.ORANGE, clip_on=False, zorder=5)
    ax.set(xlim=(0, 1), ylim=(-45, 45), xticks=[0, 0.5, 1], yticks=[-40, 0, 40])
    ax.set(xlabel="t", title="signal to noise, dB")


# ---------------------------------------------------------------- noise on its way to a digit


WAY_STEPS = 8


def way_back():
    """Pure noise on its way to a digit, in eight steps of DDIM, by the network whose weights are kept.

    What moves: the digit that is asked for, the first noise, and the step that is shown.
    What to see: at each step the network estimates the digit from what there is, and an eighth of the
    noise is exchanged for it. The first estimate is a blur; the last is the digit.
    """
    model = load_model("diffusion")
    kept = {}  # (digit, seed) -> the states and the estimates
    margins = {"left": 0.01, "right": 0.99, "top": 0.86, "bottom": 0.02, "wspace": 0.08}
    page = plotting.ReusableFigure(6.0, 2.3, margins, ncols=3)

    def travel(digit, seed):
        label = torch.tensor([digit])
        noise = torch.randn(1, 1, 28, 28, generator=_seeded(seed))
        network = diffusion.denoiser(model, RECTIFIED_FLOW, "velocity", label, clip=True)
        estimates = []

        def denoise(x, t):
            estimates.append(network(x, t))
            return estimates[-1]

        states = diffusion.sample(denoise, noise, RECTIFIED_FLOW, WAY_STEPS, keep=True)
        return states, estimates

    def draw(digit, seed, step):
        if (digit, seed) not in kept:
            kept[digit, seed] = travel(digit, seed)
        states, estimates = kept[digit, seed]
        t = 1 - step / WAY_STEPS
        fig, axes = page.wipe()
        _draw_picture(axes[0], states[step], 1 + t, f"step {step}: t = {t:.2f}")
        if step < WAY_STEPS:
            _draw_picture(axes[1], estimates[step], 1, "the network's estimate")
        else:
            axes[1].set_axis_off()
        _draw_picture(axes[2], states[-1], 1, "where it ends")
        left = WAY_STEPS - step
        return fig, f"{left} steps to go." if left else "Nothing is left to remove."

    return Panel(
        "From noise to a digit",
        draw,
        controls={
            "digit": slider("draw a", 0, 9, 3, step=1),
            "seed": slider("noise seed", 0, 19, 11, step=1),
            "step": slider("step", 0, WAY_STEPS, 0, step=1),
        },
        frames=[(f"Step {step}", {"step": step}) for step in (0, 2, 4, 7)],
        alt="A picture on its way from noise to a digit, the network's estimate of the digit at this "
        "step, and the digit at which it ends.",
    )


# ---------------------------------------------------------------- what may be behind a noisy number


SPOTS = {  # time -> noisy samples whose arrows are long enough to be seen there, and 0.3
    0.2: (-2.0, -1.2, -0.4, 0.3, 1.1, 1.8),
    0.5: (-2.0, -1.4, -0.9, 0.3, 1.1, 1.8),
    0.8: (-2.0, -1.2, -0.6, 0.3, 1.0, 1.8),
}


def two_points_picture():
    """Figure: data -1 and 1; at three times E[x_0 | x_t], and arrows from x_t to alpha times it."""
    centres = torch.tensor([[-1.0], [1.0]])
    grid = torch.linspace(-2.5, 2.5, 241)[:, None]
    fig, axes = plotting.figure(8.6, 4.3, ncols=3, nrows=2, height_ratios=[1.5, 1], sharex=True)
    for column, (t, values) in enumerate(SPOTS.items()):
        top, low = axes[0][column], axes[1][column]
        alpha = RECTIFIED_FLOW.alpha(t)
        mean = diffusion.mixture_denoise(grid, t, RECTIFIED_FLOW, centres, 0.0)
        bells = torch.exp(-((grid - alpha * centres.T) ** 2) / (2 * RECTIFIED_FLOW.sigma(t) ** 2))
        density = bells.sum(dim=1) / bells.sum(dim=1).max()
        top.plot([-2.5, 2.5], [-2.5, 2.5], color=plotting.GREY, linewidth=0.8, linestyle=":", label="x_t itself")
        top.plot(grid, mean, color=plotting.ORANGE, label="estimate of x_0")
        top.set(ylim=(-1.3, 1.3), yticks=[-1, 0, 1], title=f"t = {t:g}")
        low.fill_between(grid[:, 0], density, color="#DCEAF4", label="density of x_t (height not to scale)")
        spots = torch.tensor(values)[:, None]
        estimate = diffusion.mixture_denoise(spots, t, RECTIFIED_FLOW, centres, 0.0)
        for k, (x, end) in enumerate(zip(spots[:, 0], alpha * estimate[:, 0], strict=True)):
            y = 0.92 - 0.16 * k
            low.plot([x], [y], "x", color=plotting.INK, markersize=6, label="x_t" if k == 0 else None)
            _draw_arrow(low, (x.item(), y), (end.item(), y), plotting.GREEN, size=6)
            if (t, values[k]) == (0.5, 0.3):
                low.text(0.55, y, f"from 0.3 to {end:.3f}", va="center", fontsize=8)
        low.plot([], [], color=plotting.GREEN, label="from x_t to alpha times the estimate")
        low.set(xlim=(-2.5, 2.5), ylim=(0, 1.05), xlabel="x_t", yticks=[])
    handles = [pair for ax in axes[:, 0] for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    fig.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return fig


# ---------------------------------------------------------------- what may be behind a noisy point


def where_from():
    """A noisy point in the plane, what may be behind it, the mean of that, and the score.

    What moves: the point, and the time t.
    What to see: with little noise one centre is behind the point, and the estimate is that centre;
    with much noise all are, and the estimate is the middle. The score points from x_t to alpha
    times the estimate: eq. (3).
    """
    centres, width = toy_modes("ring")
    data = toy_2d("ring", 400, _seeded(2))
    eps = torch.randn(400, 2, generator=_seeded(3))
    margins = {"left": 0.01, "right": 0.99, "top": 0.99, "bottom": 0.01}
    page = plotting.ReusableFigure(4.6, 4.6, margins)

    def draw(first, second, t):
        x = torch.tensor([[first, second]])
        alpha = RECTIFIED_FLOW.alpha(t)
        shares = diffusion.mixture_shares(x, t, RECTIFIED_FLOW, centres, width)[0]
        estimate = diffusion.mixture_denoise(x, t, RECTIFIED_FLOW, centres, width)
        score = diffusion.score_from(x, estimate, t, RECTIFIED_FLOW)[0]
        fig, ax = page.wipe()
        noisy = diffusion.diffuse(data, t, eps, RECTIFIED_FLOW)
        ax.scatter(*noisy.T, s=5, color=plotting.SKY, linewidths=0, zorder=1)
        ax.scatter(*centres.T, s=20 + 500 * shares, color=plotting.BLUE, zorder=2)
        towards = alpha * estimate[0] - x[0]
        plotting.draw_arrows(ax, x, towards[None], plotting.GREEN)
        ax.plot(*x[0], "X", color=plotting.INK, markersize=11, zorder=6)
        ax.plot(*estimate[0], "*", color=plotting.ORANGE, markersize=18, zorder=6)
        plotting.square(ax, 3.0)
        likely = int((shares > 0.05).sum())
        told = f"Centres with more than 5 %: {likely}. Estimate ({estimate[0, 0]:.2f}, "
        told += f"{estimate[0, 1]:.2f}), score ({score[0]:.2f}, {score[1]:.2f})."
        return fig, told

    return Panel(
        "Where did it come from?",
        draw,
        controls={
            "first": slider("x, to the right", -2.5, 2.5, 1.0),
            "second": slider("x, upwards", -2.5, 2.5, 0.6),
            "t": slider("time t", 0.05, 1.0, 0.5, step=0.05),
        },
        frames=[
            ("t = 0.2", {"t": 0.2}),
            ("t = 0.5", {"t": 0.5}),
            ("t = 0.7", {"t": 0.7}),
            ("t = 1", {"t": 1.0}),
        ],
        alt="A black cross, the noisy point; blue discs, the centres, as large as they are probable; "
        "an orange star, the mean of what may be behind the point; a green arrow along the score.",
    )


# ---------------------------------------------------------------- one step of the sampler


def ddim_picture(t=0.7, s=0.4):
    """Figure: a point at time t, its estimate, the noise in it, and where eq. (5) and (6) take it."""
    centres, width = toy_modes("ring")
    x = torch.tensor([[1.25, 1.3]])
    estimate = diffusion.mixture_denoise(x, t, RECTIFIED_FLOW, centres, width)
    new = diffusion.ddim_step(x, estimate, t, s, RECTIFIED_FLOW)
    many = diffusion.ddim_step(x.expand(60, 2), estimate.expand(60, 2), t, s, RECTIFIED_FLOW, 1.0, _seeded())
    shrunk = RECTIFIED_FLOW.alpha(s) * estimate[0]
    fig, ax = plotting.figure(7.4, 3.9, tight=False)
    fig.subplots_adjust(0.01, 0.01, 0.53, 0.99)
    ax.scatter(*centres.T, s=40, color=plotting.BLUE, label="the data's eight centres")
    ax.plot(0, 0, "+", color=plotting.BLUE, markersize=9, label="the middle of the ring")
    ax.plot(*torch.cat([estimate, x]).T, ":", color=plotting.GREY, linewidth=1)
    ax.plot(*x[0], "X", color=plotting.INK, markersize=11, label=f"x at t = {t:g}")
    ax.plot(*estimate[0], "*", color=plotting.ORANGE, markersize=16, label="estimate of x_0", zorder=6)
    words = f"{1 - s:g} times the estimate"
    ax.plot(*shrunk, "*", color=plotting.ORANGE, markersize=14, fillstyle="none", label=words, zorder=6)
    ax.plot(*new[0], "o", color=plotting.INK, markersize=8, label=f"x at s = {s:g}, eta = 0")
    words = f"x at s = {s:g}, eta = 1, sixty times"
    ax.scatter(*many.T, s=7, color=plotting.GREEN, linewidths=0, zorder=1, label=words)
    plotting.square(ax, 2.1)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return fig


# ---------------------------------------------------------------- trajectories


LEARNT = "network"
EXACT = "exact mean"


def trajectories(net=None):
    """Points on their way from noise to a ring of eight Gaussians.

    Args:
        net: a trained `VelocityNet`; the panel trains a copy of its own. Without one, the exact mean
            E[x_0 | x_t] denoises.

    What moves: eta, the number of steps, the moment of the way that is shown, and, with a network,
    who denoises. Run trains the panel's network on, 20 steps a tick; New network starts afresh.
    What to see: the trajectories of eta = 0 are smooth curves, those of eta = 1 random walks; a few
    steps are too coarse.
    Source: Song 2020, arXiv 2010.02502 (DDIM); Ho 2020, arXiv 2006.11239 (DDPM).
    """
    state = _Trajectories(net)
    margins = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.01}
    page = plotting.ReusableFigure(4.8, 4.6, margins)

    def draw(eta, num_steps, moment, denoise_by=EXACT):
        points = state.sample(eta, num_steps, denoise_by)
        now = min(num_steps, round(moment * num_steps))
        t = 1 - now / num_steps
        fig, ax = page.wipe()
        arrows_at = max(0.02, t)
        _draw_trajectories(ax, state, points[: now + 1], arrows_at, denoise_by, eta)
        title = f"eta = {eta:g}, {num_steps} steps: points at t = {t:.2f}, arrows at t = {arrows_at:.2f}"
        ax.set_title(title, fontsize=9)
        near = f"At the end {100 * state.share_near_modes():.0f} % lie on the ring's modes."
        trained = "" if net is None else f" Training step {state.step}."
        return fig, near + trained

    controls = {
        "eta": slider("eta", 0.0, 1.0, 0.0),
        "num_steps": slider("steps", 1, 50, 20, step=1),
        "moment": slider("moment", 0.0, 1.0, 1.0, step=0.05),
    }
    frames = [
        ("eta = 0 (DDIM), 20 steps", {}),
        ("eta = 1 (DDPM), 20 steps", {"eta": 1.0}),
        ("eta = 0, 3 steps", {"eta": 0.0, "num_steps": 3}),
        ("eta = 0, half-way", {"num_steps": 20, "moment": 0.5}),
    ]
    alt = "Trajectories of points from noise to a ring of eight modes, over arrows of the score."
    if net is None:
        return Panel("Trajectories", draw, controls=controls, frames=frames, alt=alt)

    def start_afresh():
        state.start_afresh()
        panel.put(denoise_by=LEARNT)

    panel = Panel(
        "Trajectories of a network",
        draw,
        controls=controls | {"denoise_by": choice("denoise by", [LEARNT, EXACT])},
        buttons={"New network": start_afresh},
        tick=state.train,
        frames=[(f"After {k} steps of training", lambda k=k: state.train_anew(k)) for k in (0, 40, 100, 1000)],
        reset=state.put_back,
        alt=alt,
    )
    return panel


class _Trajectories:
    """What the panel owns: a network in training, and the points of the last sampling."""

    def __init__(self, net):
        self.centres, self.width = toy_modes("ring")
        self.start = torch.randn(400, 2, generator=_seeded(5))
        self.data = toy_2d("ring", 8192, _seeded(4))
        self.generator = _seeded(9)
        self.points = []
        self.given = net
        self.put_back()

    def put_back(self):
        """Start again from a copy of the network that was given."""
        self.generator.manual_seed(9)
        self.step = 0
        self.tries = 0
        self.made_for = None
        net = self.given
        self.take(net if net is None else copy.deepcopy(net).cpu().requires_grad_(True))

    def train_anew(self, num_steps):
        """A new network after so many steps: what the storyboard shows."""
        self.generator.manual_seed(9)
        self.tries = 0
        self.made_for = None
        self.start_afresh()
        while self.step < num_steps:
            self.train()
        return {"denoise_by": LEARNT}

    def take(self, net):
        self.net = net
        if net is not None:
            self.opt = torch.optim.Adam(net.parameters(), lr=5e-3)

    @torch.enable_grad()
    def train(self):
        for _ in range(20):
            chosen = torch.randint(len(self.data), (256,), generator=self.generator)
            diffusion.flow_step(self.net, self.opt, self.data[chosen], self.generator)
        self.step += 20

    def start_afresh(self):
        self.tries += 1
        self.step = 0
        with torch.random.fork_rng(devices=[]):  # other random numbers stay as they are
            torch.manual_seed(self.tries % 7)
            self.take(diffusion.VelocityNet())

    def denoise(self, x, t, denoise_by):
        """The estimate of x_0 at time t for points x (N, 2)."""
        if denoise_by == EXACT:
            return diffusion.mixture_denoise(x, t, RECTIFIED_FLOW, self.centres, self.width)
        return diffusion.denoiser(self.net, RECTIFIED_FLOW)(x, t)

    @torch.no_grad()
    def sample(self, eta, num_steps, denoise_by):
        """The points (400, 2) after each step; made anew only if something else was asked before."""
        asked = (eta, num_steps, denoise_by, self.tries, self.step)
        if asked != self.made_for:

            def denoise(x, t):
                return self.denoise(x, t, denoise_by)

            self.points = diffusion.sample(denoise, self.start, RECTIFIED_FLOW, num_steps, eta, _seeded(6), keep=True)
            self.made_for = asked
        return self.points

    def share_near_modes(self):
        """The share of the final points within three widths of a mode."""
        nearest = torch.cdist(self.points[-1], self.centres).min(dim=1).values
        return (nearest < 3 * self.width).float().mean().item()


PATHS = (plotting.BLUE, plotting.GREEN, plotting.PINK, plotting.INK, plotting.AMBER)


def _draw_trajectories(ax, state, points, t, denoise_by, eta):
    """A few trajectories and the present points of all 400, over the score at time t."""
    grid = plotting.plane(12, 3.0)
    with torch.no_grad():
        estimate = state.denoise(grid, t, denoise_by)
    score = t * diffusion.score_from(grid, estimate, t, RECTIFIED_FLOW)
    short = score / (score.norm(dim=1, keepdim=True) / 2.5).clamp_min(1)
    plotting.draw_arrows(ax, grid, short, plotting.SKY, 0.13)
    ways = torch.stack(points)
    plotting.draw_points(ax, fake=points[-1])
    if eta == 0:
        ax.plot(*ways[:, :24].movedim(2, 0), color=plotting.GREY, linewidth=0.9)
        ax.plot(*ways[0, :24].T, ".", color=plotting.GREY, markersize=4)
    else:
        for k, colour in enumerate(PATHS):
            ax.plot(*ways[:, k].T, color=colour, linewidth=1.2, zorder=6)
            ax.plot(*ways[0, k], "o", color=colour, markersize=5, zorder=6)
    plotting.square(ax, 3.0)


# ---------------------------------------------------------------- crossing lines, and their mean


def crossing_picture(lines, flow, x_lines, x_flow, times):
    """Figure: straight lines (K, 2) from noise to data, trajectories of the flow (S, K), histograms.

    x_lines, x_flow: samples of x_t at each of `times`, of the lines and of the flow.
    """
    fig, axes = plotting.figure(8.8, 2.6, ncols=2 + len(times))
    axes[0].plot([1, 0], lines.flip(1).T, color=plotting.GREY, linewidth=0.7)
    axes[0].set(title="lines, x_0 to eps", xlabel="t", ylim=(-3, 3))
    steps = torch.linspace(1, 0, len(flow))
    axes[1].plot(steps, flow, color=plotting.ORANGE, linewidth=0.7)
    axes[1].set(title="mean velocity", xlabel="t", ylim=(-3, 3), yticks=[])
    bins = torch.linspace(-3, 3, 41)
    for ax, t, a, b in zip(axes[2:], times, x_lines, x_flow, strict=True):
        ax.hist(a, bins=bins, density=True, color=plotting.GREY, alpha=0.5)
        ax.hist(b, bins=bins, density=True, color=plotting.ORANGE, histtype="step", linewidth=1.4)
        ax.set(title=f"x at t = {t:g}", yticks=[], xticks=[-2, 0, 2])
    return fig


# ---------------------------------------------------------------- the targets


def loss_weights(name="cosine"):
    """Figure: for each target, what an error of the estimate weighs in the loss, by time: 1 over eq. (15)."""
    schedule = diffusion.make_schedule(name)
    t = torch.linspace(0.03, 0.97, 95)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    lines = {
        "noise, eps": (alpha**2 / sigma**2, plotting.ORANGE, "-"),
        "data, x0": (torch.ones_like(t), plotting.BLUE, "--"),
        "v": ((alpha**2 + sigma**2) ** 2 / sigma**2, plotting.GREEN, "-"),
        "velocity": ((alpha + sigma) ** 2 / sigma**2, plotting.PINK, "-."),
    }
    fig, ax = plotting.figure(6.4, 2.9)
    for label, (weight, colour, dash) in lines.items():
        ax.plot(t, weight, dash, color=colour, label=label)
    ax.set_yscale("log")
    ax.set(xlim=(0, 1), ylim=(0.003, 400), yticks=[0.01, 0.1, 1, 10, 100], xlabel="t")
    ax.set_yticklabels(["0.01", "0.1", "1", "10", "100"])
    ax.minorticks_off()
    ax.set_title(f"weight of an error of the estimate ({name} schedule)", fontsize=10)
    ax.legend(frameon=False)
    return fig


# ---------------------------------------------------------------- the U-Net


def unet_shapes(c=48):
    """Figure: the shapes of an image on its way through the U-Net, and what joins it."""
    fig, ax = plotting.canvas(3.85)
    boxes = [
        (0.05, 1.75, 0.95, "x\n1 × 28²", plotting.GREY),
        (1.2, 1.75, 1.5, f"unshuffle: 4 × 14²\nconv: {c} × 14²", plotting.GREY),
        (2.95, 1.75, 1.2, f"Block\n{c} × 14²", plotting.BLUE),
        (3.0, 0.25, 2.75, f"Block, Attention, Block\n{2 * c} × 7²", plotting.BLUE),
        (4.95, 1.75, 1.2, f"Block\n{c} × 14²", plotting.BLUE),
        (6.4, 1.75, 1.6, "conv: 4 × 14²\nshuffle: 1 × 28²", plotting.GREY),
        (2.35, 3.0, 4.2, "e: the time embedding through an MLP,\nplus the embedding of the label", plotting.GREEN),
    ]
    for x, y, width, words, colour in boxes:
        _draw_box(ax, x, y, width, words, colour)
    arrows = [
        ((1.02, 2.1), (1.18, 2.1)),
        ((2.72, 2.1), (2.93, 2.1)),
        ((3.4, 1.73), (3.4, 0.97)),
        ((5.4, 0.97), (5.4, 1.73)),
        ((4.17, 2.1), (4.93, 2.1)),
        ((6.17, 2.1), (6.38, 2.1)),
        ((8.02, 2.1), (8.3, 2.1)),
    ]
    for start, end in arrows:
        _draw_arrow(ax, start, end, plotting.INK)
    for start, end in (((3.55, 2.98), (3.55, 2.47)), ((5.55, 2.98), (5.55, 2.47)), ((4.55, 2.98), (4.55, 0.97))):
        _draw_arrow(ax, start, end, plotting.GREEN)
    ax.text(4.34, 2.18, "skip", ha="center", fontsize=9)
    ax.text(3.32, 1.3, "down: conv,\nstride 2", ha="right", va="center", fontsize=9)
    ax.text(5.5, 1.3, "up: conv,\nshuffle", ha="left", va="center", fontsize=9)
    ax.text(8.35, 2.1, "out", ha="left", va="center", fontsize=9)
    return fig


def block_parts():
    """Figure: what `Block` does to h, in its order, and where the embedding e comes in."""
    fig, ax = plotting.canvas(2.1)
    parts = ["norm", "SiLU", "conv 3×3", "norm", "× (1 + scale)\n+ shift", "SiLU", "conv 3×3"]
    widths = [0.7, 0.65, 0.9, 0.7, 1.2, 0.65, 0.9]
    x = 0.55
    for words, width in zip(parts, widths, strict=True):
        _draw_arrow(ax, (x - 0.24, 0.95), (x - 0.02, 0.95), plotting.INK)
        colour = plotting.GREEN if "scale" in words else plotting.BLUE
        _draw_box(ax, x, 0.6, width, words, colour)
        if "scale" in words:
            _draw_arrow(ax, (x + width / 2, 1.78), (x + width / 2, 1.32), plotting.GREEN)
            ax.text(x + width / 2, 1.85, "e, through a linear layer", ha="center", fontsize=9)
        x += width + 0.26
    _draw_arrow(ax, (x - 0.24, 0.95), (x - 0.02, 0.95), plotting.INK)
    ax.text(0.15, 0.95, "h", ha="center", va="center", fontsize=11)
    ax.text(x + 0.12, 0.95, "+", ha="center", va="center", fontsize=15)
    ax.plot([0.15, 0.15, x + 0.12], [0.75, 0.25, 0.25], color=plotting.INK, linewidth=1.5)
    _draw_arrow(ax, (x + 0.12, 0.24), (x + 0.12, 0.78), plotting.INK)
    ax.text(4.2, 0.32, "shortcut", ha="center", fontsize=9)
    _draw_arrow(ax, (x + 0.25, 0.95), (x + 0.5, 0.95), plotting.INK)
    return fig


def _draw_box(ax, x, y, width, words, colour):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.0,rounding_size=0.1"
    box = FancyBboxPatch((x, y), width, 0.7, style, facecolor="white", edgecolor=colour, linewidth=2)
    ax.add_patch(box)
    ax.text(x + width / 2, y + 0.35, words, ha="center", va="center", fontsize=9)


# ---------------------------------------------------------------- the denoised estimate


ERROR_TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def denoised_estimate(model, digits):
    """What the network takes the clean digit and the noise to be, in one evaluation.

    Args:
        model: a trained `UNet` that predicts the velocity of rectified flow.
        digits: `Digits` that it has not seen; fifty of them give the curve of the error.

    What moves: the time t, and the digit.
    What to see: near the data the estimate is right; then it may be sharp and wrong; near pure noise
    it is a mean over digits, as eq. (2) says.
    """
    model = frozen(model)

    def denoise(x0, t, seed):
        x = diffusion.diffuse(x0, t, _draw_noise_like(x0, seed), RECTIFIED_FLOW)
        label = torch.full((len(x),), NO_LABEL)
        with torch.no_grad():
            x0_hat = diffusion.denoiser(model, RECTIFIED_FLOW, "velocity", label)(x, t)
        eps_hat = (x - RECTIFIED_FLOW.alpha(t) * x0_hat) / RECTIFIED_FLOW.sigma(t)
        return x, x0_hat, eps_hat

    many = to_signed(digits.images[:50])
    of_mean = _mean_square(to_signed(digits.images).mean(dim=0) - many)
    errors = [_mean_square(denoise(many, t, 7)[1] - many) for t in ERROR_TIMES]
    margins = {"left": 0.01, "right": 0.965, "top": 0.86, "bottom": 0.2, "wspace": 0.1}
    widths = [1, 1, 1, 0.25, 1]
    page = plotting.ReusableFigure(6.6, 2.2, margins, ncols=5, width_ratios=widths)

    def draw(t, number):
        x0 = _one_digit(digits, number)
        x, x0_hat, eps_hat = denoise(x0, t, seed=0)
        error = _mean_square(x0_hat - x0)
        fig, axes = page.wipe()
        axes[3].set_axis_off()
        _draw_picture(axes[0], x, 2, f"x at t = {t:.2f}")
        _draw_picture(axes[1], eps_hat, 2, "estimated noise")
        _draw_picture(axes[2], x0_hat, 1, "estimated digit")
        _draw_errors(axes[4], errors, of_mean, t, error)
        return fig, f"Mean squared error of the estimated digit: {error:.3f}."

    return Panel(
        "Denoised estimate",
        draw,
        controls={
            "t": slider("time t", 0.02, 1.0, 0.5, step=0.02),
            "number": slider("digit", 0, NUM_DIGITS - 1, 0, step=1),
        },
        frames=[(f"t = {t:g}", {"t": t}) for t in (0.3, 0.7, 0.9, 1.0)],
        alt="A noisy digit, the model's estimates of the noise and of the digit, and the error against the time.",
    )


def _draw_errors(ax, errors, of_mean, t, error):
    """The mean error against the time, that of the mean image (dotted), and this digit's as a point."""
    ax.axhline(of_mean, color=plotting.GREY, linewidth=1, linestyle=":")
    ax.plot(ERROR_TIMES, errors, color=plotting.BLUE)
    ax.plot([t], [min(error, 0.5)], "o", color=plotting.ORANGE, clip_on=False, zorder=5)
    ax.set(xlim=(0, 1), ylim=(0, 0.5), xticks=[0, 0.5, 1], yticks=[0, 0.25, 0.5])
    ax.set(xlabel="t", title="squared error")


# ---------------------------------------------------------------- sampling steps


EVALUATIONS = (5, 10, 20, 50)
SAMPLERS = {"DDIM (eta = 0)": 0.0, "DDPM (eta = 1)": 1.0}


def sampling_steps(model):
    """Ten digits from the same noise, with 5, 10, 20 and 50 network evaluations (NFE).

    Args:
        model: a trained `UNet` that predicts the velocity of rectified flow.

    What moves: the sampler. New noise draws all of it again.
    What to see: without fresh noise (DDIM) a column holds the same digit at any number of
    evaluations, more and more exactly; with it (DDPM) each row is another sample.
    """
    model = frozen(model)
    label = torch.arange(10)
    generator = _seeded(7)
    drawn = {}  # sampler -> one tensor (10, 1, 28, 28) for each number of evaluations

    def draw_anew():
        noise = torch.randn(10, 1, 28, 28, generator=generator)
        for name, eta in SAMPLERS.items():
            drawn[name] = [diffusion.draw_digits(model, label, k, eta, _seeded(), noise) for k in EVALUATIONS]

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
    names = list(SAMPLERS)
    return Panel(
        "Sampling steps (NFE)",
        draw,
        controls={"sampler": choice("sampler", names)},
        buttons={"New noise (about 3 s)": draw_anew},
        frames=[(name, {"sampler": name}) for name in names],
        alt="Four rows of ten digits drawn from the same noise with 5, 10, 20 and 50 network evaluations.",
    )


def _draw_rows(ax, rows):
    """One row of ten digits for each number of evaluations."""
    ax.imshow(plotting.tile(torch.cat(rows), 10), cmap="gray", vmin=0, vmax=1, aspect="auto")
    for row, evaluations in enumerate(EVALUATIONS):
        ax.text(-4, 29 * row + 14, f"{evaluations} NFE", ha="right", va="center", fontsize=9)
    ax.set_axis_off()


def trade_off(rows):
    """Figure: one curve a sampler, recall across and accuracy up, a point for each number of evaluations.

    rows: dict of "SAMPLER, EVALUATIONS" -> {"accuracy", "recall"}, as texts that begin with the mean;
    a row without an accuracy is the floor, a vertical line.
    """
    fig, ax = plotting.figure(6.4, 3.3)
    marks = {  # sampler -> its line, its colour, where its labels stand
        "DDIM": ("o-", plotting.BLUE, {"xytext": (-8, -4), "ha": "right", "va": "top"}),
        "DDPM": ("s-", plotting.ORANGE, {"xytext": (6, 5)}),
    }
    for sampler, (mark, colour, where) in marks.items():
        names = [name for name in rows if name.startswith(sampler)]
        recall = [float(rows[name]["recall"].split()[0]) for name in names]
        accuracy = [float(rows[name]["accuracy"].split()[0]) for name in names]
        ax.plot(recall, accuracy, mark, color=colour, label=f"{sampler}, evaluations (FID)")
        for name, across, up in zip(names, recall, accuracy, strict=True):
            words = f"{name.split(', ')[1]} ({rows[name]['FID'].split()[0]})"
            ax.annotate(words, (across, up), textcoords="offset points", fontsize=9, **where)
    floor = next(float(row["recall"]) for row in rows.values() if not row.get("accuracy"))
    ax.axvline(floor, color=plotting.GREY, linewidth=1, linestyle=":", label="recall of real digits")
    ax.set(xlim=(0.56, 0.9), ylim=(0.86, 0.98), xlabel="recall", ylabel="read as ordered")
    ax.legend(frameon=False, loc="lower left", fontsize=9)
    return fig


# ---------------------------------------------------------------- the guidance scale


def guidance_scale(samples, accuracy, variety):
    """Ten drawings of a digit at a guidance scale, and what the scale does to all ten digits.

    Args:
        samples: dict of the scale w -> 100 images (100, 1, 28, 28) in [-1, 1], ten for each digit,
            in the digits' order.
        accuracy: for each scale, the share of its images that a classifier reads as ordered.
        variety: for each scale, how far apart the images of one digit are.

    What moves: the digit, and w.
    What to see: more guidance makes images that are easier to read, and more alike.
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
        images = samples[w][10 * digit : 10 * (digit + 1)]
        fig, (left, right) = page.wipe()
        plotting.draw_images(left, images, 5, f"digit {digit}, w = {w:g}")
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
        frames=[(f"w = {w:g}", {"w": w}) for w in (scales[0], scales[2], scales[-1])],
        alt="Ten drawings of a digit at a guidance scale, and curves of accuracy and variety against the scale.",
    )


# ---------------------------------------------------------------- draw and finish


def finished_rows(rows):
    """Figure: rows of images, each (N, 1, 28, 28), with the time of the row at its left.

    rows: dict of the time t -> images in [-1, 1].
    """
    fig, ax = plotting.figure(6.6, 0.6 * len(rows), tight=False)
    fig.subplots_adjust(0.12, 0.01, 0.99, 0.99)
    images = list(rows.values())
    ax.imshow(plotting.tile(torch.cat(images), len(images[0])), cmap="gray", vmin=0, vmax=1)
    for row, t in enumerate(rows):
        ax.text(-6, 29 * row + 14, f"t = {t:g}", ha="right", va="center", fontsize=10)
    ax.set_axis_off()
    return fig


AS_READ = "what the classifier reads"
NUM_FINISHED = 6


def draw_and_finish(model, reader, vae, digits, use_pad=True):
    """A drawing of your own: a classifier reads it, a VAE rebuilds it, the model finishes it: SDEdit.

    Args:
        model: a trained `UNet` that predicts the velocity of rectified flow.
        reader: the classifier of `metrics.load_features`.
        vae: a trained `ConvVAE`.
        digits: `Digits`; where anywidget is not installed, one of the first 20 is the drawing.
        use_pad: False shows that list in any case.

    What moves: the drawing, the time that it is noised to, and the label that it comes back with.
    Finish draws six results, each with fresh noise, guided by w; Clear empties the pad.
    What to see: the higher the time, the less of the drawing is left in what comes back.
    Source: Meng 2021, arXiv 2108.01073.
    """
    state = _Finisher(frozen(model), frozen(reader), frozen(vae), digits)
    first = SKETCHES["a seven"]
    pad = make_pad(first) if use_pad else None
    start = {"t": 0.7, "label": AS_READ, "w": 0}
    if pad is None:
        start["number"] = 0
        controls = {"number": slider("digit", 0, NUM_DIGITS - 1, 0, step=1)}
    else:
        start["drawing"] = first
        controls = {"drawing": pad}
    labels = {AS_READ: AS_READ, "no label": None} | {str(k): k for k in range(10)}
    controls |= {
        "t": slider("noise to t", 0.0, 1.0, start["t"], step=0.05),
        "label": choice("finish as", labels, AS_READ),
        "w": slider("guidance w", 0, 4, 0, step=1),
    }
    margins = {"left": 0.01, "right": 0.99, "top": 0.9, "bottom": 0.12, "wspace": 0.12, "hspace": 0.4}
    page = plotting.ReusableFigure(6.0, 4.3, margins, ncols=3, nrows=2)

    def draw(t, label, w, **given):
        state.look(**given)
        fig, axes = page.wipe()
        _draw_picture(axes[0][0], state.image, 1, "your drawing")
        _draw_reading(axes[0][1], state.reading)
        _draw_picture(axes[0][2], state.rebuilt, 1, "rebuilt by the VAE of 02")
        _draw_picture(axes[1][0], state.noised(t), 1, f"noised to t = {t:.2f}")
        axes[1][1].set_axis_off()
        axes[1][2].set_axis_off()
        results = state.results_for(t, label, w, given)
        wait = torch.full((NUM_FINISHED, 1, 28, 28), -0.8)
        shown = wait if results is None else results
        title = "press Finish" if results is None else "finished by the model"
        inside = fig.add_axes([0.36, 0.02, 0.63, 0.44])
        plotting.draw_images(inside, shown, 3, title)
        return fig, state.words(label, results)

    def finish(**values):
        state.finish(**values)
        return values

    def clear():
        panel.put(drawing=[])

    def reset():
        state.generator.manual_seed(0)
        finish(**start)

    buttons = {"Finish": lambda: finish(**panel.values)}
    presets = {}
    shown = {
        "Finished from t = 0.5": {"t": 0.5},
        "Finished as a 1, from t = 0.7, w = 2": {"label": 1, "w": 2},
    }
    if pad is not None:
        buttons["Clear"] = clear
        presets = {name: {"drawing": strokes} for name, strokes in SKETCHES.items()}
        shown["An S, finished as an 8, w = 2"] = {"drawing": SKETCHES["an S"], "label": 8, "w": 2}
        shown["A zigzag, without a label"] = {"drawing": SKETCHES["a zigzag"], "label": None, "t": 0.8}
    frames = [(name, lambda changed=changed: finish(**start | changed)) for name, changed in shown.items()]
    panel = Panel(
        "Draw and finish",
        draw,
        controls=controls,
        buttons=buttons,
        presets=presets,
        frames=frames,
        reset=reset,
        alt="A drawing, what a classifier reads in it, what a VAE makes of it, the drawing under "
        "noise, and six ways in which the model finishes it.",
    )
    return panel


class _Finisher:
    """What the panel owns: the models, the present drawing, and the results of the last Finish."""

    def __init__(self, model, reader, vae, digits):
        self.model = model
        self.reader = reader
        self.vae = vae
        self.digits = digits
        self.generator = _seeded()
        self.results = None
        self.made_for = None

    def look(self, drawing=None, number=None):
        """Read and rebuild a drawing, or digit `number`."""
        self.image = rasterize(drawing) if number is None else _one_digit(self.digits, number)
        self.reading = self.reader(self.image).softmax(dim=1)[0]
        mu, _ = self.vae.encode((self.image > 0).float().flatten(1))
        self.rebuilt = (2 * self.vae.decode(mu).sigmoid() - 1).view(1, 1, 28, 28)

    def noised(self, t):
        return diffusion.diffuse(self.image, t, _draw_noise_like(self.image), RECTIFIED_FLOW)

    def label_of(self, label):
        """The number that the network is given for what was chosen."""
        if label is None:
            return NO_LABEL
        return int(self.reading.argmax()) if label == AS_READ else label

    @torch.no_grad()
    def finish(self, t, label, w, **given):
        self.look(**given)
        x0 = self.image.expand(NUM_FINISHED, -1, -1, -1)
        wanted = torch.full((NUM_FINISHED,), self.label_of(label))
        num_steps = max(1, round(20 * t))
        model = diffusion.guided(self.model, w) if w else self.model
        self.results = diffusion.finish(model, x0, wanted, t, num_steps, self.generator)
        self.made_for = (t, label, w, given)

    def results_for(self, t, label, w, given):
        """The results, if they were made for these values; else None."""
        return self.results if self.made_for == (t, label, w, given) else None

    def words(self, label, results):
        """The status line."""
        if (self.image < 0).all():
            return "The pad is empty: draw a digit."
        best = int(self.reading.argmax())
        told = f"Read as {best} ({100 * self.reading[best]:.0f} %). "
        number = self.label_of(label)
        asked = "without a label" if number == NO_LABEL else f"as a {number}"
        if results is None:
            return told + f"Press Finish: six results {asked}, about a second."
        return told + f"Six results {asked}."


def _draw_reading(ax, reading):
    """Ten bars: the classifier's probabilities."""
    best = int(reading.argmax())
    colours = [plotting.BLUE if k == best else plotting.SKY for k in range(10)]
    ax.bar(range(10), reading.numpy(), color=colours)
    ax.set(ylim=(0, 1), yticks=[], title="read by a classifier")
    ax.set_xticks(range(10), [str(k) for k in range(10)])


# ---------------------------------------------------------------- the clinic


def clinic(flow_net, no_clock, start):
    """Five clouds of points by DDPM from the same noise: one healthy model, and four with one mistake each.

    Args:
        flow_net: a trained `VelocityNet`.
        no_clock: one that was trained and is used without the time.
        start: the noise (N, 2).

    Returns (figure, {letter: points}, {letter: what is wrong}). Which letter is which stands here, and not
    on the page.
    """
    real = toy_2d("ring", len(start), _seeded(6))

    def cloud(net, num_steps=10, schedule=RECTIFIED_FLOW):
        with torch.no_grad():
            return diffusion.sample(diffusion.denoiser(net, schedule), start, schedule, num_steps, 1.0, _seeded(6))

    healthy = cloud(flow_net)
    fresh = torch.randn(healthy.shape, generator=_seeded(7))
    cases = {
        "A": ("wrong schedule", cloud(flow_net, schedule=diffusion.make_schedule("cosine"))),
        "B": ("too few steps", cloud(flow_net, 3)),
        "C": ("healthy", healthy),
        "D": ("noise to the end", healthy + RECTIFIED_FLOW.sigma(0.1) * fresh),  # for the step from 0.1 to 0
        "E": ("no clock", cloud(no_clock)),
    }
    fig, axes = plotting.figure(9.0, 2.2, ncols=len(cases))
    for ax, (letter, (_, points)) in zip(axes, cases.items(), strict=True):
        plotting.draw_points(ax, real=real, fake=points, size=3)
        plotting.square(ax, 2.8)
        ax.set_title(letter)
    points = {letter: points for letter, (_, points) in cases.items()}
    return fig, points, {letter: name for letter, (name, _) in cases.items()}


def clinic_row(points):
    """What tells the clouds of `clinic` apart: a row of numbers for points (N, 2)."""
    centres, width = toy_modes("ring")
    nearest = torch.cdist(points, centres).min(dim=1).values
    return {
        "share in a mode": (nearest < 3 * width).float().mean().item(),
        "energy distance": energy_distance(points, toy_2d("ring", 4000, _seeded(6))),
        "median distance to a centre": nearest.median().item(),
    }
