"""00_intro: its exported functions against closed forms and limits, its panels, exercises, seeded faults."""

import math
import re
import statistics
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

import tools
from aigc_helpers import panels, weights
from aigc_helpers.models import intro
from aigc_helpers.models.intro import GaussianClassifier, entropy, fit_logistic, kl, logistic_loss
from tests.notebook_cells import NOTEBOOKS, run_cell, run_cells
from tests.panel_checks import (
    answers_within,
    cropped_texts,
    faint_texts,
    moved_together,
    other_value,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "00_intro.ipynb"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def density(x, mean, width):
    return statistics.NormalDist(mean, width).pdf(x)


@pytest.fixture
def points():
    """Three classes of unequal size and shape in three dimensions, float64."""
    y = torch.tensor([0] * 50 + [1] * 120 + [2] * 30)
    shapes = torch.tensor([[1.0, 0.5, 2.0], [0.3, 1.0, 1.0], [1.5, 1.5, 0.4]]).double()
    return torch.randn(200, 3, generator=seeded()).double() * shapes[y] + y[:, None], y


@pytest.mark.parametrize(("settings", "theirs"), [
    ({"diagonal": True}, GaussianNB(var_smoothing=0)),
    ({"shared": True}, LinearDiscriminantAnalysis(solver="lsqr")),
])  # fmt: skip
def test_the_posterior_is_that_of_scikit_learn(points, settings, theirs):
    x, y = points
    ours = GaussianClassifier(x, y, ridge=0.0, **settings).posterior(x)
    torch.testing.assert_close(
        ours,
        torch.tensor(theirs.fit(x.numpy(), y.numpy()).predict_proba(x.numpy())),
        rtol=1e-6,
        atol=1e-9,
    )


def test_full_covariances_give_the_quadratic_discriminant(points):
    x, y = points
    theirs = QuadraticDiscriminantAnalysis().fit(x.numpy(), y.numpy())
    ours = GaussianClassifier(x, y, ridge=0.0).posterior(x).argmax(dim=1)
    assert (
        ours == torch.tensor(theirs.predict(x.numpy()))
    ).float().mean() > 0.98  # they divide by one less


def test_evidence_and_posterior_make_up_the_joint(points):
    x, y = points
    model = GaussianClassifier(x, y)
    torch.testing.assert_close(
        model.log_evidence(x)[:, None] + model.posterior(x).log(), model.log_joint(x)
    )
    torch.testing.assert_close(model.posterior(x).sum(dim=1), torch.ones(200).double())


def test_what_is_drawn_has_the_shares_means_and_covariances(points):
    model = GaussianClassifier(*points)
    x, y = model.sample(20_000, seeded(1))
    for k in range(3):
        part = x[y == k]
        assert abs(len(part) / len(x) - model.share[k]) < 0.02
        torch.testing.assert_close(part.mean(dim=0), model.mean[k], rtol=0, atol=0.1)
        torch.testing.assert_close(part.T.cov(), model.cov[k], rtol=0.1, atol=0.1)
    again, _ = model.sample(20_000, seeded(1))
    assert torch.equal(x, again)


def test_the_logistic_fit_is_flat_in_its_own_loss(points):
    x, y = points
    y = (y == 1).long()
    w, b = (value.requires_grad_() for value in fit_logistic(x, y, decay=0.1))
    (logistic_loss(w, b, x, y) + 0.05 * w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4 and b.grad.abs() < 1e-4


def test_points_that_a_line_can_part_give_finite_weights():
    x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    w, b = fit_logistic(x, torch.tensor([0, 0, 1, 1]), decay=1e-6)
    assert (
        torch.isfinite(w).all()
        and torch.isfinite(b)
        and (x[:, 0] * w + b > 0).tolist() == [False, False, True, True]
    )


def test_entropy_and_divergence_at_their_limits():
    even, sure = torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert entropy(even).item() == pytest.approx(math.log(4)) and entropy(sure) == 0
    assert (
        kl(sure, even).item() == pytest.approx(math.log(4))
        and kl(even, sure) == math.inf
        and kl(sure, sure) == 0
    )
    assert kl(torch.stack([even, sure]), even).shape == (2,)


def test_a_class_without_points_is_one_message(points):
    x, y = points
    with pytest.raises(ValueError, match="GaussianClassifier: no point of class 1"):
        GaussianClassifier(x, torch.where(y == 1, 2, y))


# ---------------------------------------------------------------- Gaussians and copies


def test_the_gaussian_is_that_of_the_standard_library():
    x = torch.linspace(-5, 9, 57).double()
    want = torch.tensor([density(value, 1.5, 2.5) for value in x.tolist()]).double()
    torch.testing.assert_close(intro.gaussian(x, 1.5, 2.5), want)


def test_the_covariance_is_divided_by_n(points):
    x, _ = points
    torch.testing.assert_close(intro.covariance(x), x.T.cov(correction=0))
    assert intro.covariance(x[:1]).tolist() == [[0.0] * 3] * 3


def test_the_nearest_two_and_their_ratio():
    train = torch.randn(40, 6, generator=seeded(1))
    x = torch.randn(9, 6, generator=seeded(2))
    exact = (x[:, None] - train).norm(dim=-1)
    distance, nearest = intro.nearest_two(x, train)
    torch.testing.assert_close(distance, exact.sort(dim=1).values[:, :2])
    assert torch.equal(nearest, exact.argsort(dim=1)[:, :2])
    torch.testing.assert_close(intro.copy_ratio(x, train), distance[:, 0] / distance[:, 1])


def test_a_copy_has_the_ratio_0_even_where_it_is_in_the_set_twice():
    train = torch.randn(6, 4, generator=seeded(3))
    assert intro.copy_ratio(train[:1], train).tolist() == [0.0]
    assert intro.copy_ratio(train[:1], torch.cat([train, train])).tolist() == [0.0]
    assert intro.copied(torch.tensor([0.0, 1 / 3, 0.34, 1.0])) == 0.5


# ---------------------------------------------------------------- bad input: one message

X = torch.randn(6, 2, generator=seeded(3))
Y = torch.tensor([0, 1, 0, 1, 0, 1])
NAN_X = torch.where(torch.arange(6)[:, None] == 2, math.nan, X)
ONE = torch.zeros(6).long()

BAD_POINTS = {
    "no points": (torch.zeros(0, 2), torch.zeros(0).long(), "not empty"),
    "no features": (torch.zeros(6, 0), Y, "not empty"),
    "one axis": (X[:, 0], Y, r"x must have a shape \(N, d\)"),
    "NaN": (NAN_X, Y, "x must be finite, but 2 of 12"),
    "Inf": (X / 0.0, Y, "x must be finite, but 12 of 12"),
    "whole numbers": (X.long(), Y, "must be a tensor .* of floats"),
    "fewer classes than points": (X, Y[:5], "a class 0, 1, ... for each of 6 points"),
    "classes with decimals": (X, Y.float(), "a class 0, 1, ... for each of 6 points"),
    "a class below 0": (X, Y - 1, "a class 0, 1, ... for each of 6 points"),
}


@pytest.mark.parametrize(("x", "y", "message"), BAD_POINTS.values(), ids=BAD_POINTS)
def test_points_that_are_none_are_refused_in_a_sentence(x, y, message):
    w = torch.zeros(x.shape[-1], dtype=x.dtype)
    with pytest.raises(ValueError, match=f"GaussianClassifier: .*{message}"):
        GaussianClassifier(x, y)
    with pytest.raises(ValueError, match=f"fit_logistic: .*{message}"):
        fit_logistic(x, y)
    with pytest.raises(ValueError, match=f"logistic_loss: .*{message}"):
        logistic_loss(w, 0.0, x, y)


@pytest.mark.parametrize("method", ["log_joint", "posterior", "log_evidence"])
@pytest.mark.parametrize("x", [NAN_X, X[:, 0], torch.zeros(0, 2)], ids=["NaN", "one axis", "none"])
def test_a_trained_classifier_refuses_such_points_too(method, x):
    with pytest.raises(ValueError, match="log_joint: x must "):
        getattr(GaussianClassifier(X, Y), method)(x)


def test_one_class_only():
    alone = GaussianClassifier(X, ONE)
    assert alone.share.tolist() == [1.0], "one Gaussian is a model of p(x)"
    assert torch.equal(alone.posterior(X), torch.ones(6, 1))
    with pytest.raises(ValueError, match="no point of class 0"):
        GaussianClassifier(X, ONE + 1)
    for y in (ONE, ONE + 1):
        with pytest.raises(ValueError, match="fit_logistic: all points are of one class"):
            fit_logistic(X, y)
    with pytest.raises(ValueError, match="logistic_loss: y must be 0 or 1, got 2"):
        logistic_loss(torch.zeros(2), 0.0, X, 2 * Y)


def test_classes_may_be_of_any_whole_or_bool_type():
    want = GaussianClassifier(X, Y).posterior(X)
    for y in (Y.int(), Y.to(torch.uint8), Y.bool()):
        assert torch.equal(GaussianClassifier(X, y).posterior(X), want)


def test_too_few_points_for_a_covariance_are_one_message_and_a_ridge_helps():
    for settings in ({}, {"diagonal": True}):
        with pytest.raises(ValueError, match="too few points .* larger ridge"):
            GaussianClassifier(X[:2], Y[:2], ridge=0.0, **settings)
    assert GaussianClassifier(X[:2], Y[:2]).posterior(X).isfinite().all()


@pytest.mark.parametrize("value", [-0.1, math.nan, "0.1", None])
def test_ridge_and_decay_are_numbers_from_0(value):
    with pytest.raises(
        ValueError, match="GaussianClassifier: ridge must be a finite number of at least 0"
    ):
        GaussianClassifier(X, Y, ridge=value)
    with pytest.raises(
        ValueError, match="fit_logistic: decay must be a finite number of at least 0"
    ):
        fit_logistic(X, Y, decay=value)


def test_zero_is_a_decay_like_any_other():
    x = torch.randn(40, 2, generator=seeded(8)).double()
    y = (x[:, 0] + torch.randn(40, generator=seeded(9)) > 0).long()
    free, _ = fit_logistic(x, y, decay=0)
    kept, _ = fit_logistic(x, y, decay=0.1)
    assert free.norm() > kept.norm()


@pytest.mark.parametrize("n", [0, -1, 2.5, None])
def test_how_many_is_a_whole_number_from_1(n):
    gan = weights.load_model("gan")
    calls = {
        "sample": lambda: GaussianClassifier(X, Y).sample(n),
        "two_clouds": lambda: panels.intro.two_clouds(n),
        "draw_gan": lambda: panels.intro.draw_gan(gan, n),
        "draw_vae": lambda: panels.intro.draw_vae(None, n),
        "draw_diffusion": lambda: panels.intro.draw_diffusion(None, n),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}: n must be a whole number of at least 1"):
            call()


@pytest.mark.parametrize(
    "settings", [{"num_steps": 0}, {"num_steps": 1001}, {"label": 10}, {"label": -1}]
)
def test_steps_and_labels_that_the_diffusion_model_does_not_have(settings):
    with pytest.raises(ValueError, match=f"draw_diffusion: {next(iter(settings))} must be"):
        panels.intro.draw_diffusion(None, 2, **settings)


def test_the_label_0_is_a_label_and_not_no_label():
    unet = weights.load_model("diffusion")
    zeros = panels.intro.draw_diffusion(unet, 8, num_steps=4, label=0)
    assert not torch.equal(zeros, panels.intro.draw_diffusion(unet, 8, num_steps=4))
    labels = []

    def spy(x, t, label):
        labels.append(label)
        return torch.zeros_like(x)

    panels.intro.draw_diffusion(spy, 3, num_steps=2, label=0)
    assert all(torch.equal(label, torch.zeros(3).long()) for label in labels)


def test_outliers_may_be_none_and_no_fewer():
    x, y = panels.intro.two_clouds(3, outliers=0)
    assert x.shape == (6, 2) and y.tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(panels.intro.two_clouds(3, outliers=2)[0][:6], x)
    with pytest.raises(ValueError, match="two_clouds: outliers must be"):
        panels.intro.two_clouds(3, outliers=-1)


def test_odd_pictures_are_what_their_names_say():
    digits = torch.rand(60, 784, generator=seeded(7)) * 2 - 1
    classes = torch.arange(60) % 3
    odd = panels.intro.odd_pictures(digits, classes)
    assert torch.equal(odd["ink and paper swapped"], -digits)
    halves = odd["lower half of another"].view(-1, 28, 28)
    images = digits.view(-1, 28, 28)
    assert torch.equal(halves[:, :14], images[:, :14])
    same = (halves[:, None, 14:] == images[:, 14:]).flatten(2).all(dim=2)  # (60, 60): whose lower half
    assert same.sum(dim=1).tolist() == [1] * 60
    assert (classes[same.long().argmax(dim=1)] != classes).all()
    want = torch.nn.functional.conv2d(images[:, None] + 1, torch.full((1, 1, 3, 3), 1 / 9), padding=1) - 1
    torch.testing.assert_close(odd["blurred"], want.flatten(1), rtol=0, atol=1e-5)
    assert odd["an empty page"].unique().tolist() == [-1.0]


BAD_PROBABILITIES = {
    "sum below 1": [0.5, 0.4],
    "sum above 1": [0.5, 0.6],
    "negative": [-0.5, 1.5],
    "NaN": [math.nan, 1.0],
    "none": [],
    "all 0": [0.0, 0.0],
}


@pytest.mark.parametrize("bad", BAD_PROBABILITIES.values(), ids=BAD_PROBABILITIES)
def test_what_is_no_distribution_is_refused(bad):
    bad = torch.tensor(bad)
    good = torch.full_like(bad, 1 / max(1, len(bad)))
    with pytest.raises(ValueError, match="entropy: probabilities must be at least 0 and sum to 1"):
        entropy(bad)
    for p, q in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="kl: probabilities must be at least 0 and sum to 1"):
            kl(p, q)


def test_a_gradient_flows_through_both_and_float32_sums_are_accepted():
    theta = torch.randn(5000, generator=seeded(), requires_grad=True)
    (entropy(theta.softmax(0)) + kl(theta.softmax(0), torch.full((5000,), 1 / 5000))).backward()
    assert theta.grad.isfinite().all() and theta.grad.abs().max() < 1e-6, (
        "it is log V for every theta"
    )


def test_the_bells_are_normalised_and_refuse_what_is_no_bell():
    q = panels.intro.bell(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.0]))
    assert q.shape == (2, 1201)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(2).double())
    torch.testing.assert_close((q * panels.intro.AXIS).sum(dim=1)[0], torch.tensor(0.0).double())
    for mean, width in ((0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="bell: (mean|width) must be "):
            panels.intro.bell(mean, width)
    for gap in (-1.0, math.nan, 20.0):
        with pytest.raises(ValueError, match="humps: gap must be a finite number from 0 to 12"):
            panels.intro.humps(gap)
    with pytest.raises(ValueError, match="divergence: unknown way 'KL'; choose one of"):
        panels.intro.best_bell(4.0, "KL")


def test_bells_have_the_divergence_of_gaussians_either_way():
    p = panels.intro.bell(-0.5, 1.0)
    q = panels.intro.bell(1.0, 2.5)
    forward = math.log(2.5) + (1 + 1.5**2) / (2 * 2.5**2) - 0.5
    reverse = -math.log(2.5) + (2.5**2 + 1.5**2) / 2 - 0.5
    assert panels.intro.divergence(p, q, panels.intro.FORWARD).item() == pytest.approx(forward, rel=1e-3)
    assert panels.intro.divergence(p, q, panels.intro.REVERSE).item() == pytest.approx(reverse, rel=1e-3)


@pytest.mark.parametrize("way", [panels.intro.FORWARD, panels.intro.REVERSE])
@pytest.mark.parametrize("gap", [0.0, 1.3, 2.4, 5.0])
def test_no_bell_of_a_finer_grid_is_better_than_the_best_by_more_than_a_hair(gap, way):
    least = panels.intro.best_bell(gap, way)[2]
    pairs = torch.cartesian_prod(torch.linspace(-3, 3, 121), torch.linspace(0.3, 3, 109))
    finer = panels.intro.divergence(panels.intro.humps(gap), panels.intro.bell(*pairs.T), way).min()
    assert least <= finer + 1e-3


# ---------------------------------------------------------------- exercises

ANSWERS = [  # (an answer that works in place and is right, one that is wrong), in the page's order
    (
        """
def mean_picture(images):
    images = images.float()
    images /= 255
    return images.mean(dim=0)[0]
""",
        """
def mean_picture(images):
    mean = images.float().mean(dim=(0, 1))
    images.zero_()
    return mean
""",
    ),
    (
        """
def log_of_product(p):
    p.log_()
    return p.sum()
""",
        """
def log_of_product(p):
    product = p.prod()
    p.fill_(1.0)
    return product.log()
""",
    ),
    (
        """
def covariance_matrix(x):
    x -= x.mean(dim=0)
    return x.T @ x / len(x)
""",
        """
def covariance_matrix(x):
    products = x.T @ x / len(x)
    x.zero_()
    return products
""",
    ),
    (
        """
def slope_of_loss(w, x, s):
    s.mul_(x)
    w.mul_(s).neg_().sigmoid_()
    return s.mul_(w).neg_()
""",
        """
def slope_of_loss(w, x, s):
    s.mul_(x)
    w.mul_(s).sigmoid_()
    return s.mul_(w).neg_()
""",
    ),
    (
        """
def mean_square(mu, sigma):
    mu *= mu
    mu += sigma**2
    return mu
""",
        """
def mean_square(mu, sigma):
    mu *= mu
    mu += sigma
    return mu
""",
    ),
    (
        """
def probably_fake(share, hits, false_alarms):
    hits *= share
    false_alarms *= 1 - share
    return hits / (hits + false_alarms)
""",
        """
def probably_fake(share, hits, false_alarms):
    hits *= share
    return hits / (hits + false_alarms)
""",
    ),
    (
        """
def chance_of_heads(k, n, extra):
    k += extra
    n += 2 * extra
    k /= n
    return k
""",
        """
def chance_of_heads(k, n, extra):
    k += extra
    k /= n
    return k
""",
    ),
    (
        """
def posterior_without(model, x, missing):
    x[:, missing] = 0.0
    keep = [j for j in range(x.shape[1]) if j != missing]
    cov = model.cov[:, keep][:, :, keep]
    delta = x[:, None, keep] - model.mean[:, keep]
    squared = (delta[:, :, None] @ cov.inverse() @ delta[..., None]).flatten(1)
    joint = model.share * (-squared / 2).exp() / cov.det().sqrt()
    return joint / joint.sum(dim=1, keepdim=True)
""",
        """
def posterior_without(model, x, missing):
    x[:, missing] = model.share @ model.mean[:, missing]
    return model.posterior(x)
""",
    ),
    (
        """
def typical(x, mean, cov):
    x -= mean
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), x.T, upper=False)
    squared = white.square().sum(dim=0)
    x.zero_()
    return (squared - len(mean)).abs() < 3 * (2 * len(mean)) ** 0.5
""",
        """
def typical(x, mean, cov):
    x -= mean
    squared = (x @ cov.inverse() * x).sum(dim=1)
    return squared < len(mean) + 3 * (2 * len(mean)) ** 0.5
""",
    ),
    (
        """
def posterior_from_logs(a):
    a -= a.max(dim=1, keepdim=True).values
    a.exp_()
    a /= a.sum(dim=1, keepdim=True)
    return a
""",
        """
def posterior_from_logs(a):
    a.exp_()
    return a / a.sum(dim=1, keepdim=True)
""",
    ),
    (
        """
def both_divergences(log_p, log_q):
    log_p -= log_q
    weight = (-log_p).exp()
    return log_p.mean(), -(weight * log_p).mean()
""",
        """
def both_divergences(log_p, log_q):
    log_p -= log_q
    return log_p.mean(), -log_p.mean()
""",
    ),
    (
        """
def who_copies(handed_in, train):
    shares = {}
    for name, x in handed_in.items():
        x += 0.0
        shares[name] = (copy_ratio(x, train) < 0.4).sum()
        x.zero_()
    return max(shares, key=shares.get)
""",
        """
def who_copies(handed_in, train):
    ratios = {}
    for name, x in handed_in.items():
        ratios[name] = copy_ratio(x, train).mean().item()
        x.zero_()
    return min(ratios, key=ratios.get)
""",
    ),
    (
        """
def fit_and_draw(x, y, n, generator):
    from sklearn.cluster import KMeans

    kind = 4 * y
    for k in range(10):
        means = KMeans(4, n_init=1, max_iter=10, random_state=0).fit(x[y == k][:1000].numpy())
        kind[y == k] += torch.tensor(means.predict(x[y == k].numpy())).long()
    _, kind = kind.unique(return_inverse=True)
    drawn, _ = GaussianClassifier(x, kind, ridge=1e-3).sample(n, generator)
    x.zero_()
    return drawn.clamp_(-1, 1)
""",
        """
def fit_and_draw(x, y, n, generator):
    return x[torch.randint(len(x), (n,), generator=generator)]
""",
    ),
]


def test_answers_that_work_in_place_are_marked_for_what_they_are():
    exercises = tools.exercises(tools.read(NOTEBOOKS / NAME))
    space = run_cells(NAME, ("setup", "export"))
    assert len(exercises) == len(ANSWERS)
    shown = samples_of_wrong_answers()
    assert len(shown) == len(ANSWERS)
    for number, (_, mark, solution) in enumerate(exercises):
        right, wrong = ANSWERS[number]
        for source, verdict in (
            (solution, ": correct"),
            (right, ": correct"),
            (wrong, ": not yet - "),
        ):
            run_cell(source, space, f"answer {number}")
            printed, _ = run_cell(mark.source, space, f"mark {number}")
            assert verdict in printed, (source, printed)
        assert without_numbers(shown[number]) == without_numbers(printed.strip())


def samples_of_wrong_answers():
    """What the page's folds say that a mark prints for a wrong answer, in the page's order."""
    texts = (cell.source for cell in tools.read(NOTEBOOKS / NAME).cells if cell.cell_type == "markdown")
    return re.findall(r"(?m)^`((?:Question|Exercise) \d: not yet - .*)`$", "\n".join(texts))


def without_numbers(text):
    """A mark's line without measured numbers, whose last digits differ between machines."""
    head, colon, rest = text.partition(": ")
    return head + colon + re.sub(r"-?(?:\d[\d.e+-]*|inf|nan)", "#", rest)


# ---------------------------------------------------------------- panels


def copier():
    """The photocopier's panel, with a training set of noise."""
    known = torch.rand(300, 784, generator=seeded(1)) * 2 - 1
    return panels.intro.photocopier(known, {"strangers": torch.rand(120, 784, generator=seeded(2))})


MAKERS = {
    "four_models": panels.intro.four_models,
    "one_feature": panels.intro.one_feature,
    "views": panels.intro.views,
    "coin": panels.intro.coin,
    "fit_by_hand": panels.intro.fit_by_hand,
    "photocopier": copier,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    panel = make()
    use_every_control(panel)


def test_a_move_is_answered_within_150_ms(make):
    panel = make()
    for key, control in panel.controls.items():
        assert answers_within(panel, 150, **{key: other_value(control)}), f"{panel.title}, {key}"


@pytest.mark.exhaustive
def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time_and_the_global_generator_is_left_alone(make):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert make()._storyboard == make()._storyboard
    assert torch.equal(torch.get_rng_state(), before)


def test_draw_takes_fresh_noise_and_the_storyboard_leaves_the_first_draw():
    panel = panels.intro.four_models()
    assert "Draw number 1." in panel.status.value
    shown = picture(panel)
    panel.buttons["Draw (0.3 s)"].click()
    assert "Draw number 2." in panel.status.value
    assert not np.array_equal(picture(panel), shown)


def test_fewer_steps_change_the_diffusion_model_only_and_temperature_the_text_only():
    panel = panels.intro.four_models()
    start = picture(panel)
    height, width = start.shape
    images = slice(0, int(0.72 * height))
    diffusion = slice(int(0.66 * width), width)
    panel.set(num_steps=2)
    changed = picture(panel) != start
    assert changed[images, diffusion].any()
    changed[images, diffusion] = False
    assert not changed.any()
    panel.set(num_steps=10, temperature=0.2)
    changed = picture(panel) != start
    assert changed.any() and not changed[images].any()


def test_the_views_measure_both_classifiers_on_points_that_neither_has_seen():
    panel = panels.intro.views()
    panel.set(n=200, turn=90)
    found = [
        float(word)
        for word in panel.status.value.replace("%", " ").split()
        if "." in word and word[0].isdigit()
    ]
    assert len(found) >= 2 and all(90 < share < 99.9 for share in found[:2])
    assert "Of 4,000 fresh points" in panel.status.value


@pytest.mark.parametrize("way", [panels.intro.FORWARD, panels.intro.REVERSE])
def test_show_me_the_best_finds_the_least_divergence(way):
    panel = panels.intro.fit_by_hand()
    panel.set(gap=3.0, way=way)
    panel.buttons["Show me the best"].click()
    mean, width, least = panels.intro.best_bell(3.0, way)
    assert (panel.values["mean"], panel.values["width"]) == pytest.approx((mean, width), abs=0.006)
    assert f"The best bell has {least:.3f}." in panel.status.value
    assert ("H(p)" in panel.status.value) == (way == panels.intro.FORWARD)


def test_data_of_one_hump_are_fitted_without_a_rest():
    panel = panels.intro.fit_by_hand()
    panel.set(gap=0.0)
    assert "The best bell has 0.000." in panel.status.value


def words_of(panel):
    """A panel's status line without its HTML."""
    return re.sub(r"<[^>]+>", "", panel.status.value)


@pytest.mark.parametrize(("ink", "share"), [(10.0, 0.4), (4.0, 0.06), (20.0, 0.9)])
def test_the_status_line_of_one_feature_is_bayes_rule(ink, share):
    panel = panels.intro.one_feature()
    panel.set(ink=ink, share=share, mean=11.0, width=2.5)
    one = (1 - share) * density(ink, 8, 2)
    seven = share * density(ink, 11, 2.5)
    assert words_of(panel).endswith(f"= {seven / (one + seven):.3f}.")
    assert f"= {one:.4f}." in words_of(panel) and f"= {seven:.4f}." in words_of(panel)


def test_the_coin_is_tossed_and_its_series_are_priced():
    panel = panels.intro.coin()
    panel.set(tosses=3, heads=80)
    text = words_of(panel)
    assert f"log p = {3 * math.log(0.8):.1f}, seen" in text
    seen = int(re.search(r"seen ([\d,]+) times", text)[1].replace(",", ""))
    assert abs(seen - 10_000 * 0.8**3) < 5 * math.sqrt(10_000 * 0.8**3 * (1 - 0.8**3))
    typical = 3 * (0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert text.endswith(f"(blue): log p = {typical:.1f}.")
    panel.set(tosses=1000)
    assert "seen 0 times" in words_of(panel)


def test_the_photocopier_copies_and_strangers_do_not():
    panel = copier()
    assert "Of 100 pictures, 100 have a ratio of at most 1/3." in words_of(panel)
    shown = picture(panel)
    panel.buttons["Draw others"].click()
    assert not np.array_equal(picture(panel), shown)
    assert "Of 100 pictures, 100 have" in words_of(panel)
    panel.set(who="strangers")
    assert "Of 100 pictures, 0 have a ratio" in words_of(panel)


def test_the_storyboard_of_the_photocopier_leaves_the_first_draw():
    panel = copier()
    shown = picture(panel)
    panel._draw_storyboard()
    panel.redraw()
    assert np.array_equal(picture(panel), shown)


# ---------------------------------------------------------------- pictures

CLOUD = torch.randn(200, 2, generator=seeded(4))
CLASSES = (CLOUD[:, 0] > 0).long()
W = torch.tensor([-1.0, 2.0])
SQUARES = torch.randn(30, 784, generator=seeded(8))
SHORT = torch.rand(5, 7, generator=seeded(5))
RATES = 0.1 + 0.3 * torch.rand(5, 7, 3, generator=seeded(6))
PICTURES = {
    "strip": panels.intro.strip,
    "series_map": panels.intro.series_map,
    "two_kinds": lambda: panels.intro.two_kinds(torch.zeros(1, 28, 28, dtype=torch.uint8)),
    "ink_histograms": lambda: panels.intro.ink_histograms(8 + CLOUD[:, 0], 12 + CLOUD[:, 1]),
    "likelihood_of_mean": lambda: panels.intro.likelihood_of_mean(8 + CLOUD[:5, 0]),
    "ink_posteriors": lambda: panels.intro.ink_posteriors(10 + CLOUD[:, 0], CLASSES, 1.0, -10.0),
    "signs": lambda: panels.intro.signs(CLOUD),
    "two_spots": lambda: panels.intro.two_spots(
        torch.zeros(2), torch.eye(2), {"A": torch.ones(2), "B": -torch.ones(2)}
    ),
    "round_to_cloud": lambda: panels.intro.round_to_cloud(CLOUD, 2 * CLOUD),
    "fitted_and_drawn": lambda: panels.intro.fitted_and_drawn(
        CLOUD, CLASSES, -CLOUD, 1 - CLASSES, torch.zeros(2)
    ),
    "frechet": lambda: panels.intro.frechet(CLOUD[:60], 0.5 * CLOUD[60:120]),
    "discs": lambda: panels.intro.discs(CLOUD[:60], 0.5 * CLOUD[60:120]),
    "picture_rows": lambda: panels.intro.picture_rows({"lower half of another": SQUARES, "one": SQUARES[:1]}),
    "picture_rows_named": lambda: panels.intro.picture_rows(
        {"lower half of another": SQUARES, "one": SQUARES[:1]},
        model=GaussianClassifier(SQUARES, torch.arange(30) % 10, ridge=1.0),
    ),
    "familiarity": lambda: panels.intro.familiarity(
        {"real digits": CLOUD[:, 0], "near": CLOUD[:, 1], "far": CLOUD[:, 0] - 5000, "a page": CLOUD[:1, 0]}
    ),
    "axes_of_cloud": lambda: panels.intro.axes_of_cloud(
        torch.eye(784), torch.zeros(784), {"drawn by the model": SQUARES, "the mean": torch.zeros(1, 784)}
    ),
    "missing_value": lambda: panels.intro.missing_value(CLOUD, CLASSES, W, 0.1, 0.0),
    "who_wins": lambda: panels.intro.who_wins(
        (10, 20, 40, 100, 300, 1000, 3000), {"true": RATES, "false": RATES}
    ),
    "widths_by_generation": lambda: panels.intro.widths_by_generation(
        {"replace": SHORT, "accumulate": SHORT, "accumulate, 50 used": SHORT}
    ),
    "integrand": lambda: panels.intro.integrand(panels.intro.humps(4.0), panels.intro.bell(1.0, 1.2)),
    "timeline": panels.intro.timeline,
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_nothing_in_a_picture_is_cropped_or_faint(draw):
    fig = draw()
    assert cropped_texts(fig) == []
    assert faint_texts(fig) == []


def test_the_map_shows_as_standing_what_stands():
    standing = {number for number, *_, stands in panels.intro.CHAPTERS if stands}
    there = {path.name.split("_")[0] for path in NOTEBOOKS.glob("[0-9][0-9]*.ipynb")}
    assert standing == there, f"CHAPTERS in aigc_helpers/panels/intro.py must show {there ^ standing}; then run 00"


def test_a_disc_reaches_to_the_third_neighbour_and_a_point_outside_all_is_a_cross():
    real = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # to the third: the diagonal
    drawn = torch.tensor([[0.5, 0.5], [0.0, -1.4], [3.0, 3.0]])
    fig = panels.intro.discs(real, drawn)
    assert [disc.radius for disc in fig.axes[0].patches] == pytest.approx([math.sqrt(2)] * 4)
    assert fig.axes[0].get_title() == "Precision: 2 of 3 drawn in a disc"


def test_the_class_under_a_picture_is_the_one_that_the_model_names():
    classes = torch.arange(30) % 10
    model = GaussianClassifier(SQUARES, classes, ridge=1e-3)  # three points a class: it knows them all
    fig = panels.intro.picture_rows({"seen": SQUARES, "one": SQUARES[4:5]}, ncols=12, model=model)
    words = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert words == [["seen", *(str(k.item()) for k in classes[:12])], ["one", "4"]]


def test_the_running_sum_over_the_axes_ends_at_the_squared_distance_of_eq_5():
    mix = torch.eye(784) + 0.01 * torch.randn(784, 784, generator=seeded(9))
    cov = (mix @ mix.T).double()
    points = torch.randn(20, 784, generator=seeded(10))
    fig = panels.intro.axes_of_cloud(cov, torch.zeros(784), {"some": points})
    curve = fig.axes[-1].lines[0].get_ydata()
    squared = (points.double() @ torch.linalg.inv(cov) * points.double()).sum(dim=1).mean()
    assert float(curve[-1]) == pytest.approx(squared.item(), rel=1e-6)
    assert (np.diff(curve) >= 0).all() and len(curve) == 784


def test_equal_points_stand_on_each_other_so_that_each_can_be_counted():
    fig = panels.intro.likelihood_of_mean(torch.tensor([7.0, 8.0, 8.0, 9.0, 11.0]))
    marks = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    places = {place for line in marks for place in zip(*line.get_data(), strict=True)}
    assert len(places) == 5


def test_the_gaussian_fit_is_flat_in_its_own_likelihood(points):
    """Maximum likelihood with unequal shares, by automatic differentiation of eq. (5) in PyTorch's own form."""
    x, y = points
    model = GaussianClassifier(x, y, ridge=0.0)
    mean = model.mean.clone().requires_grad_()
    cov = model.cov.clone().requires_grad_()
    share = model.share.log().requires_grad_()  # a softmax below keeps them a distribution
    density = torch.distributions.MultivariateNormal(mean, cov)
    log_p = share.log_softmax(dim=0) + density.log_prob(x[:, None])
    log_p[torch.arange(len(y)), y].mean().backward()
    for slope in (mean.grad, cov.grad, share.grad):
        assert slope.abs().max() < 1e-8


def test_the_rings_are_where_the_distance_of_eq_5_is_the_radius_squared():
    cov = torch.tensor([[9.0, 4.5], [4.5, 8.5]])
    ring = panels.intro._ring(torch.tensor([1.0, 2.0]), cov, 2.0).T - torch.tensor([1.0, 2.0])
    distance = (ring @ torch.linalg.inv(cov) * ring).sum(dim=1)
    torch.testing.assert_close(distance, torch.full((60,), 4.0), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "intro")

FAULTS = [
    page("a Gaussian without the half", "torch.exp(-0.5 * distance**2)", "torch.exp(-(distance**2))"),
    page("a Gaussian whose area is not 1", "1 / (width * math.sqrt(2 * math.pi))", "1 / (width * math.pi)"),
    page(
        "eq. (6): the sign of the offset",
        "b = (8.0**2 - 12.0**2)",
        "b = (12.0**2 - 8.0**2)",
    ),
    page(
        "eq. (5): the covariance in the place of its inverse",
        "squared = delta @ torch.linalg.inv(cov) @ delta",
        "squared = delta @ cov @ delta",
    ),
    page(
        "eq. (5): the determinant without its root",
        "area = torch.sqrt((2 * math.pi) ** d * torch.linalg.det(cov))",
        "area = (2 * math.pi) ** d * torch.linalg.det(cov)",
    ),
    page("the mixing forgotten", "x2 = 15 + 1.5 * eps[:, 0] + 2.5", "x2 = 15 + 2.5"),
    page(
        "Bayes' rule without the prior",
        "return self.share.log() + self.density",
        "return self.density",
    ),
    page("covariance divided by one less", "return centred.T @ centred / len(x)",
         "return centred.T @ centred / (len(x) - 1)"),
    page("covariance around zero", "centred = x - x.mean(dim=0)\n    return centred.T @ centred / len(x)",
         "centred = x\n    return centred.T @ centred / len(x)"),
    page(
        "means divided by all points", "[group.mean(dim=0) for group in groups]",
        "[group.sum(dim=0) / len(x) for group in groups]",
    ),
    page(
        "the evidence without the sum over classes",
        "return self.log_joint(x).logsumexp(dim=1)",
        "return self.log_joint(x)[:, 0]",
        "test_evidence_and_posterior_make_up_the_joint",
    ),
    page("logistic loss: sign", "F.softplus(-s * a)", "F.softplus(s * a)"),
    page(
        "logistic loss: the offset forgotten",
        "a = x @ w + b\n    return F.softplus",
        "a = x @ w\n    return F.softplus",
    ),
    page("weight decay without the half", "+ 0.5 * decay * w", "+ decay * w"),
    page(
        "the square root of a covariance on the wrong side",
        "x[y == k] @ factor.T",
        "x[y == k] @ factor",
    ),
    page(
        "a sampler that ignores the shares",
        "torch.multinomial(self.share, n",
        "torch.multinomial(torch.ones_like(self.share), n",
    ),
    page(
        "one covariance pooled without the shares",
        "(share[:, None, None] * cov).sum(dim=0)",
        "(0 * share[:, None, None] + cov).mean(dim=0)",
        "test_the_posterior_is_that_of_scikit_learn",
    ),
    page("naive Bayes that is not naive", "    if diagonal:\n", "    if not diagonal:\n"),
    page(
        "a missing value: a variance taken for a width",
        "width_1 = model.cov[:, 0, 0].sqrt()",
        "width_1 = model.cov[:, 0, 0] ** 2",
    ),
    page("log p of typical tosses without the tails", "600 * math.log(0.6) + 400 * math.log(0.4)",
         "600 * math.log(0.6)"),
    page("eq. (7): a gradient of twice the size", "slope = (error[:, None] * x_toy).mean(dim=0)",
         "slope = 2 * (error[:, None] * x_toy).mean(dim=0)"),
    page("about 600 heads: one end forgotten", "range(540, 661)", "range(600, 661)"),
    page("a naive model with a width for each class, where the page says shared",
         "naive = GaussianClassifier(x, y, shared=True, diagonal=True, ridge=0.0)",
         "naive = GaussianClassifier(x, y, diagonal=True, ridge=0.0)"),
    page("x_2 predicted with a line that falls", "predicted = usual + table", "predicted = usual - table"),
    panel("an axis that cuts a broad Gaussian", "torch.linspace(-12, 12, 1201)", "torch.linspace(-6, 6, 1201)",
          "test_bells_have_the_divergence_of_gaussians_either_way"),
    page("exercise 2 satisfied without the pretended tosses", "answer(3.0, 4.0, 2.0), 0.625)",
         "answer(3.0, 4.0, 2.0), 0.75)", "exercises"),
    page("log-odds that count the best class among the rest", "a.scatter(1, best, -math.inf).logsumexp",
         "a.logsumexp"),
    page("exercise 3 that asks for no crossing out", "keep = [j for j in range(3) if j != missing]",
         "keep = [j for j in range(3) if j == missing]", "exercises"),
    panel("exercise 7 whose copier has the smallest mean ratio", "_close_ones(train, new[labels == 1]), _copies",
          "_copies(train, new, 12, 0.0), _copies",
         "test_answers_that_work_in_place_are_marked_for_what_they_are"),
    page("entropy: sign", "return -torch.special.xlogy(p, p)", "return torch.special.xlogy(p, p)"),
    page(
        "KL the other way round",
        "(torch.special.xlogy(p, p) - torch.special.xlogy(p, q))",
        "(torch.special.xlogy(q, q) - torch.special.xlogy(q, p))",
    ),
    panel(
        "the best bell by the other divergence",
        "return intro.kl(p, q) if way == FORWARD else intro.kl(q, p)",
        "return intro.kl(q, p) if way == FORWARD else intro.kl(p, q)",
        "test_bells_have_the_divergence_of_gaussians_either_way",
    ),
    panel(
        "a bell at the least of the coarse grid",
        "means = mean + torch.linspace(-0.25, 0.25, 11)",
        "means = mean + torch.linspace(0.25, 0.5, 11)",
        "test_no_bell_of_a_finer_grid_is_better_than_the_best_by_more_than_a_hair",
    ),
    panel(
        "a lower half of one's own class",
        "chance[classes[:, None] == classes] = -1.0",
        "chance[classes[:, None] == classes] = 2.0",
        "test_odd_pictures_are_what_their_names_say",
    ),
    panel(
        "the squared distance divided by widths, not variances",
        "total = (along.square() / variance)",
        "total = (along.square() / variance.sqrt())",
        "test_the_running_sum_over_the_axes_ends_at_the_squared_distance_of_eq_5",
    ),
    page(
        "eq. (10) turned over",
        "torch.where(d2 > 0, d1 / d2, 0.0)",
        "torch.where(d1 > 0, d2 / d1, 0.0)",
    ),
    page("an AUROC that forgets ties", "(above + 0.5 * ties)", "above"),
    page("a photocopier's density summed, not averaged", "log_height + log_sum - math.log(len(known))",
         "log_height + log_sum"),
    page("the posterior that does not sum to 1, in ten lines", "return joint / joint.sum()  # eq. (3)", "return joint"),
    page("copies counted from the wrong end", "(ratio <= limit)", "(ratio >= limit)", "exercises"),
    page(
        "accumulating and replacing changed over",
        'if kind.startswith("replace"):',
        'if kind.startswith("accumulate"):',
    ),
    page(
        "a point of a class that is none is let through",
        "y.is_floating_point() or y.min() < 0",
        "y.is_floating_point()",
        "test_points_that_are_none_are_refused_in_a_sentence",
    ),
    panel(
        "label 0 taken for no label",
        "if label is None:",
        "if not label:",
        "test_the_label_0_is_a_label_and_not_no_label",
    ),
    page(
        "exercise 8 satisfied with copies",
        'check_below("share of copies", copied(copy_ratio(drawn[:100], x_digits)), 0.05)',
        'check_below("share of copies", 0.0, 0.05)',
        "test_answers_that_work_in_place_are_marked_for_what_they_are",
    ),
    panel(
        "one feature: the share forgotten",
        "joint_seven = share * height_seven",
        "joint_seven = height_seven",
        "test_the_status_line_of_one_feature_is_bayes_rule",
    ),
    panel(
        "the coin: a fair one whatever is asked",
        "torch.binomial(num_tosses, torch.full((NUM_TRIES,), p)",
        "torch.binomial(num_tosses, torch.full((NUM_TRIES,), 0.5)",
        "test_the_coin_is_tossed_and_its_series_are_priced",
    ),
    panel(
        "the photocopier's picture copied from elsewhere",
        "drawn = (known[chosen] + noise * grain)",
        "drawn = (known[chosen].flip(1) + noise * grain)",
        "test_the_photocopier_copies_and_strangers_do_not",
    ),
    panel(
        "rings by the variance",
        "radius * torch.linalg.cholesky(cov) @ circle",
        "radius * cov @ circle",
        "test_the_rings_are_where_the_distance_of_eq_5_is_the_radius_squared",
    ),
    panel(
        "Draw draws the same",
        'state["seed"] += 1',
        'state["seed"] += 0',
        "test_draw_takes_fresh_noise_and_the_storyboard_leaves_the_first_draw",
    ),
    panel(
        "the storyboard's last draw stays",
        'state["seed"] = 0',
        'state["seed"] = 1',
        "test_draw_takes_fresh_noise_and_the_storyboard_leaves_the_first_draw",
    ),
    panel(
        "the views judge by points from elsewhere",
        "two_clouds(NUM_FRESH, right, up, turn, 0, seed=99)",
        "two_clouds(NUM_FRESH, -right, up, turn, 0, seed=99)",
        "test_the_views_measure_both_classifiers_on_points_that_neither_has_seen",
    ),
    panel(
        "the best bell of the other divergence",
        'remembered(panel.values["gap"], panel.values["way"])',
        'remembered(panel.values["gap"], FORWARD)',
        "test_show_me_the_best_finds_the_least_divergence",
    ),
]
