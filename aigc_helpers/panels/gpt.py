"""The panels and pictures of 03_gpt: sample, look at attention, read surprise, break the mask.

gpt_diagram()          the model in one picture, and what it writes
bigram_map(...)        which letter follows which, as a picture
query_key_value(...)   h times three matrices, in numbers
attention_example(...) three positions, two numbers each: every stage of eq. (6) in numbers
gpt_shapes()           the shapes on the way through the network, in true proportions
block_picture()        a block: two parts that add to the residual stream
gelu_picture(...)      GELU beside ReLU, with the inputs of an example
sliding_windows()      windows side by side, and windows that overlap, with what is scored
training_curves(...)   training and validation loss between reference lines
sampler(...)           the probabilities of the next character, and how a sample is drawn from them
attention_lens(...)    one head of attention, stage by stage
surprise(...)          how many nats each character of a text cost a model
break_the_mask(...)    a small GPT trains with its causal mask, or without
"""

from __future__ import annotations

import copy
import itertools
import math
import textwrap

import torch
import torch.nn.functional as F

from aigc_helpers import plotting
from aigc_helpers.models.gpt import (
    GPT,
    attention,
    attention_stages,
    causal_mask,
    generate,
    next_probabilities,
    train_on_windows,
    truncated_loss,
)
from aigc_helpers.panels.core import Panel, choice, frozen, slider, switch, text_box
from aigc_helpers.weights import load_model

SEED = 0


def _visible(character):
    """A character as it can be drawn: new lines and blanks have a sign."""
    return {"\n": "↵", " ": "␣"}.get(character, character)


def _generator():
    """A random generator of one panel's own, which starts alike each time."""
    return torch.Generator().manual_seed(SEED)


# ---------------------------------------------------------------- the model in one picture

START = "thy lo"
STARTS = ("ROMEO:\n", "QUEEN MARGARET:\n", "DUKE VINCENTIO:\n")
MONO = {"family": "monospace", "parse_math": False}
MASKED = "#C8C8C4"  # grey: what is masked has no value


def gpt_diagram():
    """Figure: from a text to the probabilities of its next character, and what is written so."""
    fig, ax = plotting.canvas(4.2, bottom=0.4)
    texts, p, alphabet = finished_texts()
    _draw_tokens(ax, 0.2, 3.0, START)
    _draw_part(ax, 2.35, "embedding", "token + position", plotting.BLUE)
    _draw_part(ax, 4.0, "4 blocks", "attention + MLP", plotting.GREEN)
    _draw_part(ax, 5.65, "head", "softmax", plotting.BLUE)
    for start, end in ((1.95, 2.3), (3.6, 3.95), (5.25, 5.6), (6.9, 7.25)):
        _draw_arrow(ax, (start, 3.2), (end, 3.2))
    _draw_next(ax, 7.35, 2.75, p, alphabet)
    ax.text(0.2, 2.72, "the text so far: x", fontsize=9.5, va="top")
    ax.text(7.35, 2.45, "p(next | text)", fontsize=9.5, va="top")
    corner = {"color": plotting.ORANGE, "linewidth": 1.8}
    ax.plot([7.95, 7.95, 1.1], [3.95, 4.3, 4.3], **corner)
    _draw_arrow(ax, (1.1, 4.3), (1.1, 3.5), plotting.ORANGE)
    ax.text(4.5, 4.36, "sample one character, and append it", ha="center", fontsize=10)
    ax.text(0.2, 2.05, "Written by the network of section 5, character by character:", fontsize=10)
    for k, text in enumerate(texts):
        ax.text(0.2 + 2.9 * k, 1.85, text, va="top", fontsize=7.4, linespacing=1.25, **MONO)
    return fig


def finished_texts():
    """Three texts by the kept model, the 5 likeliest characters after START, and their p."""
    try:
        gpt, characters = load_model("gpt")
    except (ValueError, RuntimeError):  # the page that shows this makes the weights
        return ["", "", ""], torch.full((5,), 0.2), list("-----")
    with torch.no_grad():
        p = gpt(characters.encode(START)[None])[0, -1].softmax(dim=0)
    top = p.topk(5)
    texts = []
    for k, start in enumerate(STARTS):
        prompt = characters.encode(start)[None]
        random = torch.Generator().manual_seed(SEED + k)
        written = generate(gpt, prompt, 260, random, temperature=0.7)[0]
        lines = []
        for line in characters.decode(written).split("\n"):
            lines += textwrap.wrap(line, 40) or [""]
        texts.append("\n".join(lines[:9]))
    return texts, top.values, [_visible(characters.alphabet[token]) for token in top.indices]


def _draw_tokens(ax, x, y, text):
    from matplotlib.patches import Rectangle

    for k, character in enumerate(text):
        look = {"facecolor": "white", "edgecolor": plotting.GREY}
        ax.add_patch(Rectangle((x + 0.29 * k, y), 0.29, 0.4, **look))
        ax.text(x + 0.29 * k + 0.145, y + 0.2, character, ha="center", va="center", **MONO)


