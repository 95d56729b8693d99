"""Scenes: the grammar both ways, pictures by hand, what is held out, and colours that colour-blind readers tell apart."""

import dataclasses
import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aigc_helpers import data, scenes
from aigc_helpers.scenes import (
    COLOURS,
    DIGITS,
    NONE,
    POSITIONS,
    RELATIONS,
    RGB,
    WORDS,
    Facts,
    describe,
    draw_facts,
    draw_scenes,
    find_held_out,
    make_scenes,
    paraphrases,
    parse,
    read_caption,
    tokenize,
    words_of,
)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def equal(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Facts))


@pytest.fixture(scope="module")
def digits():
    return data.load_embedded_digits("train")


# One digit, filled with its number as grey, so that a picture says which digit stands where.
PLAIN = torch.stack([torch.full((1, 28, 28), 25 * (k + 1), dtype=torch.uint8) for k in range(10)])
LABELS = torch.arange(10)


# ---------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("caption", "digits", "colours", "relation", "position"),
    [
        ("a red three above a blue seven", (3, 7), ("red", "blue"), "above", None),
        ("a blue seven below a red three", (3, 7), ("red", "blue"), "above", None),
        ("a blue seven under a red three", (3, 7), ("red", "blue"), "above", None),
        ("a green zero to the right of a yellow nine", (9, 0), ("yellow", "green"), "left of", None),
        ("A yellow 9, left of a green 0!", (9, 0), ("yellow", "green"), "left of", None),
        ("a green five at the top left", (5,), ("green",), None, "top left"),
        ("bottom-right: a green five", (5,), ("green",), None, "bottom right"),
    ],
)
def test_parse(caption, digits, colours, relation, position):
    facts = parse(caption)
    pad = [NONE] * (2 - len(digits))
    assert facts.digits.tolist() == [list(digits) + pad]
    assert facts.colours.tolist() == [[COLOURS.index(colour) for colour in colours] + pad]
    assert facts.relation.tolist() == [NONE if relation is None else RELATIONS.index(relation)]
    assert facts.position.tolist() == [NONE if position is None else POSITIONS.index(position)]


@pytest.mark.parametrize(
    "caption",
    ["", "a", "a red three", "red three above blue seven", "a red three above", "a three red above a blue seven",
     "a red three above a blue seven at the top left", "top left a red three top left", "一个红色的三", "🙂"],
)  # fmt: skip
def test_what_is_no_sentence(caption):
    assert parse(caption) is None


def test_all_words_are_said_and_no_others():
    """In the captions of training: `read_caption` must know no word that no model has seen."""
    facts = draw_facts(4000, "seen", generator=random())
    said = {word for caption in describe(facts, random(1)) for word in caption.replace(":", "").split()}
    assert said == set(WORDS[1:]) and WORDS[0] == "<pad>" and len(set(WORDS)) == len(WORDS)


def test_tokens_are_words_then_padding():
    tokens = tokenize(["a red three above a blue seven", "top left: a green five"])
    assert tokens.dtype == torch.int64 and tokens.shape == (2, 12)
    assert words_of(tokens[0]) == "a red three above a blue seven".split()
    assert (tokens != 0).sum(dim=1).tolist() == [7, 5]
    assert tokens[1, 5:].tolist() == [0] * 7
    assert torch.equal(tokenize("top left: a green five"), tokens[1:])
    assert tokenize([""]).tolist() == [[0] * 12] and tokenize([]).shape == (0, 12)


@pytest.mark.parametrize("wrong", ["a unicorn", "a " * 13, "<pad>", 3])
def test_tokenize_refuses(wrong):
    with pytest.raises(ValueError, match="tokenize: "):
        tokenize([wrong])


