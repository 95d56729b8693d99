"""05b_dalle: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from aigc_helpers import panels, scenes
from aigc_helpers.models import dalle
from aigc_helpers.models.gpt import Cache, next_logits
from aigc_helpers.models.text_to_image import AutoEncoder
from aigc_helpers.plotting import to_png
from tests.marking import assert_marked
from tests.panel_checks import moved_together, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "05b_dalle.ipynb"
# Buttons that, for what is drawn already, lead to the same picture: see tests/test_browser.py.
NOTHING_TO_SEE = {"Draw (1 to 15 s)", "Draw (0.5 s)"}
K = 16


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def some():
    return scenes.load_scenes("test", 8, seed=3, verbose=False)


@pytest.fixture(scope="module")
def codes():
    return torch.randint(K, (8, 64), generator=seeded(1))


@pytest.fixture(scope="module")
def gpt():
    """A small network whose every position says something of its own."""
    torch.manual_seed(0)
    made = dalle.make_scene_gpt(K=K, width=32, num_blocks=2).eval().requires_grad_(False)
    for weight in made.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=seeded(int(weight.numel())))
    return made


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    made = dalle.VectorDecoder(num_blocks=1).eval().requires_grad_(False)
    for weight in made.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=seeded(int(weight.numel())))
    return made


def units(n, seed=0):
    return F.normalize(torch.randn(n, 64, generator=seeded(seed)), dim=1)


# ---------------------------------------------------------------- the codebook


def test_each_vector_chooses_the_nearest_entry_and_says_how_far_it_is():
    z = torch.randn(50, 4, generator=seeded())
    entries = torch.randn(7, 4, generator=seeded(1))
    index, error = dalle.choose_entries(z, entries)
    squares = (z[:, None] - entries).square().sum(dim=2)
    assert torch.equal(index, squares.argmin(dim=1))
    torch.testing.assert_close(error, squares.min(dim=1).values, rtol=1e-4, atol=1e-5)


def test_an_entry_moves_to_the_mean_of_those_who_chose_it():
    z = torch.randn(400, 4, generator=seeded())
    start = z[:5]
    moved = dalle.fit_codebook(z, 5, num_rounds=1, start=start)
    index, before = dalle.choose_entries(z, start)
    for k in range(5):
        torch.testing.assert_close(moved[k], z[index == k].mean(dim=0), rtol=1e-4, atol=1e-5)
    errors = [before.mean().item()]
    for rounds in (1, 2, 5, 9):
        fitted = dalle.fit_codebook(z, 5, rounds, start=start)
        errors.append(dalle.choose_entries(z, fitted)[1].mean().item())
    assert errors == sorted(errors, reverse=True), "no round of k-means may make the error larger"
    assert torch.equal(start, z[:5]), "the caller's start stays as it was"


def test_an_entry_that_nobody_chooses_stays_where_it_is():
    z = torch.cat([torch.zeros(300, 4), torch.ones(300, 4) * 3]) + 0.01 * torch.randn(600, 4, generator=seeded())
    start = torch.full((20, 4), 50.0)
    start[0] = 0.0
    left = dalle.fit_codebook(z, 20, start=start)
    assert torch.equal(left[1:], start[1:])
    torch.testing.assert_close(left[0], z.mean(dim=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("K", [0, -1, 2.5, 9])
def test_a_codebook_of_no_size_or_more_entries_than_vectors_is_refused(K):
    with pytest.raises(ValueError, match="fit_codebook: K must be a whole number"):
        dalle.fit_codebook(torch.randn(8, 4), K)


def test_tiles_are_cut_row_by_row_and_laid_again(some):
    tiles = dalle.cut_tiles(some.images)
    assert tiles.shape == (8, 64, 48)
    for row, column in ((0, 0), (2, 7), (3, 3), (7, 3), (5, 6)):
        top, left = 4 * row, 4 * column
        around = some.images[:, :, top : top + 4, left : left + 4]
        assert torch.equal(tiles[:, 8 * row + column].reshape(8, 3, 4, 4), around)
    assert torch.equal(dalle.lay_tiles(tiles), some.images)


def test_codes_are_the_nearest_tiles_and_come_back_as_they(some):
    vq = dalle.SceneVQ(K).requires_grad_(False)
    vq.codebook.copy_(dalle.cut_tiles(some.images)[0, :K] + 0.01 * torch.randn(K, 48, generator=seeded()))
    found = vq.encode(some.images)
    assert found.shape == (8, 64) and found.dtype == torch.int64
    nearest = torch.cdist(dalle.cut_tiles(some.images), vq.codebook[None]).argmin(dim=2)
    assert torch.equal(found, nearest)
    assert torch.equal(vq.decode(found), dalle.lay_tiles(vq.codebook[found]).clamp(-1, 1))


def test_the_first_tile_stays_black_and_black_has_no_vote_on_the_others(some):
    vq = dalle.SceneVQ(K)
    vq.fit(some.images, seeded())
    assert torch.equal(vq.codebook[0], torch.full((48,), -1.0))
    assert (vq.codebook[1:].amax(dim=1) > -0.9).all(), "each of the others holds some ink"
    assert len(vq.encode(some.images).unique()) == K


# ---------------------------------------------------------------- one GPT for words and codes


def test_words_and_codes_share_no_number(some, codes):
    rows = dalle.as_sequences(some.tokens, codes)
    assert rows.shape == (8, 76)
    assert torch.equal(rows[:, :12], some.tokens) and rows[:, :12].max() < dalle.NUM_WORDS
    assert torch.equal(rows[:, 12:] - dalle.NUM_WORDS, codes)


def test_losses_are_those_of_each_code_after_what_stands_before_it(gpt, some, codes):
    """One code at a time: the network is shown only what comes before."""
    got = dalle.code_losses(gpt, some.tokens, codes)
    rows = dalle.as_sequences(some.tokens, codes)
    for i in (0, 1, 30, 63):
        logits = gpt(rows[:, : 12 + i])[:, -1, dalle.NUM_WORDS :]
        want = F.cross_entropy(logits, codes[:, i], reduction="none")
        torch.testing.assert_close(got[:, i], want, rtol=1e-3, atol=1e-4)


def test_captions_are_dropped_whole_and_as_often_as_said(some):
    tokens = some.tokens[:1].repeat(4000, 1)
    dropped = dalle.drop_captions(tokens, 0.25, seeded())
    empty = (dropped == 0).all(dim=1)
    assert torch.equal(dropped[~empty], tokens[~empty])
    assert empty.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dalle.drop_captions(tokens, 0.0), tokens)
    with pytest.raises(ValueError, match="drop_captions: share"):
        dalle.drop_captions(tokens, 1.5)


def test_guidance_multiplies_by_how_much_likelier_the_caption_makes_it():
    a, b = torch.randn(2, 5, K, generator=seeded()).log_softmax(dim=2)
    want = (a.exp() * (a.exp() / b.exp()) ** 2.0).div((a.exp() * (a.exp() / b.exp()) ** 2.0).sum(1, keepdim=True))
    torch.testing.assert_close(dalle.guided_logits(a, b, 2.0).softmax(dim=1), want, rtol=1e-4, atol=1e-6)
    assert torch.equal(dalle.guided_logits(a, b, 0.0), a)


@pytest.mark.parametrize("w", [0.0, 1.5])
def test_codes_are_drawn_from_the_guided_distribution(gpt, some, w):
    """Greedy codes, against the network shown the whole sequence, with and without the caption."""
    tokens = some.tokens[:3]
    drawn = dalle.draw_codes(gpt, tokens, w, temperature=0.0)
    logits = [
        gpt(dalle.as_sequences(words, drawn)[:, :-1])[:, 11:, dalle.NUM_WORDS :]
        for words in (tokens, torch.zeros_like(tokens))
    ]
    want = (logits[0] + w * (logits[0] - logits[1])).argmax(dim=2)
    assert (want == drawn).float().mean() > 0.97


def test_a_temperature_and_a_cut_are_obeyed_and_a_seed_repeats(gpt, some):
    tokens = some.tokens[:1].repeat(300, 1)
    first = dalle.draw_codes(gpt, tokens, top_k=2, generator=seeded())[:, 0]
    likeliest = next_logits(gpt, tokens[:1], Cache())[0, dalle.NUM_WORDS :].topk(2).indices
    assert set(first.tolist()) <= set(likeliest.tolist()) and len(set(first.tolist())) == 2
    again = [dalle.draw_codes(gpt, tokens[:4], 1.0, generator=seeded(5)) for _ in range(2)]
    assert torch.equal(*again)
    with pytest.raises(ValueError, match="draw_codes: w"):
        dalle.draw_codes(gpt, tokens, -1.0)


# ---------------------------------------------------------------- choosing


class Brightness:
    """A stand-in for CLIP whose picture vectors say how bright a picture is."""

    def embed_images(self, images):
        bright = (images.mean(dim=(1, 2, 3)) + 1) / 2
        return torch.stack([bright, (1 - bright.square()).sqrt()], dim=1)

    def embed_text(self, tokens):
        return torch.tensor([[1.0, 0.0]]).expand(len(tokens), 2)


def test_of_each_captions_pictures_the_nearest_is_chosen():
    images = torch.linspace(-1, 1, 12)[[3, 1, 2, 0, 7, 9, 8, 4, 11, 5, 6, 10], None, None, None].expand(12, 3, 32, 32)
    tokens = torch.zeros(3, 12, dtype=torch.int64)
    assert dalle.choose(Brightness(), images, tokens, 4).tolist() == [0, 5, 8]
    assert dalle.choose(Brightness(), images, torch.zeros(12, 12, dtype=torch.int64), 1).tolist() == [*range(12)]
    with pytest.raises(ValueError, match="choose: best_of"):
        dalle.choose(Brightness(), images, tokens, 0)


# ---------------------------------------------------------------- prior and decoder


class Straight(torch.nn.Module):
    """The exact velocity of a prior whose answer is always the caption's vector, turned around."""

    def forward(self, x, t, u):
        return (x + dalle.LENGTH * u) / t[:, None].clamp_min(1e-6)


