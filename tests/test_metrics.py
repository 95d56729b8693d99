"""Metrics against closed forms, hand-made clouds, and the shipped feature network against real digits."""

import dataclasses
import json
import math

import pytest
import torch

from aigc_helpers import data, metrics, pretrained
from aigc_helpers.metrics import (
    DigitFeatures,
    DigitJudge,
    Score,
    class_entropy,
    coverage,
    energy_distance,
    frechet_distance,
    load_features,
    mode_count,
    precision_recall,
)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def line(*numbers):
    """Points (N, 1) on a line."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def exact_gaussian(mean, covariance, n=200, seed=0):
    """n points (n, d) whose sample mean and covariance are exactly those asked for."""
    mean, covariance = torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)
    x = torch.randn(n, len(mean), generator=random(seed), dtype=torch.float64)
    x = x - x.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


# ---------------------------------------------------------------- Frechet distance


DIAGONAL = ([0.0, 0.0, 0.0], [1.0, 4.0, 0.25]), ([1.0, -2.0, 0.5], [9.0, 1.0, 0.25])
CLOSED = 1 + 4 + 0.25 + (1 - 3) ** 2 + (2 - 1) ** 2 + 0  # |m - m'|^2 + sum of (s - s')^2


def test_frechet_distance_of_gaussians_with_diagonal_covariances():
    (m1, v1), (m2, v2) = DIAGONAL
    real = exact_gaussian(m1, torch.diag(torch.tensor(v1)).tolist(), seed=1)
    fake = exact_gaussian(m2, torch.diag(torch.tensor(v2)).tolist(), seed=2)
    assert frechet_distance(real, fake) == pytest.approx(CLOSED, rel=1e-6)


def test_frechet_distance_of_gaussians_with_correlation():
    """In the plane the trace of the root of M = S S' is sqrt(tr M + 2 sqrt(det M))."""
    s1, s2 = torch.tensor([[2.0, 0.6], [0.6, 1.0]]), torch.tensor([[1.0, -0.7], [-0.7, 3.0]])
    product = s1 @ s2
    root = math.sqrt(product.trace().item() + 2 * math.sqrt(torch.linalg.det(product).item()))
    wanted = 0.5**2 + 1.5**2 + s1.trace().item() + s2.trace().item() - 2 * root
    real, fake = exact_gaussian([0.0, 0.0], s1.tolist(), seed=1), exact_gaussian([0.5, -1.5], s2.tolist(), seed=2)
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-5)
    assert frechet_distance(fake, real) == pytest.approx(wanted, rel=1e-5)


def test_frechet_distance_of_samples_approaches_the_closed_form():
    (m1, v1), (m2, v2) = DIAGONAL

    def draw(mean, variance, n, seed):
        return torch.randn(n, 3, generator=random(seed)) * torch.tensor(variance).sqrt() + torch.tensor(mean)

    assert frechet_distance(draw(m1, v1, 20_000, 1), draw(m2, v2, 20_000, 2)) == pytest.approx(CLOSED, rel=0.03)


def test_frechet_distance_is_zero_only_at_no_difference_and_grows_with_a_shift():
    x = torch.randn(500, 5, generator=random())
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    distances = [frechet_distance(x, x + shift) for shift in (0.5, 1.0, 2.0)]
    assert distances == pytest.approx([5 * shift**2 for shift in (0.5, 1.0, 2.0)], rel=1e-4)


# ---------------------------------------------------------------- precision, recall, coverage


@pytest.mark.parametrize(
    ("fake", "k", "precision", "recall"),
    [
        (line(0, 1, 2, 3, 4, 5, 6, 7), 1, 1.0, 1.0),  # the same points
        (line(100, 101, 102), 1, 0.0, 0.0),  # nowhere near
        (line(0, 1), 1, 1.0, 3 / 8),  # a corner only: reals 0, 1, 2 lie in a fake ball of radius 1
        (line(0, 1, 2, 3, 4, 5, 6, 7, 50, 51, 52, 53), 1, 8 / 12, 1.0),  # outliers
        (line(0, 2, 4, 6), 1, 1.0, 1.0),  # every second one: fake balls of radius 2
    ],
    ids=["identical", "disjoint", "subset", "outliers", "sparse"],
)
def test_precision_and_recall_of_clouds_on_a_line(fake, k, precision, recall):
    real = line(0, 1, 2, 3, 4, 5, 6, 7)
    assert precision_recall(real, fake, k) == pytest.approx((precision, recall))
    assert precision_recall(fake, real, k) == pytest.approx((recall, precision)), "swapping the sets swaps the scores"


