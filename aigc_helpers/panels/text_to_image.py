"""The panels and the diagram of 05_text_to_image: captions that become pictures, and how.

diagram()            the parts of the model, what is trained when, and finished scenes
gallery(...)         pictures, each under its caption
compared(...)        rows of pictures: the same captions or times, one row a model or caption
clip_drawing(...)    the cosines of some pictures with some captions
attention_drawing()  one word attends to the words of a caption, with shapes and real weights
denoiser_drawing()   latents to a velocity: one denoising block, with shapes
caption()            your own words, and pictures that form
word_and_patch(...)  which patch attends to which word: cross-attention by block and step
guidance(...)        pictures, match and variety at each guidance scale
edit(...)            one word changed, the same noise
latent(...)          four channels, and two ways from one caption to another
"""

from __future__ import annotations

import torch

from aigc_helpers import plotting
from aigc_helpers.models.diffusion import RECTIFIED_FLOW, denoiser, sample
from aigc_helpers.models.text_to_image import draw_latents, guided
from aigc_helpers.panels.core import Panel, choice, frozen, slider, text_box
from aigc_helpers.scenes import COLOURS, DIGITS, MAX_WORDS, PAD, find_held_out, parse, read_caption, tokenize, words_of
from aigc_helpers.weights import load_model

W = 2.0  # guidance, where a panel does not ask for it
NUM_STEPS = 20
TIMES = torch.linspace(1, 0, NUM_STEPS + 1)
FIRST = "a red three above a blue seven"


def _model(model):
    """A copy of a TextToImage for a panel to own; without one, of the stored weights."""
    return frozen(load_model("text_to_image") if model is None else model)


def _noise(num, seed=0):
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def _pictures(model, latents):
    """Latents (N, 4, 8, 8) -> images (N, 3, 32, 32) in [-1, 1]."""
    return model.autoencoder.decode(latents.float()).clamp(-1, 1)


def _shown(image):
    """An image (3, 32, 32) in [-1, 1] as matplotlib takes it: (32, 32, 3) in 0..1."""
    return ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()


# ---------------------------------------------------------------- the model in one diagram

FINISHED = (
    ("a red three", "above a blue seven", FIRST),
    ("a blue seven", "below a red three", "a blue seven below a red three"),
    ("a green eight", "left of a red one", "a green eight left of a red one"),
    ("a yellow two", "over a green zero", "a yellow two over a green zero"),
    ("a blue five", "at the top right", "a blue five at the top right"),
    ("a red six", "at the bottom left", "a red six at the bottom left"),
)
STAGES = {
    "first: CLIP": plotting.BLUE,
    "second: autoencoder": plotting.GREEN,
    "third: denoiser": plotting.ORANGE,
}
HEIGHT = 4.15
ARROWS = (
    ((1.7, 3.62), (2.05, 3.62)),
    ((3.65, 3.62), (4.25, 3.62)),
    ((5.05, 3.2), (5.05, 2.55)),
    ((1.7, 2.12), (4.25, 2.12)),
    ((5.85, 2.12), (6.2, 2.12)),
    ((7.4, 2.12), (7.7, 2.12)),
)


def diagram():
    """Figure: from a caption to a picture; which part is trained when; scenes that the stored weights draw."""
    fig, ax = plotting.canvas(HEIGHT, width=8.8)
    first, second, third = STAGES.values()
    _box(ax, 0.1, 3.25, 1.55, 0.75, plotting.GREY, "a red three\nabove a blue seven", "caption")
    _box(ax, 2.1, 3.25, 1.5, 0.75, first, "text encoder", "frozen from then on")
    _box(ax, 4.3, 3.25, 1.5, 0.75, plotting.GREY, "word vectors", "one a word, 128 numbers")
    _box(ax, 0.1, 1.75, 1.55, 0.75, plotting.GREY, "noise", "4 x 8 x 8 numbers")
    _box(ax, 4.3, 1.75, 1.5, 0.75, third, "denoiser", "20 times, t from 1 to 0")
    _box(ax, 6.25, 1.75, 1.1, 0.75, second, "decoder", "frozen")
    _box(ax, 7.75, 1.75, 0.95, 0.75, plotting.GREY, "picture", "3 x 32 x 32")
    for start, end in ARROWS:
        _arrow(ax, start, end)
    ax.text(5.15, 2.86, "cross-attention: each patch attends to the words", fontsize=9, va="center")
    ax.text(2.95, 2.24, "latents", fontsize=9, ha="center")
    ax.text(6.2, 3.9, "trained", fontsize=9.5, va="center")
    for k, (name, colour) in enumerate(STAGES.items()):
        y = 3.9 - 0.24 * k
        ax.add_patch(_rectangle((6.88, y - 0.07), 0.16, 0.14, facecolor="white", edgecolor=colour, linewidth=2))
        ax.text(7.15, y, name, fontsize=9.5, va="center")
    _draw_finished(ax)
    return fig


