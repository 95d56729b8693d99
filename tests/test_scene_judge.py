"""The judges of scenes: what counts as a match by hand, real scenes, spoilt ones, and pictures that are none."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F

from aigc_helpers import data, metrics, scenes
from aigc_helpers.scene_judge import PARTS, Match, RuleJudge, SceneJudge, SceneNet, compare, cut_windows
from aigc_helpers.scenes import NONE, Facts, make_scenes, parse, parse_all
from tools import assets


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def judge(name):
    return {"network": SceneJudge.standard, "rules": RuleJudge}[name]()


@pytest.fixture(scope="module")
def real():
    """{combinations: real scenes} of embedded test digits, which no judge was trained on."""
    digits = data.load_embedded_digits("test")
    return {
        name: make_scenes(600, digits.images, digits.labels, name, generator=random(1)) for name in ("seen", "held out")
    }


# ---------------------------------------------------------------- what matches


TRUE = "a red three above a blue seven"


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ("a red three above a blue seven", ()),
        ("a blue seven below a red three", ()),
        ("a blue seven above a red three", ("place",)),
        ("a red three left of a blue seven", ("place",)),
        ("a blue three above a red seven", ("binding",)),
        ("a red seven above a blue three", ("binding",)),
        ("a red three above a blue one", ("digits", "binding")),
        ("a red three above a green seven", ("colours", "binding")),
        ("a red one above a green seven", ("digits", "colours", "binding")),
        ("a blue seven above a red one", ("digits", "binding", "place")),
        ("a red three at the top left", ("digits", "colours", "binding", "place")),
    ],
)
def test_what_counts_as_right(seen, wrong):
    match = compare(parse(seen), parse(TRUE))
    missed = {name for name in PARTS if not match.right[name].item()}
    assert missed == ({*wrong, "joint"} if wrong else set())


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ("top left: a red three", ()),
        ("top right: a red three", ("place",)),
        ("top left: a blue three", ("colours", "binding")),
        ("top left: a red two", ("digits", "binding")),
        ("a red three above a red three", ("digits", "colours", "binding", "place")),
    ],
)
def test_what_counts_as_right_of_one_digit(seen, wrong):
    match = compare(parse(seen), parse("a red three at the top left"))
    missed = {name for name in PARTS if not match.right[name].item()}
    assert missed == ({*wrong, "joint"} if wrong else set())


def test_all_is_right_exactly_where_the_facts_are_equal():
    facts = [scenes.draw_facts(20_000, "all", generator=random(k)) for k in range(2)]
    nearly = [dataclasses.replace(f, digits=f.digits.clamp_max(1), colours=f.colours.clamp_max(1)) for f in facts]
    match = compare(*nearly)
    assert torch.equal(match.right["joint"], nearly[0].key == nearly[1].key)
    parts = torch.stack([match.right[name] for name in PARTS[:-1]]).all(dim=0)
    assert torch.equal(parts, match.right["joint"]) and match.right["joint"].any()


def test_shares_errors_and_parts_of_a_match():
    right = torch.tensor([True, True, True, False])
    match = Match({name: right for name in PARTS})
    assert match.n == 4 and match.share() == 0.75 and match.share("digits") == 0.75
    assert match.error() == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert match.row() == dict.fromkeys(PARTS, 0.75)
    assert match.of(right).row() == dict.fromkeys(PARTS, 1.0) and match.of(right).n == 3
    different = Match({"digits": right, "colours": ~right, "binding": right, "place": right, "joint": right})
    assert different.product == pytest.approx(0.75 * 0.25 * 0.75)
    with pytest.raises(ValueError, match="choose one of digits"):
        match.share("relation")


def test_compare_refuses_unequal_numbers():
    one, two = parse(TRUE), parse_all([TRUE, TRUE])
    for pair in ((one, two), (one, None), (one[:0], one[:0]), (TRUE, one)):
        with pytest.raises(ValueError, match="compare: needs two Facts"):
            compare(*pair)


# ---------------------------------------------------------------- real scenes


@pytest.mark.parametrize("name", ["network", "rules"])
@pytest.mark.parametrize("combinations", ["seen", "held out"])
def test_real_scenes_are_read(real, name, combinations):
    made = real[combinations]
    match = judge(name).match(made.images, made.facts)
    assert match.share("joint") > 0.93, match.row()
    assert match.share("place") > 0.99 and match.share("colours") > 0.99
    others = judge(name).match(made.images, made.facts[torch.arange(len(made)).roll(1)])
    assert others.share("joint") < 0.02, "captions of other pictures"
    differs = (made.facts.digits[:, 0] != made.facts.digits[:, 1]) & (made.facts.colours[:, 0] != made.facts.colours[:, 1])
    differs = differs & made.facts.is_pair
    swapped = judge(name).match(made.images[differs], made.facts[differs].swap_colours())
    assert swapped.share("binding") < 0.02 and swapped.share("colours") > 0.99


def test_the_judges_fail_on_different_pictures(real):
    """Or the witness would add nothing: of its errors, most are read rightly by the other."""
    made = scenes.join_facts([real["seen"].facts, real["held out"].facts])
    images = torch.cat([real["seen"].images, real["held out"].images])
    net, rules = (~judge(name).match(images, made).right["joint"] for name in ("network", "rules"))
    assert (net & rules).sum() < 0.7 * rules.sum()


@pytest.mark.parametrize("name", ["network", "rules"])
def test_a_judge_reads_dim_soft_and_noisy_pictures(real, name):
    made = real["seen"]
    dim = (made.images + 1) * 0.85 - 1
    soft = made.images.lerp(F.avg_pool2d(made.images, 3, 1, 1), 0.3)
    noisy = made.images + 0.05 * torch.randn(made.images.shape, generator=random())
    for kind, images in (("dim", dim), ("soft", soft), ("noisy", noisy)):
        assert judge(name).match(images, made.facts).share() > 0.85, kind


@pytest.mark.parametrize("name", ["network", "rules"])
def test_each_picture_is_read_by_itself(real, name):
    images = real["seen"].images[:40]
    together = judge(name).read(images)
    apart = scenes.join_facts(judge(name).read(image[None]) for image in images)
    assert torch.equal(together.key, apart.key)
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    assert (judge(name).read(pixels).key == together.key).float().mean() > 0.9


@pytest.mark.parametrize("name", ["network", "rules"])
def test_what_is_no_scene_has_no_place(name):
    black = torch.full((2, 3, 32, 32), -1.0)
    white = torch.full((2, 3, 32, 32), 0.999)
    white[:, :, 0, 0] = -1.0
    for images in (black, white) if name == "rules" else (black,):
        facts = judge(name).read(images)
        assert (facts.relation == NONE).all() and (facts.position == NONE).all()
        assert not judge(name).match(images, parse_all([TRUE, "top left: a red three"])).right["place"].any()


@pytest.mark.parametrize("name", ["network", "rules"])
def test_whatever_a_judge_reads_can_be_said(name):
    """Noise, stripes and crumbs: no error, and facts that hang together."""
    torch.manual_seed(0)
    noise = torch.rand(40, 3, 32, 32) * 2 - 1
    crumbs = torch.where(torch.rand(40, 1, 32, 32) < 0.01, noise, -1.0)
    stripes = torch.full((32, 3, 32, 32), -1.0)
    stripes[torch.arange(32), :, :, torch.arange(32)] = 0.9
    for images in (noise, crumbs, stripes, stripes.transpose(2, 3)):
        facts = judge(name).read(images)
        assert len(scenes.describe(facts)) == len(images)
        assert (facts.digits[facts.is_pair] != NONE).all()
        alone = facts.position != NONE
        assert (facts.digits[alone] != NONE).sum(dim=1).eq(1).all() and not (alone & facts.is_pair).any()


def test_the_rules_see_no_digit_in_the_dark():
    facts = judge("rules").read(torch.full((1, 3, 32, 32), -1.0))
    assert facts.digits.tolist() == facts.colours.tolist() == [[NONE, NONE]]


def test_the_network_refuses_spoilt_scenes(real):
    torch.manual_seed(0)
    spoilt = assets.spoil(real["seen"].images, real["seen"].facts)
    facts = judge("network").read(spoilt)
    assert ((facts.relation == NONE) & (facts.position == NONE)).float().mean() > 0.95


def test_windows_hold_the_digits_they_are_cut_for():
    """Each digit lies whole in its window, 2 pixels from the border but for the jitter."""
    plain = torch.full((10, 1, 28, 28), 255, dtype=torch.uint8)
    facts = scenes.draw_facts(500, "all", generator=random())
    images = scenes.draw_scenes(facts, plain, torch.arange(10), generator=random())
    layout = torch.where(facts.is_pair, 4 + facts.relation, facts.position)
    windows = cut_windows(images, layout)
    assert windows.shape == (500, 2, 3, 18, 18)
    lit = (windows > -1).any(dim=2)
    assert (lit[:, :, 3:15, 3:15].all(dim=(2, 3))).all()
    hue = (windows[:, :, :, 8, 8] + 1) / 2
    wanted = torch.tensor(scenes.RGB)[facts.colours.clamp_min(0)] / 255
    torch.testing.assert_close(hue[:, 0], wanted[:, 0])
    torch.testing.assert_close(hue[facts.is_pair, 1], wanted[facts.is_pair, 1])


# ---------------------------------------------------------------- features


def test_features_tell_scenes_from_what_looks_like_them(real):
    a = judge("network").features(real["seen"].images[:300])
    b = judge("network").features(real["seen"].images[300:])
    assert a.shape == (300, 80)
    alone = ~real["seen"].facts.is_pair[:300]
    assert (a[alone, 32:64] == 0).all() and (a[~alone, 32:64] != 0).any()
    floor = metrics.frechet_distance(a, b)
    blurred = F.avg_pool2d(real["seen"].images[300:], 3, 1, 1)
    assert metrics.frechet_distance(a, judge("network").features(blurred)) > 2 * floor


def test_one_handwriting_for_each_digit_has_little_recall(real):
    """What guidance does at its worst: the right digits, always the same. Match is high, recall is not."""
    digits = data.load_embedded_digits("train")
    first = torch.stack([(digits.labels == k).nonzero()[0, 0] for k in range(10)])
    made = real["seen"]
    same = scenes.draw_scenes(made.facts, digits.images[first], digits.labels[first], generator=random(5))
    other = scenes.draw_scenes(made.facts, digits.images, digits.labels, generator=random(6))
    recall = []
    for images in (same, other):
        assert judge("network").match(images, made.facts).share() > 0.9
        seen = judge("network").digit_features(images)
        recall.append(metrics.precision_recall(judge("network").digit_features(made.images), seen)[1])
    assert recall[0] < 0.5 * recall[1], recall


def test_features_of_digits_one_by_one(real):
    made = real["seen"][:50]
    features = judge("network").digit_features(made.images)
    assert features.shape == (50 + made.facts.is_pair.sum(), 32)
    assert torch.equal(features[:50], judge("network").features(made.images)[:, :32])


# ---------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize("name", ["network", "rules"])
@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(2, 1, 32, 32), "needs images \\(N, 3, 32, 32\\)"),
        (torch.zeros(0, 3, 32, 32), "N at least 1"),
        (torch.zeros(3, 32, 32), "needs images"),
        ("a picture", "needs images"),
        (torch.full((2, 3, 32, 32), float("nan")), "NaN"),
        (torch.rand(2, 3, 32, 32), "2 \\* images - 1"),
    ],
)
def test_wrong_images(name, images, told):
    with pytest.raises(ValueError, match=told):
        judge(name).read(images)


def test_another_number_of_captions(real):
    with pytest.raises(ValueError, match="as many scenes"):
        judge("rules").match(real["seen"].images[:3], real["seen"].facts[:2])


def test_loading_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    net = SceneJudge.standard().net
    assert torch.equal(state, torch.get_rng_state()) and not net.training
    assert not any(p.requires_grad for p in net.parameters())


# ---------------------------------------------------------------- training: python -m tools assets scene_judge


def test_training_a_judge(monkeypatch):
    """A few steps on the embedded digits: it learns, and starts from the seed."""
    monkeypatch.setenv("AIGC_PROGRESS", "0")
    monkeypatch.setattr(assets, "load_digits", lambda split: data.load_embedded_digits(split))
    digits = data.load_embedded_digits("test")
    made = make_scenes(200, digits.images, digits.labels, "all", generator=random())
    net = assets.train_scene_judge(num_steps=25)
    match = SceneJudge(net).match(made.images, made.facts)
    assert not net.training and match.share("colours") > 0.8 and match.share("digits") > 0.1


@torch.no_grad()
def test_scaling_the_judges_features_keeps_its_logits(real):
    torch.manual_seed(0)
    net = SceneNet().eval()
    images = real["seen"].images[:100]
    windows = cut_windows(images, torch.zeros(100, dtype=torch.long)).flatten(0, 1)
    before = net.layout(images), *net.read_digits(windows)
    assets.scale_judge(net, images, windows)
    assert net.digit_body(windows).var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)
    assert net.layout_body(images).var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)
    for old, new in zip(before, (net.layout(images), *net.read_digits(windows)), strict=True):
        torch.testing.assert_close(old, new, rtol=1e-4, atol=1e-5)


def test_roughened_pictures_keep_range_and_shape(real):
    torch.manual_seed(0)
    images = real["seen"].images[:64]
    rough = assets.roughen(images)
    assert rough.shape == images.shape and rough.min() >= -1 and rough.max() <= 1
    assert 0.05 < (rough - images).abs().mean() < 0.5
    assert (RuleJudge().read(rough).key == RuleJudge().read(images).key).float().mean() > 0.5


def test_spoilt_scenes_are_none(real):
    """At least as many as scenes; the rules find a place in few of them (one digit left of two has one)."""
    torch.manual_seed(0)
    made = real["seen"]
    spoilt = assets.spoil(made.images, made.facts)
    assert len(spoilt) >= len(made) and spoilt.shape[1:] == (3, 32, 32)
    assert (spoilt == -1).all(dim=(1, 2, 3)).sum() == len(made) // 16
    assert isinstance(RuleJudge().read(spoilt), Facts)