def _draw_part(ax, x, name, below, colour):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.1"
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 2}
    ax.add_patch(FancyBboxPatch((x, 2.8), 1.2, 0.8, style, **look))
    ax.text(x + 0.6, 3.33, name, ha="center", va="center", fontsize=11)
    ax.text(x + 0.6, 3.02, below, ha="center", va="center", fontsize=8.5)


def _draw_arrow(ax, start, end, colour=plotting.INK):
    look = {"arrowstyle": "->", "color": colour, "linewidth": 1.8}
    ax.annotate("", end, start, arrowprops=look)


def _draw_next(ax, x, y, p, alphabet):
    """Five bars, the likeliest next characters, with their names below."""
    from matplotlib.patches import Rectangle

    tallest = p.max().item()
    for k, (share, character) in enumerate(zip(p.tolist(), alphabet, strict=True)):
        height = share / tallest
        ax.add_patch(Rectangle((x + 0.25 * k, y), 0.17, height, color=plotting.BLUE))
        ax.text(x + 0.25 * k + 0.085, y - 0.05, character, ha="center", va="top", fontsize=9, **MONO)


# ---------------------------------------------------------------- pictures of single ideas


def bigram_map(bigram, alphabet):
    """Figure: p(b | a) of a table (V, V), for the small letters, the blank and the new line."""
    shown = [c for c in "\n abcdefghijklmnopqrstuvwxyz" if c in alphabet]
    index = torch.tensor([alphabet.index(c) for c in shown])
    fig, ax = plotting.figure(5.2, 4.9)
    picture = ax.imshow(bigram[index][:, index].numpy(), cmap="Blues", vmin=0, vmax=0.6)
    labels = [_visible(c) for c in shown]
    ax.set_xticks(range(len(shown)), labels, family="monospace", fontsize=8)
    ax.set_yticks(range(len(shown)), labels, family="monospace", fontsize=8)
    ax.set(xlabel="next character b", ylabel="character a", title="p(b | a), small letters only")
    fig.colorbar(picture, ax=ax, shrink=0.7, extend="max", label="0.6 and above: darkest")
    return fig


def query_key_value(h, W_Q, W_K, W_V, names):
    """Figure: h (T, D) times each of three matrices (D, d), in numbers; names: one for each row."""
    fig, ax = plotting.canvas(1.75)
    products = {"queries  q = h W_Q": W_Q, "keys  k = h W_K": W_K, "values  v = h W_V": W_V}
    second = CELL * h.shape[1] + 0.2  # where the matrix begins, right of h
    third = second + CELL * W_Q.shape[1] + 0.2
    for left, (title, matrix) in zip((0.2, 3.1, 6.0), products.items(), strict=True):
        ax.text(left, 1.6, title, fontsize=10, va="center")
        _draw_matrix(ax, left, h, plotting.GREY, names)
        ax.text(left + second - 0.1, 0.68, "×", ha="center", va="center", fontsize=11)
        _draw_matrix(ax, left + second, matrix, plotting.ORANGE)
        ax.text(left + third - 0.1, 0.68, "=", ha="center", va="center", fontsize=11)
        _draw_matrix(ax, left + third, h @ matrix, plotting.BLUE)
    return fig


CELL = 0.32  # the width of one number in `query_key_value`


def _draw_matrix(ax, x, values, colour, names=None):
    """A small matrix with its numbers; its middle stands at y = 0.68, names before its rows."""
    from matplotlib.patches import Rectangle

    wide = CELL
    high = 0.4
    top = 0.68 + high * len(values) / 2
    for row, numbers in enumerate(values.tolist()):
        y = top - high * (row + 1)
        for column, number in enumerate(numbers):
            look = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.4}
            ax.add_patch(Rectangle((x + wide * column, y), wide, high, **look))
            middle = (x + wide * (column + 0.5), y + high / 2)
            ax.text(*middle, f"{number:.3g}", ha="center", va="center", fontsize=9.5)
        if names is not None:
            ax.text(x - 0.08, y + high / 2, names[row], ha="right", va="center", **MONO)


def attention_example(q, k, v, names=None):
    """Figure: eq. (6) in numbers for queries, keys and values (T, d): scores, mask, softmax, A v.

    names: one for each position; without them they are numbered.
    """
    mask = causal_mask(len(q))
    mixed, weights = attention(q, k, v, mask)
    scores = q @ k.T / math.sqrt(q.shape[1])
    stages = {
        "scores q·k / √d": scores,
        "with the mask": scores.masked_fill(~mask, float("-inf")),
        "softmax: weights A": weights,
        "values v": v,
        "result: A v": mixed,
    }
    fig, axes = plotting.figure(8.8, 2.1, ncols=5)
    for ax, (title, values) in zip(axes, stages.items(), strict=True):
        darkest = scores.abs().max().item() if title in tuple(stages)[:2] else None
        _draw_numbers(ax, values, title, darkest)
        if names is not None:
            ax.set_yticks(range(len(q)), names, family="monospace")
            if "v" not in title:
                ax.set_xticks(range(len(q)), names, family="monospace")
    axes[0].set_ylabel("query")
    axes[0].set_xlabel("key")
    return fig