@st.composite
def some_facts(draw):
    is_pair = draw(st.booleans())
    nouns = [(draw(st.integers(0, 9)), draw(st.integers(0, 3))) for _ in range(1 + is_pair)]
    pad = [NONE] * (1 - is_pair)
    return Facts(
        torch.tensor([[d for d, _ in nouns] + pad]),
        torch.tensor([[c for _, c in nouns] + pad]),
        torch.tensor([draw(st.integers(0, 1)) if is_pair else NONE]),
        torch.tensor([NONE if is_pair else draw(st.integers(0, 3))]),
    )


@given(some_facts())
def test_captions_and_facts_both_ways(facts):
    captions = paraphrases(facts)
    assert len(set(captions)) == (4 if facts.is_pair else 2) and describe(facts) == captions[:1]
    for caption in captions:
        assert equal(parse(caption), facts)
        words = " ".join(words_of(tokenize(caption)[0]))
        assert equal(parse(words), facts) and words == caption.replace(":", "")


def test_the_key_tells_all_facts_apart():
    facts = draw_facts(60_000, "all", generator=random())
    rows = torch.cat([facts.digits, facts.colours, facts.relation[:, None], facts.position[:, None]], dim=1)
    _, of_row = rows.unique(dim=0, return_inverse=True)
    _, of_key = facts.key.unique(return_inverse=True)
    pairs = torch.stack([of_row, of_key]).unique(dim=1)
    assert pairs.shape[1] == of_row.max() + 1 == of_key.max() + 1
    assert of_row.max() + 1 == 10 * 4 * 4 + (10 * 4) ** 2 * 2


def test_describe_takes_each_paraphrase_as_often():
    facts = parse("a red three above a blue seven")[torch.zeros(4000, dtype=torch.long)]
    captions = describe(facts, random())
    assert all(captions.count(caption) == pytest.approx(1000, abs=120) for caption in paraphrases(facts[0]))
    assert captions == describe(facts, random())


def test_facts_without_a_place_are_described_too():
    """As a judge reads them from pictures that are no scene."""
    none = torch.tensor([NONE])
    for caption, wanted in ((("a red three above a blue seven"), "a red three and a blue seven"), ("top left: a red three", "a red three")):
        facts = dataclasses.replace(parse(caption), relation=none, position=none)
        assert describe(facts) == describe(facts, random()) == paraphrases(facts) == [wanted]
    empty = torch.full((1, 2), NONE)
    assert describe(Facts(empty, empty, none, none)) == ["nothing"]


def test_swaps():
    facts = scenes.parse_all(["a red three above a blue seven", "top left: a green five"])
    assert describe(facts.swap_colours()) == ["a blue three above a red seven", "a green five at the top left"]
    assert describe(facts.swap_digits()) == ["a red seven above a blue three", "a green five at the top left"]
    with pytest.raises(ValueError, match="parse_all"):
        scenes.parse_all(["a red three", "top left: a green five"])


# ---------------------------------------------------------------- what a person types


@pytest.mark.parametrize(
    ("text", "known", "unknown", "cut"),
    [
        ("", "", (), 0),
        ("  \n ", "", (), 0),
        ("A RED 3 above a purple cat", "a red three above a", ("purple", "cat"), 0),
        ("cat cat red", "red", ("cat",), 0),
        ("红色的三 在 a blue seven", "a blue seven", ("红色的三", "在"), 0),
        ("🙂 red ３", "red three", ("🙂",), 0),
        ("<b>red</b><script>alert('x')</script>", "red", ("b", "script", "alert", "x"), 0),
        ("red " * 5000, "red " * 12, (), 4988),
        ("top-left, a_green   five...", "top left a green five", (), 0),
        ("a\x00red\u202ethree", "a red three", None, 0),
    ],
)
def test_read_caption(text, known, unknown, cut):
    reading = read_caption(text)
    assert reading.tokens.shape == (1, 12) and reading.tokens.dtype == torch.int64
    assert words_of(reading.tokens[0]) == known.split() and reading.cut == cut
    assert unknown is None or reading.unknown == unknown
    assert bool(reading.note) == bool(reading.unknown or cut)
    assert "\n" not in reading.note and len(reading.note) < 160


