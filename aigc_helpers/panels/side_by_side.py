"""The panels and pictures of 06_side_by_side: one function a panel."""

from __future__ import annotations

import itertools
import statistics

import torch

from aigc_helpers import plotting
from aigc_helpers.metrics import load_features
from aigc_helpers.models.diffusion import denoiser, sample
from aigc_helpers.models.side_by_side import PLANE_NEAR, STRAIGHT, TRUTH, share_with_error
from aigc_helpers.panels.core import Panel, choice, frozen, slider
from aigc_helpers.weights import read_asset, read_experiment

SEED = 0
# One colour and one mark a family, in every picture of the page.
COLOURS = {
    "GAN": plotting.ORANGE,
    "VAE": plotting.BLUE,
    "GPT over codes": plotting.PINK,
    "autoregressive": plotting.PINK,
    "flow": plotting.AMBER,
    "diffusion": plotting.GREEN,
    "real": plotting.INK,
}
MARKS = {
    "GAN": "o",
    "VAE": "s",
    "GPT over codes": "^",
    "autoregressive": "^",
    "flow": "v",
    "diffusion": "D",
    "real": "*",
}
FAMILIES = {"GAN": "gan", "VAE": "vae", "GPT over codes": "gpt", "diffusion": "diffusion"}  # -> key of the asset

# ---------------------------------------------------------------- pictures


def _node(ax, x, y, words, colour, width=1.0):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.07"
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.8}
    ax.add_patch(FancyBboxPatch((x - width / 2, y - 0.2), width, 0.4, style, **look))
    ax.text(x, y, words, ha="center", va="center", fontsize=9)
    return x - width / 2, x + width / 2


def _chain(ax, y, places, words, colour, arrow="->"):
    """Boxes in a row, and an arrow from each to the next."""
    right = None
    for x, told in zip(places, words, strict=True):
        left, end = _node(ax, x, y, told, colour)
        if right is not None:
            look = {"arrowstyle": arrow, "color": plotting.INK, "linewidth": 1.5}
            ax.annotate("", (left - 0.03, y), (right + 0.03, y), arrowprops=look)
        right = end


WAYS_TO_DRAW = (  # family, boxes on the way to a picture, how the arrows go, what is trained, what likelihood there is
    ("GAN", ("noise z", "G", "picture"), "->", "to pass for real", "none"),
    ("VAE", ("noise z", "decoder", "picture"), "->", "to give pictures back", "a bound"),
    ("autoregressive", ("part 1", "part 2", "part 3 …"), "->", "to predict the next part", "exact"),
    ("flow", ("noise", "f₁, f₂, …", "picture"), "<->", "to be likely, exactly", "exact"),
    ("diffusion", ("noise", "less noise", "picture"), "->", "to denoise", "by an ODE"),
)


def families_diagram():
    """Figure: the five families, a row each: the way to a picture, what is trained, what is known of p(x)."""
    fig, ax = plotting.canvas(3.5, width=8.8)
    heads = ((0.15, "family"), (2.9, "how it draws"), (5.6, "trained to"), (7.75, "likelihood"))
    for x, head in heads:
        ax.text(x, 3.36, head, fontsize=9.5, color=plotting.GREY, va="center")
    for row, (name, words, arrow, trained, known) in enumerate(WAYS_TO_DRAW):
        y = 2.9 - 0.64 * row
        ax.plot([0.2], [y], MARKS[name], color=COLOURS[name], markersize=9)
        ax.text(0.4, y, name, fontsize=10, va="center")
        _chain(ax, y, (2.1, 3.45, 4.8), words, COLOURS[name], arrow)
        ax.text(5.6, y, trained, fontsize=9.5, va="center")
        ax.text(7.75, y, known, fontsize=9.5, va="center")
    return fig