def _draw_numbers(ax, values, title, darkest=None):
    """A small matrix as coloured squares with its numbers written on them; what is masked is grey.

    darkest: the number of the darkest shade; without it, the largest of the values
    """
    finite = values.masked_fill(values.isinf(), float("nan"))
    top = max(finite.nan_to_num().abs().max().item() if darkest is None else darkest, 1e-6)
    ax.set_facecolor(MASKED)
    ax.imshow((finite / top).numpy(), cmap="Blues", vmin=0.0, vmax=2.2, aspect="auto")
    for row, numbers in enumerate(values.tolist()):
        for column, number in enumerate(numbers):
            text = "-∞" if number == -math.inf else f"{number:.3g}"
            ax.text(column, row, text, ha="center", va="center", fontsize=9.5)
    ncols = values.shape[1]
    ax.set_xticks(range(ncols), [str(k + 1) for k in range(ncols)])
    ax.set_yticks(range(len(values)), [str(k + 1) for k in range(len(values))])
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=10)


UNIT = 0.085  # inches: the side of one number in `gpt_shapes`


def gpt_shapes():
    """Figure: the shapes on the way through the network, and inside of a layer of attention.

    In true proportions, for one text (N = 1) with T = 5, D = 6, V = 10, and 3 heads of d = 2.
    """
    fig, ax = plotting.canvas(3.5)
    blue = plotting.BLUE
    green = plotting.GREEN
    orange = plotting.ORANGE
    upper = [
        (0.9, 1, 1, blue, "tokens\n(N, T)"),
        (2.6, 6, 1, blue, "h: embeddings\n(N, T, D)"),
        (4.4, 6, 1, green, "h after a block\n(N, T, D)"),
        (6.2, 6, 1, green, "h after 4 blocks\n(N, T, D)"),
        (8.0, 10, 1, blue, "logits\n(N, T, V)"),
    ]
    lower = [
        (0.55, 6, 1, green, "h\n(N, T, D)"),
        (2.0, 2, 3, orange, "q and k, each\n(N, heads, T, d)"),
        (3.75, 5, 3, orange, "weights A\n(N, heads, T, T)"),
        (5.5, 2, 3, orange, "A v\n(N, heads, T, d)"),
        (7.0, 6, 1, orange, "side by side\n(N, T, D)"),
        (8.3, 6, 1, green, "mixed\n(N, T, D)"),
    ]
    for y, boxes in ((2.95, upper), (1.45, lower)):
        for left, right in itertools.pairwise(boxes):
            start = left[0] + UNIT * _width(left) / 2 + 0.08
            end = right[0] - UNIT * _width(right) / 2 - 0.08
            _draw_arrow(ax, (start, y), (end, y))
        for box in boxes:
            _draw_grids(ax, y, *box)
    _draw_grids(ax, 0.42, 3.75, 2, 3, orange, "")
    ax.text(3.75, 0.12, "v (N, heads, T, d)", ha="center", va="center", fontsize=9)
    ax.plot([0.55, 0.55], [0.75, 0.42], color=plotting.INK, linewidth=1.8)
    _draw_arrow(ax, (0.54, 0.42), (3.3, 0.42))
    _draw_arrow(ax, (4.2, 0.42), (5.15, 1.2))
    return fig


def _width(box):
    """How many numbers wide a box is: its grids side by side, and a gap of one between them."""
    _, columns, grids, _, _ = box
    return columns * grids + grids - 1


def _draw_grids(ax, y, x, columns, grids, colour, words):
    """Grids of 5 rows (T) and some columns, side by side, with their middle at (x, y)."""
    from matplotlib.patches import Rectangle

    left = x - UNIT * _width((x, columns, grids, colour, words)) / 2
    for grid in range(grids):
        corner = left + UNIT * grid * (columns + 1)
        for row in range(5):
            for column in range(columns):
                place = (corner + UNIT * column, y + UNIT * (row - 2.5))
                look = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.9}
                ax.add_patch(Rectangle(place, UNIT, UNIT, **look))
    ax.text(x, y - 0.3, words, ha="center", va="top", fontsize=9)


def block_picture():
    """Figure: the residual stream through a block; attention and MLP read from it and add to it."""
    fig, ax = plotting.canvas(2.3)
    _draw_arrow(ax, (0.5, 0.6), (8.4, 0.6), plotting.GREEN)
    names = ((0.45, "h"), (4.45, "h'"), (8.35, "h''"))
    for x, name in names:
        ax.text(x, 0.32, name, ha="center", va="center", fontsize=11)
    for left, name in ((0.9, "attention"), (4.9, "MLP")):
        _draw_branch(ax, left, name)
    ax.text(2.45, 0.1, "the residual stream", ha="center", va="center", fontsize=9.5)
    return fig


