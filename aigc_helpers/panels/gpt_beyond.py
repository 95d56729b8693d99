"""The panels and pictures of 03b_gpt_beyond: byte-pair encoding, rotary positions, the logit lens.

two_blocks()           the block of GPT-2 beside that of the page
merges(...)            a text cut into tokens by ever more merges
rotary()               a query and a key, turned by their positions, and their score
growing_up(...)        the logit lens over the checkpoints of a training
parts_picture(...)     what each part is worth: differences with their errors
training_picture(...)  the losses of a training beside those of n-gram models
race_picture(...)      bits per byte over processor time, for two tokenizers
loads_picture(...)     the share of the busiest expert in training
scaling_picture(...)   loss against compute, with a fitted line
"""

from __future__ import annotations

import collections
import math

import torch
import torch.nn.functional as F

from aigc_helpers import plotting
from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import generate
from aigc_helpers.models.gpt_beyond import BytePairs, rotate
from aigc_helpers.panels.core import Panel, frozen, slider, text_box
from aigc_helpers.plotting import ReusableFigure

TINTS = ("#CFE3F1", "#F8DCC4", "#CDE9DF", "#F3DCE9")
MONOSPACE = {"family": "monospace", "parse_math": False}


def _visible(text):
    """A text as it can be drawn: new lines and blanks have a sign."""
    return text.replace("\n", "↵").replace(" ", "␣")


# ---------------------------------------------------------------- pictures

GPT2_BLOCK = ("layer norm", "attention", "layer norm", "MLP: GELU")
THIS_PAGE = (
    "RMSNorm",
    "attention:\nrotary, QK-norm,\nGQA",
    "RMSNorm",
    "MLP: squared\nReLU or SwiGLU,\nor experts",
)


def two_blocks():
    """Figure: the residual stream through GPT-2's block, and through one with this page's parts."""
    fig, ax = plotting.figure(8.8, 4.6, tight=False)
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 8.8), ylim=(0, 4.6))
    ax.set_axis_off()
    beginnings = ("token + learnt position", "token; then a norm")
    optimizers = ("AdamW for all weights", "Muon for matrices, AdamW for the rest")
    columns = (("GPT-2, 2019", GPT2_BLOCK), ("the parts of this page", THIS_PAGE))
    for k, (title, parts) in enumerate(columns):
        left = 0.5 + 4.4 * k
        ax.text(left + 1.7, 4.38, title, ha="center", fontsize=12.5)
        _draw_block(ax, left, parts, plotting.BLUE if k == 0 else plotting.ORANGE)
        ax.text(left + 0.3, 0.38, beginnings[k], fontsize=9.5)
        ax.text(left + 0.3, 0.12, optimizers[k], fontsize=9.5, color=plotting.GREY)
    return fig


def _draw_block(ax, left, parts, colour):
    """The stream from below to above at `left`, and two branches that read from it and add to it."""
    from matplotlib.patches import Circle, Rectangle

    look = {"arrowstyle": "->", "color": plotting.GREEN, "linewidth": 2.2}
    ax.annotate("", (left, 4.5), (left, 0.3), arrowprops=look)
    ax.text(left - 0.12, 0.3, "h", ha="right", va="center", fontsize=11)
    for bottom, (norm, part) in zip((0.75, 2.55), (parts[:2], parts[2:]), strict=True):
        y = bottom + 0.75
        ax.plot([left, left + 0.35], [bottom, bottom], color=plotting.INK, linewidth=1.5)
        ax.plot([left + 0.35] * 2, [bottom, y], color=plotting.INK, linewidth=1.5)
        for x, width, text in ((left + 0.2, 1.05, norm), (left + 1.55, 1.75, part)):
            box = {"facecolor": "white", "edgecolor": colour, "linewidth": 2, "zorder": 3}
            ax.add_patch(Rectangle((x, y - 0.35), width, 0.9, **box))
            ax.text(x + width / 2, y + 0.1, text, ha="center", va="center", fontsize=9.5, zorder=4)
        ax.plot([left + 1.25, left + 1.55], [y + 0.1] * 2, color=plotting.INK, linewidth=1.5)
        ax.plot([left + 2.4] * 2, [y + 0.55, y + 0.8], color=plotting.INK, linewidth=1.5)
        ax.plot([left + 2.4, left], [y + 0.8] * 2, color=plotting.INK, linewidth=1.5)
        plus = {"facecolor": "white", "edgecolor": plotting.GREEN, "zorder": 3}
        ax.add_patch(Circle((left, y + 0.8), 0.13, **plus))
        ax.text(left, y + 0.795, "+", ha="center", va="center", fontsize=12, zorder=4)


