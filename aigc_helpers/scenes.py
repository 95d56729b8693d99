"""Scenes: one or two real handwritten digits on a small canvas, and captions that say what is there.

    scenes = load_scenes("train", 20_000)       # on combinations that are seen
    scenes.images                               # (N, 3, 32, 32) in [-1, 1], black behind the digits
    scenes.captions[0]                          # "a red three above a blue seven"
    scenes.tokens                               # (N, 12): whole numbers, one a word; 0 is padding
    scenes.facts                                # the same without words: what a judge compares

Pictures of digits with captions are an old test of compositions never seen: alignDRAW (Mansimov 2015,
arXiv:1511.02793) wrote digits where its captions said. Ours add colours, and a grammar in which one
scene has several captions: "a red three above a blue seven", "a blue seven below a red three".

Some pairs of digit and colour (`HELD_OUT_PAIRS`) and some of digit and place (`HELD_OUT_PLACES`) are
never shown with `combinations="seen"`, and one at least is in each scene of `"held out"`. Each word
is seen all the same: each digit and each colour in either role, each relation with eight digits or more.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from typing import NamedTuple

import torch
import torch.nn.functional as F

from aigc_helpers.arguments import require_one_of, require_whole
from aigc_helpers.data import as_signed, load_digits

SIZE = 32  # pixels on each side of a scene
DIGIT_SIZE = 14  # of a digit in it: half of MNIST's 28
JITTER = 1  # pixels by which a digit may stand off its place, to each side

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow")
# sRGB, 0..255. Found by search: any two stay apart on black for readers with protanopia, deuteranopia
# and tritanopia too (tests/test_scenes.py simulates them).
RGB = ((220, 58, 40), (38, 214, 146), (70, 100, 255), (254, 236, 70))
POSITIONS = ("top left", "top right", "bottom left", "bottom right")  # of a single digit
RELATIONS = ("left of", "above")  # of the first digit of two to the second
NONE = -1  # a fact that a scene does not have

MAX_WORDS = 12
PAD = 0
WORDS = (
    *("<pad>", "a"),
    *COLOURS,
    *DIGITS,
    *("left", "right", "above", "below", "over", "under"),
    *("top", "bottom", "at", "the", "to", "of"),
)
WORD_IDS = {word: number for number, word in enumerate(WORDS) if number != PAD}

# Digits in the colours that training does not show.
HELD_OUT_PAIRS = ((1, "yellow"), (4, "red"), (5, "blue"), (8, "green"), (9, "red"))
# Digits at the places that training does not show: no six left of another digit, and so on.
HELD_OUT_PLACES = ((6, "left of"), (2, "right of"), (0, "above"), (5, "below"))
COMBINATIONS = ("seen", "held out", "all")

# Where the upper left corner of a digit stands, (row, column), without jitter.
_LOW, _MIDDLE, _HIGH = 1, 9, 17
_CORNERS = ((_LOW, _LOW), (_LOW, _HIGH), (_HIGH, _LOW), (_HIGH, _HIGH))
_PLACES = (((_MIDDLE, _LOW), (_MIDDLE, _HIGH)), ((_LOW, _MIDDLE), (_HIGH, _MIDDLE)))
_CHUNK = 2048  # scenes drawn at a time

# How a relation is said of the first digit, and, the other way about, of the second.
_SAID = (
    (("left of", "to the left of"), ("right of", "to the right of")),
    (("above", "over"), ("below", "under")),
)


# ---------------------------------------------------------------- facts: a scene without its words


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What N captions say, as whole numbers (int64); -1 (`NONE`) is for what a scene does not have.

    digits (N, 2): 0..9, the second -1 where there is one digit. colours (N, 2): places in `COLOURS`.
    relation (N,): place in `RELATIONS`; the first digit is always the one on the left, or above, so
        that all captions of one scene have the same facts.
    position (N,): place in `POSITIONS`, of a single digit.
    """

    digits: torch.Tensor
    colours: torch.Tensor
    relation: torch.Tensor
    position: torch.Tensor

    def __len__(self):
        return len(self.relation)

    def __getitem__(self, index) -> Facts:
        """The facts of some scenes: a slice, a mask (N,), a tensor of numbers, or one number (then N = 1)."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return Facts(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @property
    def is_pair(self) -> torch.Tensor:
        """Whether there are two digits: bool (N,)."""
        return self.relation != NONE

    @property
    def key(self) -> torch.Tensor:
        """One whole number (N,) a scene: equal exactly where all facts are equal."""
        key = torch.zeros_like(self.relation)
        columns = (*self.digits.T, *self.colours.T, self.relation, self.position)
        for column, size in zip(columns, (11, 11, 5, 5, 3, 5), strict=True):
            key = key * size + column + 1
        return key

    def swap_colours(self) -> Facts:
        """The same digits at the same places, each of a pair in the other's colour."""
        colours = torch.where(self.is_pair[:, None], self.colours.flip(1), self.colours)
        return dataclasses.replace(self, colours=colours)

    def swap_digits(self) -> Facts:
        """The same colours at the same places, each of a pair on the other digit."""
        digits = torch.where(self.is_pair[:, None], self.digits.flip(1), self.digits)
        return dataclasses.replace(self, digits=digits)