def _draw_branch(ax, left, name):
    """A branch that leaves the stream at `left`, goes through LN and a part, and is added."""
    from matplotlib.patches import Circle, Rectangle

    ax.plot([left, left, left + 0.35], [0.6, 1.6, 1.6], color=plotting.INK, linewidth=1.6)
    for x, width, text in ((left + 0.35, 0.6, "LN"), (left + 1.3, 1.2, name)):
        look = {"facecolor": "white", "edgecolor": plotting.ORANGE, "linewidth": 2}
        ax.add_patch(Rectangle((x, 1.3), width, 0.6, **look))
        ax.text(x + width / 2, 1.6, text, ha="center", va="center", fontsize=10.5)
    _draw_arrow(ax, (left + 0.95, 1.6), (left + 1.28, 1.6))
    ax.plot([left + 2.5, left + 2.9], [1.6, 1.6], color=plotting.INK, linewidth=1.6)
    _draw_arrow(ax, (left + 2.9, 1.6), (left + 2.9, 0.74))
    plus = Circle((left + 2.9, 0.6), 0.14, facecolor="white", edgecolor=plotting.GREEN, zorder=3)
    ax.add_patch(plus)
    ax.text(left + 2.9, 0.595, "+", ha="center", va="center", fontsize=12, zorder=4)


def gelu_picture(sums):
    """Figure: GELU and ReLU, and where GELU takes the sums of an example (dict name -> sum)."""
    x = torch.linspace(-3.0, 3.0, 121)
    fig, ax = plotting.figure(5.6, 2.7)
    ax.plot(x, F.relu(x), "--", color=plotting.GREY, label="ReLU")
    ax.plot(x, F.gelu(x, approximate="tanh"), color=plotting.BLUE, label="GELU")
    for name, value in sums.items():
        high = F.gelu(torch.tensor(value), approximate="tanh").item()
        ax.plot([value], [high], "o", color=plotting.ORANGE)
        words = f"{name}: {value:.2f} → {high:.2f}"
        ax.annotate(words, (value, high), (value - 0.15, high + 0.35), ha="right", fontsize=10)
    ax.set(xlabel="the sum that goes in", ylabel="what comes out")
    ax.legend(loc="upper left")
    return fig


def sliding_windows():
    """Figure: 256 characters in windows of 128 side by side, and in windows moved on by 32."""
    from matplotlib.patches import Rectangle

    fig, ax = plotting.figure(8.2, 2.6)
    rows = [(0, 128), (128, 128), (0, 128)] + [(start, 32) for start in range(32, 129, 32)]
    heights = (7.0, 7.0, 4.8, 3.8, 2.8, 1.8, 0.8)
    for (start, scored), y in zip(rows, heights, strict=True):
        look = {"facecolor": "white", "edgecolor": plotting.GREY}
        ax.add_patch(Rectangle((start, y), 128, 0.7, **look))
        left = start + 128 - scored
        ax.add_patch(Rectangle((left, y), scored, 0.7, color=plotting.BLUE, alpha=0.75))
    ax.text(0, 8.1, "side by side: every character is scored once, some after one character only")
    ax.text(0, 5.9, "sliding: every character is scored once (blue), nearly all after 97 or more")
    ax.set(xlim=(-2, 262), ylim=(0.5, 8.9), yticks=[], xlabel="character of the text")
    ax.spines["left"].set_visible(False)
    return fig


def training_curves(losses, valid, references):
    """Figure: the training loss of each step, the validation loss, and losses to compare with.

    losses      one number a step
    valid       dict step -> loss on the validation text
    references  dict name -> loss, drawn as a line across
    """
    fig, ax = plotting.figure(7.6, 3.9)
    steps = range(1, len(losses) + 1)
    ax.plot(steps, losses, color=plotting.BLUE, alpha=0.35, linewidth=0.8, label="training loss")
    dots = {"color": plotting.ORANGE, "marker": "o", "markersize": 4, "label": "validation loss"}
    ax.plot(list(valid), list(valid.values()), **dots)
    right = len(losses) * 1.04
    for name, loss in references.items():
        ax.axhline(loss, color=plotting.GREY, linestyle=":", linewidth=1.3, zorder=1)
        ax.text(right, loss, f"{loss:.2f} {name}", fontsize=8.5, va="center")
    lowest = min([*valid.values(), *references.values()])
    ax.set(xscale="log", xlabel="step (each mark: about three times the one before)", ylabel="nats per character")
    ax.set(xlim=(1, len(losses)), ylim=(lowest - 0.15, max(references.values()) + 0.15))
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000) if tick <= len(losses)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.93))
    return fig


# ---------------------------------------------------------------- next-character sampler

NUM_BARS = 24
HEADROOM = 4  # how many times as tall as the tallest grey bar the picture is
SAMPLER_SIZE = (5.2, 3.0)  # inches
BARS_WIDTH = 0.98 * SAMPLER_SIZE[0] * 72  # points from the first bar's margin to the last one's
PITCH = BARS_WIDTH / (NUM_BARS + 0.5)  # points from one bar to the next
LETTER_ASPECT = 1.204  # of a monospaced font: two letters' width to their size in points
LINE = 64  # characters of the text in a line


