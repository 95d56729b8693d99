"""Metrics against closed forms, hand-made clouds, and the shipped feature network against real digits."""

import dataclasses
import math

import pytest
import torch

from aigc_helpers import data, metrics, weights
from aigc_helpers.metrics import (
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


# ---------------------------------------------------------------- points of any type, and none


def cloud(n, seed=0):
    """n points in the plane, with coordinates that 16 bits hold exactly."""
    return (torch.randn(n, 2, generator=random(seed)) * 8).round() / 8


OF_TWO_CLOUDS = {  # what compares two clouds: how few points each may have
    "frechet_distance": (frechet_distance, 2, 2),
    "precision_recall": (lambda x, y: precision_recall(x, y, k=3), 4, 4),
    "coverage": (lambda x, y: coverage(x, y, k=5), 6, 1),
    "energy_distance": (energy_distance, 2, 2),
    "mode_count": (lambda x, y: tuple(mode_count(x, CENTRES, 1.0, y)), 1, 1),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", OF_TWO_CLOUDS)
def test_clouds_of_every_precision_score_alike(name, dtype):
    measure, *_ = OF_TWO_CLOUDS[name]
    x, y = cloud(50), cloud(40, seed=1)
    wanted = measure(x, y)
    assert measure(x.to(dtype), y.to(dtype)) == wanted
    assert measure(x.to(dtype), y) == wanted, "the two may differ in type"
    assert measure(x.requires_grad_(), y) == wanted, "a generator's output may come as it is"


def test_near_points_far_from_the_origin_keep_their_distance():
    """Where the squares have used up the digits of 32 bits, differences of squares have none left."""
    x = 1e4 + torch.arange(60.0)[:, None] / 64  # which 32 bits hold exactly
    assert energy_distance(x, x + 1) == pytest.approx(energy_distance(x - 1e4, x - 1e4 + 1), rel=1e-4)


@pytest.mark.parametrize("name", OF_TWO_CLOUDS)
def test_too_few_points_get_one_message(name):
    measure, *least = OF_TWO_CLOUDS[name]
    enough = [cloud(n) for n in least]
    measure(*enough)  # the fewest there may be
    for k in (0, 1):
        for n in {0, least[k] - 1}:
            few = [*enough]
            few[k] = cloud(n)
            points = "1 point" if n == 1 else f"{n} points"
            with pytest.raises(ValueError, match=f"^{name}: \\w+ has {points}, and needs at least {least[k]}") as caught:
                measure(*few)
            assert "\n" not in str(caught.value)


NO_CLOUDS = {
    "NaN": (torch.full((20, 2), math.nan), "has NaN or Inf in it: has the generator diverged"),
    "one infinity": (torch.cat([torch.zeros(19, 2), torch.tensor([[0.0, math.inf]])]), "has NaN or Inf in it"),
    "a row": (torch.zeros(20), r"must be a tensor of points \(N, d\), got one of shape \(20,\)"),
    "images": (torch.zeros(20, 1, 4, 4), r"must be a tensor of points \(N, d\), got one of shape \(20, 1, 4, 4\)"),
    "no coordinates": (torch.zeros(20, 0), r"must be a tensor of points \(N, d\), got one of shape \(20, 0\)"),
    "complex": (torch.zeros(20, 2, dtype=torch.complex64), "must be a tensor of points"),
    "a list": ([[0.0, 1.0]] * 20, r"must be a tensor of points \(N, d\), got list"),
    "nothing": (None, "got NoneType"),
    "points in space": (torch.zeros(20, 3), "points must have the same number of coordinates, got"),
}


@pytest.mark.parametrize("kind", NO_CLOUDS)
@pytest.mark.parametrize("name", OF_TWO_CLOUDS)
def test_what_is_no_cloud_gets_one_message(name, kind):
    measure, *_ = OF_TWO_CLOUDS[name]
    wrong, message = NO_CLOUDS[kind]
    for clouds in ((wrong, cloud(20)), (cloud(20), wrong)):
        with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
            measure(*clouds)


@pytest.mark.parametrize("k", [-1, 1.0, True, "3", None])
def test_the_number_of_neighbours_is_a_whole_number(k):
    for measure in (precision_recall, coverage):
        with pytest.raises(ValueError, match=f"^{measure.__name__}: k must be a whole number of at least 0"):
            measure(cloud(9), cloud(9), k)


@pytest.mark.parametrize("size", [0, -1.0, math.nan, math.inf, "1", None])
def test_sizes_of_modes_are_positive_numbers(size):
    with pytest.raises(ValueError, match="^mode_count: sigma must be a positive number"):
        mode_count(cloud(9), CENTRES, size, cloud(9))
    with pytest.raises(ValueError, match="^mode_count: radius must be a positive number"):
        mode_count(cloud(9), CENTRES, 1.0, cloud(9), radius=size)


def test_modes_to_count_there_must_be():
    with pytest.raises(ValueError, match="^mode_count: centres has 0 points, and needs at least 1"):
        mode_count(cloud(9), CENTRES[:0], 1.0, cloud(9))


@pytest.mark.parametrize(
    "counts", [[], [3], [0, 0], [1, -1], [1, math.nan], [1, math.inf], [[1, 2]], "12", None, 5]
)
def test_class_entropy_wants_a_histogram(counts):
    with pytest.raises(ValueError, match="^class_entropy: needs two counts or more, none negative, some above 0"):
        class_entropy(counts)


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
        (tmp_path / name).write_bytes((weights.ASSETS / name).read_bytes())
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
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
    wanted = net.features(images)
    signed = data.to_signed(images)
    torch.testing.assert_close(net.features(signed.flatten(1)), wanted)
    torch.testing.assert_close(net.features(signed[:, 0].double()), wanted)
    torch.testing.assert_close(net.features(images.long()), wanted)
    torch.testing.assert_close(net(images > 127), net(((images > 127) * 255).byte()))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 1, 14, 14), r"needs images \(N, 1, 28, 28\) or \(N, 784\), got \(4, 1, 14, 14\)"),
        (torch.zeros(784), r"got \(784,\)"),
        (torch.zeros(28, 28, 1), r"got \(28, 28, 1\)"),
        (torch.zeros(0, 784), "needs a tensor of images"),
        (torch.rand(4, 784), r"they seem to be in \[0, 1\]"),
        (torch.full((4, 784), math.nan), "NaN or Inf"),
    ],
)
def test_the_network_refuses_other_images(net, images, message):
    for call in (net, net.features):
        with pytest.raises(ValueError, match=f"^DigitFeatures: .*{message}"):
            call(images)


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
    fewer = DigitJudge(embedded[0].images, embedded[1].images, n=130)
    assert fewer.n == 130 == len(fewer.real)
    assert fewer.score(embedded[1].images).n == 130