T_95 = 4.30  # standard errors each way that make 95 %, with three seeds: Student's t, 2 d.f.


def parts_picture(rows):
    """Figure: the difference of each variant to the baseline, with a 95 per cent interval.

    rows: those of the experiment gpt_parts, numbers as text; the baseline has no difference.
    """
    shown = {name: row for name, row in rows.items() if row["difference"]}
    names = sorted(shown, key=lambda name: float(shown[name]["difference"]))
    fig, ax = plotting.figure(7.8, 0.6 + 0.27 * len(names))
    for y, name in enumerate(names):
        difference = float(shown[name]["difference"])
        error = T_95 * float(shown[name]["± standard error"])
        told = abs(difference) > error
        colour = plotting.GREY if not told else plotting.ORANGE if difference > 0 else plotting.BLUE
        ax.errorbar(difference, y, xerr=error, fmt="o", color=colour, capsize=3, markersize=5)
    ax.axvline(0.0, color=plotting.INK, linestyle=":", linewidth=1.2)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("nats more than the baseline (bars: 95 % intervals; grey: not told apart)")
    return fig


def training_picture(losses, curves, references):
    """Figure: the training loss of each step, losses of other texts, and losses to compare with.

    It begins where the training loss comes below the highest of these.

    losses      one number a step
    curves      dict name -> (dict step -> loss)
    references  dict name -> loss, drawn as a line across
    """
    fig, ax = plotting.figure(7.6, 3.9)
    steps = range(1, len(losses) + 1)
    ax.plot(steps, losses, color=plotting.SKY, alpha=0.5, linewidth=0.7)
    # Means over steps around each one, so that the curve does not lag behind.
    smoothed = [_mean_around(losses, step) for step in steps]
    ax.plot(steps, smoothed, color=plotting.BLUE, label="training (mean of the steps around)")
    styles = ((plotting.ORANGE, "o"), (plotting.GREEN, "s"))
    for (name, curve), (colour, marker) in zip(curves.items(), styles, strict=True):
        look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2}
        ax.plot(list(curve), list(curve.values()), label=name, **look)
    for name, loss in references.items():
        ax.axhline(loss, color=plotting.GREY, linestyle=":", linewidth=1.3, zorder=1)
        ax.text(len(losses) * 1.04, loss, f"{loss:.2f} {name}", fontsize=8.5, va="center")
    lowest = min(min(curve.values()) for curve in curves.values())
    lowest = min(lowest, smoothed[-1], *references.values())
    highest = max(references.values()) + 0.1
    first = next((step for step in steps if smoothed[step - 1] < highest), 1)
    ax.set(xscale="log", xlabel="step (each mark: about three times the one before)")
    ax.set(xlim=(min(first, len(losses) - 1), len(losses)), ylim=(lowest - 0.1, highest))
    ax.set_ylabel("nats per character")
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000) if first <= tick <= len(losses)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.96))
    return fig


def _mean_around(losses, step):
    """The mean loss of the steps from 0.87 to 1.15 times this one."""
    around = losses[math.ceil(step / 1.15) - 1 : math.floor(step * 1.15)]
    return sum(around) / len(around)