def _box(ax, x, y, width, height, colour, name, below):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor="white", edgecolor=colour, linewidth=2))
    middle = y + height / 2
    ax.text(x + width / 2, middle + 0.13, name, ha="center", va="center", fontsize=9.5, linespacing=1.05)
    ax.text(x + width / 2, y + 0.12, below, ha="center", va="center", fontsize=7.8, color=plotting.GREY)


def _arrow(ax, start, end):
    arrow = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.6}
    ax.annotate("", end, start, arrowprops=arrow)


def _is_new(caption):
    """Whether a caption of the grammar asks for a combination that training never showed."""
    in_pair, at_place = find_held_out(parse(caption))
    return bool(in_pair | at_place)


# What loading raises while the page has not yet made the weights, or made them for another class.
NOT_MADE = (ValueError, RuntimeError, OSError)


def _say_missing(ax):
    ax.text(4.4, 0.7, "(the stored weights are missing)", ha="center", fontsize=10)


def _draw_finished(ax):
    """A row of scenes under their captions; none while the page has not yet made the weights."""
    try:
        model = _model(None)
    except NOT_MADE:
        _say_missing(ax)
        return
    with torch.no_grad():
        tokens = tokenize([whole for *_, whole in FINISHED])
        images = _pictures(model, draw_latents(model, tokens, W, NUM_STEPS, _noise(len(tokens), 3)))
    for k, (image, (upper, lower, _)) in enumerate(zip(images, FINISHED, strict=True)):
        left = 0.2 + 1.44 * k
        ax.imshow(_shown(image), extent=(left, left + 1.1, 0.42, 1.52), interpolation="nearest", zorder=2)
        ax.text(left + 0.55, 0.29, upper, ha="center", va="center", fontsize=8.5)
        ax.text(left + 0.55, 0.12, lower, ha="center", va="center", fontsize=8.5)
        if _is_new(FINISHED[k][2]):
            frame = {"fill": False, "edgecolor": plotting.ORANGE, "linewidth": 2, "zorder": 3}
            ax.add_patch(_rectangle((left, 0.42), 1.1, 1.1, **frame))
    ax.set(xlim=(0, 8.8), ylim=(0, HEIGHT), aspect="auto")


# ---------------------------------------------------------------- pictures with their captions