def written_lines(lines):
    """Figure: lines of text, one below the other."""
    fig, ax = plotting.canvas(0.15 + 0.24 * len(lines), width=8.8)
    for k, line in enumerate(lines):
        y = 0.24 * (len(lines) - k) - 0.05
        ax.text(0.1, y, line, fontsize=9.5, va="center", family="monospace", parse_math=False)
    return fig


# ---------------------------------------------------------------- spot the fake

REAL = "real"
TEN = 10


def kept_pictures():
    """{"real" or a family: pictures (n, 28, 28) uint8}: test digits, and samples after 90 s of training."""
    kept, _ = read_asset("side_by_side.safetensors")
    return {REAL: kept[REAL]} | {name: kept[key] for name, key in FAMILIES.items()}


def kept_precision(seconds=90):
    """{family: the mean precision of its seeds after so many seconds}, and the floor under "real"."""
    rows = read_experiment("side_by_side").rows
    found = {}
    for name in FAMILIES:
        seeds = [rows[f"{name}, {seconds} s, seed {seed}"]["precision"] for seed in (0, 1, 2)]
        found[name] = statistics.mean(seeds)
    return found | {REAL: rows["real data (floor)"]["precision"]}


class _Game:
    """Rounds of ten pictures: which are shown, which the player takes for fakes, and the score so far."""

    def __init__(self, pictures, seed=SEED):
        self.pictures = pictures
        self.seed = seed
        self.restart()

    def restart(self):
        self.random = torch.Generator().manual_seed(self.seed)
        self.taken_for_real = dict.fromkeys(self.pictures, 0)
        self.judged = dict.fromkeys(self.pictures, 0)
        self.rounds = 0
        self.deal([name for name in self.pictures if name != REAL])

    def deal(self, families):
        """Ten new pictures: each is real with probability 1/2, else from one of the families."""
        self.families = list(families)
        self.rounds += 1
        self.marked = [False] * TEN
        self.checked = False
        self.sources = []
        self.shown = []
        for _ in range(TEN):
            is_real = torch.rand(1, generator=self.random).item() < 0.5
            which = torch.randint(len(self.families), (1,), generator=self.random).item()
            source = REAL if is_real else self.families[which]
            index = torch.randint(len(self.pictures[source]), (1,), generator=self.random).item()
            self.sources.append(source)
            self.shown.append(self.pictures[source][index])

    def mark(self, k):
        """Take picture k for a fake, or for real again; after Check it is too late."""
        if not self.checked:
            self.marked[k] = not self.marked[k]

    def check(self):
        """Count the round, once."""
        if self.checked:
            return
        self.checked = True
        for source, marked in zip(self.sources, self.marked, strict=True):
            self.judged[source] += 1
            self.taken_for_real[source] += not marked

    def is_right(self, k):
        return self.marked[k] == (self.sources[k] != REAL)

    def score(self):
        """How many answers were right so far, of how many."""
        right = 0
        for source, judged in self.judged.items():
            real = self.taken_for_real[source]
            right += real if source == REAL else judged - real
        return right, sum(self.judged.values())