@given(st.text(max_size=200))
def test_read_caption_takes_any_text(text):
    reading = read_caption(text)
    assert reading.tokens.shape == (1, 12) and "\n" not in reading.note and len(reading.note) < 160


def test_the_note_names_what_was_left_out_and_no_more_than_four():
    assert read_caption("a red three").note == ""
    note = read_caption("one dog " + "x" * 100 + " c d e f" + " a" * 12).note
    assert note.startswith("left out, not among the 27 words: dog, xxxxxxxxxxxxxxx…, c, d and 2 more; 1 word beyond")
    with pytest.raises(ValueError, match="read_caption"):
        read_caption(None)


# ---------------------------------------------------------------- what is held out


def test_what_is_seen_and_what_is_held_out_have_nothing_in_common():
    for combinations, wanted in (("seen", False), ("held out", True)):
        facts = draw_facts(6000, combinations, generator=random())
        pair, place = find_held_out(facts)
        assert ((pair | place) == wanted).all()
        assert facts.is_pair.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert pair[~place].any() and place[~pair].any(), "both kinds are among the held-out scenes"
    everything = draw_facts(6000, "all", generator=random())
    share = torch.stack(find_held_out(everything)).any(dim=0).float().mean().item()
    assert 0.15 < share < 0.4


@pytest.mark.parametrize(
    ("caption", "in_pair", "at_place"),
    [
        ("a red three above a blue seven", False, False),
        ("a blue seven above a red four", True, False),
        ("top left: a yellow one", True, False),
        ("a red six left of a blue seven", False, True),
        ("a blue seven right of a red six", False, True),
        ("a blue seven left of a red six", False, False),
        ("a blue five below a red three", True, True),
        ("a green two at the top right", False, False),
    ],
)
def test_find_held_out(caption, in_pair, at_place):
    assert [found.item() for found in find_held_out(parse(caption))] == [in_pair, at_place]


def test_each_word_is_seen_in_both_roles():
    """Held out are combinations, never a word: digits and colours as first and second, and alone."""
    facts = draw_facts(20_000, "seen", generator=random())
    pair = facts[facts.is_pair]
    for role in range(2):
        assert pair.digits[:, role].unique().tolist() == list(range(10))
        assert pair.colours[:, role].unique().tolist() == list(range(4))
        for relation in range(2):
            shown = pair.digits[pair.relation == relation, role].unique()
            assert len(shown) == 9
    alone = facts[~facts.is_pair]
    assert len(alone.key.unique()) == (10 * 4 - len(scenes.HELD_OUT_PAIRS)) * 4
    assert len(scenes.HELD_OUT_PAIRS) == 5


# ---------------------------------------------------------------- pictures


def test_a_picture_by_hand():
    """A red three (grey 100) at the top left fills 14 x 14 pixels about (8, 8), and all else is black."""
    facts = parse("top left: a red three")
    image = draw_scenes(facts, PLAIN, LABELS, generator=random())[0]
    lit = (image > -1).any(dim=0)
    rows, columns = lit.any(dim=1).nonzero().flatten(), lit.any(dim=0).nonzero().flatten()
    assert len(rows) == len(columns) == 14 and lit.sum() == 14 * 14
    assert 0 <= rows[0] <= 2 and 0 <= columns[0] <= 2
    tint = torch.tensor(RGB[COLOURS.index("red")]) / 255 * (100 / 255) * 2 - 1
    torch.testing.assert_close(image[:, lit], tint[:, None].expand(3, 14 * 14))


@pytest.mark.parametrize("position", POSITIONS)
def test_each_position_by_hand(position):
    image = draw_scenes(parse(f"a red three at the {position}"), PLAIN, LABELS, generator=random())[0]
    row, column = (image > -1).any(dim=0).nonzero().float().mean(dim=0).tolist()
    assert (row < 16) == ("top" in position) and (column < 16) == ("left" in position)