def test_vectors_are_drawn_along_the_velocity_and_have_length_one():
    u = units(5)
    v = dalle.draw_vectors(Straight(), u, generator=seeded())
    torch.testing.assert_close(v, -u, rtol=0, atol=1e-4)


class Noisy(torch.nn.Module):
    """A prior that leaves the noise where it is."""

    def forward(self, x, t, u):
        return torch.zeros_like(x)


def test_of_two_drawn_vectors_the_one_nearer_to_the_caption_is_kept():
    u = units(400, 3)
    one, two, many = [
        (dalle.draw_vectors(Noisy(), u, generator=seeded(), best_of=n) * u).sum(dim=1).mean().item() for n in (1, 2, 8)
    ]
    assert abs(one) < 0.03 < two < many


def test_the_priors_loss_is_that_of_rectified_flow():
    class Zero(torch.nn.Module):
        def forward(self, x, t, u):
            assert x.shape == (3000, 64) and t.shape == (3000,) and ((t >= 0) & (t <= 1)).all()
            return torch.zeros_like(x)

    loss = dalle.prior_loss(Zero(), units(3000), units(3000, 1), seeded())
    assert loss.item() == pytest.approx(2.0, abs=0.03), "eps and 8 v have a mean square of 1 each"


def test_the_prior_reads_all_that_it_is_given():
    torch.manual_seed(0)
    prior = dalle.Prior(hidden=32, num_blocks=1)
    x, t, u = torch.randn(4, 64, generator=seeded()), torch.rand(4, generator=seeded(1)), units(4)
    out = prior(x, t, u)
    assert out.shape == (4, 64)
    for other in ((x + 1, t, u), (x, 1 - t, u), (x, t, units(4, 7))):
        assert (prior(*other) - out).abs().max() > 1e-3


