"""The panels and pictures of 05b_dalle: three routes from a caption to a picture.

three_routes()       the three systems in one diagram
three_captions()     your caption by all three, the best of several chosen by CLIP
codebook(...)        the tiles of a codebook, and scenes laid with them
picture_rows(...)    pictures in rows that have names, below captions
three_scores(...)    the shares of several systems as dots
variations(...)      a picture, and others drawn from its vector in CLIP's space
difference(...)      a picture's vector turned by the difference of two captions
"""

from __future__ import annotations

import functools
import re

import torch

from aigc_helpers import plotting
from aigc_helpers.models import dalle, text_to_image
from aigc_helpers.panels.core import Panel, choice, frozen, slider, text_box
from aigc_helpers.scenes import COLOURS, DIGITS, describe, read_caption, tokenize
from aigc_helpers.weights import load_model

SHOWN = 4  # pictures of a system in a row
NAMES = ("DALL·E 1: codes", "DALL·E 2: one vector", "05: words")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # s, of the turn, in `difference`
NUM_VARIATIONS = 7
STEPS = 12  # of a sampler in a panel
TEMPERATURE = 0.7  # of the GPT
EXAMPLE = "a red three above a blue seven"
WAITING = "press Draw: the controls have moved"


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class _Drawn:
    """What a panel shows: it is made for the settings at which Draw was pressed, not for the present ones.

    first   the settings at the start: name of a control -> value
    make    make(**settings) -> what is shown; called by `press`, which each frame of a storyboard does
    """

    def __init__(self, make, **first):
        self.make = make
        self.first = first
        self.latest = dict(first)

    def reset(self):
        """Go back to the start, and draw."""
        self.latest = dict(self.first)
        self.press()

    def change(self, name, value):
        """A control has moved; nothing is drawn yet."""
        self.latest[name] = value

    def press(self):
        """Draw for the latest settings."""
        self.settings = dict(self.latest)
        self.shown = self.make(**self.settings)

    def frame(self, **values):
        """What a frame of the storyboard does: these settings in place of those at the start, drawn."""

        def take():
            self.latest = self.first | values
            self.press()
            return self.latest

        return take

    def waits(self, **settings):
        """Whether the controls have moved since Draw was pressed."""
        return self.settings != settings


# ---------------------------------------------------------------- the three routes in a diagram

ROUTES = {  # name -> what stands in its boxes; the third is the narrowest place
    "DALL·E 1": ("caption", "GPT", "64 codes", "tiles of a\ncodebook", "picture"),
    "DALL·E 2": ("caption", "CLIP, prior", "one vector", "decoder:\na denoiser", "picture"),
    "chapter 05": ("caption", "text encoder", "a vector for\neach word", "denoiser", "picture"),
}


@plotting.style()
def three_routes():
    """Figure: three rows of boxes, from a caption to a picture; the narrowest of each is orange."""
    from matplotlib.patches import FancyBboxPatch

    fig, ax = plotting.canvas(2.9)
    for row, (name, boxes) in enumerate(ROUTES.items()):
        y = 2.4 - 0.95 * row
        ax.text(0.1, y, name, va="center", fontsize=10.5, weight="bold")
        for column, words in enumerate(boxes):
            x = 1.95 + 1.55 * column
            narrow = column == 2
            ax.add_patch(
                FancyBboxPatch(
                    (x - 0.57, y - 0.31), 1.14, 0.62, boxstyle="round,pad=0,rounding_size=0.08",
                    facecolor="white", edgecolor=plotting.ORANGE if narrow else plotting.BLUE,
                    linewidth=2.2 if narrow else 1.5,
                )
            )  # fmt: skip
            ax.text(x, y, words, ha="center", va="center", fontsize=9)
            if column:
                arrow = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.4}
                ax.annotate("", (x - 0.6, y), (x - 0.95, y), arrowprops=arrow)
    return fig


# ---------------------------------------------------------------- pictures of the page


@plotting.style()
def codebook(entries, images, rebuilt):
    """Figure: entries (K, 48) as tiles at the left; at the right images, and below each its mosaic."""
    tiles = entries.detach().view(-1, 3, dalle.TILE, dalle.TILE)
    fig, (left, right) = plotting.figure(8.6, 3.3, ncols=2, gridspec_kw={"width_ratios": [1, 2]})
    plotting.draw_images(left, tiles, ncols=16, title=f"the codebook: {len(tiles)} tiles")
    both = torch.cat([images, rebuilt])
    plotting.draw_images(
        right, both, ncols=len(images), title="scenes; below each, laid with these tiles"
    )
    return fig


