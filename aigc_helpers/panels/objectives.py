"""The panels and pictures of 03c_objectives: hide letters, and watch them come back.

masked_diagram()    a line decays, a network fills it: the whole chapter in one picture
attention_masks()   which positions may attend to which: causal, both sides, prefix
two_curves(...)     the training losses of two networks between reference lines
cost_curves(...)    what a hidden letter costs, against the share that is hidden
order_strips(...)   texts whose letters are coloured by when they were written
writing_race(...)   how surprised a judge is by samples, against their entropy
fill_in(...)        a line with gaps, and a network that fills them
"""

from __future__ import annotations

import torch

from aigc_helpers import plotting
from aigc_helpers.models.objectives import ORDERINGS, rank_gaps, unmask
from aigc_helpers.panels.core import Panel, choice, frozen, slider, text_box
from aigc_helpers.weights import load_model

SEED = 2
ORDERS = ORDERINGS[:4]  # the fifth ranks letters after they are drawn: no outline can show that
GAP = "_"  # what the reader types for a hidden letter
DOT = "·"  # and how it is drawn in the diagram
LINE = "Give me your hand, and let me see your face in the morning light"
MONO = {"family": "monospace", "parse_math": False}
NUM_BARS = 12


def _visible(character):
    """A character as it can be drawn: new lines and blanks have a sign."""
    return {"\n": "↵", " ": "␣"}.get(character, character)


def _generator(seed=SEED):
    """A random generator of one panel's own, which starts alike each time."""
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the chapter in one picture


def masked_diagram():
    """Figure: a line loses its letters, a network is asked, and a window is written from nothing."""
    fig, ax = plotting.canvas(4.6, width=8.8)
    decay, written = finished_lines()
    words = "Training: letters disappear at random, and the network says what stood there"
    ax.text(0.2, 4.35, words, fontsize=11, va="center")
    for k, (share, line) in enumerate(decay):
        y = 4.0 - 0.3 * k
        ax.text(0.2, y, f"t = {share:.2f}", fontsize=9.5, va="center")
        ax.text(1.05, y, line, fontsize=10, va="center", **MONO)
    _draw_box(ax, 5.25, 2.9, 1.5, "network", "attends to both sides")
    _draw_box(ax, 7.15, 2.9, 1.45, "p(letter)", "for every gap")
    for start, end in ((4.1, 5.15), (6.8, 7.1)):
        arrow = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.8}
        ax.annotate("", (end, 3.3), (start, 3.3), arrowprops=arrow)
    words = "Writing: draw a letter for a gap, keep it, ask again. From nothing but gaps, after"
    ax.text(0.2, 2.1, words, fontsize=11, va="center")
    for k, (evaluations, line) in enumerate(written):
        y = 1.75 - 0.34 * k
        ax.text(0.2, y, f"{evaluations} evaluations", fontsize=9.5, va="center")
        ax.text(1.75, y, line, fontsize=10, va="center", color=plotting.BLUE, **MONO)
    return fig


def attention_masks():
    """Figure: three grids of six positions, a square filled where a row may attend to a column."""
    fig, axes = plotting.figure(7.6, 2.6, ncols=3)
    near = range(6)
    grids = {
        "causal": lambda row, column: column <= row,
        "both sides": lambda row, column: True,
        "prefix (of 3)": lambda row, column: column <= max(row, 2),
    }
    for ax, (name, may_see) in zip(axes, grids.items(), strict=True):
        seen = [[float(may_see(row, column)) for column in near] for row in near]
        ax.pcolormesh(seen, cmap="Blues", vmin=0, vmax=1.6, edgecolor="white", linewidth=1.5)
        ax.set(title=name, xlabel="sees position", aspect="equal")
        ax.invert_yaxis()
        ax.set_xticks([k + 0.5 for k in near], [str(k + 1) for k in near])
        ax.set_yticks([k + 0.5 for k in near], [str(k + 1) for k in near])
    axes[0].set_ylabel("position")
    return fig