def test_the_decoder_listens_to_the_vector_and_zero_is_none(decoder):
    z = torch.randn(3, 4, 8, 8, generator=seeded())
    t = torch.tensor([0.2, 0.5, 0.8])
    out = decoder(z, t, units(3))
    assert out.shape == z.shape
    assert (decoder(z, t, units(3, 1)) - out).abs().max() > 1e-3
    assert (decoder(z, t, torch.zeros(3, 64)) - out).abs().max() > 1e-3


def test_a_tenth_of_the_vectors_is_hidden_from_the_decoder():
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, z, t, v):
            seen.append(v)
            return torch.zeros_like(z)

    z0 = torch.randn(4000, 4, 8, 8, generator=seeded())
    loss = dalle.decoder_loss(Watch(), z0, units(4000), seeded(1))
    hidden = (seen[0] == 0).all(dim=1).float().mean().item()
    assert hidden == pytest.approx(0.1, abs=0.02)
    assert loss.item() == pytest.approx(2.0, abs=0.05)


def test_guidance_of_the_decoder_leads_away_from_no_vector():
    """A decoder whose answer is known: the guided estimate lands where the formula says."""

    class Known(torch.nn.Module):
        def forward(self, z, t, v):
            target = 1.0 + v.abs().sum(dim=1).clamp_max(1.0)   # 2 with a vector, 1 without
            return (z - target[:, None, None, None]) / t[:, None, None, None]

    class Latents:
        def decode(self, z):
            return z / 10

    v = units(3)
    noise = torch.randn(3, 4, 8, 8, generator=seeded())
    for w in (0.0, 1.0, 3.0):
        drawn = dalle.draw_from_vectors(Known(), Latents(), v, w, 10, noise=noise)
        torch.testing.assert_close(drawn, torch.full_like(drawn, (2 + w) / 10), rtol=0, atol=0.02)