def join_facts(parts) -> Facts:
    """The facts of several sets, one after the other. Raises ValueError for no parts."""
    parts = list(parts)
    if not parts or not all(isinstance(part, Facts) for part in parts):
        raise ValueError(f"join_facts: needs one Facts or more, got {parts!r}")
    names = [field.name for field in dataclasses.fields(Facts)]
    return Facts(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def find_held_out(facts) -> tuple[torch.Tensor, torch.Tensor]:
    """Which scenes hold a pair of digit and colour, and which a digit at a place, kept from training.

    Returns two bool tensors (N,).
    """
    pairs = torch.zeros(10, len(COLOURS), dtype=torch.bool)
    for digit, colour in HELD_OUT_PAIRS:
        pairs[digit, COLOURS.index(colour)] = True
    places = torch.zeros(10, len(RELATIONS), 2, dtype=torch.bool)  # the last: of the first, the second
    for digit, place in HELD_OUT_PLACES:
        relation, role = {"left of": (0, 0), "right of": (0, 1), "above": (1, 0), "below": (1, 1)}[place]
        places[digit, relation, role] = True
    is_there = facts.digits != NONE
    in_pair = (pairs[facts.digits, facts.colours] & is_there).any(dim=1)
    roles = torch.arange(2).expand_as(facts.digits)
    at_place = places[facts.digits, facts.relation[:, None], roles].any(dim=1) & facts.is_pair
    return in_pair, at_place


# ---------------------------------------------------------------- captions


def paraphrases(facts) -> list[str]:
    """All captions of one scene, the shortest way to say it first: two of one digit, four of two digits.

    facts: of one scene. Raises ValueError for more.
    """
    if not isinstance(facts, Facts) or len(facts) != 1:
        got = f"{len(facts)} scenes" if isinstance(facts, Facts) else type(facts).__name__
        raise ValueError(f"paraphrases: needs the facts of one scene, got {got}")
    return list(_say(facts.digits[0].tolist(), facts.colours[0].tolist(), facts.relation.item(), facts.position.item()))


def _say(digits, colours, relation, position):
    nouns = [f"a {COLOURS[c]} {DIGITS[d]}" for d, c in zip(digits, colours, strict=True) if d != NONE]
    if relation == position == NONE:  # what a judge sees in a picture that is no scene
        return (" and ".join(nouns) or "nothing",)
    if relation == NONE:
        return f"{nouns[0]} at the {POSITIONS[position]}", f"{POSITIONS[position]}: {nouns[0]}"
    first, second = nouns
    of_first, of_second = _SAID[relation]
    return (
        f"{first} {of_first[0]} {second}",
        f"{second} {of_second[0]} {first}",
        f"{first} {of_first[1]} {second}",
        f"{second} {of_second[1]} {first}",
    )


def describe(facts, generator=None) -> list[str]:
    """A caption for each of N scenes: one of its paraphrases at random, the first without a generator.

    generator: a CPU generator. `parse` turns a caption back into its facts. What a judge has read from a
    picture that is no scene has no place: "a red three and a blue seven", or "nothing".
    """
    rows = zip(
        facts.digits.tolist(), facts.colours.tolist(), facts.relation.tolist(), facts.position.tolist(), strict=True
    )
    if generator is None:
        return [_say(*row)[0] for row in rows]
    draws = torch.randint(0, 4, (len(facts),), generator=generator).tolist()
    said = (_say(*row) for row in rows)
    return [ways[draw % len(ways)] for ways, draw in zip(said, draws, strict=True)]


_NUMERALS = {str(number): word for number, word in enumerate(DIGITS)}
_IGNORED = set(".,;:!?\"'`()[]{}<>/\\|-_*&#%$@^~+=…–—’‘“”")  # marks between words that say nothing here


def _split_words(text):
    """The words of a text in lower case, numerals as words; marks that are not usual stand for themselves."""
    text = unicodedata.normalize("NFKC", text).lower()
    found = re.findall(r"[^\W_]+|[^\w\s]", text)
    return [_NUMERALS.get(word, word) for word in found if word not in _IGNORED]


def tokenize(captions) -> torch.Tensor:
    """Captions as tokens: int64 (N, 12), the number of each word in `WORDS`, then 0 (`PAD`).

    captions: N strings, or one (then N = 1). Capitals and punctuation do not matter. The mask of what
    is no padding is `tokens != 0`. Raises ValueError for a word that is not in `WORDS` and for a caption
    of more than 12 words; `read_caption` takes whatever a person types.
    """
    captions = [captions] if isinstance(captions, str) else list(captions)
    rows = []
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"tokenize: a caption must be a string, got {caption!r}")
        words = _split_words(caption)
        unknown = [word for word in words if word not in WORD_IDS]
        if unknown:
            raise ValueError(f"tokenize: unknown word {unknown[0]!r} in {caption[:80]!r}; the words are {WORDS[1:]}")
        if len(words) > MAX_WORDS:
            raise ValueError(f"tokenize: at most {MAX_WORDS} words, got {len(words)} in {caption[:80]!r}")
        rows.append(_as_row(words))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, MAX_WORDS)