def _draw_box(ax, x, y, width, name, below):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.1"
    look = {"facecolor": "white", "edgecolor": plotting.GREEN, "linewidth": 2}
    ax.add_patch(FancyBboxPatch((x, y), width, 0.8, style, **look))
    ax.text(x + width / 2, y + 0.53, name, ha="center", va="center", fontsize=11)
    ax.text(x + width / 2, y + 0.22, below, ha="center", va="center", fontsize=8.5)


def finished_lines():
    """Lines (t, text) of a decay, and (evaluations, text) of a window that the kept model writes."""
    moments = (torch.randperm(32, generator=_generator(2)) + 0.5) / 32  # a share t is gone at t
    decay = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        gone = (moments < share).tolist()
        line = "".join(DOT if hide else c for c, hide in zip(LINE[:32], gone, strict=True))
        decay.append((share, line))
    try:
        model, characters = load_model("masked")
    except (ValueError, RuntimeError):  # the page that shows this makes the weights
        return decay, [(k, DOT * 64) for k in (0, 16, 32, 48, 64)]
    gaps = torch.full((1, model.context), model.mask)
    tokens, when = unmask(model, gaps, model.context, _generator(5))
    written = []
    for k in (0, 16, 32, 48, 64):
        shown = [
            _visible(characters.alphabet[token]) if step <= k else DOT
            for token, step in zip(tokens[0].tolist(), when[0].tolist(), strict=True)
        ]
        written.append((k, "".join(shown)))
    return decay, written


# ---------------------------------------------------------------- pictures of single ideas


def two_curves(losses, references, points=()):
    """Figure: smoothed training losses (dict name -> one number a step) and lines to compare with.

    points: for each of the losses, a dict step -> a validation score, drawn as dots
    """
    fig, ax = plotting.figure(7.6, 3.4)
    longest = max(len(values) for values in losses.values())
    for colour, (name, values) in zip(plotting.CYCLE, losses.items(), strict=False):
        steps = range(1, len(values) + 1)
        ax.plot(steps, values, color=colour, alpha=0.15, linewidth=0.8)
        ax.plot(steps, plotting.smooth(values, 0.95), color=colour, label=name)
    for colour, name, scores in zip(plotting.CYCLE, losses, points, strict=False):
        look = {"color": colour, "edgecolor": "white", "s": 34, "zorder": 3}
        ax.scatter(list(scores), list(scores.values()), label=f"{name}, validation", **look)
    for name, loss in references.items():
        ax.axhline(loss, color=plotting.GREY, linestyle=":", linewidth=1.3, zorder=1)
        ax.text(longest * 1.01, loss, f"{loss:.2f} {name}", fontsize=8.5, va="center")
    lowest = min(min(plotting.smooth(values, 0.95)) for values in losses.values())
    low = min([lowest, *references.values()]) - 0.2
    ax.set(xlim=(0, longest), ylim=(low, max(references.values()) + 0.5))
    ax.set(xlabel="step", ylabel="nats per character")
    ax.legend(loc="upper right")
    return fig


def cost_curves(heights, exact, unigram):
    """Figure: the cost of a hidden letter in equal parts of the share hidden; two lines across.

    heights   dict name -> the mean cost in each part, from few gaps to many
    exact     nats per letter of the causal network; unigram: of letter frequencies
    """
    fig, ax = plotting.figure(7.2, 3.4)
    styles = ((plotting.BLUE, "o", "-"), (plotting.ORANGE, "s", "--"), (plotting.GREEN, "^", "-."))
    for (colour, mark, dash), (name, values) in zip(styles, heights.items(), strict=False):
        x = [(k + 0.5) / len(values) for k in range(len(values))]
        ax.plot(x, values, color=colour, marker=mark, markersize=5, linestyle=dash, label=name)
        if colour == plotting.BLUE:
            ax.fill_between(x, 0, values, color=colour, alpha=0.08)
    for name, loss in (("causal, exact", exact), ("unigram", unigram)):
        ax.axhline(loss, color=plotting.GREY, linestyle=":", linewidth=1.3)
        ax.text(1.01, loss, f"{loss:.2f} {name}", fontsize=8.5, va="center")
    highest = max(max(values) for values in heights.values())
    ax.set(xlim=(0, 1), ylim=(0, 1.1 * max(highest, unigram)))
    ax.set(xlabel="mask rate: share of the window that is hidden", ylabel="nats per hidden letter")
    ax.legend(loc="lower right")
    return fig