def test_a_manifold_reaches_to_the_kth_other_point():
    """Radii of 0, 1, 3, 7: for k = 1 they are 1, 1, 2, 4 and for k = 2 they are 3, 2, 3, 6."""
    real = line(0, 1, 3, 7)
    assert metrics._knn_radius(real, 1).tolist() == [1, 1, 2, 4]
    assert metrics._knn_radius(real, 2).tolist() == [3, 2, 3, 6]
    fake = line(-1.5, -2.5, -3.5, 200)
    assert precision_recall(real, fake, k=1)[0] == 0.0
    assert precision_recall(real, fake, k=2)[0] == 0.5
    assert precision_recall(line(*range(8)), line(-2.5, 20, 30, 40))[0] == 0.25, "k is 3 unless told"


def test_coverage_counts_real_points():
    real = line(*range(20))
    assert coverage(real, real, k=1) == 1.0
    assert coverage(real, real + 100, k=1) == 0.0
    assert coverage(real, line(0), k=1) == pytest.approx(2 / 20), "the balls of 0 and of 1 hold the fake at 0"
    assert coverage(real, line(*range(10), *[500] * 5), k=1) == pytest.approx(11 / 20), "outliers cost nothing"
    assert coverage(line(0), line(0), k=0) == 1.0
    assert coverage(real, line(-2.5)) == pytest.approx(2 / 20), "k is 5 unless told: radii 5, 4, 3 at the end ..."
    assert coverage(real, line(-3.5)) == pytest.approx(1 / 20), "... and no more"


def test_coverage_is_not_symmetric():
    many, few = line(*range(20)), line(0, 1)
    assert coverage(many, few, k=1) == pytest.approx(3 / 20)
    assert coverage(few, many, k=1) == 1.0


# ---------------------------------------------------------------- entropy, modes, energy


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([7] * 10, 1.0),
        ([0, 0, 31, 0, 0, 0, 0, 0, 0, 0], 0.0),
        ([5, 0, 0, 0, 0, 0, 0, 5, 0, 0], math.log(2) / math.log(10)),
        ([1, 3], -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)),
    ],
)
def test_class_entropy(counts, wanted):
    assert class_entropy(counts) == pytest.approx(wanted, abs=1e-12)
    assert class_entropy(torch.tensor(counts) * 3) == pytest.approx(wanted, abs=1e-12), "only shares matter"


CENTRES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


def modes(samples, radius=3.0):
    return mode_count(samples, CENTRES, 0.1, CENTRES.repeat(5, 1), radius)


def test_mode_count_all_half_and_none():
    everywhere = CENTRES.repeat(10, 1) + 0.1 * torch.tensor([1.0, -1.0])
    assert modes(everywhere) == (Score(4, 4), 4, Score(1.0, 1.0))
    half = modes(CENTRES[:2].repeat(10, 1))
    assert half.covered == Score(2, 4) and half.quality == Score(1.0, 1.0)
    off = modes(CENTRES + 2.0)
    assert off.covered == Score(0, 4) and off.quality == Score(0.0, 1.0)
    mixed = modes(torch.cat([CENTRES[:1].repeat(3, 1), CENTRES[:1].repeat(9, 1) + 1.0]))
    assert mixed.covered.value == 1 and mixed.quality.value == pytest.approx(0.25)


def test_a_mode_counts_from_a_tenth_of_its_fair_share():
    """400 samples of 4 modes: the fair share is 100, so 10 are enough and 9 are not."""
    for hits, covered in ((9, 1), (10, 2)):
        samples = torch.cat([CENTRES[0].repeat(400 - hits, 1), CENTRES[1].repeat(hits, 1)])
        assert modes(samples).covered.value == covered


def test_mode_count_reaches_three_sigma_and_measures_its_floor():
    at = CENTRES + torch.tensor([0.29, 0.0])
    assert modes(at).quality.value == 1.0
    assert modes(CENTRES + torch.tensor([0.31, 0.0])).quality.value == 0.0
    assert modes(at, radius=2.0).quality.value == 0.0
    poor_floor = mode_count(at, CENTRES, 0.1, CENTRES[:1].repeat(4, 1) + torch.tensor([[0.0], [0.0], [0.0], [9.0]]))
    assert poor_floor.covered == Score(4, 1) and poor_floor.quality == Score(1.0, 0.75)


def test_energy_distance_by_hand():
    """Between {0, 1} and {2, 5}: mean of 2, 5, 1, 4 is 3; the pairs within are 1 and 3 apart: 2 * 3 - 1 - 3."""
    assert energy_distance(line(0, 1), line(2, 5)) == pytest.approx(2.0)
    assert energy_distance(line(2, 5), line(0, 1)) == pytest.approx(2.0)