def _as_row(words):
    return [WORD_IDS[word] for word in words] + [PAD] * (MAX_WORDS - len(words))


def words_of(tokens) -> list[str]:
    """The words of one row of tokens (12,), without the padding."""
    return [WORDS[token] for token in tokens.tolist() if token != PAD]


class Reading(NamedTuple):
    """What `read_caption` makes of a text.

    tokens (1, 12); unknown: the words left out because `WORDS` has them not, each once; cut: how many
    known words were left out because there were more than 12.
    """

    tokens: torch.Tensor
    unknown: tuple[str, ...]
    cut: int

    @property
    def note(self) -> str:
        """One line, below 160 characters, on what was left out; "" if nothing was. It is plain text, not HTML."""
        parts = []
        if self.unknown:
            shown = ", ".join(word if len(word) <= 16 else word[:15] + "…" for word in self.unknown[:4])
            more = f" and {len(self.unknown) - 4} more" if len(self.unknown) > 4 else ""
            parts.append(f"left out, not among the {len(WORDS) - 1} words: {shown}{more}")
        if self.cut:
            words = "word" if self.cut == 1 else "words"
            parts.append(f"{self.cut} {words} beyond the first {MAX_WORDS} left out")
        return "; ".join(parts)


def read_caption(text) -> Reading:
    """What a person typed, as tokens: known words in order, the rest named as left out.

    Capitals, punctuation and numerals ("3" is "three") are understood; a text without one known word
    gives padding alone, which is the caption of a model without a caption. Never raises for a string;
    ValueError for anything else.
    """
    if not isinstance(text, str):
        raise ValueError(f"read_caption: text must be a string, got {text!r}")
    words = _split_words(text)
    known = [word for word in words if word in WORD_IDS]
    unknown = tuple(dict.fromkeys(word for word in words if word not in WORD_IDS))
    tokens = torch.tensor([_as_row(known[:MAX_WORDS])], dtype=torch.int64)
    return Reading(tokens, unknown, max(0, len(known) - MAX_WORDS))


_NOUN = f"a ({'|'.join(COLOURS)}) ({'|'.join(DIGITS)})"
_SINGLE = re.compile(f"{_NOUN} at the ({'|'.join(POSITIONS)})")
_SINGLE_FRONTED = re.compile(f"({'|'.join(POSITIONS)}) {_NOUN}")
# phrase -> (relation, whether the digit named first is the second of the facts)
_PHRASES = {
    phrase: (relation, bool(turned))
    for relation, both in enumerate(_SAID)
    for turned, phrases in enumerate(both)
    for phrase in phrases
}
_PAIR = re.compile(f"{_NOUN} ({'|'.join(_PHRASES)}) {_NOUN}")