def order_strips(strips):
    """Figure: texts whose letters are coloured by when they were written.

    strips: dict name -> (text, steps (T,)): at which step each letter was filled
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps["Blues"]
    fig, ax = plotting.figure(8.8, 0.3 + 0.62 * len(strips), tight=False)
    fig.subplots_adjust(0.01, 0.02, 0.99, 0.98)
    ax.set(xlim=(-0.5, 64), ylim=(-1.15 * len(strips) + 0.3, 1.0))
    ax.set_axis_off()
    for row, (name, (text, when)) in enumerate(strips.items()):
        y = -1.15 * row
        ax.text(0, y + 0.6, f"{name} (pale: first, dark: last)", fontsize=9, va="center")
        last = max(1, int(when.max()))
        for k, (character, step) in enumerate(zip(text, when.tolist(), strict=True)):
            share = 0.55 * step / last
            ax.add_patch(Rectangle((k, y - 0.22), 1, 0.5, color=colours(share), linewidth=0))
            ink = plotting.INK
            look = {"ha": "center", "va": "center", "fontsize": 9.5, "color": ink}
            ax.text(k + 0.5, y + 0.02, _visible(character), **look, **MONO)
    return fig


def writing_race(lines, real):
    """Figure: nats of a judge against the entropy of letters, a line for each way of writing.

    lines: dict name -> [(temperature, entropy, nats)]; real: (entropy, nats) of unseen text
    """
    fig, ax = plotting.figure(7.2, 3.6)
    marks = "osD^v"
    for colour, mark, (name, points) in zip(plotting.CYCLE, marks, lines.items(), strict=False):
        temperatures, entropies, nats = zip(*points, strict=True)
        ax.plot(entropies, nats, color=colour, marker=mark, markersize=6, label=name)
        for temperature, x, y in zip(temperatures, entropies, nats, strict=True):
            ax.annotate(f"{temperature:g}", (x, y), (6, 3), textcoords="offset points", fontsize=8.5)
    ax.scatter(*real, marker="*", s=130, color=plotting.INK, zorder=3, label="unseen text")
    ax.set(xlabel="entropy of the letters, nats", ylabel="log generative perplexity (judge's nats)")
    ax.legend(loc="upper left", fontsize=8.5)
    return fig


# ---------------------------------------------------------------- a line with gaps


class _Filling:
    """A line, its gaps, and what a network has put into them."""

    def __init__(self, models, characters):
        self.models = models
        self.characters = characters
        self.context = min(model.context for model in models.values())
        self.given = None

    def read(self, text, share):
        """Take the reader's line and a share to hide; what was filled stays if both are as before."""
        if (text, share) != self.given:
            self.given = (text, share)
            self.hide()

    def hide(self):
        """The line with its gaps, and the random numbers, as at first."""
        text, share = self.given
        self.random = _generator()
        mask = len(self.characters)
        known = self.characters.number
        kept = [c for c in text if c == GAP or c in known]
        self.left_out = len(text) - len(kept)
        self.cut = max(0, len(kept) - self.context)
        kept = kept[: self.context] or [GAP] * self.context
        tokens = torch.tensor([[mask if c == GAP else known[c] for c in kept]])
        hidden = torch.rand(tokens.shape, generator=self.random) < share
        self.start = torch.where(hidden, mask, tokens)
        self.tokens = self.start.clone()
        self.evaluations = 0
        # The order "at random" must be the one that the outlines show.
        self.scores = torch.rand(tokens.shape, generator=self.random)

    def probabilities(self, model, temperature=1.0):
        """(1, T, V): at a temperature of 0, all of it on the likeliest letter."""
        with torch.no_grad():
            logits = model(self.tokens)
        if temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        return (logits / temperature).softmax(dim=-1)

    def next_gaps(self, p, ordering, number):
        """Bool (1, T): the gaps that are filled next."""
        hidden = self.tokens == len(self.characters)
        if ordering == "random":
            scores = self.scores.masked_fill(~hidden, -1.0)
            rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        else:
            rank = rank_gaps(p, hidden, ordering, self.random)
        return hidden & (rank < number)

    def fill(self, model, ordering, number, temperature=1.0):
        """One evaluation: a letter is drawn for `number` gaps. With none left, hide again."""
        if not (self.tokens == len(self.characters)).any():
            self.hide()
            return
        following = self.next_gaps(self.probabilities(model), ordering, number)
        p = self.probabilities(model, temperature)
        drawn = torch.multinomial(p[0], 1, generator=self.random).T
        self.tokens = torch.where(following, drawn, self.tokens)
        self.evaluations += 1