@plotting.style()
def picture_rows(rows, captions):
    """Figure: a row of pictures for each name, in columns that stand below their captions.

    rows: name -> pictures (n, 3, 32, 32), n the number of captions.
    """
    fig, axes = plotting.figure(8.8, 0.55 + 0.93 * len(rows), nrows=len(rows), tight=False, squeeze=False)
    top = 0.5 / (0.55 + 0.93 * len(rows))
    fig.subplots_adjust(left=0.155, right=0.995, top=1 - top, bottom=0.01, hspace=0.04)
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        plotting.draw_images(ax, images, ncols=len(captions))
        ax.text(-0.012, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=8.5)
    for k, caption in enumerate(captions):
        axes[0, 0].text(33 * k + 17, -2, in_lines(caption), ha="center", va="bottom", fontsize=7.5)
    return fig


def in_lines(caption):
    """A caption in short lines: a noun, what stands between, a noun."""
    words = [word for word in caption.replace(":", "").split() if word not in ("a", "at", "the", "to")]
    lines = [words[:2], words[2:-2], words[-2:]]
    return "\n".join(" ".join(line) for line in lines if line)


DOTS = {"digits": ("o", plotting.BLUE), "colours": ("^", plotting.ORANGE),
        "place": ("s", plotting.GREEN), "joint": ("D", plotting.INK)}  # fmt: skip


@plotting.style()
def three_scores(rows):
    """Figure: for each row of an experiment its shares as dots, with lines from lowest to highest.

    rows: name -> {column: "mean (lowest to highest)" or "value"}.
    """
    fig, ax = plotting.figure(8.6, 0.7 + 0.38 * len(rows))
    for y, row in enumerate(rows.values()):
        for shift, (column, (marker, colour)) in enumerate(DOTS.items()):
            numbers = [float(text) for text in re.findall(r"[0-9.]+", row[column])]
            at = y + 0.16 * (shift - 1.5)
            ax.plot(numbers[0], at, marker, color=colour, markersize=5.5, label=None if y else column)
            ax.plot([min(numbers), max(numbers)], [at, at], color=colour, linewidth=1.5)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="share read as the caption says")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, 1.14), ncols=4, frameon=False, fontsize=9)
    return fig


# ---------------------------------------------------------------- one caption by three systems


class Systems:
    """The three systems as stored, and CLIP, which chooses."""

    def __init__(self):
        self.clip = load_model("scene_clip")
        self.words = load_model("text_to_image")
        self.vq = load_model("scene_vq")
        self.gpt = load_model("scene_gpt")
        self.prior = load_model("vector_prior")
        self.decoder = load_model("vector_decoder")

    @torch.no_grad()
    def draw(self, tokens, w=2.0, num_steps=STEPS, seed=0):
        """Pictures (N, 3, 32, 32) for captions (N, 12) by each system: a dict by name."""
        u = self.clip.embed_text(tokens)
        v = dalle.draw_vectors(self.prior, u, generator=_seeded(seed))
        coder = self.words.autoencoder
        return {
            NAMES[0]: dalle.draw_by_codes(
                self.vq, self.gpt, tokens, w, TEMPERATURE, generator=_seeded(seed)
            ),
            NAMES[1]: dalle.draw_from_vectors(
                self.decoder, coder, v, w, num_steps, generator=_seeded(seed)
            ),
            NAMES[2]: text_to_image.draw(
                self.words, tokens, w, num_steps, generator=_seeded(seed)
            ),
        }


@functools.lru_cache(maxsize=1)
def _systems():
    return Systems()


@functools.lru_cache(maxsize=32)
def best_pictures(words, best_of, w):
    """For a caption's words (a tuple of 12 numbers): the SHOWN pictures of each system, chosen.

    Each of them is the one of `best_of` that CLIP finds nearest to the caption.
    """
    systems = _systems()
    tokens = torch.tensor([words])
    drawn = systems.draw(tokens.repeat(SHOWN * best_of, 1), w)
    return {
        name: images[dalle.choose(systems.clip, images, tokens.repeat(SHOWN, 1), best_of)]
        for name, images in drawn.items()
    }