def test_the_judge_needs_enough_images(embedded, judge):
    train, test = embedded
    with pytest.raises(ValueError, match="DigitJudge needs at least 128 images in each set, got 127"):
        DigitJudge(train.images, test.images[:127])
    with pytest.raises(ValueError, match="DigitJudge needs at least 128 images in each set, got 100"):
        DigitJudge(train.images, test.images, n=100)
    with pytest.raises(ValueError, match=r"needs 250 images \(as many as its reference\), got 249"):
        judge.score(test.images[:249])
    with pytest.raises(ValueError, match=r"needs 250 images \(as many as its reference\), got 0"):
        judge.score(test.images[:0])
    for n in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="^DigitJudge: n must be a whole number of at least 1"):
            DigitJudge(train.images, test.images, n=n)
    with pytest.raises(ValueError, match="^DigitJudge: seed must be a whole number from 0"):
        DigitJudge(train.images, test.images, seed=-1)
    with pytest.raises(ValueError, match="^DigitJudge: needs a tensor of images .* got Digits$"):
        DigitJudge(train, test)
    with pytest.raises(ValueError, match=r"^DigitJudge.score: needs a tensor of images .* got Tensor of shape \(784,\)$"):
        judge.score(torch.zeros(784))


BAD_IMAGES = {
    "NaN": (torch.cat([torch.zeros(249, 784), torch.full((1, 784), math.nan)]), "NaN or Inf.*diverged"),
    "Inf": (torch.full((250, 784), math.inf), "NaN or Inf.*diverged"),
    "in [0, 1]": (torch.rand(250, 784, generator=random()), r"got .* to 1; they seem to be in \[0, 1\]"),
    "beyond [-1, 1]": (torch.randn(250, 784, generator=random()), r"clamp\(-1, 1\)"),
    "one grey": (torch.full((250, 784), 0.25), "every pixel of every image is 0.25: has the generator collapsed"),
    "black pixels": (torch.zeros(250, 784, dtype=torch.uint8), "every pixel of every image is -1"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_the_judge_refuses_images_that_make_no_sense(embedded, judge, kind):
    images, message = BAD_IMAGES[kind]
    with pytest.raises(ValueError, match=f"^DigitJudge.score: .*{message}"):
        judge.score(images)
    for sets in ((embedded[0].images.flatten(1), images), (images, embedded[0].images.flatten(1))):
        with pytest.raises(ValueError, match=f"^DigitJudge: .*{message}"):
            DigitJudge(*sets)


@pytest.mark.parametrize("which", ["reference", "held out", "scored"])
def test_a_set_that_is_sorted_by_class_gives_the_right_score(embedded, which):
    """The first 250 of a sorted set hold three classes of ten: their score would be that of a collapsed generator."""
    train, test = embedded
    order = train.labels.argsort()
    reference, held_out, scored = train.images[:640], test.images, train.images[640:]
    if which == "reference":
        reference = train.images[order]
    elif which == "held out":
        held_out = test.images[test.labels.argsort()]
    else:
        scored = train.images[order]
    scores = DigitJudge(reference, held_out, n=250).score(scored)
    assert scores.entropy.value > 0.97 and scores.entropy.floor > 0.97
    assert scores.fid.value < 3 and scores.fid.floor < 3
    assert scores.coverage.value > 0.7 and scores.coverage.floor > 0.7


def test_the_draws_depend_on_the_seed_alone(embedded):
    train, test = embedded
    torch.manual_seed(0)
    one = DigitJudge(train.images, test.images, n=130)
    torch.manual_seed(1)
    two = DigitJudge(train.images, test.images, n=130)
    other = DigitJudge(train.images, test.images, n=130, seed=1)
    assert torch.equal(one.real, two.real) and one.score(test.images).row() == two.score(test.images).row()
    assert not torch.equal(one.real, other.real)


def test_the_standard_judge_halves_the_test_digits(embedded, monkeypatch):
    """250 and 250 of the embedded ones; each digit is in one of the two sets, and no training digit in either."""
    monkeypatch.setattr(metrics, "load_digits", lambda split, verbose: {"test": embedded[1]}[split])
    drawn = []
    monkeypatch.setattr(DigitJudge, "_draw", lambda self, caller, images: drawn.append(images) or draw(self, caller, images))
    judge = DigitJudge.standard()
    assert judge.n == 250
    given = torch.cat([images.flatten(1) for images in drawn])
    assert [len(images) for images in drawn] == [250, 250]
    assert sorted(given.tolist()) == sorted(embedded[1].images.flatten(1).tolist())
    assert not torch.equal(given, embedded[1].images.flatten(1)), "cut at random"
    scores = judge.score(embedded[0].images)
    assert scores.n == 250 and scores.fid.value < 3 * scores.fid.floor


draw = DigitJudge._draw


def test_the_standard_judge_takes_as_many_as_it_is_told(embedded):
    judge = DigitJudge.standard(n=140, test=embedded[1])
    assert judge.n == 140 == len(judge.real)
    assert torch.equal(judge.real, DigitJudge.standard(n=140, test=embedded[1]).real)
    assert not torch.equal(judge.real, DigitJudge.standard(n=140, test=embedded[1], seed=1).real)
    odd = data.Digits(embedded[1].images[:401], embedded[1].labels[:401], "a test")
    assert DigitJudge.standard(test=odd).n == 200


def test_the_standard_judge_refuses_what_is_no_test_split(embedded):
    for n in (0, 1.5, None):
        with pytest.raises(ValueError, match="^DigitJudge.standard: n must be a whole number of at least 1"):
            DigitJudge.standard(n)
    with pytest.raises(ValueError, match="^DigitJudge.standard: test must be Digits, or None, got Tensor"):
        DigitJudge.standard(test=embedded[1].images)
    for few in (1, 255):
        short = data.Digits(embedded[1].images[:few], embedded[1].labels[:few], "a test")
        with pytest.raises(ValueError, match=f"needs at least 128 images in each set, got {few // 2}"):
            DigitJudge.standard(test=short)


def test_the_standard_judge_rests_on_2000_digits_of_mnist(monkeypatch):
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    digits = data.load_digits("test", verbose=False)
    if digits.source != data.MNIST:
        pytest.skip("MNIST is not at hand")
    judge = DigitJudge.standard()
    assert judge.n == 2000 and 0.1 < judge._floor["fid"] < 0.6


def test_the_floor_is_what_the_held_out_images_score(embedded, judge):
    held_out = judge.score(embedded[1].images[:250])
    for name, score in held_out.row().items():
        assert score.value == pytest.approx(score.floor, rel=1e-6), name
    same = DigitJudge(embedded[0].images[:250], embedded[1].images[:250])
    reference = same.score(embedded[0].images[:250])
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


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-4), (torch.float64, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 2e-2), (torch.int64, 1e-4)],
)
def test_images_of_every_type_score_alike(embedded, judge, dtype, tolerance):
    images = embedded[1].images[250:]
    whole = judge.score(images)
    signed = data.to_signed(images).flatten(1)
    other = judge.score(images.long() if dtype == torch.int64 else signed.to(dtype).requires_grad_())
    for name, score in whole.row().items():
        assert other.row()[name].value == pytest.approx(score.value, rel=tolerance, abs=tolerance), name
    assert judge.score(images.numpy()).row() == whole.row()


def test_a_row_holds_every_score_by_name(embedded, judge):
    scores = judge.score(embedded[1].images)
    assert list(scores.row()) == ["FID", "precision", "recall", "coverage", "entropy"]
    assert scores.row()["FID"] is scores.fid and all(isinstance(score, Score) for score in scores.row().values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.fid = 0
