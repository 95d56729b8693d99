"""How good are generated samples? Numbers, each beside the same number for real data (its floor).

The features come from a small digit classifier that this project trained itself
(`assets/digit_features.safetensors`); make it again with `python -m tools assets digit_features`.

A score without its floor says little: two halves of the *real* data do not have distance zero
either, because both are finite samples. So what is compared stands in a `Score(value, floor)`.

Digits are scored in one way everywhere: `DigitJudge.standard().score(images)`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_whole
from aigc_helpers.data import Digits, as_signed, load_digits
from aigc_helpers.weights import read_asset

FEATURES_FILE = "digit_features.safetensors"
NUM_FEATURES = 64


class Score(NamedTuple):
    """A measured `value` beside the `floor`: what real data score against other real data."""

    value: float
    floor: float


class DigitFeatures(nn.Module):
    """A small convolutional classifier whose 64 penultimate numbers serve as features.

    Input: images (N, 1, 28, 28) or (N, 784), of any type that `data.as_signed` reads: uint8 0..255,
    bool, or floats in [-1, 1]. `forward` gives logits (N, 10). Raises ValueError for other images.
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
        """Features (N, 64) of images (N, 1, 28, 28) or (N, 784)."""
        x = as_signed(x, "DigitFeatures")
        if x.ndim < 2 or (x.shape[-1] != 784 and x.shape[-2:] != (28, 28)):
            shape = tuple(x.shape)
            raise ValueError(f"DigitFeatures: needs images (N, 1, 28, 28) or (N, 784), got {shape}")
        return self.body(x.reshape(-1, 1, 28, 28))

    def forward(self, x):
        return self.head(F.relu(self.features(x)))


def load_features() -> DigitFeatures:
    """The trained feature network.

    Raises ValueError when its file is not the one that the manifest names.
    """
    net = DigitFeatures()
    net.load_state_dict(read_asset(FEATURES_FILE)[0])
    return net.eval().requires_grad_(False)


# ---------------------------------------------------------------- distances between two clouds of points


def _as_points(caller, name, x, least=1, why=""):
    """Points (N, d) as float64 on the CPU, N at least `least`. Raises ValueError.

    In 64 bits, because a distance between near points is a small difference of large numbers.
    """
    if not torch.is_tensor(x) or x.ndim != 2 or not x.shape[1] or x.is_complex():
        got = f"one of shape {tuple(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise ValueError(f"{caller}: {name} must be a tensor of points (N, d), got {got}")
    if len(x) < least:
        points = "1 point" if len(x) == 1 else f"{len(x)} points"
        raise ValueError(f"{caller}: {name} has {points}, and needs at least {least}{why}")
    x = x.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise ValueError(f"{caller}: {name} has NaN or Inf in it: has the generator diverged?")
    return x


def _require_one_space(caller, **clouds):
    widths = {name: points.shape[1] for name, points in clouds.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"{caller}: points must have the same number of coordinates, got {told}")


def frechet_distance(real, fake) -> float:
    """Frechet distance between Gaussians fitted to features (N, d) and (M, d), N and M at least 2.

    Heusel 2017, arXiv:1706.08500; computed by torchmetrics. With Inception features this is the FID;
    with ours it is a FID on digit features, so compare it only with numbers made by the same features
    and the same N. Raises ValueError for no points, one point, NaN or Inf.
    """
    real = _as_points("frechet_distance", "real", real, least=2)
    fake = _as_points("frechet_distance", "fake", fake, least=2)
    _require_one_space("frechet_distance", real=real, fake=fake)
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return max(0.0, metric.compute().item())


def _knn_radius(x, k):
    """Distance from each point of x (N, d) to its k-th nearest other point: (N,)."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values


def precision_recall(real, fake, k=3) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one.

    real (N, d), fake (M, d). Kynkaanniemi 2019, arXiv:1904.06991: a manifold is the union of balls
    that reach to the k-th neighbour. Raises ValueError unless each has more than k points.
    """
    k = require_whole("precision_recall", "k", k, least=0)
    why = f" for k = {k}"
    real = _as_points("precision_recall", "real", real, k + 1, why)
    fake = _as_points("precision_recall", "fake", fake, k + 1, why)
    _require_one_space("precision_recall", real=real, fake=fake)
    distance = torch.cdist(real, fake)
    precision = (distance <= _knn_radius(real, k)[:, None]).any(dim=0).float().mean()
    recall = (distance <= _knn_radius(fake, k)[None, :]).any(dim=1).float().mean()
    return precision.item(), recall.item()