def three_captions():
    """Your caption by three systems, a row each.

    What moves: the caption, how many pictures each system draws for one that is shown (CLIP
    chooses), the guidance. Draw draws.
    What to see: which row gets the digits wrong, which the colours; choosing from more helps those
    rows most that are right now and then.
    Sources: Ramesh 2021, arXiv 2102.12092; Ramesh 2022, arXiv 2204.06125.
    """
    margins = {"left": 0.31, "right": 0.99, "top": 0.89, "bottom": 0.01, "hspace": 0.06}
    page = plotting.ReusableFigure(5.8, 4.2, margins, nrows=3)

    def make(text, best_of, w):
        reading = read_caption(text)
        words = tuple(reading.tokens[0].tolist())
        return reading, words, best_pictures(words, best_of, w)

    state = _Drawn(make, text=EXAMPLE, best_of=1, w=1.0)

    def draw(**settings):
        reading, words, pictures = state.shown
        fig, axes = page.wipe()
        for ax, (name, images) in zip(axes, pictures.items(), strict=True):
            plotting.draw_images(ax, images, ncols=SHOWN)
            ax.text(-0.04, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=9)
        said = " ".join(dalle.WORDS[word] for word in words if word) or "(no caption)"
        waiting = state.waits(**settings)
        fig.suptitle(WAITING if waiting else f"{said}; best of {settings['best_of']}", fontsize=10)
        note = reading.note if not waiting else "Press Draw to draw this caption."
        return fig, note or "Four pictures of each system."

    return Panel(
        "One caption, three routes",
        draw,
        controls={
            "text": text_box("caption", EXAMPLE),
            "best_of": choice("best of", {"1": 1, "2": 2, "8": 8, "32": 32}),
            "w": slider("guidance w", 0.0, 4.0, 1.0, step=0.5),
        },
        buttons={"Draw (1 to 15 s)": state.press},
        changed=state.change,
        reset=state.reset,
        frames=[
            ("The first four", state.frame()),
            ("The best four of 8 each", state.frame(best_of=8)),
            ("Colours swapped", state.frame(text="a blue three above a red seven")),
            ("One digit", state.frame(text="a green eight at the top right")),
        ],
        alt="Three rows of four pictures: the same caption by three systems.",
    )


# ---------------------------------------------------------------- variations of a picture


def variations(decoder=None, autoencoder=None, clip=None, scenes=None):
    """A picture at the left; pictures drawn from its vector beside it.

    What moves: which picture, the guidance, the noise. Draw draws.
    What to see: digit, colour and place stay mostly; slant, thickness and the exact place change.
    Source: Ramesh 2022, arXiv 2204.06125, section 3.1.
    decoder, autoencoder, clip: without them those stored; scenes: a Scenes of 24 pictures or more.
    """
    clip, draw_from = _drawing(decoder, autoencoder, clip)
    vectors = clip.embed_images(scenes.images[:24])
    margins = {"left": 0.01, "right": 0.99, "top": 0.86, "bottom": 0.02}
    page = plotting.ReusableFigure(6.0, 3.4, margins)

    def make(number, w, seed):
        v = vectors[number].repeat(NUM_VARIATIONS, 1)
        return torch.cat([scenes.images[number][None], draw_from(v, w, _seeded(seed))])

    state = _Drawn(make, number=0, w=2.0, seed=0)

    def draw(**settings):
        fig, ax = page.wipe()
        plotting.draw_images(ax, state.shown, ncols=4)
        ax.add_patch(_frame())
        caption = scenes.captions[state.settings["number"]]
        waiting = state.waits(**settings)
        ax.set_title(WAITING if waiting else f"framed: a real scene, {caption}", fontsize=10)
        return fig, "Press Draw." if waiting else f"{NUM_VARIATIONS} variations."

    return Panel(
        "Variations of a picture",
        draw,
        controls={
            "number": slider("picture", 0, 23, 0, step=1),
            "w": slider("guidance w", 0.0, 4.0, 2.0, step=0.5),
            "seed": slider("noise seed", 0, 9, 0, step=1),
        },
        buttons={"Draw (0.5 s)": state.press},
        changed=state.change,
        reset=state.reset,
        frames=[(f"Picture {k}", state.frame(number=k)) for k in (0, 1, 4, 5)],
        alt="Eight pictures: the first is real, the others are drawn from its vector.",
    )