def parse(caption) -> Facts | None:
    """The facts (N = 1) of a caption, or None where it is no sentence of the grammar.

    Capitals, punctuation and numerals do not matter. Raises ValueError for what is no string.
    """
    if not isinstance(caption, str):
        raise ValueError(f"parse: caption must be a string, got {caption!r}")
    sentence = " ".join(_split_words(caption))
    if found := _PAIR.fullmatch(sentence):
        colour, digit, phrase, other_colour, other_digit = found.groups()
        relation, turned = _PHRASES[phrase]
        nouns = [(digit, colour), (other_digit, other_colour)]
        return _as_facts(nouns[::-1] if turned else nouns, relation, NONE)
    if found := _SINGLE.fullmatch(sentence):
        colour, digit, position = found.groups()
    elif found := _SINGLE_FRONTED.fullmatch(sentence):
        position, colour, digit = found.groups()
    else:
        return None
    return _as_facts([(digit, colour)], NONE, POSITIONS.index(position))


def _as_facts(nouns, relation, position):
    missing = [NONE] * (2 - len(nouns))
    digits = [DIGITS.index(digit) for digit, _ in nouns] + missing
    colours = [COLOURS.index(colour) for _, colour in nouns] + missing
    return Facts(*(torch.tensor([value]) for value in (digits, colours, relation, position)))


def parse_all(captions) -> Facts:
    """The facts of N captions. Raises ValueError for one that is no sentence of the grammar."""
    parts = [(caption, parse(caption)) for caption in captions]
    wrong = [caption for caption, facts in parts if facts is None]
    if wrong:
        raise ValueError(f"parse_all: no sentence of the grammar: {wrong[0][:80]!r}")
    return join_facts(facts for _, facts in parts)


# ---------------------------------------------------------------- pictures


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes: images (N, 3, 32, 32) float32 in [-1, 1], N captions, tokens (N, 12), their facts."""

    images: torch.Tensor
    captions: list[str]
    tokens: torch.Tensor
    facts: Facts

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index) -> Scenes:
        """Some of the scenes: a slice, a mask (N,), a tensor of numbers, or one number (then N = 1)."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        chosen = torch.arange(len(self))[index].tolist()
        captions = [self.captions[k] for k in chosen]
        return Scenes(self.images[index], captions, self.tokens[index], self.facts[index])


def draw_facts(n, combinations="seen", *, generator) -> Facts:
    """The facts of n scenes at random: half of them of one digit, half of two.

    combinations: "seen", "held out" (one combination kept from training, or more, in each), or "all".
    Digits, colours, positions and relations are equally likely among those that are allowed.
    """
    n = require_whole("draw_facts", "n", n, least=1)
    require_one_of("draw_facts", "combinations", combinations, COMBINATIONS)
    _require_generator("draw_facts", generator)
    is_pair = torch.randint(0, 2, (n,), generator=generator).bool()
    facts = _draw_once(is_pair, generator)
    while combinations != "all":
        in_pair, at_place = find_held_out(facts)
        again = (in_pair | at_place) == (combinations == "seen")
        if not again.any():
            break
        drawn = _draw_once(is_pair[again], generator)
        for field in dataclasses.fields(facts):
            getattr(facts, field.name)[again] = getattr(drawn, field.name)
    return facts


def _draw_once(is_pair, generator):
    n = len(is_pair)
    digits = torch.randint(0, 10, (n, 2), generator=generator)
    colours = torch.randint(0, len(COLOURS), (n, 2), generator=generator)
    relation = torch.randint(0, len(RELATIONS), (n,), generator=generator)
    position = torch.randint(0, len(POSITIONS), (n,), generator=generator)
    digits[~is_pair, 1] = NONE
    colours[~is_pair, 1] = NONE
    relation[~is_pair] = NONE
    position[is_pair] = NONE
    return Facts(digits, colours, relation, position)


def _require_generator(caller, generator):
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        need = "must be a torch.Generator on the CPU"
        raise ValueError(f"{caller}: generator {need}, got {generator!r}")