def test_energy_distance_between_normals():
    """E|Z| of Z ~ N(m, s^2) is s sqrt(2/pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2)."""
    x, y = torch.randn(3000, 1, generator=random(1)), torch.randn(3000, 1, generator=random(2))

    def mean_size(m):
        return 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)

    assert energy_distance(x, y) == pytest.approx(0, abs=0.005)
    assert energy_distance(x, y + 1.5) == pytest.approx(2 * mean_size(1.5) - 2 * mean_size(0), rel=0.1)


# ---------------------------------------------------------------- the feature network and its file


@pytest.fixture(scope="module")
def net():
    return load_features()


@pytest.fixture(scope="module")
def embedded():
    return data.load_embedded_digits("train"), data.load_embedded_digits("test")


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A copy of the shipped assets that may be spoilt."""
    for name in (metrics.FEATURES_FILE, "manifest.json"):
        (tmp_path / name).write_bytes((pretrained.ASSETS / name).read_bytes())
    monkeypatch.setattr(pretrained, "ASSETS", tmp_path)
    return tmp_path


@torch.no_grad()
def accuracy(net, digits):
    labels = torch.cat([net(images).argmax(dim=1) for images in digits.images.split(500)])
    return (labels == digits.labels).sum().item() / len(digits)


def test_a_tampered_file_is_refused(assets):
    load_features()
    raw = bytearray((assets / metrics.FEATURES_FILE).read_bytes())
    raw[-1] ^= 1
    (assets / metrics.FEATURES_FILE).write_bytes(raw)
    with pytest.raises(ValueError, match=r"digit_features.safetensors is damaged: reinstall, or run `python -m"):
        load_features()


def test_the_network_is_frozen_and_takes_both_kinds_of_images(net, embedded):
    images = embedded[1].images[:20]
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert net.features(images).shape == (20, metrics.NUM_FEATURES) and net(images).shape == (20, 10)
    torch.testing.assert_close(net.features(images), net.features(data.to_signed(images).flatten(1)))


def test_the_network_reads_the_embedded_digits(net, embedded):
    assert accuracy(net, embedded[1]) >= 0.97


@torch.no_grad()
def test_the_network_reads_mnist(net, monkeypatch):
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    digits = data.load_digits("test", verbose=False)
    if digits.source != data.MNIST:
        pytest.skip("MNIST is not at hand")
    assert accuracy(net, digits) >= 0.99
    assert net.features(digits.images[:2000]).var(dim=0).mean().item() == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_features_have_a_natural_unit(net, embedded):
    """The unit was set on MNIST, nearly all of the training set; the embedded digits vary less (0.72)."""
    assert 0.6 < net.features(embedded[0].images[:500]).var(dim=0).mean().item() < 1.1


# ---------------------------------------------------------------- the judge


@pytest.fixture(scope="module")
def judge(embedded):
    return DigitJudge(embedded[0].images, embedded[1].images[:250])


def test_the_judge_cuts_all_sets_to_one_number(embedded, judge):
    assert judge.n == 250 == len(judge.real)
    assert DigitJudge(embedded[0].images, embedded[1].images, n=130).n == 130


def test_the_judge_needs_enough_images(embedded, judge):
    train, test = embedded
    with pytest.raises(ValueError, match="DigitJudge needs at least 128 images in each set, got 127"):
        DigitJudge(train.images, test.images[:127])
    with pytest.raises(ValueError, match="DigitJudge needs at least 128 images in each set, got 100"):
        DigitJudge(train.images, test.images, n=100)
    with pytest.raises(ValueError, match=r"needs 250 images \(as many as its reference\), got 249"):
        judge.score(test.images[:249])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_judge_refuses_images_of_a_diverged_generator(judge, bad):
    images = torch.zeros(250, 1, 28, 28)
    images[7, 0, 3, 3] = bad
    with pytest.raises(ValueError, match="NaN or Inf.*diverged"):
        judge.score(images)


def test_the_floor_is_what_the_held_out_images_score(embedded, judge):
    held_out = judge.score(embedded[1].images[:250])
    for name, score in held_out.row().items():
        assert score.value == pytest.approx(score.floor, rel=1e-6), name
    reference = judge.score(embedded[0].images[:250])
    assert reference.fid.value == pytest.approx(0, abs=1e-4) and reference.fid.floor > 0.3
    assert reference.recall.value == 1.0 and reference.recall.floor < 1.0


def test_real_digits_score_near_the_floor_and_noise_far_from_it(embedded, judge):
    real = judge.score(embedded[1].images[250:])
    noise = judge.score(torch.rand(250, 1, 28, 28, generator=random()) * 2 - 1)
    assert real.fid.value < 3 * real.fid.floor and noise.fid.value > 30 * noise.fid.floor
    for name in ("precision", "recall", "coverage"):
        value, floor = getattr(real, name)
        assert abs(value - floor) < 0.15, name
        assert getattr(noise, name).value < 0.1, name
    assert real.entropy.value > 0.98 and noise.entropy.value < 0.7
    assert real.classes.sum() == 250 and len(real.classes) == len(noise.classes) == 10


def test_one_digit_only_has_precision_without_recall(embedded, judge):
    ones = embedded[0].images[embedded[0].labels == 1]
    scores = judge.score(ones.repeat(3, 1, 1, 1))
    assert scores.precision.value > 0.8 and scores.coverage.value < 0.3 and scores.entropy.value < 0.2
    assert scores.classes.argmax() == 1


def test_uint8_and_float_images_score_alike(embedded, judge):
    images = embedded[1].images[250:]
    whole, real = judge.score(images), judge.score(data.to_signed(images).flatten(1).requires_grad_())
    for name, score in whole.row().items():
        assert score.value == pytest.approx(real.row()[name].value, rel=1e-4), name


def test_a_row_holds_every_score_by_name(embedded, judge):
    scores = judge.score(embedded[1].images)
    assert list(scores.row()) == ["FID", "precision", "recall", "coverage", "entropy"]
    assert scores.row()["FID"] is scores.fid and all(isinstance(score, Score) for score in scores.row().values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.fid = 0


# ---------------------------------------------------------------- making the feature network


@pytest.fixture
def few_digits(monkeypatch, embedded):
    """Training sees 128 digits from each source, and 50 to test on."""
    train, test = embedded
    monkeypatch.setattr(data, "load_digits", lambda split: train.subset(128) if split == "train" else test.subset(50))
    monkeypatch.setattr(data, "load_embedded_digits", lambda split: train.subset(128, seed=1))
    monkeypatch.setenv("AIGC_PROGRESS", "0")
    return test.subset(50)


@torch.no_grad()
def test_training_the_features(few_digits):
    with torch.enable_grad():
        net, reported = metrics.train_features(num_epochs=2)
    assert reported == pytest.approx(accuracy(net, few_digits)) and not net.training
    seen = torch.cat([data.load_digits("train").images, data.load_embedded_digits("train").images])[::20]
    assert net.features(seen).var(dim=0).mean().item() == pytest.approx(1, rel=1e-3)
    torch.manual_seed(0)
    assert not torch.equal(net.body[0].weight, DigitFeatures().body[0].weight)


@torch.no_grad()
def test_scaling_the_features_keeps_the_logits(embedded):
    torch.manual_seed(0)
    net, images = DigitFeatures(), embedded[0].images[:100]
    before, features = net(images), net.features(images)
    metrics._scale_features(net, images)
    assert net.features(images).var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)
    assert features.var(dim=0).mean().item() < 0.5, "or the scaling had nothing to do"
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-5)


def test_augmentation_moves_the_ink_and_leaves_the_paper_black(embedded):
    torch.manual_seed(0)
    x = data.to_signed(embedded[0].images[:64])
    moved = metrics._augment(x)
    assert moved.shape == x.shape and moved.min() >= -1 - 1e-5 and moved.max() <= 1 + 1e-5
    assert not torch.allclose(moved, x, atol=0.1)
    torch.testing.assert_close((moved + 1).sum(), (x + 1).sum(), rtol=0.1, atol=0)
    torch.testing.assert_close(metrics._augment(torch.full((4, 1, 28, 28), -1.0)), torch.full((4, 1, 28, 28), -1.0))


def test_main_writes_the_file_and_its_manifest(assets, monkeypatch, capsys):
    torch.manual_seed(3)
    made = DigitFeatures()
    monkeypatch.setattr(metrics, "train_features", lambda: (made, 0.1234))
    manifest = assets / "manifest.json"
    manifest.write_text(json.dumps({"another": {"bytes": 1}}), encoding="utf-8")
    metrics.main()
    entries = json.loads(manifest.read_text(encoding="utf-8"))
    assert entries["another"] == {"bytes": 1}
    assert entries[metrics.FEATURES_FILE]["bytes"] == (assets / metrics.FEATURES_FILE).stat().st_size
    for name, tensor in load_features().state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name].half().float()), name
    assert capsys.readouterr().out.startswith("digit_features.safetensors: 291 KB, MNIST test accuracy 0.1234")
    manifest.unlink()
    metrics.main()
    assert list(json.loads(manifest.read_text(encoding="utf-8"))) == [metrics.FEATURES_FILE]
