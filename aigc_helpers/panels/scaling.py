"""The panels and pictures of 07_scaling: who waits for whom, a ring of ranks, the price of a training.

three_splits()     what each of two ranks holds and says: data parallel, sharded, tensor parallel
resumed_losses(.)  the losses of a run that was killed and resumed, and of one that was not
speed_curves(...)  measured milliseconds a step beside what the formula says
loss_curves(...)   the predicted loss of models of all sizes, at one compute
who_waits()        ranks and time: a step of data-parallel training, its idle share and its price
ring()             a ring all-reduce, message by message
how_big()          a model's size, its tokens and its devices: days, money, energy, predicted loss
"""

from __future__ import annotations

from aigc_helpers import plotting
from aigc_helpers.models.scaling import (
    BESIROGLU,
    H100_WATTS,
    HOFFMANN,
    compute_optimal,
    gpu_hours,
    predicted_loss,
    ring_schedule,
    step_times,
)
from aigc_helpers.panels.core import Panel, choice, slider, switch

FORWARD, BACKWARD, UPDATE = plotting.SKY, plotting.BLUE, plotting.GREEN
NETWORK, IDLE = plotting.ORANGE, "#E3E3E3"
ROWS = 8  # ranks that a picture has room for
SIZES = {
    "10 million": 1e7, "30 million": 3e7, "100 million": 1e8, "300 million": 3e8, "1 billion": 1e9, "3 billion": 3e9,
    "8 billion": 8e9, "30 billion": 3e10, "70 billion": 7e10, "405 billion": 4.05e11, "1 trillion": 1e12,
}  # fmt: skip

# What is trained, and on what: seconds a window and a step, bytes of a gradient, seconds a message, dollars an hour.
# The first is about what 03's GPT takes on a CPU core, the second is calculated in section 6: 4,096 tokens.
KINDS = {
    "03's GPT on CPU cores": {
        "sample": 0.02,
        "fixed": 0.02,
        "num_bytes": 3.3e6,
        "latency": 1e-4,
        "dollars": 0.05,
    },
    "1 billion weights on H100s": {
        "sample": 0.062,
        "fixed": 0.0,
        "num_bytes": 4e9,
        "latency": 1e-5,
        "dollars": 3.0,
    },
}


def _time(seconds):
    """A duration in words: 21 ms, 3.4 s, 5.0 min, 2.1 h, 12 days."""
    for limit, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:,.0f} days"


def _big(number):
    """A large number in words: 818 thousand, 7 billion, 1.4 trillion."""
    names = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
    for size, name in names:
        if number >= 0.9995 * size:
            return f"{number / size:,.3g} {name}"
    return f"{number:.3g}"


# ---------------------------------------------------------------- pictures


def _block(ax, x, y, width, height, colour, words="", **look):
    from matplotlib.patches import Rectangle

    look = {"facecolor": colour, "edgecolor": "white", "linewidth": 1.2} | look
    ax.add_patch(Rectangle((x, y), width, height, **look))
    if words:
        dark = colour in (plotting.BLUE, "#3D3D3D")
        ink = "white" if dark else plotting.INK
        ax.text(x + width / 2, y + height / 2, words, ha="center", va="center", fontsize=9, color=ink)


# For each way of splitting: its name, what the ranks say to each other, and which of the rows are cut.
SPLITS = (
    ("data parallel", ("all-reduce of", "the gradient"), {"batch", "activations"}),
    (
        "sharded (FSDP)",
        ("reduce-scatter of the gradient,", "all-gather of the weights"),
        {"batch", "activations", "weights", "gradient", "optimizer state"},
    ),
    ("tensor parallel", ("all-reduces of", "each layer"), {"activations", "weights", "gradient", "optimizer state"}),
)


PARTLY = {("tensor parallel", "activations")}  # what lies between layers is whole on each rank