@pytest.mark.parametrize(
    ("caption", "first", "second"),
    [
        ("a red three above a blue seven", (0, 9), (16, 9)),
        ("a red three below a blue seven", (16, 9), (0, 9)),
        ("a red three left of a blue seven", (9, 0), (9, 16)),
        ("a red three right of a blue seven", (9, 16), (9, 0)),
    ],
)
def test_two_digits_stand_as_the_caption_says_and_never_overlap(caption, first, second):
    facts = parse(caption)[torch.zeros(64, dtype=torch.long)]
    images = (draw_scenes(facts, PLAIN, LABELS, generator=random()) + 1) / 2
    starts = []
    for colour, grey, (row, column) in (("red", 100, first), ("blue", 200, second)):
        tint = torch.tensor(RGB[COLOURS.index(colour)]) / 255 * grey / 255
        lit = (images - tint[:, None, None]).abs().amax(dim=1) < 1e-4
        assert (lit.sum(dim=(1, 2)) == 14 * 14).all(), "all pixels of each digit are there"
        corner = torch.stack([lit.any(dim=2).float().argmax(dim=1), lit.any(dim=1).float().argmax(dim=1)], dim=1)
        # 0 and 16 are the least of three offsets here, 9 the middle one.
        least = torch.tensor([row - (row == 9), column - (column == 9)])
        assert (corner >= least).all() and (corner <= least + 2).all()
        assert (corner.amin(dim=0) == least).all() and (corner.amax(dim=0) == least + 2).all(), "jitter of a pixel"
        starts.append(corner)
    assert not torch.equal(starts[0], starts[1])


def test_area_averaging():
    checks = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    checks[:, :, ::2, ::2] = 255  # one of each four pixels is white
    image = draw_scenes(parse("top left: a yellow one"), checks, LABELS, generator=random())[0]
    tint = torch.tensor(RGB[3]) / 255 * 0.25 * 2 - 1
    torch.testing.assert_close(image[image > -1].reshape(3, -1), tint[:, None].expand(3, 14 * 14))


def test_captions_belong_to_their_pictures(digits):
    made = make_scenes(300, digits.images, digits.labels, generator=random())
    assert made.images.shape == (300, 3, 32, 32) and made.images.dtype == torch.float32
    assert made.images.min() >= -1 and made.images.max() <= 1
    assert equal(scenes.parse_all(made.captions), made.facts)
    assert torch.equal(tokenize(made.captions), made.tokens)
    # The picture itself: the mean hue of one digit is that of its colour.
    alone = made[~made.facts.is_pair]
    hue = torch.nn.functional.normalize((alone.images + 1).sum(dim=(2, 3)), dim=1)
    named = torch.nn.functional.normalize(torch.tensor(RGB).float(), dim=1)
    assert torch.equal((hue @ named.T).argmax(dim=1), alone.facts.colours[:, 0])


def test_each_digit_is_drawn_from_its_own_class(digits):
    """Of uneven classes too: each image is drawn, and none of another class."""
    labels = torch.tensor([0, 0, 0, *range(1, 10)])
    images = torch.arange(12, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28) * 10 + 100
    facts = draw_facts(2000, "all", generator=random())
    greys = (draw_scenes(facts, images, labels, generator=random()) + 1).amax(dim=(1, 2, 3)) / 2
    alone = ~facts.is_pair
    rgb = torch.tensor(RGB).amax(dim=1)[facts.colours[:, 0]] / 255
    number = ((greys / rgb * 255 - 100) / 10).round().long()[alone]
    assert torch.equal(labels[number], facts.digits[alone, 0])
    assert number.unique().tolist() == list(range(12))


def test_the_same_generator_the_same_scenes(digits):
    a, b, other = (make_scenes(50, digits.images, digits.labels, generator=random(k)) for k in (0, 0, 1))
    assert torch.equal(a.images, b.images) and a.captions == b.captions and equal(a.facts, b.facts)
    assert a.captions != other.captions
    state = torch.get_rng_state()
    make_scenes(5, digits.images, digits.labels, generator=random())
    assert torch.equal(state, torch.get_rng_state()), "the global generator stays where it was"