def race_picture(rows):
    """Figure: bits per byte over processor seconds, and the lines of the tables of the same tokens.

    rows: those of the experiment gpt_tokens; "by the way" holds "seconds: bits, ..." of one run.
    """
    fig, ax = plotting.figure(7.4, 3.4)
    for (name, row), colour in zip(rows.items(), (plotting.BLUE, plotting.ORANGE), strict=True):
        points = [pair.split(": ") for pair in row["by the way"].split(", ")]
        seconds = [float(time) for time, _ in points]
        ax.plot(seconds, [float(bits) for _, bits in points], "o-", color=colour, label=name)
        for table, dashes in (("bigram", ":"), ("trigram", "--")):
            level = float(row[f"bits per byte, {table}"])
            ax.axhline(level, color=colour, linestyle=dashes, linewidth=1.2)
            ax.text(0.4, level + 0.02, f"{table}, {name}", color=colour, fontsize=8)
    ax.set(xlabel="processor seconds of training", ylabel="bits per byte", xlim=(0, None))
    ax.legend(loc="upper right")
    return fig


def loads_picture(loads):
    """Figure: the share of the busiest expert over the steps, one axes a block.

    loads: dict (name, seed) -> (measured steps, blocks), per cent, every tenth step from 0 on.
    """
    names = list(dict.fromkeys(name for name, _ in loads))
    colours = dict(zip(names, (plotting.BLUE, plotting.ORANGE), strict=True))
    num_blocks = next(iter(loads.values())).shape[1]
    fig, axes = plotting.figure(8.0, 2.8, ncols=num_blocks, sharey=True)
    for block, ax in enumerate(axes):
        for (name, seed), shares in loads.items():
            at = range(0, 10 * len(shares), 10)
            label = name if seed == 0 else None
            ax.plot(at, shares[:, block], color=colours[name], linewidth=1.5, label=label)
        ax.axhline(25, color=plotting.GREY, linestyle=":")
        ax.set(title=f"block {block + 1}", xlabel="step", ylim=(0, 100))
    axes[0].set_ylabel("busiest expert, %")
    axes[-1].legend(loc="upper right", fontsize=8.5)
    return fig