def test_the_same_noise_gives_the_same_picture(decoder):
    torch.manual_seed(0)
    coder = AutoEncoder().eval()
    noise = torch.randn(2, 4, 8, 8, generator=seeded())
    first = dalle.draw_from_vectors(decoder, coder, units(2), 1.0, 3, noise=noise)
    again = dalle.draw_from_vectors(decoder, coder, units(2), 1.0, 3, noise=noise)
    assert torch.equal(first, again) and first.shape == (2, 3, 32, 32) and first.abs().max() <= 1
    with pytest.raises(ValueError, match="draw_from_vectors: w"):
        dalle.draw_from_vectors(decoder, coder, units(2), -0.5)


def test_a_vector_is_turned_by_a_share_of_the_angle():
    v, d = units(6), units(6, 1)
    whole = (v * d).sum(dim=1).acos()
    for share in (0.0, 0.25, 0.8, 1.0):
        turned = dalle.slerp(v, d, share)
        torch.testing.assert_close(turned.norm(dim=1), torch.ones(6), rtol=1e-4, atol=0)
        angle = (turned * v).sum(dim=1).clamp(-1, 1).acos()
        torch.testing.assert_close(angle, share * whole, rtol=1e-3, atol=2e-3)


def test_a_text_difference_points_from_before_to_after():
    class Text:
        def embed_text(self, tokens):
            return F.one_hot(tokens[:, 0], 3).float()

    before, after = torch.zeros(1, 12, dtype=torch.int64), torch.ones(1, 12, dtype=torch.int64)
    got = dalle.text_difference(Text(), before, after)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0, 0.0]]) / math.sqrt(2))


# ---------------------------------------------------------------- exercises