@plotting.style()
def gallery(images, captions, ncols=6):
    """Figure: images (N, 3, 32, 32) in [-1, 1], each above its caption; held-out combinations framed in orange."""
    images = torch.as_tensor(images)
    cell = 8.8 / ncols
    side = 0.8 * cell
    nrows = -(-len(images) // ncols)
    height = nrows * (side + 0.5)
    fig, ax = plotting.canvas(height)
    for k, (image, words) in enumerate(zip(images, captions, strict=True)):
        left = (k % ncols) * cell + 0.1 * cell
        top = height - (k // ncols) * (side + 0.5) - 0.04
        _draw_scene(ax, image, left, top - side, side, new=parse(words) is not None and _is_new(words))
        ax.text(left + side / 2, top - side - 0.06, _in_two_lines(words), **UNDER)
    ax.set(xlim=(0, 8.8), ylim=(0, height), aspect="auto")
    return fig


UNDER = {"ha": "center", "va": "top", "fontsize": 8.5, "linespacing": 1.1, "parse_math": False}


@plotting.style()
def compared(rows, heads):
    """Figure: {name of a row: images (N, 3, 32, 32)} in rows, under N heads: captions, or times."""
    left = 1.6 if max(map(len, rows)) > 3 else 0.4
    cell = min(1.4, (8.8 - left) / len(heads))
    side = 0.94 * cell
    height = len(rows) * cell + 0.42
    fig, ax = plotting.canvas(height, width=left + len(heads) * cell)
    for k, words in enumerate(heads):
        ax.text(left + k * cell + side / 2, height - 0.02, _in_two_lines(words), **UNDER)
    for j, (name, images) in enumerate(rows.items()):
        bottom = height - 0.42 - j * cell - side
        ax.text(left - 0.08, bottom + side / 2, _in_two_lines(name), fontsize=9, ha="right", va="center")
        for k, image in enumerate(torch.as_tensor(images)):
            _draw_scene(ax, image, left + k * cell, bottom, side)
    ax.set(xlim=(0, left + len(heads) * cell), ylim=(0, height), aspect="auto")
    return fig


def _draw_scene(ax, image, left, bottom, side, new=False):
    extent = (left, left + side, bottom, bottom + side)
    ax.imshow(_shown(image), extent=extent, interpolation="nearest", zorder=2)
    edge = {"edgecolor": plotting.ORANGE if new else plotting.GREY, "linewidth": 2 if new else 0.8}
    ax.add_patch(_rectangle((left, bottom), side, side, fill=False, zorder=3, **edge))


# ---------------------------------------------------------------- drawings with shapes


@plotting.style()
def clip_drawing(images, captions):
    """Figure: the cosine of each of N pictures (rows) with each of N captions (columns), by the stored CLIP."""
    try:
        clip = load_model("scene_clip")
        with torch.no_grad():
            cosines = clip.embed_images(images) @ clip.embed_text(tokenize(captions)).T
    except NOT_MADE:
        fig, ax = plotting.canvas(1.4)
        _say_missing(ax)
        return fig
    num = len(images)
    side, wide, low = 0.62, 1.53, 0.08
    top = low + num * (side + 0.06)
    fig, ax = plotting.canvas(top + 0.45, width=0.95 + num * wide)
    for j, image in enumerate(images):
        bottom = top - (j + 1) * (side + 0.06) + 0.06
        _draw_scene(ax, image, 0.1, bottom, side)
        for k, value in enumerate(cosines[j].tolist()):
            left = 0.85 + k * wide
            shade = {"facecolor": plotting.SKY, "alpha": max(0.0, min(1.0, value))}
            ax.add_patch(_rectangle((left, bottom), wide - 0.06, side, **shade))
            if j == k:
                frame = {"fill": False, "edgecolor": plotting.ORANGE, "linewidth": 2}
                ax.add_patch(_rectangle((left, bottom), wide - 0.06, side, **frame))
            ax.text(left + wide / 2 - 0.03, bottom + side / 2, f"{value:.2f}", fontsize=10, ha="center", va="center")
    for k, words in enumerate(captions):
        ax.text(0.82 + (k + 0.5) * wide, top + 0.43, _in_two_lines(words), **UNDER)
    ax.set(xlim=(0, 0.95 + num * wide), ylim=(0, top + 0.45), aspect="auto")
    return fig


HEAD = 2  # of the denoiser's own layer for words: the one in which a digit looks for its colour


def attention_drawing():
    """Figure: "seven" attends to the words of its caption; the weights are the stored denoiser's (its `read`)."""
    words = [START_WORD, *FIRST.split()]
    fig, ax = plotting.canvas(3.7)
    try:
        weights = _refiner_weights()
    except NOT_MADE:
        _say_missing(ax)
        return fig
    low, step = 0.42, 0.33
    rows = [low + step * (len(words) - 1 - k) for k in range(len(words))]
    for k, (word, y) in enumerate(zip(words, rows, strict=True)):
        own = k == len(words) - 1
        _cell(ax, 0.1, y, 0.95, plotting.ORANGE if own else plotting.GREY, word)
        _cell(ax, 2.35, y, 0.9, plotting.BLUE, "key")
        _cell(ax, 6.15, y, 0.9, plotting.GREEN, "value")
        share = weights[k]
        ax.add_patch(_rectangle((4.05, y - 0.1), 1.5 * share, 0.2, facecolor=plotting.ORANGE))
        ax.text(4.11 + 1.5 * share, y, f"{100 * share:.0f} %", fontsize=9, va="center")
    middle = (rows[0] + rows[-1]) / 2
    for start, end in (
        ((1.12, middle), (2.28, middle)),
        ((3.32, middle), (3.98, middle)),
        ((5.65, middle), (6.08, middle)),
        ((7.12, middle), (7.5, middle)),
        ((1.12, rows[-1] - 0.06), (2.28, 0.08)),
        ((3.67, 0.12), (3.98, 0.3)),
    ):
        _arrow(ax, start, end)
    _cell(ax, 2.35, 0.02, 1.25, plotting.ORANGE, "query of seven")
    _cell(ax, 7.56, middle, 1.0, plotting.ORANGE, "answer")
    top = rows[0] + 0.48
    small = {"fontsize": 9, "ha": "center", "va": "center", "linespacing": 1.15}
    ax.text(0.6, top, "8 vectors\nof 128", **small)
    ax.text(1.7, middle + 0.55, "three linear\nmaps; here one\nhead of four", **small)
    ax.text(2.8, top, "each 32 numbers", **small)
    ax.text(4.75, top, "query · key, over the root\nof 32; softmax: sum 100 %", **small)
    ax.text(6.6, top, "each 32 numbers", **small)
    ax.text(8.06, middle + 0.5, "weighted mean\nof the values,\n32 numbers", **small)
    ax.text(8.06, middle - 0.75, "four heads joined:\n128 numbers,\none more linear\nmap, and added\nto seven", **small)
    ax.set(ylim=(-0.2, 3.5))
    return fig


def _cell(ax, x, y, width, colour, words):
    ax.add_patch(_rectangle((x, y - 0.13), width, 0.26, facecolor="white", edgecolor=colour, linewidth=1.6))
    ax.text(x + width / 2, y, words, fontsize=9, ha="center", va="center")


def _refiner_weights():
    """How much "seven" attends to the start and each word of the first caption: 8 numbers."""
    model = _model(None)
    keep = []
    with torch.no_grad():
        words, mask = model.text(tokenize([FIRST]))
        vectors = torch.nn.functional.layer_norm(words, words.shape[-1:])
        model.net.read(vectors, vectors, mask, keep)
    return keep[0][0, HEAD, 7, :8].tolist()


def denoiser_drawing():
    """Figure: from noisy latents, a time and word vectors to a velocity; one of the four blocks, with shapes."""
    fig, ax = plotting.canvas(4.1)
    first, second, third = plotting.BLUE, plotting.GREEN, plotting.ORANGE
    _draw_grid(ax, 0.12, 1.75, "noisy latents\n4 x 8 x 8")
    _draw_grid(ax, 7.72, 1.75, "velocity\n4 x 8 x 8")
    _arrow(ax, (1.12, 2.2), (1.38, 2.2))
    _box(ax, 1.42, 1.83, 1.02, 0.75, plotting.GREY, "16 patches", "16 x 16 numbers")
    _arrow(ax, (2.48, 2.2), (2.95, 2.2))
    ax.text(1.93, 1.5, "linear, + position:\n16 x 128", fontsize=8.5, ha="center", va="center")
    ax.add_patch(_rectangle((2.98, 1.3), 3.95, 1.75, facecolor="#F7F7F4", edgecolor=plotting.GREY, linewidth=1.2))
    ax.text(3.05, 2.9, "one of 4 blocks", fontsize=8.5, va="center")
    ax.text(5.06, 2.9, "what comes out is added", fontsize=8.5, va="center")
    for x, colour, name, below in (
        (3.08, third, "self-\nattention", "patches: patches"),
        (4.42, first, "cross-\nattention", "patches: words"),
        (5.76, third, "MLP", "each by itself"),
    ):
        _box(ax, x, 1.75, 1.07, 0.9, colour, name, below)
    _arrow(ax, (4.18, 2.2), (4.4, 2.2))
    _arrow(ax, (5.52, 2.2), (5.74, 2.2))
    _arrow(ax, (6.97, 2.2), (7.66, 2.2))
    ax.text(7.32, 1.66, "norm,\nlinear:\n16 x 16", fontsize=8.5, ha="center", va="center")
    _box(ax, 1.2, 3.35, 2.3, 0.68, plotting.GREY, FIRST, "word vectors: 13 x 128, and a mask")
    _arrow(ax, (3.56, 3.69), (3.83, 3.69))
    _box(ax, 3.88, 3.35, 2.15, 0.68, first, "token refiner", "words attend to words once more")
    _arrow(ax, (4.95, 3.32), (4.95, 2.7))
    ax.text(5.06, 3.19, "keys and values", fontsize=8.5, va="center")
    _box(ax, 1.42, 0.1, 1.3, 0.68, second, "time t", "64 numbers")
    _arrow(ax, (2.76, 0.44), (3.0, 0.44))
    _box(ax, 3.05, 0.1, 3.8, 0.68, second, "3 scales, 3 shifts", SCALED)
    for x in (3.6, 4.95, 6.3):
        _arrow(ax, (x, 0.81), (x, 1.7))
    return fig


SCALED = "6 x 128: before each of the three, norm(x) (1 + scale) + shift"


def _draw_grid(ax, left, bottom, words):
    """An 8x8 grid whose 2x2 patches stand out."""
    for k in range(9):
        width = 1.6 if k % 2 == 0 else 0.5
        ax.plot([left + k * 0.11] * 2, [bottom, bottom + 0.88], color=plotting.INK, linewidth=width)
        ax.plot([left, left + 0.88], [bottom + k * 0.11] * 2, color=plotting.INK, linewidth=width)
    ax.text(left + 0.44, bottom - 0.28, words, fontsize=8.5, ha="center", va="center")


# ---------------------------------------------------------------- own words

NUM_PICTURES = 4
EXAMPLES = (
    FIRST,
    "a blue three above a red seven",
    "a blue seven below a red three",
    "top left: a yellow one",
    "a green eight left of a red four",
    "a seven",
    "",
)
WORD_BOX = {"fontsize": 10, "va": "center", "family": "monospace", "parse_math": False}


def caption(model=None, text=FIRST):
    """Pictures for your own words; the button draws them, and Run shows them form.

    What moves: the caption (typed, or chosen), the guidance w, the noise, how many of the 20 steps are done.
    What to see: paraphrases give the same scene, a swap of words another one; combinations that
    training never showed come out as well; without words anything comes.
    Source: Rombach 2022, arXiv 2112.10752.
    """
    model = _model(model)
    margins = {"left": 0.01, "right": 0.99, "top": 0.99, "bottom": 0.01, "hspace": 0.03}
    page = plotting.ReusableFigure(6.6, 2.42, margins, nrows=2, gridspec_kw={"height_ratios": [0.75, 1.65]})
    state = {"seed": 0, "drawn": None, "latents": []}

    def render(text, w):
        tokens = read_caption(text).tokens.expand(NUM_PICTURES, -1)
        noise = _noise(NUM_PICTURES, state["seed"])
        state["latents"] = draw_latents(model, tokens, w, NUM_STEPS, noise, keep=True)
        state["drawn"] = (text, w)

    def draw(text, example, w, step):
        reading = read_caption(text)
        fig, (upper, lower) = page.wipe()
        _draw_words(upper, words_of(reading.tokens[0]))
        lower.set_axis_off()
        said = [reading.note] if reading.note else []
        if state["drawn"] == (text, w):
            plotting.draw_images(lower, _pictures(model, state["latents"][step]), NUM_PICTURES)
            said.append(f"{step} of {NUM_STEPS} steps done, t = {TIMES[step]:.2f}.")
        else:
            lower.text(0.5, 0.5, "not drawn yet", ha="center", va="center", fontsize=13, transform=lower.transAxes)
            said.append("Press Draw: it takes about a third of a second.")
        return fig, " ".join(line if line.endswith(".") else line + "." for line in said)

    def draw_now():
        values = panel.values
        panel.put(step=NUM_STEPS)
        render(values["text"], values["w"])

    def new_noise():
        state["seed"] += 1
        draw_now()

    def one_step():
        values = panel.values
        if state["drawn"] != (values["text"], values["w"]):
            render(values["text"], values["w"])
        panel.put(step=(values["step"] + 1) % (NUM_STEPS + 1))

    def changed(name, value):
        if name == "example":
            panel.put(text=value)

    def frame(words, step=NUM_STEPS):
        def change():
            render(words, W)
            return {"text": words, "step": step}

        return change

    def reset():
        state["seed"] = 0
        render(text, W)

    start = text if text in EXAMPLES else EXAMPLES[0]
    shown = {words or "(no words at all)": words for words in EXAMPLES}
    panel = Panel(
        "Caption",
        draw,
        controls={
            "text": text_box("your caption", text),
            "example": choice("or one of these", shown, start),
            "w": slider("guidance w", 0.0, 8.0, W, step=0.5),
            "step": slider("steps done", 0, NUM_STEPS, NUM_STEPS, step=1),
        },
        buttons={"Draw": draw_now, "New noise": new_noise},
        tick=one_step,
        changed=changed,
        frames=[
            ("A caption, after 12 of 20 steps", frame(text, 12)),
            ("The colours swapped", frame(EXAMPLES[1])),
            ("The first, turned round", frame(EXAMPLES[2])),
            ("A yellow one", frame(EXAMPLES[3])),
            ("Only a digit", frame("a seven")),
            ("Nothing", frame("")),
        ],
        reset=reset,
        alt="The words that the network reads, each in a box, and below them four pictures.",
    )
    return panel


def _draw_words(ax, words):
    """The words in boxes, from the left; a second row where they are many."""
    ax.set(xlim=(0, 6.5), ylim=(0, 0.75))
    ax.set_axis_off()
    if not words:
        ax.text(0.05, 0.5, "no words: the unconditional model", fontsize=10, va="center")
    x, y = 0.08, 0.56
    for word in words:
        width = 0.095 * len(word) + 0.14
        if x + width > 6.4:
            x, y = 0.08, 0.18
        look = {"boxstyle": "round,pad=0.25", "facecolor": "#E6F1F8", "edgecolor": plotting.SKY}
        ax.text(x, y, word, bbox=look, **WORD_BOX)
        x += width + 0.12


# ---------------------------------------------------------------- which patch attends to which word

ATTENDED = (
    FIRST,
    "a yellow two at the bottom left",
    "a green eight left of a red four",
    "a blue zero to the right of a yellow nine",
)
START_WORD = "(start)"


def _attention(model, words):
    """(latents of 21 times, attention (20, blocks, 16, words + 1), words) of one caption, one noise."""
    tokens = tokenize([words])
    z = draw_latents(model, tokens, W, NUM_STEPS, _noise(1, 1), keep=True)
    z = torch.cat(z).float()
    vectors, mask = model.text(tokens.expand(NUM_STEPS, -1))
    kept = []
    model.net(z[:-1], TIMES[:-1], vectors, mask, keep=kept)
    said = [START_WORD, *words_of(tokens[0])]
    weights = torch.stack([block.mean(dim=1) for block in kept], dim=1)  # heads averaged
    return z, weights[..., : len(said)], said


def word_and_patch(model=None):
    """How much each patch of the picture attends to each word, by block and step.

    What moves: the caption, which word, which block of the denoiser, which of its 20 steps.
    What to see: patches attend to the colour and the digit that they will show, before anything can be
    seen; a word such as "a" gets weight from all.
    Source: Vaswani 2017, arXiv 1706.03762; Rombach 2022, arXiv 2112.10752.
    """
    model = _model(model)
    num_blocks = len(model.net.blocks)
    margins = {"left": 0.02, "right": 0.97, "top": 0.87, "bottom": 0.1, "wspace": 0.12}
    ratios = {"width_ratios": [1, 1, 1.25]}
    page = plotting.ReusableFigure(7.4, 2.9, margins, ncols=3, gridspec_kw=ratios)
    with torch.no_grad():
        maps = {words: _attention(model, words) for words in ATTENDED}
        pictures = {words: _pictures(model, z) for words, (z, *_) in maps.items()}

    def draw(caption, word, block, step):
        _, weights, said = maps[caption]
        word = min(word, len(said) - 1)
        at_step = weights[step - 1]
        chosen = at_step.mean(dim=0) if block == "mean" else at_step[block - 1]  # (16, words + 1)
        fig, (left, middle, right) = page.wipe()
        image = _shown(pictures[caption][step - 1])
        final = _shown(pictures[caption][-1])
        left.imshow(image, interpolation="nearest")
        left.set_title(f"the latents at t = {TIMES[step - 1]:.2f}", fontsize=10)
        heat = chosen[:, word].reshape(4, 4).numpy()
        middle.imshow(final, interpolation="nearest")
        top = max(float(chosen[:, 1:].max()), 1e-6)
        middle.imshow(heat, extent=(-0.5, 31.5, 31.5, -0.5), cmap="Oranges", vmin=0, vmax=top, alpha=0.55)
        for k, value in enumerate(heat.flatten()):
            middle.text(8 * (k % 4) + 3.5, 8 * (k // 4) + 3.5, f"{100 * value:.0f}", **PERCENT)
        middle.set_title(f"attention to “{said[word]}”, %", fontsize=10)
        for ax in (left, middle):
            ax.set_axis_off()
        mean = chosen.mean(dim=0).numpy()
        colours = [plotting.ORANGE if k == word else plotting.SKY for k in range(len(said))]
        right.barh(range(len(said)), mean, color=colours)
        right.set(ylim=(len(said) - 0.4, -0.6), xlim=(0, 1), yticks=[], xticks=[0, 0.5, 1])
        for k, name in enumerate(said):
            right.text(mean[k] + 0.02, k, name, fontsize=9, va="center")
        right.set_title("mean over the patches", fontsize=10)
        peak = int(chosen[:, word].argmax())
        place = f"row {peak // 4 + 1}, column {peak % 4 + 1}"
        largest = f"{100 * float(chosen[:, word].max()):.0f} %"
        return fig, f"“{said[word]}” gets most in {place}: {largest}."

    return Panel(
        "Word and patch",
        draw,
        controls={
            "caption": choice("caption", list(ATTENDED)),
            "word": slider("word number", 0, 10, 6, step=1),
            "block": choice("block", {"mean": "mean", **{str(k): k for k in range(1, num_blocks + 1)}}),
            "step": slider("step", 1, NUM_STEPS, 1, step=1),
        },
        frames=[
            ("“blue”, at the first step", {}),
            ("“blue”, at step 14", {"step": 14}),
            ("“red”", {"word": 2}),
            ("“above”", {"word": 4}),
        ],
        alt="A picture that forms, the finished one under a map of how much each patch attends to a word, "
        "and bars for all words.",
    )


PERCENT = {"fontsize": 8, "ha": "center", "va": "center", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}


# ---------------------------------------------------------------- guidance

NUM_ROWS = 4


def guidance(album, captions, joint, variety):
    """The same captions and noises at each guidance scale, beside match and variety.

    album     {w: images (N, 3, 32, 32)}, in rising order of w
    captions  N captions, as they were given
    joint     one number for each w: the share of pictures in which all is right
    variety   one number for each w: the recall of the pictures

    What moves: the guidance w, and which picture is looked at.
    What to see: match rises steeply and levels out; variety falls later; large w makes thick, plain strokes.
    Source: Ho & Salimans 2022, arXiv 2207.12598.
    """
    scales = list(album)
    images = {w: torch.as_tensor(pictures).clone() for w, pictures in album.items()}
    captions = list(captions)
    ncols = -(-len(captions) // NUM_ROWS)
    margins = {"left": 0.01, "right": 0.98, "top": 0.87, "bottom": 0.17, "wspace": 0.17}
    ratios = {"width_ratios": [1.55, 1.0, 1.3]}
    page = plotting.ReusableFigure(7.6, 2.8, margins, ncols=3, gridspec_kw=ratios)

    def draw(w, number):
        fig, (left, middle, right) = page.wipe()
        plotting.draw_images(left, images[w], ncols)
        left.set_title(f"w = {w:g}", fontsize=10)
        k = number - 1
        frame = {"fill": False, "edgecolor": plotting.ORANGE, "linewidth": 2}
        left.add_patch(_rectangle((33 * (k % ncols), 33 * (k // ncols)), 33, 33, **frame))
        middle.imshow(_shown(images[w][k]), interpolation="nearest")
        middle.set_axis_off()
        middle.set_title(_in_two_lines(captions[k]), fontsize=8.5)
        for values, colour, mark, name in (
            (joint, plotting.BLUE, "o", "joint share"),
            (variety, plotting.ORANGE, "s", "variety (recall)"),
        ):
            right.plot(scales, values, color=colour, marker=mark, markersize=4, label=name)
        right.axvline(w, color=plotting.INK, linestyle="--", linewidth=1.2)
        right.set(ylim=(0, 1.35), xlabel="guidance w", yticks=[0, 0.5, 1])
        right.legend(loc="upper right", fontsize=8.5)
        at = scales.index(w)
        return fig, f"w = {w:g}: joint share {joint[at]:.3f}, recall {variety[at]:.3f}."

    return Panel(
        "Guidance",
        draw,
        controls={
            "w": choice("guidance w", {f"{w:g}": w for w in scales}),
            "number": slider("picture", 1, len(captions), 1, step=1),
        },
        frames=[
            (f"Guidance {scales[0]:g}", {}),
            (f"Guidance {scales[-1]:g}", {"w": scales[-1]}),
        ],
        alt="A grid of pictures, one of them enlarged under its caption, and two curves over the guidance scale.",
    )


def _rectangle(*args, **settings):
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **settings)


def _in_two_lines(words):
    """A caption in two lines, cut at the space nearest to its middle; a short one stays in one."""
    spaces = [k for k, letter in enumerate(words) if letter == " "]
    if len(words) < 16 or not spaces:
        return words
    cut = min(spaces, key=lambda k: abs(k - len(words) / 2))
    return words[:cut] + "\n" + words[cut + 1 :]


# ---------------------------------------------------------------- one word changed

PLACES = ("above", "below", "left of", "right of")
NUM_EDITED = 3
EDIT_STEPS = 8  # fewer than elsewhere, so that a move is answered at once


def edit(model=None):
    """Two captions that differ in a word or more, drawn from the same noises.

    What moves: each of the five words, and the noise. "Keep as before" makes the present caption the upper row.
    What to see: a colour changes and the stroke stays; another digit, or another place, is drawn anew.
    """
    model = _model(model)
    margins = {"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.01, "hspace": 0.22}
    page = plotting.ReusableFigure(4.8, 3.5, margins, nrows=2)
    first = {"colour": "red", "digit": "three", "place": "above", "colour2": "blue", "digit2": "seven"}
    state = {"before": first}
    latest = {}
    drawn = {}

    def images(said, seed):
        """The pictures of some captions; those that have been drawn are kept."""
        missing = [sentence for sentence in dict.fromkeys(said) if (sentence, seed) not in drawn]
        if missing:
            tokens = tokenize(missing).repeat_interleave(NUM_EDITED, dim=0)
            noise = _noise(NUM_EDITED, seed).repeat(len(missing), 1, 1, 1)
            z = draw_latents(model, tokens, W, EDIT_STEPS, noise)
            rows = _pictures(model, z).split(NUM_EDITED)
            drawn.update(zip([(sentence, seed) for sentence in missing], rows, strict=True))
        return [drawn[sentence, seed] for sentence in said]

    def draw(seed, **words):
        latest.update(words)
        fig, axes = page.wipe()
        said = [_sentence(**state["before"]), _sentence(**words)]
        rows = images(said, seed)
        for ax, row, name, sentence in zip(axes, rows, ("before", "now"), said, strict=True):
            plotting.draw_images(ax, row, NUM_EDITED)
            ax.set_title(f"{name}: {sentence}", fontsize=10)
        moved = ((rows[0] - rows[1]).abs().amax(dim=1) > 0.5).float().mean().item()
        return fig, f"{100 * moved:.0f} % of the pixels differ by more than a quarter of their range."

    def keep():
        state["before"] = dict(latest)

    controls = {
        "colour": choice("first colour", list(COLOURS), "red"),
        "digit": choice("first digit", list(DIGITS), "three"),
        "place": choice("place", list(PLACES), "above"),
        "colour2": choice("second colour", list(COLOURS), "blue"),
        "digit2": choice("second digit", list(DIGITS), "seven"),
        "seed": slider("noise seed", 0, 9, 0, step=1),
    }
    return Panel(
        "Edit",
        draw,
        controls,
        buttons={"Keep as before": keep},
        frames=[
            ("A colour", {"colour": "green"}),
            ("A digit", {"colour": "red", "digit": "eight"}),
            ("The place", {"digit": "three", "place": "left of"}),
            ("The colours swapped", {"place": "above", "colour": "blue", "colour2": "red"}),
        ],
        reset=lambda: state.update(before=first),
        alt="Three pictures for one caption above three for another, from the same noises.",
    )


def _sentence(colour, digit, place, colour2, digit2):
    return f"a {colour} {digit} {place} a {colour2} {digit2}"


# ---------------------------------------------------------------- in the latents

WALKS = {
    "above to below": (FIRST, "a red three below a blue seven"),
    "three to seven": ("a red three at the top left", "a red seven at the top left"),
    "both colours swapped": (FIRST, "a blue three above a red seven"),
}
NUM_STOPS = 7


def _walk(model, ends):
    """Latents (7, 4, 8, 8) two ways: with mixed word vectors, drawn anew; and mixed themselves."""
    tokens = tokenize(ends)
    vectors, mask = model.text(tokens)
    share = torch.linspace(0, 1, NUM_STOPS)
    mixed = torch.lerp(vectors[:1], vectors[1:], share[:, None, None])
    noise = _noise(1, 2).expand(NUM_STOPS, -1, -1, -1)
    nothing = model.text(torch.full((1, MAX_WORDS), PAD))
    net = guided(model.net, nothing, W)
    denoise = denoiser(net, RECTIFIED_FLOW, "velocity", mixed, mask[:1].expand(NUM_STOPS, -1))
    redrawn = sample(denoise, noise, RECTIFIED_FLOW, NUM_STEPS).float()
    faded = torch.lerp(redrawn[:1], redrawn[-1:], share[:, None, None, None])
    return {"word vectors": redrawn, "latents": faded}


def latent(model=None):
    """The four channels of a latent beside its picture, and two ways from one caption to another.

    What moves: how far, which two captions, and whether the channels are those of the upper or of the
    lower row. Upper row: mixed word vectors, each stop drawn anew from the same noise. Lower: the two
    finished latents, mixed.
    What to see: the channels are small pictures in which colour and stroke are mixed; with mixed words
    nearly every stop is a scene; with mixed latents one scene shines through the other.
    """
    model = _model(model)
    margins = {"left": 0.115, "right": 0.995, "top": 0.93, "bottom": 0.01, "hspace": 0.2, "wspace": 0.06}
    ratios = {"height_ratios": [1.25, 1, 1]}
    page = plotting.ReusableFigure(7.2, 4.0, margins, ncols=5, nrows=3, gridspec_kw=ratios)
    strips = dict(zip(("word vectors", "latents"), page.axes[1:, 0], strict=True))
    for ax in page.axes[1:, 1:].flatten():
        ax.set_axis_off()
    for ax in strips.values():
        place = ax.get_position()
        ax.set_position([margins["left"], place.y0, margins["right"] - margins["left"], place.height])
    with torch.no_grad():
        walks = {name: _walk(model, ends) for name, ends in WALKS.items()}
        pictures = {name: {way: _pictures(model, z) for way, z in both.items()} for name, both in walks.items()}

    def draw(walk, mixed, stop):
        z = walks[walk][mixed][stop]
        fig, axes = page.wipe()
        for ax in axes.flatten():
            ax.set_axis_off()
        axes[0, 0].imshow(_shown(pictures[walk][mixed][stop]), interpolation="nearest")
        axes[0, 0].set_title("decoded", fontsize=10)
        for k, (ax, channel) in enumerate(zip(axes[0, 1:], z, strict=True)):
            ax.imshow(channel.numpy(), cmap="PuOr", vmin=-3, vmax=3, interpolation="nearest")
            ax.set_title(f"channel {k + 1}", fontsize=10)
        for way, strip in strips.items():
            plotting.draw_images(strip, pictures[walk][way], NUM_STOPS)
            strip.text(-4, 17, way.replace(" ", "\n") + "\nmixed", fontsize=9, ha="right", va="center")
        frame = {"fill": False, "edgecolor": plotting.ORANGE, "linewidth": 2.5}
        strips[mixed].add_patch(_rectangle((33 * stop, 0), 33, 33, **frame))
        start, end = WALKS[walk]
        strips["word vectors"].set_title(f"{start}  to  {end}", fontsize=9.5)
        size = z.square().mean().sqrt().item()
        return fig, f"Channels run from -3 (orange) to 3 (purple). Root mean square of the 256 latents: {size:.2f}."

    return Panel(
        "Latent",
        draw,
        controls={
            "walk": choice("from, to", list(WALKS)),
            "mixed": choice("channels of", ["word vectors", "latents"]),
            "stop": slider("how far", 0, NUM_STOPS - 1, 0, step=1),
        },
        frames=[
            ("From above to below", {"stop": 3, "mixed": "latents"}),
            ("From a three to a seven", {"walk": "three to seven"}),
        ],
        alt="A picture, the four channels of its latent, and two rows of seven pictures on the way to another caption.",
    )