def scaling_picture(grid, held_out, lines, error):
    """Figure: loss against compute in logarithms, a curve for each width, and a line a C^-b.

    grid: the smaller runs; held_out: the larger run; lines: name -> (alpha, beta); error: the
    standard error of the line at the larger run.
    """
    fig, ax = plotting.figure(7.4, 3.6)
    colours = (plotting.SKY, plotting.GREEN, plotting.BLUE)
    widths = sorted({run["width"] for run in grid})
    for width, colour in zip(widths, colours, strict=False):
        runs = [run for run in grid if run["width"] == width]
        compute = [run["compute, FLOP"] for run in runs]
        losses = [run["validation loss"] for run in runs]
        errors = [run["standard deviation"] / math.sqrt(3) for run in runs]
        bars = {"fmt": "o-", "capsize": 3, "markersize": 4, "label": f"width {width}"}
        ax.errorbar(compute, losses, errors, color=colour, **bars)
    far = held_out["compute, FLOP"]
    ends = [min(run["compute, FLOP"] for run in grid), 1.3 * far]
    for name, (alpha, beta) in lines.items():
        line = [alpha * C**-beta for C in ends]
        ax.plot(ends, line, "--", color=plotting.GREY, label=f"line: {name}", linewidth=1.4)
        predicted = alpha * far**-beta
        label = "prediction, ± its standard error"
        ax.errorbar(far, predicted, error, fmt="_", color=plotting.INK, capsize=6, label=label)
    star = {"color": plotting.ORANGE, "markersize": 11, "linestyle": "", "zorder": 4}
    name = f"width {held_out['width']}, held out"
    ax.plot(far, held_out["validation loss"], marker="*", label=name, **star)
    ax.set(xscale="log", yscale="log", xlabel="compute C, FLOP", ylabel="nats per character")
    low, high = ax.get_ylim()
    ticks = [tick / 10 for tick in range(10, 40) if low <= tick / 10 <= high]
    ax.set_yticks(ticks, [f"{tick:.1f}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper right", fontsize=8.5)
    return fig


# ---------------------------------------------------------------- byte-pair encoding

NUM_LEARN = 200_000  # characters that the merges are learnt from: less than a second
NUM_UNSEEN = 20_000  # characters at the end of the text, for the number that compares
MAX_READ = 400  # characters of the reader's text
COLUMNS = 51
ROWS = 4


def merges(text=None, num_merges=512):
    """A text of the reader's own, cut into tokens by byte-pair encoding with ever more merges.

    What moves: the text, and how many merges are applied. What to see: common words become one
    token early; the number of characters a token grows ever more slowly; characters that the
    training text never uses fall back to bytes.

    text: what the merges are learnt from; the text of the series if None.
    Source: eq. (1) of the chapter; Sennrich 2015, arXiv 1508.07909, on bytes as in Radford 2019.
    """
    text = load_text(verbose=False).text if text is None else text
    pairs = BytePairs(text[:NUM_LEARN], num_merges)
    unseen = text[-NUM_UNSEEN:]
    reusable = ReusableFigure(6.2, 2.2, {"left": 0.01, "right": 0.99, "top": 0.99, "bottom": 0.01})

    def draw(text, merges):
        read = text[:MAX_READ] or " "
        tokens = pairs.encode(read, merges)
        fig, ax = reusable.wipe()
        ax.set(xlim=(0, COLUMNS + 1), ylim=(6.9, -0.6))
        ax.set_axis_off()
        _draw_tokens(ax, [_label(pairs, token) for token in tokens])
        newest = [_label(pairs, 256 + m) for m in range(max(0, merges - 6), merges)]
        line = "the newest merges: " + ("   ".join(newest) or "none yet")
        ax.text(0, 5.3, line, fontsize=10, parse_math=False)
        rate = len(unseen) / len(pairs.encode(unseen, merges))
        line = f"vocabulary {256 + merges}; unseen text: {rate:.2f} characters a token"
        ax.text(0, 6.3, line, fontsize=10)
        remark = f"Only the first {MAX_READ} characters are cut. " if len(text) > MAX_READ else ""
        return fig, (
            f"{remark}{len(read)} characters, {len(tokens)} tokens: "
            f"{len(read) / len(tokens):.2f} characters a token."
        )

    def one_more():
        panel.put(merges=min(num_merges, panel.values["merges"] + 1))

    panel = Panel(
        "Byte-pair encoding",
        draw,
        controls={
            "text": text_box(
                "your text",
                "What is the matter with the weather, my lord, and where is the king? "
                "I have heard nothing of him since the morning.",
            ),
            "merges": slider("merges", 0, num_merges, min(16, num_merges), step=1),
        },
        buttons={"One more merge": one_more},
        frames=[
            (f"{count} merges", {"merges": count})
            for count in (0, 16, 128, 512)
            if count <= num_merges
        ],
        alt="A text cut into coloured tokens; below it the newest merges and the number of "
        "characters a token.",
    )
    return panel


def _label(pairs, token):
    """A token as it can be drawn: bytes that are no character by their numbers."""
    spelling = pairs.bytes[token]
    text = _visible(spelling.decode("utf-8", errors="replace"))
    if all(ord(c) < 0x2500 or c in "␣↵" for c in text):
        return text
    return "".join(f"<{byte:02X}>" for byte in spelling)


def _draw_tokens(ax, labels):
    """Tokens on tinted ground, from left to right, in up to ROWS rows of COLUMNS characters."""
    spans = collections.defaultdict(list)  # row -> (left, width) of each token
    tints = collections.defaultdict(list)
    left = 0
    row = 0
    for k, label in enumerate(labels):
        if left + len(label) > COLUMNS:
            left = 0
            row += 1
        if row == ROWS:
            break
        spans[row].append((left + 0.08, len(label) - 0.16))
        tints[row].append(TINTS[k % len(TINTS)])
        middle = left + len(label) / 2
        ax.text(middle, row, label, ha="center", va="center", fontsize=11, **MONOSPACE)
        left += len(label)
    for row, parts in spans.items():
        ax.broken_barh(parts, (row - 0.42, 0.84), facecolors=tints[row])


# ---------------------------------------------------------------- rotary positions

HEAD = 32  # numbers of a query or key: 16 pairs
CLOCKS = (0, 4, 12)  # the pairs that are drawn
FARTHEST = 64


def rotary():
    """A query and a key under rotary positions: three of their pairs as clock hands, and the score.

    What moves: the position of the query, and how far behind it the key stands. What to see: with
    the position both hands of a clock turn together, and the score stays; with the distance the
    score runs along its curve.

    Source: eq. (4) of the chapter; Su 2021, arXiv 2104.09864.
    """
    random = torch.Generator().manual_seed(3)
    q = torch.randn(1, 1, 1, HEAD, generator=random).double()
    k = (q + 0.6 * torch.randn(1, 1, 1, HEAD, generator=random)).double()  # they fit, at distance 0
    margins = {"left": 0.01, "right": 0.98, "top": 0.86, "bottom": 0.2, "wspace": 0.25}
    reusable = ReusableFigure(7.6, 2.5, margins, ncols=4, gridspec_kw={"width_ratios": [1, 1, 1, 2]})
    fixed = rotate(q, FARTHEST)
    curve = [_product(fixed, rotate(k, FARTHEST - gap)) for gap in range(FARTHEST + 1)]

    def draw(position, distance):
        position = max(position, distance)
        turned_q = rotate(q, position)
        turned_k = rotate(k, position - distance)
        score = _product(turned_q, turned_k)
        fig, axes = reusable.wipe()
        for ax, pair in zip(axes, CLOCKS, strict=False):
            _draw_clock(ax, turned_q.flatten(), turned_k.flatten(), pair)
        ax = axes[-1]
        ax.plot(range(FARTHEST + 1), curve, color=plotting.GREY, linewidth=1.3)
        ax.plot(distance, score, "o", color=plotting.ORANGE, markersize=8)
        ax.set(xlabel="distance", ylim=(min(curve) - 1, max(curve) + 1))
        ax.set_title("the score q·k / √d", fontsize=10)
        return fig, (
            f"Query at {position}, key at {position - distance}: "
            f"the score of all 16 pairs is {score:.3f}."
        )

    return Panel(
        "Rotary positions",
        draw,
        controls={
            "position": slider("query at position", 0, 200, 70, step=1),
            "distance": slider("distance", 0, FARTHEST, 0, step=1),
        },
        frames=[
            ("Query at 70, distance 0", {"position": 70, "distance": 0}),
            ("Query at 73, distance 0", {"position": 73, "distance": 0}),
            ("Query at 73, distance 3", {"position": 73, "distance": 3}),
            ("Query at 150, distance 3", {"position": 150, "distance": 3}),
        ],
        alt="Three clocks, each with a blue hand for the query and an orange one for the key; beside "
        "them the score as a curve over the distance, with a dot.",
    )


def _product(q, k):
    """The score of a query and a key of HEAD numbers."""
    return ((q * k).sum() / math.sqrt(HEAD)).item()


def _draw_clock(ax, q, k, pair):
    """One pair of numbers of the query and of the key, as hands of a clock."""
    half = HEAD // 2
    for x, colour in ((q, plotting.BLUE), (k, plotting.ORANGE)):
        hand = torch.stack([x[pair], x[pair + half]])
        hand = hand / hand.norm()
        ax.plot([0, hand[0]], [0, hand[1]], color=colour, linewidth=2.5, solid_capstyle="round")
    turn = torch.linspace(0, 2 * math.pi, 60)
    ax.plot(turn.cos(), turn.sin(), color=plotting.GREY, linewidth=1)
    ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
    ax.set_axis_off()
    theta = 10000 ** (-2 * pair / HEAD)
    ax.set_title(f"pair {pair + 1}: {theta:.2g} rad\na position", fontsize=9)


# ---------------------------------------------------------------- the logit lens over training

NUM_SHOWN = 26  # characters of the reader's text
NUM_WRITTEN = 80
LINE = 60


def growing_up(model, checkpoints, characters, opening):
    """The logit lens over the checkpoints of a training, and what each of them writes.

    What moves: the checkpoint, and the text that is read. What to see: in early checkpoints no
    character is sure, then line breaks and short words are, then longer words; and within the
    trained model, after how many blocks a character is settled.

    model:       a ModernGPT; the panel works on a copy of it
    checkpoints: dict step -> its state dict at that step
    characters:  the `Characters` that it reads
    opening:     tokens (T,) that every sample begins with
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    model = frozen(model)
    steps = sorted(checkpoints)
    state = {"step": None}

    def load(step):
        if state["step"] != step:
            weights = {name: weight.float() for name, weight in checkpoints[step].items()}
            model.load_state_dict(weights)
            state["step"] = step

    written = {}
    for step in steps:
        load(step)
        random = torch.Generator().manual_seed(0)
        tokens = generate(model, opening[None], NUM_WRITTEN, random, temperature=0.8)
        written[step] = characters.decode(tokens[0, len(opening) :])
    reusable = ReusableFigure(6.4, 3.3, {"left": 0.15, "right": 0.99, "top": 0.91, "bottom": 0.41})

    def draw(checkpoint, text):
        step = steps[checkpoint - 1]
        load(step)
        read, remark = characters.read(text)
        shown = read[-min(NUM_SHOWN, model.context) :]
        fig, ax = reusable.wipe()
        _draw_lens(ax, _read_every_block(model, shown), shown, characters)
        ax.set_title(f"step {step}: the likeliest next character, after each block", fontsize=10)
        _write_sample(fig, written[step])
        last = read[-model.context :]
        message = f"{remark}Step {step} of {steps[-1]}"
        if len(last) > 1:
            loss = F.cross_entropy(model(last[None, :-1])[0], last[1:]).item()
            message += f": {loss:.2f} nats per character on your text"
        return fig, f"{message}."

    middle = {f"Checkpoint {k}": {"checkpoint": k} for k in (1, 3, 5) if k < len(steps)}
    return Panel(
        "Logit lens over training",
        draw,
        controls={
            "checkpoint": slider("checkpoint", 1, len(steps), len(steps), step=1),
            "text": text_box("your text", "What is the matter, my lord?"),
        },
        frames=[*middle.items(), ("The last checkpoint", {"checkpoint": len(steps)})],
        alt="For each block and each character of a text, the next one that the stream would "
        "predict there; below it a sample.",
    )


def _read_every_block(model, tokens):
    """Probabilities (blocks + 1, T, V) of the next token, read from the stream after each block."""
    h = model.embed(tokens[None])
    layers = [model.read_out(h)]
    for block in model.blocks:
        h = block(h)
        layers.append(model.read_out(h))
    return torch.cat(layers).softmax(dim=-1)


def _draw_lens(ax, probabilities, tokens, characters):
    """The likeliest character of each block and position; the darker, the surer."""
    p, best = probabilities.max(dim=-1)
    # Light enough for dark signs.
    ax.imshow(p.numpy(), cmap="Blues", vmin=0, vmax=1.8, aspect="auto", origin="lower")
    letters = [_visible(letter) for letter in characters.alphabet]
    for layer, row in enumerate(best):
        for k, token in enumerate(row):
            ax.text(k, layer, letters[token], ha="center", va="center", fontsize=10, **MONOSPACE)
    ax.set_xticks(range(len(tokens)), [letters[token] for token in tokens], **MONOSPACE)
    ax.set_yticks(range(len(p)), ["embedding", *(f"block {k}" for k in range(1, len(p)))])


def _write_sample(fig, text):
    """What the model writes, in lines, at the foot of the figure."""
    text = _visible(text)
    lines = [text[k : k + LINE] for k in range(0, len(text), LINE)]
    heading = "below the picture: the text, character by character; darker: surer"
    words = "\n".join([heading, "", "it writes:", *lines])
    fig.text(0.02, 0.30, words, va="top", fontsize=8.5, **MONOSPACE)