ANSWERS = {
    1: (
        "def digit_probabilities(nats):\n    p = (nats.amin(1, keepdim=True) - nats).exp()\n    return p / p.sum(1, keepdim=True)",
        "def digit_probabilities(nats):\n    return nats.softmax(dim=1)",
        "def digit_probabilities(nats):\n    return (nats.amin(1, keepdim=True) - nats).exp()",
    ),
    2: (
        "def guided_probabilities(a, b, w):\n    return (a.log() + w * (a.log() - b.log())).softmax(dim=1)",
        "def guided_probabilities(a, b, w):\n    return a * (a / b) ** w",
        "def guided_probabilities(a, b, w):\n    return (a.log() + w * (b.log() - a.log())).softmax(dim=1)",
    ),
    3: (
        "def how_many(p, q):\n    n = 1\n    while 1 - (1 - p) ** n < q - 1e-9:\n        n += 1\n    return n",
        "def how_many(p, q):\n    return math.floor(math.log(1 - q) / math.log(1 - p))",
        "def how_many(p, q):\n    return math.ceil(q / p)",
    ),
    4: (
        "def mean_vector(prior, texts, n, generator=None):\n"
        "    draws = [draw_vectors(prior, texts.repeat_interleave(n, 0), generator=generator, best_of=1)]\n"
        "    return F.normalize(draws[0].view(len(texts), n, -1).sum(1), dim=1)",
        "def mean_vector(prior, texts, n, generator=None):\n"
        "    draws = draw_vectors(prior, texts.repeat_interleave(n, 0), generator=generator, best_of=1)\n"
        "    return draws.view(len(texts), n, -1).mean(1)",
        "def mean_vector(prior, texts, n, generator=None):\n"
        "    return draw_vectors(prior, texts, generator=generator, best_of=1)",
    ),
    5: (
        "def blame(a, b):\n    n = len(a)\n    return (~(a | b)).sum() / n, (a & ~b).sum() / n, (b & ~a).sum() / n",
        "def blame(a, b):\n    n = len(a)\n    return (~a).sum() / n, (~b).sum() / n, (b & ~a).sum() / n",
    ),
    6: ("my_settings = {'w': 1.0, 'temperature': 0.6}", "my_settings = {'w': 0.0, 'temperature': 3.0}"),
}


def test_answers_are_marked_for_what_they_are():
    assert_marked(NAME, ANSWERS)


# ---------------------------------------------------------------- panels


def _some_scenes():
    return scenes.load_scenes("test", 24, seed=1, verbose=False)


MAKERS = {
    "three_captions": lambda: panels.dalle.three_captions(),
    "variations": lambda: panels.dalle.variations(scenes=_some_scenes()),
    "difference": lambda: panels.dalle.difference(scenes=_some_scenes()),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    use_every_control(make())


def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time_and_the_page_is_left_alone(make):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make()
    assert torch.equal(torch.get_rng_state(), before)
    assert first._storyboard == make()._storyboard


@pytest.mark.parametrize("text", ["", "生成式 AI", "🙂🎲", "<img src=x onerror=alert(1)>", "a " * 4000, "A RED 3!"])
def test_whatever_is_typed_gets_a_picture_and_one_line(text):
    panel = panels.dalle.three_captions()
    panel.set(text=text)
    assert panel.error is None and "Press Draw" in panel.status.value
    next(button for name, button in panel.buttons.items() if name.startswith("Draw")).click()
    assert panel.error is None and "Press Draw" not in panel.status.value
    assert "<img src=x" not in panel.status.value + panel.picture.value.replace(panel.picture.value[:4], "", 1)


def test_the_pages_pictures_are_drawn(some):
    rows = {"a": some.images, "b\nc": some.images}
    figures = [
        panels.dalle.picture_rows(rows, some.captions),
        panels.dalle.three_routes(),
        panels.dalle.codebook(torch.rand(256, 48), some.images[:6], some.images[:6]),
        panels.dalle.three_scores({"x": {name: "0.42 (0.40 to 0.44)" for name in panels.dalle.DOTS}}),
    ]
    for figure in figures:
        assert len(to_png(figure)) > 2000


@pytest.mark.parametrize("number", range(8))
def test_a_caption_above_a_column_keeps_its_words_in_order(some, number):
    caption = some.captions[number]
    lines = panels.dalle.in_lines(caption)
    left_out = {"a", "at", "the", "to"}
    assert lines.split() == [word for word in caption.replace(":", "").split() if word not in left_out]
    assert max(len(line) for line in lines.split("\n")) <= 14


def test_only_what_is_asked_for_changes():
    facts = scenes.parse("a red three above a blue seven")
    blue = panels.dalle.changed_facts(facts, "colour", 2)
    assert scenes.describe(blue) == ["a blue three above a blue seven"]
    nine = panels.dalle.changed_facts(facts, "digit", 9)
    assert scenes.describe(nine) == ["a red nine above a blue seven"]
    assert scenes.describe(facts) == ["a red three above a blue seven"], "the facts given stay"


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "dalle")
MEANS = "test_an_entry_moves_to_the_mean_of_those_who_chose_it"
IDLE = "test_an_entry_that_nobody_chooses_stays_where_it_is"
TILES = "test_tiles_are_cut_row_by_row_and_laid_again"
LOSSES = "test_losses_are_those_of_each_code_after_what_stands_before_it"
DRAWN = "test_codes_are_drawn_from_the_guided_distribution"
GUIDED = "test_guidance_multiplies_by_how_much_likelier_the_caption_makes_it"

