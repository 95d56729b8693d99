"""The panels of 02b_vae_beyond: the logarithm of an average, and vectors that snap to entries.

tighter_bound()       the bound with K weights, many times over, beside log p(x)
snap()                dots, the entries of a codebook, and which entry each dot chooses
"""

from __future__ import annotations

import math

import torch

from aigc_helpers import plotting
from aigc_helpers.models.vae import linear_evidence
from aigc_helpers.panels.core import Panel, choice, slider

SEEN = 3.0  # the x of the page's linear model
NUM_RESULTS = 400  # in the histogram
NUM_DOTS = 240


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- a tighter bound


def tighter_bound():
    """Many results of log((w_1 + ... + w_K) / K), beside log p(x), in a model whose truth is known.

    What moves: K, the Gaussian q from which z is drawn, and the noise.
    What to see: the mean of the results climbs to log p(x) from below; with a q that misses the
    posterior it takes many more draws.
    Source: Burda 2015, arXiv 1509.00519.
    """
    noise = {seed: torch.randn(256, NUM_RESULTS, generator=_seeded(seed)) for seed in range(10)}
    margins = {"left": 0.04, "right": 0.97, "top": 0.89, "bottom": 0.15}
    page = plotting.ReusableFigure(6.4, 3.2, margins)
    evidence = linear_evidence(SEEN)

    def draw(power, mu, sigma, seed):
        k = 2**power
        results = bound_results(noise[seed][:k], mu, sigma)
        mean = results.mean().item()
        fig, ax = page.wipe()
        low = min(-12.0, results.quantile(0.02).item())
        ax.hist(results.clamp_min(low), bins=70, range=(low, 0.5), color=plotting.SKY)
        ax.axvline(evidence, color=plotting.BLUE, linewidth=2.4)
        ax.axvline(max(mean, low), color=plotting.ORANGE, linewidth=2.4, linestyle="--")
        ax.set(yticks=[], xlabel="nats (the leftmost bar: all that is lower)", xlim=(low, 0.5))
        ax.set_title(f"K = {k}: {NUM_RESULTS} results, their mean (dashed), log p(x)", fontsize=10)
        gap = evidence - mean
        side = "below" if gap >= 0 else "above"
        return fig, f"Mean {mean:.2f}, log p(x) = {evidence:.2f}: {abs(gap):.2f} nats {side}."

    bad = {"mu": 0.0, "sigma": 0.3}
    return Panel(
        "A tighter bound",
        draw,
        controls={
            "power": slider("log2 of K", 0, 8, 0, step=1),
            "mu": slider("q: mean", -1.0, 3.0, 0.5),
            "sigma": slider("q: width", 0.2, 1.5, 0.8, step=0.05),
            "seed": slider("noise seed", 0, 9, 0, step=1),
        },
        presets={"A bad q": bad, "The posterior": {"mu": 1.2, "sigma": 0.45}},
        frames=[
            ("K = 1", {}),
            ("K = 16", {"power": 4}),
            ("A bad q, K = 1", {"power": 0, **bad}),
            ("A bad q, K = 256", {"power": 8}),
        ],
        alt="A histogram of bounds with K draws; lines for their mean and for log p(x).",
    )


def bound_results(eps, mu, sigma, x=SEEN):
    """log of the average of K importance weights, for standard normal eps (K, N); returns (N,).

    The model is the page's: z from N(0, 1), x from N(2 z, 1); q is N(mu, sigma^2).
    """
    z = mu + sigma * eps
    log_joint = -0.5 * ((x - 2 * z).square() + z.square()) - math.log(2 * math.pi)
    log_q = -0.5 * eps.square() - math.log(sigma) - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(log_joint - log_q, dim=0) - math.log(len(eps))


# ---------------------------------------------------------------- vectors that snap to entries

CLUMPS = ((-1.4, 1.0), (1.2, 1.3), (0.1, -0.3), (-1.1, -1.4), (1.5, -1.2))


