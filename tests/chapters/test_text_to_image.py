"""05_text_to_image: attention, encoders, losses, the denoiser, what draws; exercises, seeded faults."""

import math

import pytest
import torch
import torch.nn.functional as F

from aigc_helpers import panels
from aigc_helpers.models import text_to_image as t2i
from aigc_helpers.scenes import MAX_WORDS, WORDS, load_scenes, read_caption, tokenize
from tests.marking import assert_marked
from tests.panel_checks import WORDS as WORDS_TYPED
from tests.panel_checks import (
    answers_within,
    cropped_texts,
    faint_texts,
    moved_together,
    slowness,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "05_text_to_image.ipynb"
# Buttons that, for a caption which is drawn already, lead to the same picture: see tests/test_browser.py.
NOTHING_TO_SEE = {"Draw", "Keep as before"}
CAPTIONS = (
    "a red three above a blue seven",
    "a blue three above a red seven",
    "a yellow one at the top left",
    "",
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(make, *args, **settings):
    """A module with no zeros where a new one has them, without gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make(*args, **settings).eval().requires_grad_(False)
        for weight in module.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return module


TOKENS = tokenize(CAPTIONS)
TEXT = awake(t2i.TextEncoder, len(WORDS), MAX_WORDS)
NET = awake(t2i.CaptionDiT)
Z = torch.randn(4, 4, 8, 8, generator=seeded())
T = torch.tensor([0.1, 0.4, 0.7, 1.0])


@pytest.fixture(scope="module")
def model():
    return t2i.TextToImage(TEXT, NET, awake(t2i.AutoEncoder)).eval()


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("test", 64, verbose=False)


# ---------------------------------------------------------------- attention and words


def test_the_weights_are_pytorchs_own():
    q, k, v = (torch.randn(3, 2, size, 8, generator=seeded(size)) for size in (5, 7, 7))
    mask = torch.rand(3, 7, generator=seeded()) < 0.6
    mask[:, 0] = True
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    torch.testing.assert_close(t2i.attend(q, k, mask) @ v, wanted, rtol=1e-4, atol=1e-5)
    assert (t2i.attend(q, k, mask).transpose(1, 3)[~mask] == 0).all()


def test_attention_treats_each_item_alone_and_takes_sources_of_another_width():
    layer = awake(t2i.Attention, 16, 24, num_heads=2)
    x = torch.randn(3, 4, 16, generator=seeded())
    source = torch.randn(3, 5, 24, generator=seeded(1))
    together = layer(x, source)
    for k in range(3):
        torch.testing.assert_close(layer(x[k : k + 1], source[k : k + 1])[0], together[k])
    keep = []
    layer(x, source, keep=keep)
    assert keep[0].shape == (3, 2, 4, 5)
    torch.testing.assert_close(keep[0].sum(dim=3), torch.ones(3, 2, 4))


def test_a_new_layer_adds_nothing():
    x = torch.randn(2, 3, 16, generator=seeded())
    assert not t2i.Attention(16)(x, x).any() and not t2i.MLP(16)(x).any()


def test_padding_is_not_heard_and_the_order_is():
    words, mask = TEXT(TOKENS)
    assert words.shape == (4, 1 + MAX_WORDS, 128) and mask.sum(dim=1).tolist() == [8, 8, 8, 1]
    for length in (7, 9):
        short, _ = TEXT(TOKENS[:3, :length])
        torch.testing.assert_close(short[:, :8], words[:3, :8], rtol=1e-4, atol=1e-5)
    assert (words[0] - words[1])[:8].abs().amax(dim=1).min() > 1e-4  # each word hears the others


def test_the_encoder_treats_each_caption_alone():
    words, _ = TEXT(TOKENS)
    for k in range(4):
        torch.testing.assert_close(TEXT(TOKENS[k : k + 1])[0][0], words[k], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- CLIP and its loss


def test_clip_makes_unit_vectors_and_does_not_hear_padding(scenes):
    clip = awake(t2i.CLIP)
    for vectors in (clip.embed_images(scenes.images[:8]), clip.embed_text(TOKENS)):
        assert vectors.shape[1] == 64
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    short = clip.embed_text(TOKENS[:3, :7])
    torch.testing.assert_close(clip.embed_text(TOKENS)[:3], short, rtol=1e-4, atol=1e-5)
    clip.log_scale.fill_(9.0)
    assert clip.scale() == 100


def test_the_loss_is_a_classifiers_in_both_directions():
    pictures = t2i.unit(torch.randn(6, 5, generator=seeded()))
    texts = t2i.unit(torch.randn(6, 5, generator=seeded(1)))
    logits = 7.0 * pictures @ texts.T
    right = torch.arange(6)
    wanted = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    torch.testing.assert_close(t2i.clip_loss(pictures, texts, 7.0), wanted)
    torch.testing.assert_close(t2i.clip_loss(texts, pictures, 7.0), wanted)


def test_several_positives_are_counted_together():
    pictures = t2i.unit(torch.randn(4, 5, generator=seeded()))
    texts = t2i.unit(torch.randn(4, 5, generator=seeded(1)))
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    logits = 3.0 * pictures @ texts.T
    by_picture = -(logits.softmax(dim=1) * same).sum(dim=1).log().mean()
    by_text = -(logits.softmax(dim=0) * same).sum(dim=0).log().mean()
    found = t2i.clip_loss(pictures, texts, 3.0, same)
    torch.testing.assert_close(found, (by_picture + by_text) / 2)
    assert found < t2i.clip_loss(pictures, texts, 3.0)


@pytest.mark.parametrize(
    ("B", "K", "wanted"),
    [(64, 16, 1.511), (128, 16, 2.140), (128, 10, 2.585), (128, 160, 0.473), (256, 6400, 0.027)],
)
def test_the_floor_is_that_of_the_table(B, K, wanted):
    assert abs(t2i.duplicate_floor(B, K) - wanted) < 1e-3


def test_the_floor_at_its_ends():
    assert t2i.duplicate_floor(1, 5) == 0 and t2i.duplicate_floor(9, 1) == pytest.approx(math.log(9))
    for wrong in ((0, 5), (4, 0), (2.5, 3)):
        with pytest.raises(ValueError, match="duplicate_floor: . must be"):
            t2i.duplicate_floor(*wrong)


# ---------------------------------------------------------------- latents


def test_latents_are_standardised_and_decoded_as_they_were(scenes):
    coder = awake(t2i.AutoEncoder)
    raw = coder.raw(scenes.images)
    coder.standardise(scenes.images)
    z = coder.encode(scenes.images)
    assert z.shape == (64, 4, 8, 8)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    wanted = coder.from_raw(raw)
    torch.testing.assert_close(coder.decode(z), wanted, rtol=1e-3, atol=1e-3)
    assert wanted.shape == (64, 3, 32, 32)


# ---------------------------------------------------------------- the denoiser


def test_a_new_denoiser_answers_0():
    assert not t2i.CaptionDiT()(Z, T, *TEXT(TOKENS)).any()


def test_each_latent_is_treated_alone():
    words, mask = TEXT(TOKENS)
    together = NET(Z, T, words, mask)
    for k in range(4):
        one = slice(k, k + 1)
        alone = NET(Z[one], T[one], words[one], mask[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-3, atol=1e-4)


def test_caption_time_and_latents_are_all_heard():
    words, mask = TEXT(TOKENS)
    found = NET(Z, T, words, mask)
    turned = torch.tensor([1, 0, 3, 2])
    for other in (
        NET(Z, T, words[turned], mask[turned]),
        NET(Z, 0.9 * T, words, mask),
        NET(Z.flip(0), T, words, mask),
    ):
        assert (found - other).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_padding_changes_no_velocity_and_gets_no_weight():
    words, mask = TEXT(TOKENS)
    noisy = torch.where(mask[:, :, None], words, 50 * torch.randn(words.shape, generator=seeded()))
    keep = []
    found = NET(Z, T, noisy, mask, keep)
    torch.testing.assert_close(found, NET(Z, T, words, mask), rtol=1e-3, atol=1e-4)
    assert len(keep) == 4 and keep[0].shape == (4, 4, 16, 1 + MAX_WORDS)
    weights = torch.stack(keep)
    torch.testing.assert_close(weights.sum(dim=4), torch.ones(4, 4, 4, 16))
    assert weights[:, 3, :, :, 1:].max() == 0  # without a caption, only the start is heard


def test_patches_stand_where_they_stood():
    """With blocks that add nothing, a latent reaches only the patch that it stands in."""
    net = t2i.CaptionDiT().eval().requires_grad_(False)
    torch.nn.init.normal_(net.leave.weight)
    z = torch.zeros(1, 4, 8, 8)
    moved = z.clone()
    moved[0, :, 5, 2] = 1.0
    words, mask = TEXT(TOKENS[:1])
    change = (net(moved, T[:1], words, mask) - net(z, T[:1], words, mask))[0].abs().amax(dim=0)
    assert change[4:6, 2:4].min() > 0
    change[4:6, 2:4] = 0
    assert change.max() == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_captions_are_dropped_whole(share):
    tokens = TOKENS[:1].expand(4000, -1)
    dropped = t2i.drop_captions(tokens, share, seeded())
    is_empty = (dropped == 0).all(dim=1)
    assert abs(is_empty.float().mean() - share) < 0.03
    assert torch.equal(dropped[~is_empty], tokens[~is_empty])


def test_the_loss_takes_one_time_for_all_of_an_item():
    z0 = torch.full((400, 4, 8, 8), 0.7)

    def right(z, t, words, mask):
        return (z - 0.7) / t[:, None, None, None]

    loss = t2i.caption_loss(right, TEXT, z0, TOKENS[:1].expand(400, -1), seeded())
    assert loss < 1e-5


def test_the_times_are_logit_normal_and_one_for_each_item():
    found = []

    def remember(z, t, words, mask):
        found.append(t)
        return 0 * z

    t2i.caption_loss(remember, TEXT, torch.zeros(4000, 4, 1, 1), TOKENS[:1].expand(4000, -1), seeded())
    logits = found[0].logit()
    assert abs(logits.mean()) < 0.05 and abs(logits.std() - 1) < 0.05


def test_the_loop_learns():
    z0 = torch.randn(64, 4, 1, 1, generator=seeded()).expand(-1, -1, 8, 8).contiguous()
    tokens = TOKENS[:1].expand(64, -1).contiguous()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = t2i.CaptionDiT(num_blocks=1)
    before = t2i.caption_loss(net, TEXT, z0, tokens, seeded(5)).item()
    average = t2i.train_captions(net, TEXT, z0, tokens, 30)
    with torch.no_grad():
        after = t2i.caption_loss(average, TEXT, z0, tokens, seeded(5)).item()
    assert after < 0.8 * before and not any(p.requires_grad for p in average.parameters())


# ---------------------------------------------------------------- guidance and drawing


def test_guidance_leads_away_from_the_other_caption():
    words, mask = TEXT(TOKENS)
    c = NET(Z, T, words, mask)
    for other in (3, 1):  # no caption, another caption
        nothing = (words[other : other + 1], mask[other : other + 1])
        u = NET(Z, T, nothing[0].expand_as(words), nothing[1].expand_as(mask))
        for w in (0.0, 1.5, -1.0):
            found = t2i.guided(NET, nothing, w)(Z, T, words, mask)
            torch.testing.assert_close(found, c + w * (c - u), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="guided: w must be"):
        t2i.guided(NET, nothing, math.nan)


def test_pictures_are_repeatable_and_follow_noise_caption_and_guidance(model):
    noise = torch.randn(4, 4, 8, 8, generator=seeded(1))
    images = t2i.draw(model, TOKENS, num_steps=3, noise=noise)
    assert images.shape == (4, 3, 32, 32) and images.abs().max() <= 1
    assert torch.equal(images, t2i.draw(model, TOKENS, num_steps=3, noise=noise))
    by_generator = t2i.draw(model, TOKENS, num_steps=3, generator=seeded(1))
    assert torch.equal(images, by_generator)
    for other in (
        t2i.draw(model, TOKENS, num_steps=3, noise=-noise),
        t2i.draw(model, TOKENS[[1, 2, 0, 0]], num_steps=3, noise=noise),
        t2i.draw(model, TOKENS[[0, 1, 2, 0]], 0.0, num_steps=3, noise=noise)[:3],
        t2i.draw(model, TOKENS, num_steps=3, noise=noise, away_from=TOKENS[2:3])[:2],
    ):
        assert (other - images[: len(other)]).abs().max() > 1e-3


@pytest.mark.parametrize("num_steps", [1, 7])
def test_eulers_method_follows_a_straight_trajectory_to_its_end(num_steps):
    def towards_half(z, t, words, mask):
        assert ((t > 0) & (t <= 1)).all()
        return (z - 0.5) / t[:, None, None, None]

    system = t2i.TextToImage(TEXT, NET, None)
    system.net = None
    system.__dict__["net"] = towards_half
    z = t2i.draw_latents(system, TOKENS, 0.0, num_steps, noise=Z)
    torch.testing.assert_close(z, torch.full_like(Z, 0.5), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="draw_latents: num_steps must be"):
        t2i.draw_latents(system, TOKENS, num_steps=0)


def test_many_pictures_are_those_that_one_batch_would_be(model):
    tokens = TOKENS[torch.arange(253) % 4]
    noise = torch.randn(253, 4, 8, 8, generator=seeded(2))
    many = t2i.draw(model, tokens, num_steps=2, noise=noise)
    last = t2i.draw(model, tokens[250:], num_steps=2, noise=noise[250:])
    torch.testing.assert_close(many[250:], last, rtol=0, atol=0.02)


def test_a_trajectory_is_kept_from_the_noise_on(model):
    noise = torch.randn(4, 4, 8, 8, generator=seeded(1))
    path = t2i.draw_latents(model, TOKENS, num_steps=5, noise=noise, keep=True)
    assert len(path) == 6 and torch.equal(path[0], noise)
    last = t2i.draw_latents(model, TOKENS, num_steps=5, noise=noise)
    assert torch.equal(path[-1], last)


@pytest.mark.parametrize(
    "text",
    ["", "a purple cat", "红色的三", "🙂🙂", "a red three " * 200, "<b onclick=alert(1)>a red three</b>"],
)
def test_whatever_a_learner_types_gets_a_picture_and_one_line_at_most(model, text):
    reading = read_caption(text)
    images = t2i.draw(model, reading.tokens, num_steps=2, generator=seeded())
    assert images.shape == (1, 3, 32, 32) and images.isfinite().all()
    assert "\n" not in reading.note and len(reading.note) < 200


# ---------------------------------------------------------------- panels

GUIDANCE = (0.0, 2.0, 8.0)
SCALE_CAPTIONS = ["a red three above a blue seven", "a yellow one at the top left"] * 4


def _album():
    """Pictures that differ from scale to scale, and from picture to picture."""
    images = torch.rand(8, 3, 32, 32, generator=seeded()) * 2 - 1
    return {w: (images * (1 - 0.1 * k)) for k, w in enumerate(GUIDANCE)}


@pytest.fixture(scope="module")
def small():
    """Half as many blocks: a panel draws some hundred pictures while it is made."""
    net = awake(t2i.CaptionDiT, num_blocks=2)
    return t2i.TextToImage(TEXT, net, awake(t2i.AutoEncoder)).eval()


@pytest.fixture(scope="module")
def makers(small):
    model = small
    return {
        "caption": lambda: panels.text_to_image.caption(model),
        "word_and_patch": lambda: panels.text_to_image.word_and_patch(model),
        "guidance": lambda: panels.text_to_image.guidance(
            _album(), SCALE_CAPTIONS, [0.5, 0.9, 0.95], [0.8, 0.6, 0.3]
        ),
        "edit": lambda: panels.text_to_image.edit(model),
        "latent": lambda: panels.text_to_image.latent(model),
    }


PANELS = ("caption", "word_and_patch", "guidance", "edit", "latent")
each_panel = pytest.mark.parametrize("name", PANELS)
MOVES = {
    "word_and_patch": [{"word": 2}, {"block": 1}, {"step": 20}],
    "guidance": [{"w": 8.0}, {"number": 3}],
    "edit": [{"digit": "eight"}, {"place": "left of"}],
    "latent": [{"stop": 8}, {"mixed": "latents"}],
}


@each_panel
def test_every_control_draws_once_and_changes_the_picture(makers, name):
    use_every_control(makers[name](), quiet={"seed"} if name == "caption" else ())


@each_panel
def test_a_panel_owns_its_state_and_its_storyboard_is_the_same_each_time(makers, name):
    before = torch.random.get_rng_state()
    first, second = makers[name](), makers[name]()
    assert first._storyboard == second._storyboard
    assert torch.equal(before, torch.random.get_rng_state())


@each_panel
def test_two_panels_moved_at_once_draw_what_each_draws_alone(makers, name):
    assert moved_together(makers[name]) == 0


@pytest.mark.parametrize(("name", "move"), [(name, move) for name, moves in MOVES.items() for move in moves])
def test_a_move_is_answered_within_100_ms(makers, name, move):
    assert answers_within(makers[name](), 130 if name == "edit" else 100, **move)


def test_the_caption_panel_draws_when_asked_within_a_second_and_a_half(makers):
    panel = makers["caption"]()
    panel.set(text="a green two below a red nine")
    assert "Press Draw" in panel.status.value
    panel.buttons["Draw"].click()
    assert panel.error is None and panel.last_ms < 1500 * slowness()
    assert "20 of 20 steps done" in panel.status.value


def test_the_caption_panel_draws_what_draw_draws(small, makers):
    panel = makers["caption"]()
    noise = torch.randn(4, 4, 8, 8, generator=seeded())
    tokens = tokenize(["a red three above a blue seven"]).expand(4, -1)
    wanted = t2i.draw(small, tokens, noise=noise)
    assert torch.equal(wanted, _last_pictures(panel))
    panel.buttons["New noise"].click()
    assert not torch.equal(wanted, _last_pictures(panel))


def _last_pictures(panel):
    """The pictures that a panel last laid out on its second axes, as the decoder made them."""
    import inspect

    state = inspect.getclosurevars(panel.draw).nonlocals
    model, latents = state["model"], state["state"]["latents"]
    return model.autoencoder.decode(latents[-1].float()).clamp(-1, 1)


@pytest.mark.parametrize("words", [*WORDS_TYPED, "a purple cat above a blue seven"])
def test_whatever_is_typed_into_the_caption_panel_is_drawn_or_said(makers, words):
    panel = makers["caption"]()
    panel.set(text=words)
    panel.buttons["Draw"].click()
    assert panel.error is None
    assert "<img src=x" not in panel.status.value
    assert ("left out" in panel.status.value) == bool(read_caption(words).note)


def test_an_example_is_put_into_the_box(makers):
    panel = makers["caption"]()
    panel.set(example="a blue seven below a red three")
    assert panel.values["text"] == "a blue seven below a red three"


def test_run_takes_one_step_at_a_time_from_the_noise_on(makers):
    panel = makers["caption"]()
    panel._guard(panel.tick)
    assert "0 of 20 steps done, t = 1.00" in panel.status.value
    panel._guard(panel.tick)
    assert "1 of 20 steps done, t = 0.95" in panel.status.value


def test_the_words_panel_says_where_a_word_gets_most(small, makers):
    panel = makers["word_and_patch"]()
    panel.set(word=6, block=2, step=1)
    tokens = tokenize(["a red three above a blue seven"])
    noise = torch.randn(1, 4, 8, 8, generator=seeded(1))
    kept = []
    small.net(noise, torch.ones(1), *small.text(tokens), keep=kept)
    heard = kept[1].mean(dim=1)[0, :, 6]
    peak = int(heard.argmax())
    place = f"row {peak // 4 + 1}, column {peak % 4 + 1}: {100 * heard.max():.0f} %"
    assert "blue" in panel.status.value and place in panel.status.value
    panel.set(word=10)  # the caption has seven words
    assert "seven" in panel.status.value


def test_the_guidance_panel_says_the_numbers_of_its_scale(makers):
    panel = makers["guidance"]()
    panel.set(w=8.0)
    assert "w = 8: joint share 0.950, recall 0.300" in panel.status.value


def test_the_same_caption_and_noise_differ_nowhere_and_the_upper_row_can_be_set(makers):
    panel = makers["edit"]()
    assert "0 % of the pixels" in panel.status.value
    panel.set(colour="green")
    panel.buttons["Keep as before"].click()
    assert "0 % of the pixels" in panel.status.value


def test_the_walk_ends_at_both_captions_and_mixes_what_is_asked_for(small):
    from aigc_helpers.panels.text_to_image import _walk

    ends = ["a red three above a blue seven", "a red eight above a blue seven"]
    walk = _walk(small, ends)
    noise = torch.randn(1, 4, 8, 8, generator=seeded(2))
    for stop, caption in ((0, ends[0]), (-1, ends[1])):
        alone = t2i.draw_latents(small, tokenize([caption]), noise=noise).float()
        for way in ("word vectors", "latents"):
            torch.testing.assert_close(walk[way][stop], alone[0], rtol=0, atol=0.05)  # bf16, another batch
    half = (walk["latents"][0] + walk["latents"][-1]) / 2
    torch.testing.assert_close(walk["latents"][3], half)
    assert (walk["word vectors"][3] - half).abs().max() > 1e-3


def test_drawings_are_readable(small, scenes, monkeypatch):
    module = panels.text_to_image
    models = {"text_to_image": small, "scene_clip": awake(t2i.CLIP)}
    monkeypatch.setattr(module, "load_model", models.get)
    longest = "a yellow three to the right of a yellow seven"
    for fig in (
        module.diagram(),
        module.attention_drawing(),
        module.denoiser_drawing(),
        module.clip_drawing(scenes.images[:5], [longest] * 5),
        module.gallery(scenes.images[:7], [*scenes.captions[:5], longest, "seven"]),
        module.compared({"A": scenes.images[:6], "B": scenes.images[6:12]}, [longest] * 6),
        module.compared({longest: scenes.images[:6]}, ["t = 1"] * 6),
    ):
        assert cropped_texts(fig) == []
        assert faint_texts(fig) == []


def test_only_held_out_combinations_are_framed(scenes):
    module = panels.text_to_image
    captions = ["a yellow one at the top left", "a red one at the top left", "a one", ""]
    fig = module.gallery(scenes.images[:4], captions)
    frames = [patch.get_edgecolor() for patch in fig.axes[0].patches]
    assert len(set(frames)) == 2 and frames.count(frames[1]) == 3


def test_the_drawing_of_attention_shows_the_networks_own_weights(small, monkeypatch):
    module = panels.text_to_image
    monkeypatch.setattr(module, "load_model", {"text_to_image": small}.get)
    words, mask = small.text(tokenize(["a red three above a blue seven"]))
    keep = []
    small.net.read(t2i.norm(words), t2i.norm(words), mask, keep)
    wanted = [f"{100 * share:.0f} %" for share in keep[0][0, module.HEAD, 7, :8]]
    said = [text.get_text() for text in module.attention_drawing().axes[0].texts]
    assert [words for words in said if words.endswith("%") and words[0].isdigit()] == wanted


# ---------------------------------------------------------------- exercises


def _function(name, arguments, *lines):
    body = "\n".join(f"    {line}" for line in lines)
    return f"def {name}({arguments}):\n{body}\n"


_SIGMOID = ("sigmoid_loss", "logits, same")
_CROSS = ("cross_attention", "patches, words, mask, to_query, to_key, to_value")
_TWO = ("two_captions", "nothing, a, b, w_a, w_b")
_WELL = ("draw_well", "model, clip, tokens, generator")
SOLUTIONS = {
    1: (
        _function(*_SIGMOID, "return -F.logsigmoid(torch.where(same, logits, -logits)).mean()"),
        _function(*_SIGMOID, "return -F.logsigmoid(logits).mean()"),
        _function(*_SIGMOID, "return -F.logsigmoid(torch.where(same, logits, -logits)).sum()"),
        _function(*_SIGMOID, "return -torch.where(same, logits, -logits).sigmoid().mean()"),
    ),
    2: (
        _function(
            *_CROSS,
            "q, k, v = patches @ to_query, words @ to_key, words @ to_value",
            "return patches + F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])",
        ),
        _function(
            *_CROSS,
            "q, k, v = patches @ to_query, words @ to_key, words @ to_value",
            "return patches + F.scaled_dot_product_attention(q, k, v)",
        ),
        _function(
            *_CROSS,
            "q, k, v = patches @ to_query, words @ to_key, words @ to_value",
            "return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])",
        ),
        _function(
            *_CROSS,
            "q, k, v = patches @ to_query, words @ to_value, words @ to_key",
            "return patches + F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])",
        ),
    ),
    3: (
        _function(*_TWO, "return nothing + w_a * (a - nothing) + w_b * (b - nothing)"),
        _function(*_TWO, "return nothing + w_a * a + w_b * b"),
        _function(*_TWO, "return nothing + w_a * (a - nothing) + w_b * (b - a)"),
        _function(*_TWO, "return nothing + (1 + w_a) * (a - nothing) + w_b * (b - nothing)"),
    ),
    4: (
        _function(
            *_WELL,
            "drawn = torch.stack([draw(model, tokens, 1.3, 10, generator=generator) for _ in range(2)])",
            "cosines = [(clip.embed_images(images) * clip.embed_text(tokens)).sum(dim=1) for images in drawn]",
            "return drawn[torch.stack(cosines).argmax(dim=0), torch.arange(len(tokens))]",
        ),
        _function(*_WELL, "return draw(model, tokens, 1.0, generator=generator)"),  # no better match
        _function(*_WELL, "return draw(model, tokens, 2.0, generator=generator)"),  # too little variety
        _function(*_WELL, "return draw(model, tokens, 0.0, 40, generator=generator)"),
        _function(*_WELL, "return draw(model, tokens, 1.6, 40, generator=generator)"),  # twice the effort
    ),
}


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, SOLUTIONS)


@pytest.mark.exhaustive
def test_the_open_mark_refuses_wrong_answers():
    assert_marked(NAME, SOLUTIONS, only_open=True)


# ---------------------------------------------------------------- seeded faults


def page(name, old, new, catcher="page"):
    return in_notebook(NAME, name, old, new, catcher)


def panel(name, old, new, catcher):
    return in_panels("text_to_image", name, old, new, catcher)


FAULTS = [
    page("eq. (1): the mask is inverted", "masked_fill(~mask[:, None", "masked_fill(mask[:, None"),
    page("eq. (1): not divided by the root of d", "k.transpose(2, 3) / q.shape[-1] ** 0.5", "k.transpose(2, 3)"),
    page("eq. (1): queries compete for keys", "return logits.softmax(dim=3)", "return logits.softmax(dim=2)"),
    page(
        "text encoder: no positions",
        "x = words + self.positions[: 1 + tokens.shape[1]]",
        "x = words + 0 * self.positions[: 1 + tokens.shape[1]]",
    ),
    page("text encoder: padding counts", "mask = F.pad(tokens != PAD,", "mask = F.pad(tokens >= PAD,"),
    page("text encoder: the start is masked too", "(1, 0), value=True)", "(1, 0), value=False)"),
    page("CLIP: divided by the scale", "logits = scale * pictures @ texts.T", "logits = pictures @ texts.T / scale"),
    page(
        "CLIP: one direction twice",
        "by_text = logits.logsumexp(dim=0) - right.logsumexp(dim=0)",
        "by_text = logits.logsumexp(dim=1) - right.logsumexp(dim=1)",
    ),
    page(
        "CLIP: captions shifted by one against pictures",
        "same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)",
        "same = torch.eye(len(logits), dtype=torch.bool, device=logits.device).roll(1, 0)",
    ),
    page(
        "CLIP: padding is part of the mean",
        "share = mask / mask.sum(dim=1, keepdim=True)",
        "share = mask.float().fill_(1 / mask.shape[1])",
        "test_clip_makes_unit_vectors_and_does_not_hear_padding",
    ),
    page("eq. (3): B others in place of B - 1", "math.comb(B - 1, n)", "math.comb(B, n)"),
    page("eq. (3): the logarithm of n", "total += chance * math.log(1 + n)", "total += chance * math.log(max(1, n))"),
    page(
        "eq. (5): unstandardised at decode only",
        "return self.from_raw(z * self.std[:, None, None] + self.mean[:, None, None])",
        "return self.from_raw(z)",
        "test_latents_are_standardised_and_decoded_as_they_were",
    ),
    page(
        "eq. (5): the mean is added",
        "return (self.raw(images) - self.mean[:, None, None])",
        "return (self.raw(images) + self.mean[:, None, None])",
        "test_latents_are_standardised_and_decoded_as_they_were",
    ),
    page(
        "denoiser: words are not masked",
        "x = x + self.ask_words(h, words, mask, keep)",
        "x = x + self.ask_words(h, words, None, keep)",
    ),
    page(
        "denoiser: its own reading is not masked",
        "words = norm(words + self.read(words, words, mask))",
        "words = norm(words + self.read(words, words))",
    ),
    page(
        "denoiser: the time is not heard",
        "changes = (time + self.offsets).unsqueeze(2)",
        "changes = (0 * time + self.offsets).unsqueeze(2)",
    ),
    page(
        "denoiser: rows and columns of patches change places",
        "return F.pixel_shuffle(out.unflatten(2, (side, side)), self.patch)",
        "return F.pixel_shuffle(out.unflatten(2, (side, side)).mT, self.patch)",
        "test_patches_stand_where_they_stood",
    ),
    page("captions: all but a tenth are dropped", ".to(tokens.device) < share", ".to(tokens.device) > share"),
    page(
        "eq. (6): the velocity has the other sign",
        "return (velocity.float() - (eps - z0)).square().mean()",
        "return (velocity.float() - (z0 - eps)).square().mean()",
    ),
    page(
        "eq. (6): data and noise change places in the mixture",
        "z = (1 - share) * z0 + share * eps",
        "z = share * z0 + (1 - share) * eps",
    ),
    page(
        "eq. (6): one time for the whole batch",
        "t = torch.randn(len(z0), generator=generator).sigmoid()",
        "t = torch.randn(1, generator=generator).sigmoid().expand(len(z0))",
        "test_the_times_are_logit_normal_and_one_for_each_item",
    ),
    page(
        "Euler: along the velocity in place of against it",
        "z = z - velocity(z, t, words, mask).float() / num_steps",
        "z = z + velocity(z, t, words, mask).float() / num_steps",
        "test_eulers_method_follows_a_straight_trajectory_to_its_end",
    ),
    page(
        "Euler: each time is a step too late",
        "t = torch.full((len(z),), step / num_steps, device=z.device)",
        "t = torch.full((len(z),), (step - 0.5) / num_steps, device=z.device)",
        "test_eulers_method_follows_a_straight_trajectory_to_its_end",
    ),
    page("eq. (7): guidance reversed", "w * (with_caption - without)", "w * (without - with_caption)"),
    page("eq. (7): from the unguided answer", "return with_caption + w *", "return without + w *"),
    page(
        "draw: guided away from the caption itself",
        "velocity = guided(model.net, model.text(other), w)",
        "velocity = guided(model.net, (words[:1] + 0 * model.text(other)[0], mask[:1]), w)",
        "test_pictures_are_repeatable_and_follow_noise_caption_and_guidance",
    ),
    page(
        "draw: every batch starts from the first noise",
        "num_steps, start, away_from=away_from)",
        "num_steps, noise[: len(part)], away_from=away_from)",
        "test_many_pictures_are_those_that_one_batch_would_be",
    ),
    page(
        "the loop keeps the last weights",
        "update_ema(average, net, 1 - 5 / num_steps)",
        "update_ema(average, net, 1.0)",
        "test_the_loop_learns",
    ),
    panel(
        "caption panel: guidance is not passed on",
        "draw_latents(model, tokens, w, NUM_STEPS, noise, keep=True)",
        "draw_latents(model, tokens, 0 * w, NUM_STEPS, noise, keep=True)",
        "test_the_caption_panel_draws_what_draw_draws",
    ),
    panel(
        "words panel: a block too far",
        "at_step[block - 1]",
        "at_step[block - 2]",
        "test_the_words_panel_says_where_a_word_gets_most",
    ),
    panel(
        "latent panel: the ends change places",
        "torch.lerp(vectors[:1], vectors[1:]",
        "torch.lerp(vectors[1:], vectors[:1]",
        "test_the_walk_ends_at_both_captions_and_mixes_what_is_asked_for",
    ),
    page(
        "mark 3: two captions are never asked at once",
        'check("both", answer(u, a, b, 1.0, 2.0), [-0.3, 1.2])',
        'check("both", answer(u, a, b, 1.0, 0.0), a)',
        "test_marks_refuse_wrong_answers",
    ),
]