def fill_in(
    models=None, characters=None, text=LINE, title="Fill in", ordering=ORDERS[0]
):
    """A line with gaps, and a network that fills them, some at a time, in an order of your choice.

    An underscore in the text is a gap; the slider hides more. Outlined gaps are filled next; bars
    show the network's probabilities for the first of them. One at a time, letters fit each other;
    many at a time, neighbours are drawn without knowing of each other. The order moves the outlines;
    a temperature below 1 makes the tall bars taller, and 0 leaves the likeliest letter alone.

    models:     dict name -> gap filler (Backbone); without it, the one that is kept
    characters: the `Characters` that they read
    ordering:   the order that is chosen at first
    Source: eq. (4) of the chapter.
    """
    if models is None:
        kept, characters = load_model("masked")
        models = {"masked diffusion": kept}
    models = {name: frozen(model) for name, model in models.items()}
    state = _Filling(models, characters)
    figure = plotting.ReusableFigure(
        6.6, 3.7, margins={"left": 0.01, "right": 0.99, "top": 0.98, "bottom": 0.02}, nrows=2
    )
    first = next(iter(models))
    first_order = ordering
    text = text.replace("\n", " ")
    latest = {}

    def draw(text, share, ordering, number, temperature, model=first):
        state.read(text, share)
        latest.update(
            model=models[model], ordering=ordering, number=number, temperature=temperature
        )
        following = state.next_gaps(state.probabilities(models[model]), ordering, number)
        p = state.probabilities(models[model], temperature)
        fig, (upper, lower) = figure.wipe()
        _draw_line(upper, state, following[0], characters)
        _draw_bars(lower, p[0], following[0], characters)
        return fig, _say(state)

    controls = {
        "text": text_box("your line", text),
        "share": slider("hide", 0.0, 1.0, 0.5, step=0.05),
        "ordering": choice("order", list(ORDERS), ordering),
        "number": slider("at a time", 1, 16, 1, step=1),
        "temperature": slider("temperature", 0.0, 1.0, 1.0, step=0.1),
    }
    if len(models) > 1:
        controls["model"] = choice("network", list(models))

    def fill():
        state.fill(**latest)

    def filled(changes, times):
        """A frame of the storyboard: from the beginning, after so many evaluations."""

        def change():
            usual = {"share": 0.5, "ordering": first_order, "number": 1, "temperature": 1.0}
            values = usual | changes
            state.read(text, values["share"])
            state.hide()
            model = models[values.get("model", first)]
            for _ in range(times):
                if (state.tokens == len(characters)).any():
                    state.fill(
                        model, values["ordering"], values["number"], values["temperature"]
                    )
            return values

        return change

    return Panel(
        title,
        draw,
        controls,
        tick=fill,
        buttons={"Fill once": fill, "Hide again": state.hide},
        frames=_frames(filled, list(models)),
        reset=lambda: setattr(state, "given", None),
        alt="A line of text with gaps, some of them outlined; below, bars with the probability of "
        "each letter in the first outlined gap.",
    )