def three_splits():
    """Figure: what two ranks hold of the batch and of all that is kept, under three splits, and what they say."""
    fig, ax = plotting.canvas(3.7, width=8.8)
    colours = {
        "batch": plotting.BLUE,
        "activations": plotting.SKY,
        "weights": plotting.AMBER,
        "gradient": plotting.PINK,
        "optimizer state": plotting.GREEN,
    }
    for row, name in enumerate(colours):
        ax.text(0.1, 2.69 - 0.44 * row, name, fontsize=10, va="center")
    for k, (name, said, cut) in enumerate(SPLITS):
        left = 1.3 + 2.56 * k
        ax.text(left, 3.5, name, fontsize=11, weight="bold", va="center")
        for rank in range(2):
            x = left + 1.2 * rank
            ax.text(x, 3.15, f"rank {rank}", fontsize=9.5, va="center", color=plotting.GREY)
            for row, (what, colour) in enumerate(colours.items()):
                y = 2.52 - 0.44 * row
                _block(ax, x, y, 1.05, 0.34, "white", edgecolor="#BBBBBB", linestyle=":")
                share = (0.75 if (name, what) in PARTLY else 0.5) if what in cut else 1.0
                start = 1.05 * (1 - share) * rank
                _block(ax, x + start, y, 1.05 * share, 0.34, colour)
        arrow = {"arrowstyle": "<->", "color": plotting.INK, "linewidth": 1.6}
        ax.annotate("", (left + 1.9, 0.6), (left + 0.35, 0.6), arrowprops=arrow)
        for line, words in enumerate(said):
            y = 0.4 - 0.22 * line
            ax.text(left + 1.12, y, words, ha="center", va="center", fontsize=9)
    return fig