def coverage(real, fake, k=5) -> float:
    """Share of real points whose k-th-neighbour ball holds at least one fake.

    real (N, d), N above k; fake (M, d), M at least 1. Naeem 2020, arXiv:2002.09797.
    Raises ValueError for fewer points.
    """
    k = require_whole("coverage", "k", k, least=0)
    real = _as_points("coverage", "real", real, k + 1, f" for k = {k}")
    fake = _as_points("coverage", "fake", fake)
    _require_one_space("coverage", real=real, fake=fake)
    near = torch.cdist(real, fake) <= _knn_radius(real, k)[:, None]
    return near.any(dim=1).float().mean().item()


def class_entropy(counts) -> float:
    """Entropy of a histogram, as a share of its maximum: 1 = all classes equal, 0 = a single class.

    Raises ValueError for what is no histogram of two classes or more.
    """
    try:
        p = torch.as_tensor(counts, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        p = torch.empty(0)
    if p.ndim != 1 or len(p) < 2 or not (p >= 0).all() or not 0 < p.sum() < math.inf:  # NaN fails this too
        need = "needs two counts or more, none negative, some above 0"
        raise ValueError(f"class_entropy: {need}, got {counts!r}")
    p = p / p.sum()
    return abs((p * p.clamp_min(1e-300).log()).sum().item()) / math.log(len(p))


# ---------------------------------------------------------------- the judge of digits


@dataclasses.dataclass(frozen=True)
class DigitScores:
    """What `DigitJudge.score` returns.

    classes: the histogram (10,) of predicted labels. n: how many images each number rests on, the
    measured ones, the reference and the floor alike.
    """

    fid: Score
    precision: Score
    recall: Score
    coverage: Score
    entropy: Score
    classes: torch.Tensor
    n: int

    def row(self) -> dict[str, Score]:
        """The scores by name, for a table or a bar chart."""
        return {
            "FID": self.fid,
            "precision": self.precision,
            "recall": self.recall,
            "coverage": self.coverage,
            "entropy": self.entropy,
        }


class DigitJudge:
    """Scores images against `reference`, with the score of the real `held_out` images as the floor.

    reference, held_out: real images (N, 1, 28, 28), uint8 0..255 or floats in [-1, 1]; disjoint sets.
    n:    of each set so many are drawn at random, at most all of the smaller one: these scores depend
          on the sample size, and on which classes come first. At least 128.
    seed: of the draws.

    Raises ValueError for too few images, and for images that `data.as_signed` does not read.
    """

    def __init__(self, reference, held_out, n=2000, seed=0):
        n = require_whole("DigitJudge", "n", n, least=1)
        self.seed = require_whole("DigitJudge", "seed", seed, least=0, most=2**63 - 1)
        sizes = [_count_images("DigitJudge", images) for images in (reference, held_out)]
        self.n = min(n, *sizes)
        least = 2 * NUM_FEATURES
        if self.n < least:
            raise ValueError(f"DigitJudge needs at least {least} images in each set, got {self.n}")
        self.net = load_features()
        self.real, _ = self._see(self._draw("DigitJudge", reference))
        self._floor, _ = self._measure(self._draw("DigitJudge", held_out))

    @classmethod
    def standard(cls, n=2000, test=None, seed=0) -> DigitJudge:
        """The judge of every chapter: real digits that no model has been trained on.

        The test split is cut at random into two disjoint halves; n digits of one are the reference,
        n of the other set the floor. Where a half has fewer (the embedded digits have 250), all of it
        is used: `judge.n` and `DigitScores.n` say how many. test: the `Digits` to use; loaded if None.
        """
        n = require_whole("DigitJudge.standard", "n", n, least=1)
        test = load_digits("test", verbose=False) if test is None else test
        if not isinstance(test, Digits):
            got = type(test).__name__
            raise ValueError(f"DigitJudge.standard: test must be Digits, or None, got {got}")
        half = len(test) // 2
        shuffled = test.subset(2 * half, seed).images if half else test.images
        return cls(shuffled[:half], shuffled[half:], n, seed)

    def _draw(self, caller, images):
        """self.n of the images, at random, as floats in [-1, 1]."""
        if len(images) > self.n:
            generator = torch.Generator().manual_seed(self.seed)
            images = images[torch.randperm(len(images), generator=generator)[: self.n]]
        x = as_signed(images, caller).detach().cpu()
        if (x == x.flatten()[0]).all():
            grey = f"every pixel of every image is {x.flatten()[0]:.3g}"
            raise ValueError(f"{caller}: {grey}: has the generator collapsed?")
        return x

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
        """DigitScores of generated images (M, 1, 28, 28) or (M, 784), M at least self.n.

        uint8 0..255, bool, or floats in [-1, 1] of any precision; of more than self.n, so many are
        drawn at random. Raises ValueError for fewer, NaN, another range, or one grey everywhere.
        """
        count = _count_images("DigitJudge.score", images)
        if count < self.n:
            need = f"{self.n} images (as many as its reference)"
            raise ValueError(f"DigitJudge.score needs {need}, got {count}")
        measured, classes = self._measure(self._draw("DigitJudge.score", images))
        scores = {name: Score(value, self._floor[name]) for name, value in measured.items()}
        return DigitScores(**scores, classes=classes, n=self.n)


def _count_images(caller, images) -> int:
    if not isinstance(images, torch.Tensor | np.ndarray) or images.ndim < 2:
        shape = f" of shape {tuple(images.shape)}" if hasattr(images, "shape") else ""
        need = "needs a tensor of images (N, 1, 28, 28)"
        raise ValueError(f"{caller}: {need}, got {type(images).__name__}{shape}")
    return len(images)


# ---------------------------------------------------------------- modes of 2-D toys


class ModeCount(NamedTuple):
    """Modes hit, of how many, and the share of samples that lie near a mode; each with its real-data floor."""

    covered: Score
    total: int
    quality: Score


def mode_count(samples, centres, sigma, floor_samples, radius=3.0) -> ModeCount:
    """Count the modes of a Gaussian mixture that `samples` reach.

    samples and floor_samples (N, 2), at least one each; centres (K, 2). A sample counts for its
    nearest mode when it lies within `radius * sigma`; a mode is covered when at least a tenth of its
    fair share N/K of the samples count for it. After Srivastava 2017 (VEEGAN), arXiv:1705.07761.
    Raises ValueError for no samples, and unless sigma and radius are positive.
    """
    for name, size in (("sigma", sigma), ("radius", radius)):
        if not isinstance(size, int | float) or not 0 < size < math.inf:
            raise ValueError(f"mode_count: {name} must be a positive number, got {size!r}")
    samples = _as_points("mode_count", "samples", samples)
    floor_samples = _as_points("mode_count", "floor_samples", floor_samples)
    centres = _as_points("mode_count", "centres", centres)
    clouds = {"samples": samples, "floor_samples": floor_samples, "centres": centres}
    _require_one_space("mode_count", **clouds)

    def measure(x):
        distance, nearest = torch.cdist(x, centres).min(dim=1)
        good = distance <= radius * sigma
        hits = nearest[good].bincount(minlength=len(centres))
        covered = (hits >= 0.1 * len(x) / len(centres)).sum().item()
        return covered, good.float().mean().item()

    covered, quality = measure(samples)
    floor_covered, floor_quality = measure(floor_samples)
    return ModeCount(Score(covered, floor_covered), len(centres), Score(quality, floor_quality))


def energy_distance(x, y) -> float:
    """Energy distance between two samples (N, d), (M, d), N and M at least 2.

    2 E|x-y| - E|x-x'| - E|y-y'|; Szekely & Rizzo 2013. Zero in expectation only if the distributions
    are equal. Samples as drawn; no parameter to choose. Raises ValueError for fewer points.
    """
    x = _as_points("energy_distance", "x", x, least=2)
    y = _as_points("energy_distance", "y", y, least=2)
    _require_one_space("energy_distance", x=x, y=y)
    between = torch.cdist(x, y).mean()
    within_x = torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
    within_y = torch.cdist(y, y).sum() / (len(y) * (len(y) - 1))
    return (2 * between - within_x - within_y).item()