class _Continuation:
    """A prompt, what was sampled after it, and the logits of the next token."""

    def __init__(self, models, characters):
        self.models = models  # name -> function of tokens (T,) that returns logits (V,)
        self.characters = characters
        self.settings = {}
        self.restart()

    def restart(self, seed=SEED):
        """The prompt alone, and the random numbers of a seed from their beginning."""
        self.random = torch.Generator().manual_seed(seed)
        self.clear()

    def clear(self):
        """Forget what was sampled: the prompt will be read anew."""
        self.name = None
        self.prompt = None

    def read(self, name, prompt):
        """Take a model's name and a prompt; what was sampled stays if both are the old ones."""
        if (name, prompt) == (self.name, self.prompt):
            return
        self.name = name
        self.prompt = prompt
        self.tokens, self.remark = self.characters.read(prompt)
        self.logits = self.models[name](self.tokens)

    @torch.no_grad()
    def sample(self, num_new):
        """Sample `num_new` characters, one after another, with the present settings."""
        for _ in range(num_new):
            p = next_probabilities(self.logits, **self.settings)
            token = torch.multinomial(p, 1, generator=self.random)
            self.tokens = torch.cat([self.tokens, token])
            self.logits = self.models[self.name](self.tokens)


def sampler(
    models=None, characters=None, prompt="What is the ", title="Next-character sampler"
):
    """What a model expects after your words, and what is sampled from that.

    Bars show the probabilities of the likeliest next characters: grey as the model gives them, blue
    after temperature, top-k and top-p. Sample a character, or sixty, and the text grows. A low
    temperature heightens the first bars, a high one levels all of them; the cuts take the tail away
    and leave the order. The model's own distribution, grey, never moves with the settings: the
    height of the picture follows the grey bars alone, and of a blue bar that is too tall for it
    the probability is written out.

    models:     dict name -> GPT or NGramModel; without it, the small GPT of this project
    characters: the `Characters` that they read
    Source: eq. (11) and (12) of the chapter; top-p is Holtzman 2019, arXiv 1904.09751.
    """
    if models is None:
        gpt, characters = load_model("gpt")
        models = {"GPT": gpt}
    functions = {name: _logits_of(model) for name, model in models.items()}
    state = _Continuation(functions, characters)
    figure = plotting.ReusableFigure(
        *SAMPLER_SIZE, margins={"left": 0.01, "right": 0.99, "top": 0.68, "bottom": 0.12}
    )
    first = next(iter(models))
    vocab = len(characters)

    def draw(prompt, temperature, top_k, top_p, model=first):
        state.read(model, prompt)
        state.settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        before = state.logits.softmax(dim=0)
        after = next_probabilities(state.logits, **state.settings)
        fig, ax = figure.wipe()
        _draw_bars(ax, before, after, characters)
        _write_text(fig, characters.decode(state.tokens), before)
        kept = int((after > 0).sum())
        return fig, (
            f"{state.remark}{kept} of {vocab} characters left. "
            f"Entropy {_entropy(before):.2f} nats, with your settings {_entropy(after):.2f}."
        )

    controls = {
        "prompt": text_box("your prompt", prompt),
        "temperature": slider("temperature", 0.0, 3.0, 1.0),
        "top_k": slider("top-k", 1, vocab, vocab, step=1),
        "top_p": slider("top-p", 0.05, 1.0, 1.0, step=0.05),
    }
    if len(models) > 1:
        controls["model"] = choice("model", list(models))
    return Panel(
        title,
        draw,
        controls,
        buttons={
            "Sample 1": lambda: state.sample(1),
            "Sample 60 (0.3 s)": lambda: state.sample(60),
            "Clear": state.clear,
        },
        frames=_sampler_frames(state, list(models), prompt),
        reset=state.restart,
        alt="Your text so far; below it bars with the probability of each next character, "
        "as the model gives it and with your settings.",
    )


def _logits_of(model):
    """A function of tokens (T,) that returns the logits (V,) of what comes next."""
    if not isinstance(model, torch.nn.Module):
        return model.log_probabilities
    copied = frozen(model)

    def logits(tokens):
        with torch.no_grad():
            return copied(tokens[None, -copied.context :])[0, -1]

    return logits


def _sampler_frames(state, names, prompt):
    """The storyboard: the settings of one model, or several models; then what they write.

    Each text has a seed of its own: with the same random numbers even unlike models share words.
    """

    def writing(name, seed, **settings):
        def change():
            state.restart(seed)
            state.read(name, prompt)
            state.settings = settings
            state.sample(60)
            return settings | ({"model": name} if len(names) > 1 else {})

        return change

    if len(names) > 1:
        frames = [(f"{name}, as it is", {"model": name}) for name in names]
        written = []
        for seed, name in enumerate(names, 1):
            written.append((f"{name}: 60 sampled", writing(name, seed, temperature=1.0)))
        return frames + written
    only = names[0]
    return [
        ("As the model gives it", {}),
        ("Temperature 0.2", {"temperature": 0.2}),
        ("Temperature 2", {"temperature": 2.0}),
        ("Top-p 0.8", {"temperature": 1.0, "top_p": 0.8}),
        ("Temperature 0.2: 60 sampled", writing(only, 1, temperature=0.2, top_p=1.0)),
        ("Temperature 2: 60 sampled", writing(only, 2, temperature=2.0, top_p=1.0)),
    ]


