"""The panels of 03b_gpt_beyond: byte-pair encoding; the logit lens over training."""

from __future__ import annotations

import collections

import torch
import torch.nn.functional as F

from aigc_helpers.data import load_text
from aigc_helpers.models.gpt import generate
from aigc_helpers.models.gpt_beyond import BytePairs
from aigc_helpers.panels.core import Panel, frozen, slider, text_box
from aigc_helpers.plotting import ReusableFigure

TINTS = ("#CFE3F1", "#F8DCC4", "#CDE9DF", "#F3DCE9")
MONOSPACE = {"family": "monospace", "parse_math": False}


def _visible(text):
    """A text as it can be drawn: new lines and blanks have a sign."""
    return text.replace("\n", "↵").replace(" ", "␣")


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


# ---------------------------------------------------------------- the logit lens over training

NUM_SHOWN = 26  # characters of the reader's text
NUM_WRITTEN = 80
LINE = 60


def growing_up(model, checkpoints, characters, opening):
    """The logit lens over the checkpoints of a training, and what each of them writes.

    What moves: the checkpoint, and the text that is read. What to see: in early checkpoints no
    letter is sure, then line breaks and short words are, then longer words; and within the trained
    model, after how many blocks a letter is settled.

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
        ax.set_title(f"step {step}: the likeliest next letter, after each block", fontsize=10)
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
        alt="For each block and each letter of a text, the next letter that the stream would "
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
    """The likeliest letter of each block and place; the darker, the surer."""
    p, best = probabilities.max(dim=-1)
    # Light enough for dark letters.
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
    heading = "below the picture: the text, letter by letter; darker: surer"
    words = "\n".join([heading, "", "it writes:", *lines])
    fig.text(0.02, 0.30, words, va="top", fontsize=8.5, **MONOSPACE)