def draw_scenes(facts, images, labels, *, generator) -> torch.Tensor:
    """Pictures (N, 3, 32, 32) in [-1, 1] of N facts, with digits drawn at random from real ones.

    images (M, 1, 28, 28): uint8 or floats in [-1, 1], a digit of each class at least; labels (M,).
    A digit is brought to 14 x 14 by the mean of each 2 x 2 pixels, and its ink takes the colour; it stands
    off its place by at most one pixel each way, so two digits never overlap.
    """
    _require_generator("draw_scenes", generator)
    labels = torch.as_tensor(labels)
    _require_digits("draw_scenes", images, labels)
    order = labels.argsort(stable=True)
    counts = labels.bincount(minlength=10)
    starts = counts.cumsum(0) - counts
    n = len(facts)
    is_there = facts.digits != NONE
    digits = facts.digits.clamp_min(0)
    draws = torch.rand(n, 2, generator=generator)
    rank = (draws * counts[digits]).long().minimum(counts[digits] - 1)
    chosen = order[starts[digits] + rank]
    corners = _find_corners(facts) + torch.randint(-JITTER, JITTER + 1, (n, 2, 2), generator=generator)
    rgb = torch.tensor(RGB, dtype=torch.float32) / 255
    tints = rgb[facts.colours.clamp_min(0)] * is_there[:, :, None]  # (N, 2, 3)
    scenes = torch.empty(n, 3, SIZE, SIZE)
    for part in torch.arange(n).split(_CHUNK):
        ink = _place(images, chosen[part], corners[part])
        scenes[part] = torch.einsum("nkhw,nkc->nchw", ink, tints[part]) * 2 - 1
    return scenes


def _place(images, chosen, corners):
    """The ink (n, 2, 32, 32), 0..1, of two digits on canvases of their own."""
    n = len(chosen)
    signed = as_signed(images[chosen.flatten()], "draw_scenes")
    small = F.avg_pool2d((signed.reshape(-1, 1, 28, 28) + 1) / 2, 2).reshape(n, 2, DIGIT_SIZE, DIGIT_SIZE)
    pixels = torch.arange(DIGIT_SIZE)
    rows = (corners[:, :, 0, None] + pixels)[:, :, :, None]
    columns = (corners[:, :, 1, None] + pixels)[:, :, None, :]
    scene = torch.arange(n)[:, None, None, None]
    role = torch.arange(2)[None, :, None, None]
    ink = torch.zeros(n, 2, SIZE, SIZE)
    ink[scene, role, rows, columns] = small
    return ink


def _find_corners(facts):
    """Where the upper left corners of both digits stand without jitter: (N, 2, 2), (row, column)."""
    alone = torch.tensor(_CORNERS)[facts.position][:, None].expand(-1, 2, -1)
    together = torch.tensor(_PLACES)[facts.relation]
    return torch.where(facts.is_pair[:, None, None], together, alone)


def _require_digits(caller, images, labels):
    if not torch.is_tensor(images) or images.shape[1:] != (1, 28, 28):
        got = tuple(images.shape) if torch.is_tensor(images) else type(images).__name__
        raise ValueError(f"{caller}: images must be a tensor (M, 1, 28, 28), got {got}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{caller}: labels must be int64 of shape ({len(images)},), got {got}")
    missing = sorted(set(range(10)) - set(labels.tolist()))
    if missing or int(labels.max()) > 9 or int(labels.min()) < 0:
        raise ValueError(f"{caller}: labels must be 0..9, each of them at least once; missing: {missing}")


def make_scenes(n, images, labels, combinations="seen", *, generator) -> Scenes:
    """n scenes of real digits with captions.

    images (M, 1, 28, 28), labels (M,): of `load_digits`; training digits to train on, test digits to score.
    combinations: "seen" (to train on), "held out" (one combination kept from training, or more, in
        each scene; see `find_held_out`), or "all".
    generator: on the CPU; the same generator gives the same scenes.

    Raises ValueError for other arguments.
    """
    facts = draw_facts(n, combinations, generator=generator)
    pictures = draw_scenes(facts, images, labels, generator=generator)
    captions = describe(facts, generator)
    return Scenes(pictures, captions, tokenize(captions), facts)


def load_scenes(split="train", n=20_000, combinations="seen", seed=0, verbose=True) -> Scenes:
    """n scenes of the digits of a split, from the best source at hand (`data.load_digits`).

    Prints one line on where the digits come from, unless verbose is False. The test split has digits
    that no model has been trained on.
    """
    seed = require_whole("load_scenes", "seed", seed, least=0, most=2**63 - 1)
    digits = load_digits(split, verbose=verbose)
    generator = torch.Generator().manual_seed(seed)
    return make_scenes(n, digits.images, digits.labels, combinations, generator=generator)