def test_some_of_the_scenes(digits):
    made = make_scenes(20, digits.images, digits.labels, generator=random())
    mask = made.facts.is_pair
    for index in (slice(3, 9), mask, torch.tensor([5, 1])):
        part = made[index]
        assert equal(scenes.parse_all(part.captions), part.facts)
        assert torch.equal(part.images, made.images[index]) and torch.equal(tokenize(part.captions), part.tokens)
    assert made[-1].captions == made.captions[-1:] and len(made[7]) == len(made.facts[7]) == 1
    joined = scenes.join_facts([made.facts[:5], made.facts[5:]])
    assert equal(joined, made.facts)


def test_load_scenes_offline(monkeypatch, capsys):
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    monkeypatch.delenv("AIGC_DATA_DIR", raising=False)
    monkeypatch.setenv("AIGC_CACHE_DIR", "/nowhere")
    made = scenes.load_scenes("test", 30, "held out", seed=3)
    assert len(made) == 30 and data.EMBEDDED in capsys.readouterr().out
    scenes.load_scenes("train", 3, verbose=False)
    assert capsys.readouterr().out == ""


def test_speed(digits):
    """20,000 scenes take a second or two; the bound leaves room for a busy machine."""
    start = time.process_time()
    make_scenes(4000, digits.images, digits.labels, generator=random())
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 2.5}, "n must be"),
        ({"combinations": "unseen"}, "combinations"),
        ({"generator": None}, "generator must be"),
        ({"generator": 3}, "generator must be"),
        ({"images": torch.zeros(10, 28, 28)}, "images must be"),
        ({"images": "digits"}, "images must be"),
        ({"labels": torch.arange(9)}, "labels must be"),
        ({"labels": torch.zeros(10, dtype=torch.long)}, "missing"),
        ({"labels": torch.arange(10.0)}, "labels must be"),
        ({"images": torch.full((10, 1, 28, 28), float("nan"))}, "NaN"),
        ({"images": torch.rand(10, 1, 28, 28)}, "2 \\* images - 1"),
    ],
)
def test_wrong_arguments(change, told):
    good = {"n": 4, "images": PLAIN, "labels": LABELS, "combinations": "seen", "generator": random()}
    with pytest.raises(ValueError, match=told) as caught:
        make_scenes(**{**good, **change})
    assert len(str(caught.value)) < 200


# ---------------------------------------------------------------- colours


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1, for linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def as_lab(rgb, sight):
    """CIELAB of sRGB 0..1 as someone with this sight sees it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ (SIGHT[sight] @ linear).clip(0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_stay_apart(sight):
    """By 30 at full ink and 15 at half, in CIELAB, where 2.3 is just noticeable (Mahy 1994)."""
    for ink, least in ((1.0, 30), (0.5, 15)):
        seen = [as_lab(np.array(rgb) / 255 * ink, sight) for rgb in RGB]
        nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
        assert nearest > least, f"{sight}, ink {ink}: {nearest:.0f}"


def test_the_simulation_sees_what_is_known():
    """Red and green of the same lightness fall together for deuteranopes, and not for others."""
    red, green = np.array([0.75, 0.35, 0.0]), np.array([0.35, 0.55, 0.0])
    usual, blind = (np.linalg.norm(as_lab(red, s) - as_lab(green, s)) for s in ("usual", "deuteranopia"))
    assert usual > 60 and blind < 20


def test_colours_show_on_black():
    for rgb in RGB:
        linear = np.where(np.array(rgb) / 255 <= 0.04045, 0, ((np.array(rgb) / 255 + 0.055) / 1.055) ** 2.4)
        assert (TO_XYZ[1] @ linear + 0.05) / 0.05 > 3, "a contrast of 3:1"


def test_digits_have_their_names():
    assert [DIGITS.index(word) for word in ("zero", "three", "nine")] == [0, 3, 9]