def _frames(filled, names):
    """The storyboard of one network, or of two."""
    if len(names) > 1:
        return [
            (f"{name}: all hidden, 20 filled one at a time", filled({"model": name, "share": 1.0}, 20))
            for name in names
        ]
    return [
        ("Half hidden", filled({}, 0)),
        ("One at a time: after 12 evaluations", filled({}, 12)),
        ("One at a time: all filled", filled({}, 64)),
        ("16 at a time: all filled", filled({"number": 16}, 64 // 16)),
    ]


def _say(state):
    """The status line."""
    left = int((state.tokens == len(state.characters)).sum())
    said = f"{left} gaps left after {state.evaluations} evaluations."
    if state.left_out:
        said = f"Left out {state.left_out} characters that the training text never uses. " + said
    if state.cut:
        said = f"The line is cut after {state.context} characters. " + said
    return said


def _draw_line(ax, state, following, characters):
    """The line in rows of 32: given letters, filled ones in blue, gaps grey, the next ones outlined."""
    from matplotlib.patches import Rectangle

    ax.set(xlim=(0, 32), ylim=(-2.1, 0.1))
    ax.set_axis_off()
    mask = len(characters)
    pairs = zip(state.tokens[0].tolist(), state.start[0].tolist(), strict=True)
    for k, (token, start) in enumerate(pairs):
        x = k % 32
        y = -1.05 * (k // 32) - 0.9
        if token == mask:
            is_next = bool(following[k])
            edge = plotting.ORANGE if is_next else "white"
            look = {"facecolor": "#D8D8D4", "edgecolor": edge, "linewidth": 2.2 if is_next else 0.5}
            ax.add_patch(Rectangle((x + 0.06, y), 0.88, 0.8, zorder=3 if is_next else 2, **look))
        else:
            was_gap = start == mask
            if was_gap:
                ax.add_patch(Rectangle((x, y), 1, 0.8, color="#E6F1F8", linewidth=0))
            colour = "#005A8C" if was_gap else plotting.INK
            place = {"ha": "center", "va": "center", "fontsize": 13, "color": colour}
            ax.text(x + 0.5, y + 0.4, _visible(characters.alphabet[token]), **place, **MONO)


def _draw_bars(ax, p, following, characters):
    """The likeliest letters for the first of the gaps that are filled next."""
    ax.set(xlim=(-0.7, NUM_BARS - 0.3), ylim=(-0.25, 1.3))
    ax.set_axis_off()
    if not following.any():
        ax.text(-0.5, 0.6, "no gap is left", fontsize=10, va="center")
        return
    position = int(following.nonzero()[0])
    top = p[position].topk(min(NUM_BARS, p.shape[-1]))
    tallest = max(top.values[0].item(), 1e-6)
    ax.bar(range(len(top.values)), (top.values / tallest).tolist(), 0.6, color=plotting.BLUE)
    for k, token in enumerate(top.indices.tolist()):
        name = _visible(characters.alphabet[token])
        ax.text(k, -0.05, name, ha="center", va="top", fontsize=11, **MONO)
    said = f"position {position + 1}: tallest bar {tallest:.2f}, entropy {_entropy(p[position]):.2f} nats"
    ax.text(NUM_BARS - 0.5, 1.22, said, ha="right", va="center", fontsize=9.5)


def _entropy(p):
    """Entropy in nats of probabilities (V,)."""
    return abs(-(p * p.clamp_min(1e-12).log()).sum().item())