class Snapping:
    """Dots in the plane and the entries of a codebook, which follow the dots that chose them."""

    def __init__(self, num_entries=5, start="anywhere", seed=0):
        random = _seeded(seed)
        centres = torch.tensor(CLUMPS).repeat(NUM_DOTS // len(CLUMPS), 1)
        self.dots = centres + 0.28 * torch.randn(len(centres), 2, generator=random)
        spread = torch.randn(num_entries, 2, generator=random)
        self.entries = spread if start == "anywhere" else 0.25 * spread + torch.tensor([-2.2, 2.2])
        self.random = random
        self.step = 0

    def nearest(self):
        """The number of each dot's entry (NUM_DOTS,)."""
        return torch.cdist(self.dots, self.entries).argmin(dim=1)

    def move(self, rate=0.15):
        """Each entry goes a part of the way to the mean of the dots that chose it; idle ones stay."""
        index = self.nearest()
        for k in index.unique().tolist():
            self.entries[k] += rate * (self.dots[index == k].mean(dim=0) - self.entries[k])
        self.step += 1

    def move_idle(self):
        """Put every entry that nobody chose on a dot drawn at random."""
        idle = torch.bincount(self.nearest(), minlength=len(self.entries)) == 0
        drawn = torch.randint(len(self.dots), (int(idle.sum()),), generator=self.random)
        self.entries[idle] = self.dots[drawn]

    def error(self):
        """The mean squared distance of a dot from its entry."""
        return (self.dots - self.entries[self.nearest()]).square().sum(dim=1).mean().item()


def snap():
    """Dots snap to the nearest entry of a codebook, and Run moves the entries to their dots.

    What moves: the number of entries, where they start, the seed; Run moves them.
    What to see: entries come to rest in the middle of the dots that chose them. From a corner most
    are never chosen, and nothing moves them until idle entries are put on dots.
    Source: van den Oord 2017, arXiv 1711.00937.
    """
    margins = {"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.01}
    page = plotting.ReusableFigure(5.2, 4.4, margins)
    state = {"num": 5, "start": "anywhere", "seed": 0}
    held = [Snapping()]

    def renew():
        held[0] = Snapping(state["num"], state["start"], state["seed"])

    def change(name, value):
        state[name] = value
        renew()

    def tick():
        if held[0].step < 200:
            held[0].move()
        else:
            panel.pause()

    def run_on(start, rounds=60):
        """For the storyboard: entries that have been moved so often."""
        state.update(num=5, start=start, seed=0)
        renew()
        for _ in range(rounds):
            held[0].move()
        return {"num": 5, "start": start, "seed": 0}

    def rescued():
        run_on("in a corner")
        for _ in range(5):
            held[0].move_idle()
            for _ in range(30):
                held[0].move()
        return {}

    def reset():
        state.update(num=5, start="anywhere", seed=0)
        renew()

    def draw(num, start, seed):
        snapping = held[0]
        fig, ax = page.wipe()
        _draw_snapping(ax, snapping)
        used = len(snapping.nearest().unique())
        text = f"{used} of {len(snapping.entries)} entries in use"
        ax.set_title(f"step {snapping.step}: {text}", fontsize=10)
        return fig, f"{text}; mean squared distance {snapping.error():.2f}."

    panel = Panel(
        "Snap to the codebook",
        draw,
        controls={
            "num": slider("entries", 1, 16, 5, step=1),
            "start": choice("start", ["anywhere", "in a corner"]),
            "seed": slider("seed", 0, 20, 0, step=1),
        },
        buttons={"Move idle entries": lambda: held[0].move_idle()},
        tick=tick,
        changed=change,
        reset=reset,
        frames=[
            ("At the start", {}),
            ("After 60 steps", lambda: run_on("anywhere")),
            ("From a corner, after 60 steps", lambda: run_on("in a corner")),
            ("... with idle entries moved", rescued),
        ],
        alt="Dots in five clumps, crosses for the entries of a codebook, a line from each dot.",
    )
    return panel


def _draw_snapping(ax, snapping):
    from matplotlib.collections import LineCollection

    index = snapping.nearest()
    ends = torch.stack([snapping.dots, snapping.entries[index]], dim=1).numpy()
    ax.add_collection(LineCollection(ends, colors=plotting.GREY, linewidths=0.6, alpha=0.5))
    colours = [plotting.CYCLE[k % len(plotting.CYCLE)] for k in index.tolist()]
    ax.scatter(*snapping.dots.T, s=9, c=colours, linewidths=0, zorder=3)
    ax.plot(*snapping.entries.T, "X", color=plotting.INK, markersize=9, zorder=4)
    plotting.square(ax, 3.0)
