"""Training the feature network of the metrics: `python -m tools assets digit_features`."""

import pytest
import torch

from aigc_helpers import data
from aigc_helpers.metrics import DigitFeatures
from tools import assets


@pytest.fixture(scope="module")
def embedded():
    return data.load_embedded_digits("train"), data.load_embedded_digits("test")


@torch.no_grad()
def accuracy(net, digits):
    labels = net(digits.images).argmax(dim=1)
    return (labels == digits.labels).sum().item() / len(digits)


@pytest.fixture
def few_digits(monkeypatch, embedded):
    """Training sees 128 digits from each source, and 50 to test on."""
    train, test = embedded
    parts = {"train": train.subset(128), "test": test.subset(50)}
    monkeypatch.setattr(assets, "load_digits", parts.get)
    monkeypatch.setattr(assets, "load_embedded_digits", lambda split: train.subset(128, seed=1))
    monkeypatch.setenv("AIGC_PROGRESS", "0")
    return torch.cat([parts["train"].images, train.subset(128, seed=1).images]), parts["test"]


def test_training_the_features(few_digits):
    seen, test = few_digits
    net, reported = assets.train_features(num_epochs=2)
    assert reported == pytest.approx(accuracy(net, test)) and not net.training
    with torch.no_grad():
        assert net.features(seen[::20]).var(dim=0).mean().item() == pytest.approx(1, rel=1e-3)
    torch.manual_seed(0)
    assert not torch.equal(net.body[0].weight, DigitFeatures().body[0].weight)


@torch.no_grad()
def test_scaling_the_features_keeps_the_logits(embedded):
    torch.manual_seed(0)
    net, images = DigitFeatures(), embedded[0].images[:100]
    before, features = net(images), net.features(images)
    assets.scale_features(net, images)
    assert net.features(images).var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)
    assert features.var(dim=0).mean().item() < 0.5, "or the scaling had nothing to do"
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-5)


def test_augmentation_moves_the_ink_and_leaves_the_paper_black(embedded):
    torch.manual_seed(0)
    x = data.to_signed(embedded[0].images[:64])
    moved = assets.augment(x)
    assert moved.shape == x.shape and moved.min() >= -1 - 1e-5 and moved.max() <= 1 + 1e-5
    assert not torch.allclose(moved, x, atol=0.1)
    torch.testing.assert_close((moved + 1).sum(), (x + 1).sum(), rtol=0.1, atol=0)
    black = torch.full((4, 1, 28, 28), -1.0)
    torch.testing.assert_close(assets.augment(black), black)