def speed_curves(processor, clock):
    """Figure: ms a step against the batch by two stopwatches, name -> (batches, measured, predicted, or None)."""
    fig, axes = plotting.figure(7.6, 2.9, ncols=2)
    styles = ((plotting.ORANGE, "o", "--"), (plotting.BLUE, "s", "-"), (plotting.BLUE, "x", ":"))
    for ax, title, found in zip(axes, ("CPU time", "wall-clock time"), (processor, clock), strict=True):
        for (colour, mark, dash), (name, (batches, measured, predicted)) in zip(styles, found.items(), strict=False):
            ax.plot(batches, measured, mark, color=colour, label=name)
            if predicted is not None:
                ax.plot(batches, predicted, dash, color=colour, label="the formula")
        ax.set(xlabel="batch, windows", ylabel="ms a step", ylim=(0, None), xlim=(0, None))
        ax.set_title(title, fontsize=10)
        ax.set_ylim(0, 1.9 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left", fontsize=9)
    return fig


def resumed_losses(calm, killed, resumed):
    """Figure: losses against steps, {step: loss}, of a run left alone, of one until its kill, and of its resumption."""
    fig, ax = plotting.figure(6.4, 2.9)
    ax.plot(calm.keys(), calm.values(), color="#C8C8C8", linewidth=5, label="left alone")
    ax.plot(killed.keys(), killed.values(), color=plotting.ORANGE, linewidth=1.2, label="until the kill")
    ax.plot(resumed.keys(), resumed.values(), "--", color=plotting.BLUE, linewidth=1.2, label="resumed")
    last, first = max(killed), min(resumed)
    ax.plot([last], [killed[last]], "x", color=plotting.ORANGE, markersize=11, markeredgewidth=3)
    ax.axvline(last, color=plotting.ORANGE, linewidth=0.8)
    ax.axvline(first, color=plotting.BLUE, linewidth=0.8, linestyle="--")
    top = max(calm.values())
    ax.text(last + 1, top, f"killed after {last}", color=plotting.INK, fontsize=9, va="top")
    ax.text(first - 1, top, f"resumed at {first}", color=plotting.INK, fontsize=9, va="top", ha="right")
    ax.set(xlabel="step", ylabel="loss")
    ax.set_ylim(0, 1.05 * top)
    ax.legend(loc="lower left", ncols=3)
    return fig


def _draw_losses(ax, C, laws, marks=True):
    """Predicted loss against parameters at compute C, one curve a law, its lowest point marked."""
    styles = ((plotting.ORANGE, "--", "v"), (plotting.BLUE, "-", "o"))
    for (colour, dash, mark), (name, law) in zip(styles, laws.items(), strict=False):
        best, _ = compute_optimal(law, C)
        sizes = [best * 10 ** (k / 20) for k in range(-32, 33)]
        losses = [predicted_loss(law, P, C / (6 * P)) for P in sizes]
        ax.plot(sizes, losses, dash, color=colour, label=name)
        if marks:
            least = predicted_loss(law, best, C / (6 * best))
            ax.plot([best], [least], mark, color=colour, markersize=7)
    plotting.log_axis(ax, axis="x", write=_short)


def loss_curves(C):
    """Figure: predicted loss of models of all sizes trained with C operations, by both sets of constants."""
    fig, ax = plotting.figure(6.4, 2.9)
    _draw_losses(ax, C, {"Hoffmann 2022": HOFFMANN, "Besiroglu 2024": BESIROGLU})
    ax.set(xlabel="parameters", ylabel="predicted loss, nats")
    ax.legend(loc="upper center")
    return fig


def _short(size):
    """A size for the label of an axis: 1 B, 10 B."""
    for unit, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if size >= 0.999 * unit:
            return f"{size / unit:g}{letter}"
    return f"{size:g}"


# ---------------------------------------------------------------- who waits for whom?


def _settings(kind, batch, ranks, bandwidth, slowest, overlap):
    """Arguments of `step_times` for the controls of the panel."""
    found = {name: value for name, value in KINDS[kind].items() if name != "dollars"}
    found |= {"batch": batch, "num_ranks": ranks, "bandwidth": 1e9 * bandwidth}
    return found | {"slowest": slowest, "overlap": float(overlap)}


def _draw_rank(ax, y, parts, pace):
    """One row of the picture: what a rank computes (at `pace` of the slowest rank), below it what it sends."""
    forward = parts["gradient"] * pace / 3
    sent = parts["step"] - parts["update"]
    ax.broken_barh([(0, parts["step"])], (y - 0.08, 0.44), color=IDLE)
    ax.broken_barh([(0, forward)], (y - 0.08, 0.44), color=FORWARD)
    ax.broken_barh([(forward, 2 * forward)], (y - 0.08, 0.44), color=BACKWARD)
    ax.broken_barh([(sent, parts["update"] * pace)], (y - 0.08, 0.44), color=UPDATE)
    ax.broken_barh([(sent - parts["network"], parts["network"])], (y - 0.36, 0.26), color=NETWORK)


def _draw_ranks(ax, parts, num_ranks, slowest):
    shown = min(num_ranks, ROWS)
    for row in range(shown):
        slow = row == shown - 1
        _draw_rank(ax, -row, parts, 1.0 if slow else 1 / slowest)
    names = [f"rank {row}" for row in range(shown)]
    if num_ranks > shown:
        names[-1] = f"rank {num_ranks - 1}"
    ax.set_yticks([-row for row in range(shown)], names)
    ax.set(xlim=(0, parts["step"]), ylim=(-shown + 0.5, 0.6))
    ax.set_xticks([0, parts["step"]], ["0", _time(parts["step"])])
    labels = ((FORWARD, "forward"), (BACKWARD, "backward"), (UPDATE, "update"), (NETWORK, "network"), (IDLE, "idle"))
    for x, (colour, name) in zip((0.0, 0.215, 0.455, 0.65, 0.87), labels, strict=True):
        _block(ax, x, 1.06, 0.03, 0.05, colour, transform=ax.transAxes, clip_on=False)
        ax.text(x + 0.04, 1.085, name, fontsize=9, va="center", transform=ax.transAxes)


def who_waits():
    """Ranks and time: one step of data-parallel training, what it waits for, and whether it was worth it.

    What moves: what is trained, the batch, the ranks, the network, the slowest rank, whether sending and
    computing overlap. What to see: all wait for the slowest and for the network; a larger batch or a
    quicker network hides the waiting, more ranks show it.
    """
    margins = {"left": 0.115, "right": 0.985, "top": 0.89, "bottom": 0.13, "wspace": 0.27}
    figure = plotting.ReusableFigure(7.2, 3.5, margins, ncols=2, gridspec_kw={"width_ratios": [1.55, 1]})

    def draw(kind, batch, ranks, bandwidth, slowest, overlap):
        settings = _settings(kind, batch, ranks, bandwidth, slowest, overlap)
        parts = step_times(**settings)
        compute = parts["gradient"] + parts["update"]
        fig, (left, right) = figure.wipe()
        _draw_ranks(left, parts, ranks, slowest)
        alone = step_times(**(settings | {"num_ranks": 1, "slowest": 1.0}))["step"]
        counts = [2**k for k in range(11)]
        gains = []
        for count in counts:
            slowed = slowest if count > 1 else 1.0
            step = step_times(**(settings | {"num_ranks": count, "slowest": slowed}))["step"]
            gains.append(alone / step)
        gain = alone / parts["step"]
        _draw_gain(right, counts, gains, batch, ranks, gain)
        busy = compute * ((ranks - 1) / slowest + 1) / ranks / parts["step"]
        return fig, _say_step(parts, ranks, gain, busy, batch, KINDS[kind]["dollars"])

    return Panel(
        "Who waits for whom?",
        draw,
        {
            "kind": choice("training", list(KINDS)),
            "batch": choice("batch", [16, 64, 256, 1024, 4096], 64),
            "ranks": choice("ranks", [1, 2, 4, 8, 64, 1024], 4),
            "bandwidth": choice("network, GB/s", [0.01, 0.1, 1, 3, 12.5, 50, 100, 400, 450, 900], 0.1),
            "slowest": slider("slowest rank ×", 1.0, 2.0, 1.0, step=0.1),
            "overlap": switch("send while going backward", True),
        },
        presets={
            "Two CPU cores": _preset(0, 64, 2, 3.0),
            "8 GPUs": _preset(1, 1024, 8, 450.0),
            "1,024 GPUs": _preset(1, 1024, 1024, 400.0),
        },
        frames=[
            ("03's GPT on four computers, 0.1 GB/s between them", {}),
            ("... one of them slower", {"slowest": 1.5}),
            ("1 billion weights, 8 GPUs, 450 GB/s", _preset(1, 1024, 8, 450.0)),
            ("... 1,024 GPUs, 400 GB/s, one of them slow", _preset(1, 1024, 1024, 400.0) | {"slowest": 1.5}),
        ],
        alt="Left, a row for each rank over the time of one step: computing forward and backward, "
        "sending, and doing nothing. Right, how many times faster so many ranks are than one, "
        "beside the straight line of no waiting at all; dashed where a rank has less than a window.",
    )


def _preset(kind, batch, ranks, bandwidth):
    name = list(KINDS)[kind]
    return {
        "kind": name, "batch": batch, "ranks": ranks, "bandwidth": bandwidth, "slowest": 1.0, "overlap": True,
    }  # fmt: skip


def _draw_gain(ax, counts, gains, batch, ranks, gain):
    whole = sum(count <= batch for count in counts)  # beyond, a rank has less than a window
    ax.plot(counts, counts, ":", color=plotting.GREY)
    ax.plot(counts[whole - 1 :], gains[whole - 1 :], "--", color=plotting.SKY)
    ax.plot(counts[:whole], gains[:whole], color=plotting.BLUE)
    ax.plot([ranks], [gain], "o", color=plotting.ORANGE, markersize=8)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks([1, 8, 64, 1024], ["1", "8", "64", "1024"])
    ax.set_yticks([1, 8, 64, 1024], ["1", "8", "64", "1024"])
    ax.set(xlim=(0.8, 1400), ylim=(0.35, 1400))
    ax.set_xlabel("ranks", labelpad=1)
    ax.set_title("speed-up over one rank", fontsize=10)


def _say_step(parts, ranks, gain, busy, batch, dollars):
    waits = parts["network"] - parts["hidden"]
    price = parts["step"] * ranks / 3600 * dollars
    bound = " (a fraction of a window each: an upper bound)" if ranks > batch else ""
    times = f"{gain:,.0f}" if gain >= 100 else f"{gain:.3g}"
    return (
        f"A step takes {_time(parts['step'])}: {_time(parts['gradient'] + parts['update'])} of computing, "
        f"{_time(waits)} of waiting for the network. {ranks:,} ranks do {times} times the work of one{bound}; "
        f"{100 * (1 - busy):.0f} % of their time is idle. A million windows cost ${1e6 * price / batch:,.2f}."
    )


# ---------------------------------------------------------------- a ring of ranks


def _held(num_ranks, steps):
    """Whose numbers are in each piece of each rank after so many steps: a list of lists of sets."""
    held = [[{rank} for _ in range(num_ranks)] for rank in range(num_ranks)]
    for step, messages in enumerate(ring_schedule(num_ranks)[:steps]):
        moving = [set(held[sender][piece]) for sender, _, piece in messages]
        for (_, receiver, piece), message in zip(messages, moving, strict=True):
            adds = step < num_ranks - 1
            held[receiver][piece] = held[receiver][piece] | message if adds else message
    return held


def ring():
    """A ring all-reduce: what each piece of each rank holds, step by step, and the bytes sent so far.

    What moves: the number of ranks, and the step. What to see: after N - 1 steps each rank has one
    finished piece, after twice as many all have all; nobody sends twice what it holds.
    """
    margins = {"left": 0.02, "right": 0.98, "top": 0.86, "bottom": 0.13, "wspace": 0.12}
    figure = plotting.ReusableFigure(7.0, 3.3, margins, ncols=2, gridspec_kw={"width_ratios": [1.7, 1]})

    def draw(ranks, step):
        last = 2 * (ranks - 1)
        step = min(step, last)
        held = _held(ranks, step)
        fig, (left, right) = figure.wipe()
        left.set_axis_off()
        arrived = ring_schedule(ranks)[step - 1] if step else []
        _draw_pieces(left, held, arrived)
        phase = "reduce-scatter" if step < ranks else "all-gather"
        left.set_title(f"after step {step} of {last}" + (f", {phase}" if step else ""), fontsize=10)
        _draw_sent(right, ranks, step)
        finished = sum(len(piece) == ranks for rank in held for piece in rank)
        words = f"{finished} of {ranks * ranks} pieces are finished. "
        return fig, words + f"Each rank has sent {step}/{ranks} = {step / ranks:.2f} of its bytes."

    return Panel(
        "Ring",
        draw,
        {
            "ranks": choice("ranks", [2, 3, 4, 6, 8], 4),
            "step": slider("step", 0, 14, 0, step=1),
        },
        frames=[
            ("Four ranks, before the first message", {}),
            ("After 3 steps", {"step": 3}),
            ("After 4 steps", {"step": 4}),
            ("After 6 steps", {"step": 6}),
        ],
        alt="Left, a table: a row for each rank, a column for each piece; each cell says how many ranks' "
        "numbers are in the piece. Right, bars: the bytes that the busiest rank has sent, by the ring and "
        "by way of rank 0.",
    )


def _draw_pieces(ax, held, arrived):
    num = len(held)
    new = {(receiver, piece) for _, receiver, piece in arrived}
    for rank, pieces in enumerate(held):
        y = num - 1 - rank
        ax.text(-0.1, y + 0.5, f"rank {rank}", ha="right", va="center", fontsize=9.5)
        for place, piece in enumerate(pieces):
            share = len(piece) / num
            colour = plotting.GREEN if share == 1 else (0.34 + 0.6 * (1 - share), 0.71 + 0.27 * (1 - share), 0.95)
            _block(ax, place, y, 1, 1, colour)
            ax.text(place + 0.5, y + 0.5, f"{len(piece)}/{num}", ha="center", va="center", fontsize=9.5)
    for rank, piece in new:
        look = {"edgecolor": plotting.ORANGE, "linewidth": 3, "zorder": 3}
        _block(ax, piece + 0.05, num - 0.95 - rank, 0.9, 0.9, "none", **look)
    ax.set(xlim=(-1.1 * num / 4, num + 0.05), ylim=(-0.05, num + 0.05))


def _draw_sent(ax, num, step):
    last = 2 * (num - 1)
    names = ("ring: each rank sends", "all by way of rank 0: it sends")
    values = (step / num, float(max(0, step - last // 2)))  # rank 0 first receives, from one after the other
    ax.barh([1, 0], values, 0.45, color=(plotting.GREEN, plotting.ORANGE))
    for y, name, value in zip((1, 0), names, values, strict=True):
        ax.text(0, y + 0.33, f"{name} {value:.2f}", fontsize=9.5, va="center", ha="left")
    ax.set(xlim=(0, 7), ylim=(-0.4, 1.6), yticks=[])
    ax.set_xlabel("sent, in units of what it holds", labelpad=2)


# ---------------------------------------------------------------- how big, how long?


def how_big():
    """A training on H100s: compute, days, money, energy, and the loss that two fits of one law predict.

    What moves: parameters, tokens for each of them, GPUs, utilisation, the price of an hour. What to see: at
    one compute there is a best size; more GPUs shorten the days and leave the price; the two fits disagree.
    """
    margins = {"left": 0.1, "right": 0.985, "top": 0.95, "bottom": 0.16, "wspace": 0.04}
    figure = plotting.ReusableFigure(7.2, 3.4, margins, ncols=2, gridspec_kw={"width_ratios": [1.35, 1]})
    laws = {"Hoffmann 2022": HOFFMANN, "Besiroglu 2024": BESIROGLU}

    def draw(parameters, ratio, gpus, utilisation, price):
        tokens = ratio * parameters
        C = 6 * parameters * tokens
        hours = gpu_hours(C, utilisation)
        fig, (left, right) = figure.wipe()
        _draw_losses(left, C, laws)
        for law in laws.values():
            loss = predicted_loss(law, parameters, tokens)
            left.plot([parameters], [loss], "o", color=plotting.INK, markersize=5)
        best, most = compute_optimal(BESIROGLU, C)
        left.set(xlim=(best / 45, best * 45), ylim=_losses_shown(C, laws))
        left.axvline(parameters, color=plotting.GREY, linewidth=0.8)
        left.set_xlabel("parameters, at this compute", labelpad=2)
        left.set_ylabel("predicted loss, nats", labelpad=2)
        left.legend(loc="upper center", fontsize=9)
        right.set_axis_off()
        lines = {
            "parameters": _big(parameters),
            "tokens": _big(tokens),
            "FLOPs": f"{C:.2e}",
            "GPU hours": _big(hours),
            "time": _time(3600 * hours / gpus),
            "money": f"${_big(hours * price)}",
            "energy": f"{hours * H100_WATTS / 1e6:,.3g} MWh",
            "best size": f"{_big(best)}",
            "... tokens": f"{_big(most)}",
        }
        for k, (name, value) in enumerate(lines.items()):
            y = 0.96 - 0.11 * k
            right.text(0.06, y, name, fontsize=9.5, va="center", color=plotting.GREY)
            right.text(0.42, y, value, fontsize=9.5, va="center")
        right.set(xlim=(0, 1), ylim=(0, 1))
        extra = predicted_loss(BESIROGLU, parameters, tokens) - predicted_loss(BESIROGLU, best, most)
        return fig, (
            f"{_time(3600 * hours / gpus)} on {gpus:,} GPUs, ${_big(hours * price)}. The best size for this compute "
            f"would be predicted {extra:.3f} nats lower (Besiroglu)."
        )

    return Panel(
        "How big, how long?",
        draw,
        {
            "parameters": choice("parameters", SIZES, 1e9),
            "ratio": choice("tokens a param.", [1, 2, 5, 10, 20, 38.5, 100, 300, 1000, 1875], 20),
            "gpus": choice("GPUs (H100)", [1, 8, 64, 1024, 16_384], 8),
            "utilisation": slider("utilisation", 0.1, 0.6, 0.4, step=0.01),
            "price": slider("$ a GPU hour", 0.5, 10.0, 3.0, step=0.1),
        },
        presets={
            "Chinchilla 70B": {"parameters": 70e9, "ratio": 20.0},
            "Llama 3.1 8B": {"parameters": 8e9, "ratio": 1875.0},
            "Llama 3.1 405B": {"parameters": 405e9, "ratio": 38.5},
        },
        frames=[
            ("1 billion parameters, 20 billion tokens, 8 GPUs", {}),
            ("8 billion, 15 trillion tokens, 1,024 GPUs", {"parameters": 8e9, "ratio": 1875.0, "gpus": 1024}),
        ],
        alt="Left, predicted loss against the number of parameters at one compute, two U-shaped curves with "
        "their lowest points; a line marks the chosen size. Right, the numbers of the training: tokens, "
        "FLOPs, GPU hours, time, money, energy, best size.",
    )


def _losses_shown(C, laws):
    """Limits of the axis of losses: a little above and below what the curves' lowest points are."""
    least = []
    for law in laws.values():
        P, M = compute_optimal(law, C)
        least.append(predicted_loss(law, P, M))
    return min(least) - 0.12, max(least) + 0.55
