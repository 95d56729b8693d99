"""The exported code of 00_intro, against closed forms, other implementations and limits."""

import math

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

from aigc_helpers.models.intro import GaussianClassifier, entropy, fit_logistic, kl, logistic_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
    torch.testing.assert_close(ours, torch.tensor(theirs.fit(x.numpy(), y.numpy()).predict_proba(x.numpy())), rtol=1e-6, atol=1e-9)


def test_full_covariances_give_the_quadratic_discriminant(points):
    x, y = points
    theirs = QuadraticDiscriminantAnalysis().fit(x.numpy(), y.numpy())
    ours = GaussianClassifier(x, y, ridge=0.0).posterior(x).argmax(dim=1)
    assert (ours == torch.tensor(theirs.predict(x.numpy()))).float().mean() > 0.98  # they divide by one less


def test_evidence_and_posterior_make_up_the_joint(points):
    x, y = points
    model = GaussianClassifier(x, y)
    torch.testing.assert_close(model.log_evidence(x)[:, None] + model.posterior(x).log(), model.log_joint(x))
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
    assert torch.isfinite(w).all() and torch.isfinite(b) and (x[:, 0] * w + b > 0).tolist() == [False, False, True, True]


def test_entropy_and_divergence_at_their_limits():
    even, sure = torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert entropy(even).item() == pytest.approx(math.log(4)) and entropy(sure) == 0
    assert kl(sure, even).item() == pytest.approx(math.log(4)) and kl(even, sure) == math.inf and kl(sure, sure) == 0
    assert kl(torch.stack([even, sure]), even).shape == (2,)


def test_a_class_without_points_is_one_message(points):
    x, y = points
    with pytest.raises(ValueError, match="GaussianClassifier: no point of class 1"):
        GaussianClassifier(x, torch.where(y == 1, 2, y))