def _draw_bars(ax, before, after, characters):
    """The likeliest next characters: probabilities (V,) before and after the settings."""
    order = before.argsort(descending=True)[:NUM_BARS]
    x = torch.arange(len(order)).numpy()
    heights = torch.cat([before[order], after[order]]).numpy()
    colours = [plotting.GREY] * len(order) + [plotting.BLUE] * len(order)
    top = min(1.0, HEADROOM * before.max().item())
    ax.vlines([*(x - 0.18), *(x + 0.18)], 0, heights.clip(max=top), linewidth=5, colors=colours)
    cut_off = [token for token in order if after[token] > top]
    if cut_off:
        shares = (f"{_visible(characters.alphabet[token])} {after[token]:.2f}" for token in cut_off)
        words = "blue bars cut at the top: " + ", ".join(shares)
        ax.text(NUM_BARS - 0.5, 0.97 * top, words, ha="right", va="top", fontsize=9, parse_math=False)
    kept = int((after > 0).sum())
    if kept < NUM_BARS:
        cut = {"color": plotting.ORANGE, "linewidth": 1.5, "linestyle": "--"}
        ax.vlines([kept - 0.5], 0, top, **cut)
    ax.set(xlim=(-0.75, NUM_BARS - 0.25), ylim=(0, 1.04 * top))
    ax.set_axis_off()
    # One line of text below the bars: a tick costs more than a bar.
    ax.annotate(
        " ".join(_visible(characters.alphabet[token]) for token in order),
        (-0.25, 0),
        xytext=(0, -5),
        textcoords="offset points",
        annotation_clip=False,
        family="monospace",
        fontsize=PITCH / LETTER_ASPECT,
        ha="left",
        va="top",
        parse_math=False,
    )


def _write_text(fig, text, before):
    """The end of the text so far, in two lines; what the bars are; two numbers of the model's p."""
    shown = text[-2 * LINE :].replace("\n", "↵")
    lines = [shown[k : k + LINE] for k in range(0, len(shown), LINE)]
    look = {"family": "monospace", "fontsize": 8.5, "va": "top", "parse_math": False}
    fig.text(0.02, 0.97, "\n".join(lines), **look)
    # Apart from its number, so that the words need not be painted anew.
    legend = {"ha": "right", "fontsize": 9}
    fig.text(0.92, 0.7, "grey: the model; blue: with your settings; tallest grey bar:", **legend)
    fig.text(0.98, 0.7, f"{before.max():.2f}", **legend)
    fig.text(0.92, 0.765, "entropy of the model's bars, nats:", **legend)
    fig.text(0.98, 0.765, f"{_entropy(before):.2f}", **legend)


def _entropy(p):
    """Entropy in nats of probabilities (V,)."""
    return 0.0 - (p * p.clamp_min(1e-12).log()).sum().item()


# ---------------------------------------------------------------- attention, stage by stage

STAGES = ("score", "scale", "mask", "softmax", "× values")
LENS_CHARACTERS = 24


def attention_lens(gpt, characters, text, heads=None):
    """One head of one layer, in the five stages of eq. (6), over the last 24 characters of a text.

    Choose a stage, a layer, a head; a button leads to each head that `heads` names. Rows are
    queries, columns are keys. The scores fill the whole square, after the mask the upper right
    triangle is empty, after the softmax each row adds up to 1; the last stage is what each position
    receives. Heads differ: some attend one position back, some spread wide, some to the last blank.

    gpt:        a GPT; the panel works on a copy
    characters: the `Characters` that it reads
    text:       what stands in the text box at first
    heads:      dict name -> (layer, head), counted from 1; the panel opens on the first
    Source: eq. (6) of the chapter, Vaswani 2017, arXiv 1706.03762.
    """
    model = frozen(gpt)
    named = {name: {"layer": layer, "head": head} for name, (layer, head) in (heads or {}).items()}
    first = next(iter(named.values()), {"layer": 1, "head": 1})
    figure = plotting.ReusableFigure(
        5.4, 4.6, margins={"left": 0.1, "right": 0.98, "top": 0.93, "bottom": 0.1}
    )

    def draw(text, layer, head, stage):
        read, remark = characters.read(text)
        shown = read[-min(LENS_CHARACTERS, model.context) :]
        values = attention_stages(model, shown, layer - 1, head - 1)[stage]
        labels = [_visible(character) for character in characters.decode(shown)]
        fig, ax = figure.wipe()
        key = _draw_stage(ax, values, stage)
        _label_positions(fig, ax, labels, is_square=stage != "× values")
        ax.set(xticks=[], yticks=[], title=f"layer {layer}, head {head}: {stage}, {key}")
        return fig, remark + _lens_status(values, labels, stage)

    num_heads = model.blocks[0].attention.num_heads
    return Panel(
        "Attention lens",
        draw,
        controls={
            "text": text_box("your text", text),
            "layer": slider("layer", 1, len(model.blocks), first["layer"], step=1),
            "head": slider("head", 1, num_heads, first["head"], step=1),
            "stage": choice("stage", list(STAGES), "softmax"),
        },
        presets=named,
        frames=_lens_frames(named),
        alt="A picture of one stage of attention: "
        "rows are the characters that attend, columns those that are attended to.",
    )


def _lens_frames(named):
    """The storyboard: the stages of the first head, then the softmax of the others that are named."""
    frames = [
        ("Stage 1: query times key", {"stage": "score"}),
        ("Stage 2: divided by the root of d", {"stage": "scale"}),
        ("Stage 3: the mask", {"stage": "mask"}),
        ("Stage 4: softmax", {"stage": "softmax"}),
        ("Stage 5: times the values", {"stage": "× values"}),
    ]
    for name, values in list(named.items())[1:]:
        frames.append((f"Softmax of {name}", values | {"stage": "softmax"}))
    return frames


