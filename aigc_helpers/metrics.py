"""How good are generated samples? Numbers, each beside the same number for real data (its floor).

The features come from a small digit classifier that this project trained itself
(`assets/digit_features.safetensors`); make it again with `python -m aigc_helpers.metrics`.

A score without its floor says little: two halves of the *real* data do not have distance zero
either, because both are finite samples. So everything here returns a `Score(value, floor)`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.pretrained import read_asset, write_asset

FEATURES_FILE = "digit_features.safetensors"
NUM_FEATURES = 64


class Score(NamedTuple):
    """A measured `value` beside the `floor`: what real data score against other real data."""

    value: float
    floor: float


class DigitFeatures(nn.Module):
    """A small convolutional classifier whose 64 penultimate numbers serve as features.

    Input: images (N, 1, 28, 28), float in [-1, 1] or uint8 0..255. `forward` gives logits (N, 10).
    """

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),               # (N, 32, 28, 28)
            nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(),    # (N, 48, 14, 14)
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.ReLU(),    # (N, 64, 7, 7)
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),    # (N, 64, 4, 4)
            nn.Flatten(), nn.Linear(64 * 16, NUM_FEATURES),
        )  # fmt: skip
        self.head = nn.Linear(NUM_FEATURES, 10)

    def features(self, x):
        """Features (N, 64) of images (N, 1, 28, 28)."""
        if x.dtype == torch.uint8:
            x = x.float() / 127.5 - 1
        return self.body(x.reshape(-1, 1, 28, 28))

    def forward(self, x):
        return self.head(F.relu(self.features(x)))


def load_features() -> DigitFeatures:
    """The trained feature network. Raises ValueError when its file is not the one that the manifest names."""
    net = DigitFeatures()
    net.load_state_dict(read_asset(FEATURES_FILE)[0])
    return net.eval().requires_grad_(False)


# ---------------------------------------------------------------- distances between two clouds of features


def frechet_distance(real, fake) -> float:
    """Frechet distance between Gaussians fitted to features (N, d) and (M, d); Heusel 2017, arXiv 1706.08500.

    Computed by torchmetrics. With Inception features this is the FID; with ours it is a FID
    on digit features, so compare it only with numbers made by the same features and N.
    Raises ValueError for NaN or Inf: their distance would come out as 0, the best there is.
    """
    for points in (real, fake):
        if not (torch.is_tensor(points) and points.ndim == 2 and torch.isfinite(points).all()):
            raise ValueError("frechet_distance needs tensors (N, d) without NaN or Inf: has the generator diverged?")
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return max(0.0, metric.compute().item())


def _knn_radius(x, k):
    """Distance from each point of x (N, d) to its k-th nearest other point: (N,)."""
    if not isinstance(k, int) or not 0 <= k < len(x):
        raise ValueError(f"k must be a whole number from 0 to {len(x) - 1}, one less than there are points, got {k!r}")
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values


def precision_recall(real, fake, k=3) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one.

    Kynkaanniemi 2019, arXiv 1904.06991: a manifold is the union of balls that reach to the k-th neighbour.
    """
    distance = torch.cdist(real, fake)
    precision = (distance <= _knn_radius(real, k)[:, None]).any(dim=0).float().mean()
    recall = (distance <= _knn_radius(fake, k)[None, :]).any(dim=1).float().mean()
    return precision.item(), recall.item()


def coverage(real, fake, k=5) -> float:
    """Share of real points whose k-th-neighbour ball holds at least one fake; Naeem 2020, arXiv 2002.09797."""
    return (torch.cdist(real, fake) <= _knn_radius(real, k)[:, None]).any(dim=1).float().mean().item()