def _play_by_classifier(game, rounds):
    """Let the digit classifier play: what it is less sure of than of half of a round, it takes for fakes."""
    net = load_features()
    game.restart()
    for played in range(rounds):
        if played:
            game.deal(game.families)
        with torch.no_grad():
            sure = net(torch.stack(game.shown)[:, None]).softmax(dim=1).amax(dim=1)
        for k in sure.argsort()[: TEN // 2].tolist():
            game.mark(k)
        game.check()


def spot_the_fake(pictures=None, precision=None):
    """Ten digits, some real, some made by the models: which are fakes? A running score beside the judge's.

    pictures: {"real" or a family: (n, 28, 28) uint8}; precision: {the same: a share}; without them,
    the kept ones. What moves: whose fakes are dealt; a button marks a picture. What to see: how often
    each family's fakes are taken for real, with a standard error, beside the precision that the
    judge gives them.
    """
    pictures = kept_pictures() if pictures is None else pictures
    precision = kept_precision() if precision is None else precision
    families = [name for name in pictures if name != REAL]
    game = _Game(pictures)
    margins = {"left": 0.0, "right": 1.0, "top": 1.0, "bottom": 0.0}
    figure = plotting.ReusableFigure(6.6, 4.7, margins)
    latest = {"dealt": families}

    def draw(whose):
        dealt = families if whose == "all" else [whose]
        if dealt != latest["dealt"]:
            latest["dealt"] = dealt
            game.deal(dealt)
        fig, ax = figure.wipe()
        ax.set(xlim=(0, 6.6), ylim=(0, 4.7))
        ax.set_axis_off()
        _draw_ten(ax, game)
        _draw_fooled(ax, game, families, precision)
        return fig, _say_game(game)

    def next_ten():
        game.deal(latest["dealt"])

    def restart():
        game.restart()
        game.deal(latest["dealt"])

    buttons = {str(k + 1): lambda k=k: game.mark(k) for k in range(TEN)}
    return Panel(
        "Spot the fake",
        draw,
        {"whose": choice("fakes by", ["all", *families])},
        buttons=buttons | {"Check": game.check, "Next ten": next_ten, "Start again": restart},
        frames=[
            ("Ten digits: which are fakes?", {}),
            ("40 rounds, played by a classifier", lambda: _play_by_classifier(game, 40)),
        ],
        reset=game.restart,
        alt="Ten digits in two rows, some with an orange frame: marked as fakes. Below, for each family, "
        "how often its fakes were taken for real, and the judge's precision.",
    )


def _draw_ten(ax, game):
    from matplotlib.patches import Rectangle

    size = 0.86
    for k in range(TEN):
        x = 0.45 + 1.17 * (k % 5)
        y = 3.72 - 1.22 * (k // 5)
        extent = (x, x + size, y, y + size)
        ax.imshow(game.shown[k].numpy(), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest")
        if game.marked[k]:
            look = {"fill": False, "edgecolor": plotting.ORANGE, "linewidth": 4}
            ax.add_patch(Rectangle((x, y), size, size, **look))
        words = f"{k + 1}"
        colour = plotting.INK
        if game.checked:
            words += f"  {game.sources[k]} " + ("✓" if game.is_right(k) else "✗")
            colour = "#00694D" if game.is_right(k) else "#A84300"
        elif game.marked[k]:
            words += "  fake"
        ax.text(x + size / 2, y - 0.13, words, ha="center", va="center", fontsize=9, color=colour)
    ax.set(xlim=(0, 6.6), ylim=(0, 4.7), aspect="auto")


def _draw_fooled(ax, game, families, precision):
    """Bars: the share of each kind that was taken for real, with its standard error; diamonds: the judge's."""
    left, width = 2.3, 3.9
    ax.text(0.15, 1.93, "taken for real:", fontsize=9.5, va="center", weight="bold")
    ax.text(left, 1.93, "by you (bar, ± standard error) and by the judge (◆: precision)", fontsize=9, va="center")
    for row, name in enumerate([*families, REAL]):
        y = 1.62 - 0.33 * row
        told = "real digits" if name == REAL else name
        judged = game.judged[name]
        tally = f"{game.taken_for_real[name]} of {judged}" if judged else "–"
        ax.text(0.15, y, told, fontsize=9.5, va="center")
        ax.text(2.2, y, tally, fontsize=9.5, va="center", ha="right")
        ax.barh([y], [width], 0.2, left=left, color="#E4E4E0")
        if judged:
            share, error = share_with_error(game.taken_for_real[name], judged)
            ax.barh([y], [width * share], 0.2, left=left, color=COLOURS[name])
            low, high = max(0.0, share - error), min(1.0, share + error)
            ax.plot([left + width * low, left + width * high], [y, y], color=plotting.INK, linewidth=1.3)
        ax.plot([left + width * precision[name]], [y], "D", color="white", markeredgecolor=plotting.INK, markersize=7)
    for share in (0.0, 0.5, 1.0):
        ax.text(left + width * share, 0.06, f"{share:g}", fontsize=8.5, ha="center", va="center")


def _say_game(game):
    right, judged = game.score()
    said = f"Round {game.rounds}: {sum(game.marked)} marked as fakes. "
    if game.checked:
        said = f"Round {game.rounds}: {sum(map(game.is_right, range(TEN)))} of {TEN} right. "
    if judged:
        share, error = share_with_error(right, judged)
        said += f"In all {right} of {judged} right: {share:.2f} ± {error:.2f}. "
        fakes = {name: game.taken_for_real[name] / n for name, n in game.judged.items() if n and name != REAL}
        if game.checked and fakes:
            best = max(fakes, key=fakes.get)
            said += f"You were fooled most often by: {best}."
    else:
        said += "Press the numbers of the fakes, then Check."
    return said


# ---------------------------------------------------------------- where the truth is known

STOPS = 8
NUM_POINTS = 1500
LATTICE = 17  # lines each way


def coupling_picture():
    """Figure: a square lattice of points, after one coupling layer and after two, with hand-made s and t."""
    axis = torch.linspace(-1.5, 1.5, LATTICE)
    b, a = torch.meshgrid(axis, axis, indexing="ij")
    lattice = torch.stack([a, b], dim=-1)
    once = torch.stack([a, b * (0.4 * torch.sin(2 * a)).exp() + 0.4 * a], dim=-1)
    x, y = once.unbind(dim=-1)
    twice = torch.stack([x * (0.5 * torch.cos(1.6 * y)).exp() - 0.3 * y, y], dim=-1)
    fig, axes = plotting.figure(8.0, 2.95, ncols=3, tight=False)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.9, 0.04)
    titles = ("points (a, b)", "after one layer: b has moved", "after the second: a has moved")
    for ax, grid, title in zip(axes, (lattice, once, twice), titles, strict=True):
        plotting.draw_warp(ax, grid, colour=COLOURS["flow"])
        ax.set_title(title, fontsize=10)
        plotting.square(ax, limit=2.8)
    return fig


def families_picture(drawn, ncols=3):
    """Figure: the points (N, 2) of each name in its own square; what lies off the modes, as orange crosses."""
    nrows = -(-len(drawn) // ncols)
    height = 2.75 * nrows
    fig, axes = plotting.figure(2.5 * ncols, height, ncols=ncols, nrows=nrows, tight=False)
    fig.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.3 / height, 0.03, 0.12)
    for ax, (name, points) in zip(axes.flat, drawn.items(), strict=True):
        near = _nearest(points)[1] < PLANE_NEAR
        plotting.draw_points(ax, real=points[near], fake=points[~near], size=3)
        ax.set_title(name, fontsize=10)
        plotting.square(ax)
    return fig


def _nearest(points):
    """The index (N,) of the nearest centre of the truth, and the distance from it (N,)."""
    distance, nearest = torch.cdist(points.double(), TRUTH.centres).min(dim=1)
    return nearest, distance


def stops_of(family, model, z):
    """Noise z (N, 2) on its way to data through a flow or a diffusion: 9 stops, (N, 2) each."""
    if family == "flow":
        stops = [z]
        for layer in reversed(model.layers):
            stops.append(layer.inverse(stops[-1]))
        # Each layer changes the places of the two coordinates: put them back for the eye.
        return [x.flip(1) if (len(stops) - 1 - k) % 2 else x for k, x in enumerate(stops)]
    path = sample(denoiser(model, STRAIGHT), z, STRAIGHT, 5 * STOPS, keep=True)
    return path[::5]


def noise_to_data(flow, diffusion):
    """A cloud of noise on its way to data, through a flow's layers or a diffusion's steps.

    What moves: the model, and how far the cloud has come. What to see: colours tell in which mode a
    point will end; the orange crosses are those that will end off the modes, and in the noise
    they lie along the borders of the regions that will become the modes.
    """
    models = {"flow": frozen(flow), "diffusion": frozen(diffusion)}
    z = torch.randn(NUM_POINTS, 2, generator=torch.Generator().manual_seed(SEED))
    margins = {"left": 0.02, "right": 0.98, "top": 0.92, "bottom": 0.02}
    page = plotting.ReusableFigure(4.6, 4.9, margins)
    known = {}

    def draw(model, stop):
        if model not in known:
            with torch.no_grad():
                known[model] = stops_of(model, models[model], z)
        stops = known[model]
        nearest, distance = _nearest(stops[-1])
        between = distance >= PLANE_NEAR
        fig, ax = page.wipe()
        for colour, even in ((plotting.BLUE, 0), (plotting.SKY, 1)):
            chosen = stops[stop][~between & (nearest % 2 == even)]
            ax.scatter(*chosen.T, s=7, color=colour, linewidths=0, zorder=3)
        lost = stops[stop][between]
        ax.scatter(*lost.T, s=20, color=plotting.ORANGE, marker="x", linewidths=1.2, zorder=4)
        plotting.square(ax, limit=3.2)
        where = {0: "noise", STOPS: "data"}.get(stop, f"stop {stop} of {STOPS}")
        ax.set_title(f"{model}: {where}", fontsize=10)
        share = 100 * between.double().mean().item()
        return fig, f"{share:.1f} % of the {NUM_POINTS:,} points end off the modes (orange crosses)."

    return Panel(
        "From noise to data",
        draw,
        {"model": choice("model", list(models)), "stop": slider("stop", 0, STOPS, STOPS, step=1)},
        frames=[
            ("The flow: data", {}),
            ("The flow: the same points as noise", {"stop": 0}),
            ("The diffusion: data", {"model": "diffusion", "stop": STOPS}),
            ("The diffusion: the same points as noise", {"stop": 0}),
        ],
        alt="A cloud of points in two shades of blue, with orange crosses among them.",
    )



# ---------------------------------------------------------------- digits: equal seconds, trade-off

SECONDS = (15, 30, 60, 90)
FLOOR = "real data (floor)"
# measure -> (which way is better, on an axis of powers of ten)
MEASURES = {
    "FID": ("low", True),
    "precision": ("high", False),
    "recall": ("high", False),
    "coverage": ("high", False),
    "s per 1,000": ("low", True),
    "weights that draw": ("low", True),
}
PLURALS = {"s per 1,000": "seconds to draw 1,000 digits"}
STARRED = {"GAN": "GAN*"}  # raced at a second try


class _Runs:
    """The stored runs: a number for each family, seconds, seed and measure."""

    def __init__(self, rows):
        self.rows = rows
        first = f", {SECONDS[0]} s, seed "
        names = [name for name in FAMILIES if f"{name}{first}0" in rows]
        self.families = names
        self.seeds = sorted({int(name.split(first)[1]) for name in rows if first in name})

    def values(self, family, seconds, measure):
        """One number a seed."""
        return [self.rows[f"{family}, {seconds} s, seed {seed}"][measure] for seed in self.seeds]

    def mean(self, family, seconds, measure):
        return statistics.mean(self.values(family, seconds, measure))

    def floor(self, measure):
        """What held-out digits get, or None."""
        return self.rows[FLOOR].get(measure)

    def best(self, seconds, measure):
        """The family with the best mean, and whether its worst seed beats every other family's best."""
        way, _ = MEASURES[measure]
        sign = 1 if way == "low" else -1
        means = {name: sign * self.mean(name, seconds, measure) for name in self.families}
        winner = min(means, key=means.get)
        worst = max(sign * value for value in self.values(winner, seconds, measure))
        rivals = [
            sign * value
            for name in self.families
            if name != winner
            for value in self.values(name, seconds, measure)
        ]
        return winner, worst < min(rivals)

    def dominated(self, family, seconds, measures):
        """The families whose means are better in each of the measures."""
        found = []
        for rival in self.families:
            better = []
            for measure in measures:
                gap = self.mean(rival, seconds, measure) - self.mean(family, seconds, measure)
                better.append(gap < 0 if MEASURES[measure][0] == "low" else gap > 0)
            if all(better):
                found.append(rival)
        return found


def kept_runs():
    """The stored runs of the four families on digits."""
    return _Runs(read_experiment("side_by_side").rows)


def equal_seconds(runs=None, pictures=None):
    """What each family draws after the same seconds of training, and how it scores: three seeds.

    runs: from `kept_runs`; pictures: {family: (4, n, 28, 28) uint8}, n at least 18; without them, the
    kept ones. What moves: the seconds, and the measure on the right. What to see: who leads depends
    on both.
    """
    runs = kept_runs() if runs is None else runs
    if pictures is None:
        kept, _ = read_asset("side_by_side.safetensors")
        pictures = {name: kept[f"{FAMILIES[name]}_grow"] for name in runs.families}
    mosaics = {
        (name, seconds): plotting.tile(pictures[name][k][:18], ncols=6)
        for name in runs.families
        for k, seconds in enumerate(SECONDS)
    }
    margins = {"left": 0.005, "right": 0.985, "top": 0.9, "bottom": 0.15, "wspace": 0.22}
    page = plotting.ReusableFigure(8.4, 3.5, margins, ncols=2, width_ratios=(1.25, 1))

    def draw(seconds, measure):
        fig, (left, right) = page.wipe()
        with plotting.style():
            _draw_rows(left, runs, mosaics, seconds)
            _draw_courses(right, runs, seconds, measure)
        return fig, _say_best(runs, seconds, measure)

    return Panel(
        "Equal seconds",
        draw,
        {
            "seconds": choice("seconds", {f"{k} s": k for k in SECONDS}),
            "measure": choice("measure", ["FID", "precision", "recall", "coverage"]),
        },
        frames=[
            ("15 seconds of training", {"seconds": 15}),
            ("90 seconds", {"seconds": 90}),
            ("15 seconds, by precision", {"seconds": 15, "measure": "precision"}),
            ("90 seconds, by recall", {"seconds": 90, "measure": "recall"}),
        ],
        alt="Left: eighteen digits of each of four families. Right: a measure against the seconds of training, a line "
        "a family with a point for each of three seeds, dotted where real data stand. The GAN's star: a second try.",
    )


def _draw_rows(ax, runs, mosaics, seconds):
    """Eighteen digits of each family, three rows of six."""
    for k, name in enumerate(runs.families):
        x = 1.08 * (k % 2)
        y = 1.0 - 0.6 * (k // 2)
        extent = (x, x + 1, y - 0.48, y)
        mosaic = mosaics[name, seconds]
        ax.imshow(mosaic, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        ax.plot([x + 0.03], [y + 0.06], MARKS[name], color=COLOURS[name], markersize=8)
        ax.text(x + 0.08, y + 0.06, STARRED.get(name, name), fontsize=10, weight="bold", va="center")
    ax.set(xlim=(-0.02, 2.1), ylim=(-0.1, 1.1), aspect="auto")
    ax.set_axis_off()


def _draw_courses(ax, runs, seconds, measure):
    """A measure against the seconds: a line a family through the mean of its seeds."""
    ax.axvline(seconds, color="#CFCFC9", linewidth=6)
    for name in runs.families:
        means = [runs.mean(name, k, measure) for k in SECONDS]
        ax.plot(SECONDS, means, color=COLOURS[name])
        points = [runs.values(name, k, measure) for k in SECONDS]
        look = {"markersize": 4.5, "linestyle": "none", "alpha": 0.8}
        ax.plot(SECONDS, points, MARKS[name], color=COLOURS[name], **look)
    _show_floor(ax.axhline, runs.floor(measure))
    way, is_log = MEASURES[measure]
    ax.set_xscale("log")
    _set_scale(ax, "y", is_log)
    ax.set_xticks(SECONDS, [str(k) for k in SECONDS])
    ax.set_xticks([], minor=True)
    ax.set_xlim(13, 104)
    ax.set_title(f"{measure} ({way}er is better; dotted: real data)", fontsize=10)
    ax.set_xlabel("seconds of training")


def _set_scale(ax, axis, is_log):
    """A linear axis, or one of powers of ten with plain numbers at 1, 2 and 5."""
    if is_log:
        plotting.log_axis(ax, (1, 2, 5), axis)
    else:
        ax.set(**{f"{axis}scale": "linear"})


def _show_floor(line, value):
    if value is not None:
        line(value, color=plotting.INK, linewidth=1.1, linestyle=":")


def _say_best(runs, seconds, measure):
    told = []
    for name in runs.families:
        values = runs.values(name, seconds, measure)
        told.append(f"{name} {_short(statistics.mean(values))} ({_short(min(values))} to {_short(max(values))})")
    winner, is_clear = runs.best(seconds, measure)
    floor = runs.floor(measure)
    ending = "" if floor is None else f" Real data: {_short(floor)}."
    how = "for all seeds" if is_clear else "but the seeds overlap"
    return f"{measure} after {seconds} s: {'; '.join(told)}. First: {winner}, {how}.{ending}"


def _short(value):
    return plotting.number_text(float(value))


def trade_off(runs=None):
    """Two measures as axes, a point for each family and seed: who is beaten in both?

    What moves: both axes, and the seconds of training. What to see: for some pairs one family is
    best in both; for most there is a front, and the choice between its members is yours.
    """
    runs = kept_runs() if runs is None else runs
    margins = {"left": 0.12, "right": 0.97, "top": 0.93, "bottom": 0.14}
    page = plotting.ReusableFigure(6.0, 4.2, margins)
    options = {PLURALS.get(name, name): name for name in MEASURES}

    def draw(x, y, seconds):
        fig, ax = page.wipe()
        with plotting.style():
            _draw_front(ax, runs, x, y, seconds)
        return fig, _say_front(runs, x, y, seconds)

    return Panel(
        "Trade-off",
        draw,
        {
            "x": choice("across", options, "s per 1,000"),
            "y": choice("up", options, "FID"),
            "seconds": choice("seconds", {f"{k} s": k for k in SECONDS}, SECONDS[-1]),
        },
        frames=[
            ("Quality against speed", {"x": "s per 1,000", "y": "FID"}),
            ("Precision against recall", {"x": "recall", "y": "precision"}),
        ],
        alt="One measure against another, three points for each of four families; a star where real data stand.",
    )


def _draw_front(ax, runs, x, y, seconds):
    for name in runs.families:
        across = runs.values(name, seconds, x)
        up = runs.values(name, seconds, y)
        beaten = runs.dominated(name, seconds, (x, y))
        look = {"markersize": 9, "markeredgecolor": COLOURS[name], "linestyle": "none"}
        face = "white" if beaten else COLOURS[name]
        label = STARRED.get(name, name)
        ax.plot(across, up, MARKS[name], color=COLOURS[name], markerfacecolor=face, label=label, **look)
    floors = runs.floor(x), runs.floor(y)
    if None not in floors:
        ax.plot([floors[0]], [floors[1]], "*", color=plotting.INK, markersize=13, label="real data (reference)")
    else:
        _show_floor(ax.axvline, floors[0])
        _show_floor(ax.axhline, floors[1])
    _set_scale(ax, "x", MEASURES[x][1])
    _set_scale(ax, "y", MEASURES[y][1])
    ax.margins(0.12)
    ax.set_xlabel(f"{PLURALS.get(x, x)} ({_arrow(x, '←', '→')} better)")
    ax.set_ylabel(f"{PLURALS.get(y, y)} ({_arrow(y, '↓', '↑')} better)")
    ax.legend(loc="best", fontsize=9)


def _arrow(measure, low, high):
    return low if MEASURES[measure][0] == "low" else high


def _say_front(runs, x, y, seconds):
    if x == y:
        return "Choose two different measures."
    beaten = {name: runs.dominated(name, seconds, (x, y)) for name in runs.families}
    front = [name for name, rivals in beaten.items() if not rivals]
    told = [f"{name} by {' and '.join(rivals)}" for name, rivals in beaten.items() if rivals]
    said = f"After {seconds} s, by the means of three seeds. Beaten in both: {'; '.join(told) or 'none'}. "
    if len(front) == 1:
        return f"{said}{front[0]} is best in both."
    return f"{said}Between {', '.join(front[:-1])} and {front[-1]} the choice is yours."


# ---------------------------------------------------------------- between two digits


WAYS = ("straight line", "great circle")


def morph(names, morphs, distances):
    """The same two digits in each latent space, side by side, and how far each step is from real digits.

    names: what the lists call the digits. morphs: family -> {way: pictures (pairs, T, 28, 28)
    in [-1, 1]}, distances: family -> {way: (pairs, T)}, for the pairs (0, 1), (0, 2), …, (1, 2), ….
    What moves: the two digits, the way between their codes. What to see: ends that are not the digits,
    blur in the middle, sudden changes.
    """
    pairs = list(itertools.combinations(range(len(names)), 2))
    margins = {"left": 0.0, "right": 1.0, "top": 1.0, "bottom": 0.0}
    figure = plotting.ReusableFigure(6.6, 4.6, margins)

    def draw(start, end, way):
        fig, ax = figure.wipe()
        ax.set(xlim=(0, 6.6), ylim=(0, 4.6))
        ax.set_axis_off()
        if start == end:
            ax.text(3.3, 2.3, "Choose two digits.", ha="center", va="center", fontsize=12)
            return fig, "From a digit to itself there is no way to go."
        pair = pairs.index((min(start, end), max(start, end)))
        order = 1 if start < end else -1
        found = {}
        for row, (name, pictures) in enumerate(morphs.items()):
            shown = pictures[way][pair].flip(0) if order < 0 else pictures[way][pair]
            far = distances[name][way][pair].tolist()[::order]
            _draw_morph(ax, 4.45 - 1.1 * row, name, shown, far)
            found[name] = sum(far[2:5]) / 3
        nearest = min(found, key=found.get)
        return fig, f"In the middle, nearest to real digits: {nearest} ({found[nearest]:.1f})."

    options = {name: k for k, name in enumerate(names)}
    return Panel(
        "Morph",
        draw,
        {
            "start": choice("from", options, 0),
            "end": choice("to", options, 1),
            "way": choice("way", list(WAYS)),
        },
        frames=[
            (f"From {names[0]} to {names[1]}", {}),
            (f"From {names[2]} to {names[4]}", {"start": 2, "end": 4}),
        ],
        alt="Rows of seven pictures between two digits: mixed pixels, GAN, VAE, diffusion; under each "
        "picture its distance from the nearest real digit.",
    )


def _draw_morph(ax, top, name, shown, far):
    size = 0.72
    ax.plot([0.17], [top - 0.33], MARKS.get(name, "x"), color=COLOURS.get(name, plotting.GREY), markersize=8)
    ax.text(0.33, top - 0.33, name, fontsize=9.5, va="center")
    for k, (image, distance) in enumerate(zip(shown, far, strict=True)):
        x = 1.25 + 0.76 * k
        extent = (x, x + size, top - size, top)
        ax.imshow(image.numpy(), cmap="gray", vmin=-1, vmax=1, extent=extent, interpolation="nearest")
        ax.text(x + size / 2, top - size - 0.13, f"{distance:.1f}", ha="center", va="center", fontsize=8.5)
    ax.set(xlim=(0, 6.6), ylim=(0, 4.6), aspect="auto")