def _draw_stage(ax, values, stage):
    """Values (T, T), or (T, d) of the last stage, as colours; returns what the colours mean."""
    ax.set_facecolor(MASKED)
    if stage == "softmax":
        ax.imshow(values.numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        return "white 0, dark 1"
    top = max(values[values.isfinite()].abs().max().item(), 1e-6)
    seen = values.masked_fill(values.isinf(), float("nan")).numpy()
    ax.imshow(seen, cmap="PuOr", vmin=-top, vmax=top, aspect="auto")
    return f"orange -{top:.1f}, violet {top:.1f}"


def _label_positions(fig, ax, labels, is_square):
    """A character for each row and, in a square, each column: a text costs a fifth of a tick."""
    letters = {"family": "monospace", "fontsize": 9, "parse_math": False, "clip_on": False}
    beside = {"ha": "right", "va": "center", "transform": ax.get_yaxis_transform()}
    below = {"ha": "center", "va": "top", "transform": ax.get_xaxis_transform()}
    for k, label in enumerate(labels):
        ax.text(-0.008, k, label, **beside, **letters)
        if is_square:
            ax.text(k, -0.01, label, **below, **letters)
    columns = "key: the position attended to" if is_square else "the numbers of this head"
    fig.text(0.54, 0.01, columns, ha="center", va="bottom")
    fig.text(0.01, 0.5, "query: the position that attends", rotation=90, va="center")


def _lens_status(values, labels, stage):
    if stage != "softmax":
        return f"{len(labels)} characters."
    where = int(values[-1].argmax())
    back = len(labels) - 1 - where
    found = f"'{labels[where]}', {back} back," if back else "itself"
    return f"The last character takes most from {found} ({100 * values[-1].max():.0f} %)."


# ---------------------------------------------------------------- surprise of each character

PER_ROW = 32
MOST = 64  # characters that are shown
DARKEST = 7  # nats; a colour scale that ends later leaves dark letters readable


def surprise(gpt, ngram, characters, text):
    """A text in rows; the colour behind each character says how many nats it cost the model.

    Type a text and choose the model: -log p of each character, given those before it. The first
    has nothing before it and is scored by how frequent it is, for both models. Inside familiar
    words colours are light, where a word or a speech begins they darken; a spelling mistake costs
    several characters.

    gpt:        a GPT; the panel works on a copy
    ngram:      a `NGramModel`
    characters: the `Characters` that both read
    text:       what stands in the text box at first
    Source: eq. (2) of the chapter, term by term.
    """
    copied = frozen(gpt)
    context = min(MOST, copied.context)
    num_rows = -(-context // PER_ROW)
    figure = plotting.ReusableFigure(
        6.2, 1.6, margins={"left": 0.01, "right": 0.99, "top": 0.86, "bottom": 0.02}
    )

    def surprise_of(tokens, name):
        """Surprise (T,) in nats of tokens (T,)."""
        if name != "GPT":
            return ngram.losses(tokens)
        first = ngram.losses(tokens[:1])
        if len(tokens) == 1:
            return first
        log_p = copied(tokens[None, :-1])[0].log_softmax(dim=-1)
        later = -log_p.gather(1, tokens[1:, None])[:, 0]
        return torch.cat([first, later])

    def draw(text, model):
        read, remark = characters.read(text)
        if len(read) > context:
            remark += f"Only the last {context} of {len(read)} characters are shown. "
        shown = read[-context:]
        nats = surprise_of(shown, model)
        labels = [_visible(character) for character in characters.decode(shown)]
        fig, ax = figure.wipe()
        grid = F.pad(nats, (0, num_rows * PER_ROW - len(nats))).view(num_rows, PER_ROW)
        shades = grid.clamp(max=DARKEST).numpy()
        ax.imshow(shades, cmap="Oranges", vmin=0, vmax=1.4 * DARKEST, aspect="auto")
        letters = {"ha": "center", "va": "center", "fontsize": 11, "family": "monospace"}
        for k, label in enumerate(labels):
            ax.text(k % PER_ROW, k // PER_ROW, label, parse_math=False, **letters)
        ax.set_axis_off()
        mean = f"this text: {nats.mean():.2f} nats per character"
        ax.set_title(f"white: 0 nats, dark: {DARKEST} nats or more; {mean}")
        worst = int(nats.argmax())
        most = f"'{labels[worst]}', character {worst + 1}, {nats[worst]:.1f} nats."
        return fig, f"{remark}The greatest surprise: {most}"

    return Panel(
        "Surprise",
        draw,
        controls={
            "text": text_box("your text", text),
            "model": choice("model", ["GPT", "n-gram model"]),
        },
        frames=[
            ("The GPT on text that it has not seen", {}),
            ("The n-gram model on the same text", {"model": "n-gram model"}),
            ("The GPT, the text backwards", {"model": "GPT", "text": text[::-1]}),
            ("The GPT, forty times the letter a", {"text": "a" * 40}),
        ],
        alt="A text in rows; the colour behind each character "
        "shows by how many nats the model was surprised.",
    )


# ---------------------------------------------------------------- with the mask, and without

MASK_CONTEXT = 32
MASK_GIVEN = 16  # characters given for the truncated loss
STEPS_A_TICK = 5


class _MaskTrial:
    """A small GPT in training, with its causal mask or without; it starts from the same weights."""

    def __init__(self, train_tokens, test_tokens, vocab):
        self.train_tokens = train_tokens
        self.windows = _windows(test_tokens, MASK_CONTEXT, 256)
        with torch.random.fork_rng(devices=[]):  # the page's random numbers stay where they were
            torch.default_generator.manual_seed(SEED)
            self.initial = GPT(vocab, MASK_CONTEXT, width=64, num_heads=2, num_blocks=2)
        self.start(True)

    def start(self, mask):
        """A new model with the first weights, with the causal mask or without it."""
        self.mask = mask
        self.model = copy.deepcopy(self.initial)
        for block in self.model.blocks:
            block.attention.causal = mask
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=3e-3, fused=True)
        self.random = _generator()
        self.losses = []
        self.truncated_steps = []
        self.truncated = []

    def train(self, num_steps):
        """Train on, and measure the truncated loss once at the end."""
        self.losses += train_on_windows(
            self.model, self.opt, self.train_tokens, num_steps, self.random
        )
        self.truncated_steps.append(len(self.losses))
        self.truncated.append(truncated_loss(self.model, self.windows, MASK_GIVEN))

    def write(self):
        """Three texts (3, 32) of tokens, from three beginnings of 8."""
        starts = self.windows[:6:2, :8]
        return generate(self.model, starts, 24, _generator(), use_cache=False)


def _windows(tokens, context, most):
    """At most `most` windows (N, context + 1) of tokens (T,), one after the other."""
    return tokens.unfold(0, context + 1, context + 1)[:most]


def break_the_mask(train_tokens, test_tokens, characters, storyboard_steps=300):
    """A small GPT trains while you watch, with its causal mask or without it.

    Press Run; the switch starts anew, from the same weights and with the same batches. The blue
    curve is the training loss, the orange one the truncated loss: of character 17, when the first 16
    are all that the model gets. With the mask the two fall together. Without it the training loss
    plunges after some 200 steps, the truncated loss rises, and what the model writes is no text.

    train_tokens: tokens (T,) to train on;  test_tokens: tokens (T',) for the truncated loss
    characters:   their `Characters`
    storyboard_steps: how long each of the storyboard's two models trains (300: about 2 s each)
    Source: section 8 of the chapter.
    """
    vocab = len(characters)
    trial = _MaskTrial(train_tokens, test_tokens, vocab)
    figure = plotting.ReusableFigure(
        6.2, 3.6, margins={"left": 0.09, "right": 0.97, "top": 0.92, "bottom": 0.4}
    )

    def draw(mask):
        fig, ax = figure.wipe()
        _draw_losses(ax, trial, vocab)
        ax.set_title(f"mask {'on' if mask else 'off'}")
        texts = [characters.decode(row).replace("\n", "↵") for row in trial.write()]
        fig.text(
            0.09,
            0.22,
            f"step {len(trial.losses)}; it writes, after 8 given characters:\n" + "\n".join(texts),
            va="top",
            family="monospace",
            fontsize=9,
            parse_math=False,
        )
        if not trial.losses:
            return fig, "Not trained yet: press Run."
        now = f"Training loss {trial.losses[-1]:.2f}, truncated loss {trial.truncated[-1]:.2f} nats."
        return fig, f"Step {len(trial.losses)}. {now}"

    def after_training(mask):
        def change():
            trial.start(mask)
            for _ in range(storyboard_steps // 10):
                trial.train(10)
            return {"mask": mask}

        return change

    return Panel(
        "Break the mask",
        draw,
        controls={"mask": switch("causal mask", True)},
        tick=lambda: trial.train(STEPS_A_TICK),
        changed=lambda name, value: trial.start(value),
        buttons={"Start again": lambda: trial.start(trial.mask)},
        frames=[
            (f"With the mask, after {storyboard_steps} steps", after_training(True)),
            (f"Without it, after {storyboard_steps} steps", after_training(False)),
        ],
        reset=lambda: trial.start(True),
        alt="Two curves, training loss and truncated loss, against steps; "
        "below them three texts that the model writes.",
    )


def _draw_losses(ax, trial, vocab):
    """Both losses against the steps; before training, the loss of the uniform distribution."""
    steps = range(1, len(trial.losses) + 1)
    ax.plot(steps, trial.losses, color=plotting.BLUE, linewidth=1, label="training loss")
    truncated_steps = trial.truncated_steps or [0]
    truncated = trial.truncated or [math.log(vocab)]
    ax.plot(truncated_steps, truncated, color=plotting.ORANGE, linestyle="--", label="truncated loss")
    top = max(6.0, truncated[-1])
    ax.set(
        xlim=(0, max(300, len(trial.losses))),
        ylim=(0, 1.3 * top),
        xlabel="step",
        ylabel="nats",
    )
    ax.legend(loc="upper right", ncols=2)