FAULTS = [
    page("an entry is a sum, not a mean", "sums[used] / counts[used, None]", "sums[used]", MEANS),
    page(
        "05b: the farthest entry", "entries).min(dim=1) for part", "entries).max(dim=1) for part",
        "test_each_vector_chooses_the_nearest_entry_and_says_how_far_it_is",
    ),
    page("an entry that nobody chooses goes to zero", "entries[used] = sums[used] / counts[used, None]",
         "entries = sums / counts.clamp(min=1)[:, None] + 0 * used[:, None]", IDLE),
    page("the caller's first entries are overwritten", "entries = entries.clone()", "entries = entries", MEANS),
    page("tiles cut column by column", "F.pixel_unshuffle(images, TILE).flatten(2)",
         "F.pixel_unshuffle(images, TILE).mT.flatten(2)", TILES),
    page("tiles laid column by column", "tiles.transpose(1, 2).unflatten(2, (SIDE, SIDE))",
         "tiles.transpose(1, 2).unflatten(2, (SIDE, SIDE)).mT", TILES),
    page("black votes on all tiles", "tiles[tiles.amax(dim=1) > -0.9]", "tiles[tiles.amax(dim=1) > -9]",
         "test_the_first_tile_stays_black_and_black_has_no_vote_on_the_others"),
    page(
        "codes take the words' numbers", "torch.cat([tokens, NUM_WORDS + codes], dim=1)",
        "torch.cat([tokens, codes], dim=1)", "test_words_and_codes_share_no_number",
    ),
    page("a code is foretold by itself", "logits[:, tokens.shape[1] - 1 :, NUM_WORDS:].float()",
         "torch.cat([logits, logits[:, -1:]], 1)[:, tokens.shape[1] :, NUM_WORDS:].float()"),
    page(
        "nine captions of ten are dropped", "generator=generator) < share", "generator=generator) > share",
        "test_captions_are_dropped_whole_and_as_often_as_said",
    ),
    page("Bayes' rule the wrong way round", "check(\"1 nat less is e times likelier\", got[0, 3], 1 /",
         "check(\"1 nat less is e times likelier\", got[0, 7], 1 /", "test_answers_are_marked_for_what_they_are"),
    page("a probe's second digit of one", "digits = columns[:, 1:3].masked_fill(is_single, -1)",
         "digits = columns[:, 1:3].masked_fill(~is_single, -1)"),
    page("guidance leads towards no caption", "+ w * (with_caption - without)", "- w * (with_caption - without)",
         GUIDED),
    page("guidance starts from no caption", "return with_caption + w * (with_caption",
         "return without + w * (with_caption", GUIDED),
    page("the row without a caption has one", "torch.cat([tokens, torch.zeros_like(tokens)]) if w > 0",
         "torch.cat([tokens, tokens]) if w > 0", DRAWN),
    page("codes are fed back as words", "NUM_WORDS + code.repeat(copies, 1)", "code.repeat(copies, 1)", DRAWN),
    page(
        "a cut that is not passed on", "next_probabilities(logits, temperature, top_k)",
        "next_probabilities(logits, temperature)",
        "test_a_temperature_and_a_cut_are_obeyed_and_a_seed_repeats",
    ),
    page(
        "the farthest picture is chosen", "best_of + cosines.argmax(dim=1)", "best_of + cosines.argmin(dim=1)",
        "test_of_each_captions_pictures_the_nearest_is_chosen",
    ),
    page("the first picture is always chosen", "best_of + cosines.argmax(dim=1)", "best_of + 0 * cosines.argmax(dim=1)"),
    page(
        "pictures of all captions mixed", "torch.arange(len(tokens)) * best_of", "torch.arange(len(tokens))",
        "test_of_each_captions_pictures_the_nearest_is_chosen",
    ),
    page(
        "the prior's velocity reversed", "prior(x, t, texts) - (eps - LENGTH * pictures)",
        "prior(x, t, texts) - (eps - 3 * pictures)",
        "test_the_priors_loss_is_that_of_rectified_flow",
    ),
    page(
        "the prior walks the wrong way", "return x - t * prior(", "return x + t * prior(",
        "test_vectors_are_drawn_along_the_velocity_and_have_length_one",
    ),
    page(
        "the vector farther from the caption is kept", "texts[:, None]).sum(dim=2).argmax(dim=1)\n    return drawn[",
        "texts[:, None]).sum(dim=2).argmin(dim=1)\n    return drawn[",
        "test_of_two_drawn_vectors_the_one_nearer_to_the_caption_is_kept",
    ),
    page(
        "the prior is deaf", "torch.cat([x, LENGTH * texts, time", "torch.cat([x, 0 * texts, time",
        "test_the_prior_reads_all_that_it_is_given",
    ),
    page(
        "the decoder is deaf", "self.spread(LENGTH * pictures)", "self.spread(0 * pictures)",
        "test_the_decoder_listens_to_the_vector_and_zero_is_none",
    ),
    page(
        "nine vectors of ten are hidden", "torch.where(dropped, 0.0, pictures)", "torch.where(dropped, pictures, 0.0)",
        "test_a_tenth_of_the_vectors_is_hidden_from_the_decoder",
    ),
    page(
        "guidance of the decoder reversed", "with_vector + w * (with_vector - without)",
        "with_vector - w * (with_vector - without)",
        "test_guidance_of_the_decoder_leads_away_from_no_vector",
    ),
    page(
        "turned on a straight line", "((1 - share) * angle).sin() * pictures", "(1 - share) * angle.sin() * pictures",
        "test_a_vector_is_turned_by_a_share_of_the_angle",
    ),
    page(
        "a text difference the wrong way round", "clip.embed_text(after) - clip.embed_text(before)",
        "clip.embed_text(before) - clip.embed_text(after)",
        "test_a_text_difference_points_from_before_to_after",
    ),
    page("mark 3 is content with one fewer", "check(f\"p = {p}, q = {q}\", answer(p, q), n)",
         "check_below(f\"p = {p}, q = {q}\", answer(p, q), n + 1)", "test_answers_are_marked_for_what_they_are"),
    panel(
        "the panel changes colours for digits", 'column = digits if what == "digit" else colours',
        'column = colours if what == "digit" else digits', "test_only_what_is_asked_for_changes",
    ),
    panel(
        "the panel draws before Draw is pressed", 'self.settings != settings',
        'self.settings is None', "test_whatever_is_typed_gets_a_picture_and_one_line",
    ),
]