def class_entropy(counts) -> float:
    """Entropy of a histogram, as a share of its maximum: 1 = all classes equal, 0 = a single class.

    Raises ValueError for what is no histogram of two classes or more.
    """
    try:
        p = torch.as_tensor(counts, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        p = torch.empty(0)
    if p.ndim != 1 or len(p) < 2 or not (p >= 0).all() or not 0 < p.sum() < math.inf:  # NaN fails this too
        raise ValueError(f"class_entropy: needs two counts or more, none negative, some above 0, got {counts!r}")
    p = p / p.sum()
    return abs((p * p.clamp_min(1e-300).log()).sum().item()) / math.log(len(p))


# ---------------------------------------------------------------- the judge of digits


@dataclasses.dataclass(frozen=True)
class DigitScores:
    """What `DigitJudge.score` returns; `classes` is the histogram (10,) of predicted labels."""

    fid: Score
    precision: Score
    recall: Score
    coverage: Score
    entropy: Score
    classes: torch.Tensor

    def row(self) -> dict[str, Score]:
        """The scores by name, for a table or a bar chart."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "classes"]
        return {("FID" if name == "fid" else name): getattr(self, name) for name in names}


class DigitJudge:
    """Scores images against `reference`, with the score of the real `held_out` images as the floor.

    reference, held_out: real images (N, 1, 28, 28), uint8 or float in [-1, 1]; disjoint sets.
    Both are cut to the same number, at most `n`: these scores depend on the sample size.
    """

    def __init__(self, reference, held_out, n=2000):
        n = min(n, len(reference), len(held_out))
        if n < 2 * NUM_FEATURES:
            raise ValueError(f"DigitJudge needs at least {2 * NUM_FEATURES} images in each set, got {n}")
        self.n = n
        self.net = load_features()
        self.real, _ = self._see(reference[:n])
        self._floor = self._measure(held_out[:n])

    @torch.no_grad()
    def _see(self, images):
        features = torch.cat([self.net.features(x) for x in images.split(500)])
        return features, self.net.head(F.relu(features)).argmax(dim=1)

    def _measure(self, images):
        features, labels = self._see(images)
        precision, recall = precision_recall(self.real, features)
        classes = labels.bincount(minlength=10)
        return {
            "fid": frechet_distance(self.real, features),
            "precision": precision,
            "recall": recall,
            "coverage": coverage(self.real, features),
            "entropy": class_entropy(classes),
        }, classes

    def score(self, images) -> DigitScores:
        """DigitScores of generated images (M, 1, 28, 28) or (M, 784), M >= self.n, float in [-1, 1] or uint8."""
        if len(images) < self.n:
            raise ValueError(f"DigitJudge.score needs {self.n} images (as many as its reference), got {len(images)}")
        images = images[: self.n].detach().cpu()
        if not torch.isfinite(images.float()).all():
            raise ValueError("DigitJudge.score got images with NaN or Inf in them: has the generator diverged?")
        measured, classes = self._measure(images)
        floor = self._floor[0]
        return DigitScores(**{k: Score(v, floor[k]) for k, v in measured.items()}, classes=classes)


# ---------------------------------------------------------------- modes of 2-D toys


class ModeCount(NamedTuple):
    """Modes hit, of how many, and the share of samples that lie near a mode; each with its real-data floor."""

    covered: Score
    total: int
    quality: Score


def mode_count(samples, centres, sigma, floor_samples, radius=3.0) -> ModeCount:
    """Count the modes of a Gaussian mixture that `samples` reach; after Srivastava 2017 (VEEGAN), arXiv 1705.07761.

    samples (N, 2), centres (K, 2). A sample counts for its nearest mode when it lies within `radius * sigma`;
    a mode is covered when at least a tenth of its fair share N/K of the samples count for it.
    Raises ValueError unless sigma and radius are positive.
    """
    for name, size in (("sigma", sigma), ("radius", radius)):
        if not isinstance(size, int | float) or not 0 < size < math.inf:
            raise ValueError(f"mode_count: {name} must be a positive number, got {size!r}")

    def measure(x):
        distance, nearest = torch.cdist(x.float(), centres).min(dim=1)
        good = distance <= radius * sigma
        hits = nearest[good].bincount(minlength=len(centres))
        return (hits >= 0.1 * len(x) / len(centres)).sum().item(), good.float().mean().item()

    covered, quality = measure(samples)
    floor_covered, floor_quality = measure(floor_samples)
    return ModeCount(Score(covered, floor_covered), len(centres), Score(quality, floor_quality))


def energy_distance(x, y) -> float:
    """Energy distance between two samples (N, d), (M, d): 2 E|x-y| - E|x-x'| - E|y-y'|; Szekely & Rizzo 2013.

    Zero in expectation only if the distributions are equal. Samples as drawn; no parameter to choose.
    """
    between, within_x, within_y = torch.cdist(x, y).mean(), torch.cdist(x, x), torch.cdist(y, y)
    unbiased = [d.sum() / (len(d) * (len(d) - 1)) for d in (within_x, within_y)]
    return (2 * between - unbiased[0] - unbiased[1]).item()


# ---------------------------------------------------------------- making the feature network


def train_features(num_epochs=6, seed=0) -> tuple[DigitFeatures, float]:
    """Train the feature network on MNIST and the embedded digits; returns it and its MNIST test accuracy.

    Small shifts, scalings, rotations and blurs are applied, so that a fake is judged by its shape and
    not by a pixel of displacement.
    """
    from aigc_helpers.data import load_digits, load_embedded_digits
    from aigc_helpers.training import seed_everything, steps

    seed_everything(seed)
    mnist, embedded = load_digits("train"), load_embedded_digits("train")
    images, labels = torch.cat([mnist.images, embedded.images]), torch.cat([mnist.labels, embedded.labels])
    net, batch = DigitFeatures(), 128
    num_steps = num_epochs * len(images) // batch
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, total_steps=num_steps)
    for _, (x, y) in steps((images, labels), num_steps, batch, seed=seed):
        loss = F.cross_entropy(net(_augment(x.float() / 127.5 - 1)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    test = load_digits("test")
    with torch.no_grad():
        predicted = torch.cat([net(x).argmax(dim=1) for x in test.images.split(1000)])
    _scale_features(net, images[::20])
    return net.eval(), (predicted == test.labels).float().mean().item()


@torch.no_grad()
def _scale_features(net, images):
    """Give the features a mean variance of 1, so that distances have a natural unit; the logits stay as they are."""
    last, scale = net.body[-1], torch.cat([net.features(x) for x in images.split(500)]).var(dim=0).mean().sqrt()
    last.weight /= scale
    last.bias /= scale
    net.head.weight *= scale  # a ReLU passes a positive factor through


def _augment(x):
    """Random affine maps (up to 10 degrees, 10 %, 2 pixels) of images (N, 1, 28, 28) in [-1, 1]."""
    n = len(x)
    angle, scale = (torch.rand(n) - 0.5) * 0.35, 1 + (torch.rand(n) - 0.5) * 0.2
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * scale
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * scale, angle.sin() * scale
    theta[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.28
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def main():
    """Train the feature network and write it to `assets/`, in half precision, with its digest."""
    net, accuracy = train_features()
    weights = {name: tensor.half() for name, tensor in net.state_dict().items()}
    size = write_asset(FEATURES_FILE, weights, "python -m aigc_helpers.metrics")
    print(f"{FEATURES_FILE}: {size / 1e3:.0f} KB, MNIST test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