def _frame():
    """A frame around the first of some tiles of 32 pixels."""
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 33, 33, fill=False, edgecolor=plotting.ORANGE, linewidth=2.5)


def _drawing(decoder, autoencoder, clip):
    """(CLIP, what draws from its vectors), with copies of these models."""
    decoder = frozen(load_model("vector_decoder") if decoder is None else decoder)
    if autoencoder is None:
        autoencoder = load_model("text_to_image").autoencoder
    autoencoder = frozen(autoencoder)
    clip = frozen(load_model("scene_clip") if clip is None else clip)

    def draw_from(v, w, generator=None, noise=None):
        return dalle.draw_from_vectors(decoder, autoencoder, v, w, STEPS, generator, noise)

    return clip, draw_from


# ---------------------------------------------------------------- the difference of two captions


def changed_facts(facts, what, value):
    """The facts of one scene whose first digit (or its colour) is another one."""
    digits = facts.digits.clone()
    colours = facts.colours.clone()
    column = digits if what == "digit" else colours
    column[:, 0] = value
    return type(facts)(digits, colours, facts.relation, facts.position)


def difference(decoder=None, autoencoder=None, clip=None, scenes=None):
    """A picture's vector, turned step by step along the difference of two captions.

    What moves: which picture, what its first digit is to become, the guidance. Draw draws.
    What to see: the colour turns over at some angle, and what the captions share stays for a
    while; at large angles the picture is lost.
    Source: Ramesh 2022, arXiv 2204.06125, section 3.3.
    decoder, autoencoder, clip: without them those stored; scenes: a Scenes of 24 pictures or more.
    """
    clip, draw_from = _drawing(decoder, autoencoder, clip)
    vectors = clip.embed_images(scenes.images[:24])
    noise = torch.randn(1, 4, dalle.SIDE, dalle.SIDE, generator=_seeded()).repeat(len(SHARES), 1, 1, 1)
    margins = {"left": 0.01, "right": 0.99, "top": 0.80, "bottom": 0.02}
    page = plotting.ReusableFigure(6.6, 1.9, margins)
    targets = {f"colour: {name}": ("colour", k) for k, name in enumerate(COLOURS)}
    targets |= {f"digit: {name}": ("digit", k) for k, name in enumerate(DIGITS)}

    def make(number, target, w):
        facts = scenes.facts[number]
        before, after = describe(facts), describe(changed_facts(facts, *target))
        if before == after:
            turned = vectors[number].repeat(len(SHARES), 1)
            words = f"{before[0]}: it is that already"
        else:
            v = vectors[number][None]
            d = dalle.text_difference(clip, tokenize(before), tokenize(after))
            turned = torch.cat([dalle.slerp(v, d, share) for share in SHARES])
            words = f"{before[0]}  →  {after[0]}"
        return draw_from(turned, w, noise=noise), words

    state = _Drawn(make, number=12, target=("colour", 2), w=2.0)

    def draw(**settings):
        images, words = state.shown
        fig, ax = page.wipe()
        plotting.draw_images(ax, images, ncols=len(SHARES))
        for k, share in enumerate(SHARES):
            ax.text(33 * k + 17, -1.5, f"s = {share}", ha="center", va="bottom", fontsize=9)
        waiting = state.waits(**settings)
        fig.suptitle(WAITING if waiting else words, fontsize=10)
        return fig, "Press Draw." if waiting else "The same noise in all six pictures."

    return Panel(
        "The difference of two captions",
        draw,
        controls={
            "number": slider("picture", 0, 23, 12, step=1),
            "target": choice("becomes", targets, ("colour", 2)),
            "w": slider("guidance w", 0.0, 4.0, 2.0, step=0.5),
        },
        buttons={"Draw (0.5 s)": state.press},
        changed=state.change,
        reset=state.reset,
        frames=[
            ("One digit, to blue", state.frame()),
            ("One digit, to a seven", state.frame(target=("digit", 7))),
            ("Two digits, the first to yellow", state.frame(number=13, target=("colour", 3))),
            ("Two digits, the first to a one", state.frame(number=13, target=("digit", 1))),
        ],
        alt="Six pictures of a vector that is turned from a picture along a difference of captions.",
    )
