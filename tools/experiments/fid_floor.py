"""How large the FID of real digits against real digits is, by the number of images, ten draws each.

Two disjoint samples of n held-out digits (MNIST's test set), features of the digit judge. Held
equal: the features and the pool that is drawn from. A generator that draws as well as the data do
gets this.
"""

from __future__ import annotations

import statistics

import torch

from aigc_helpers.metrics import frechet_distance, load_features

from ..experimenting import load_real_digits

SEEDS = tuple(range(10))
SIZES = (250, 500, 1000, 2000, 4000)


def run(progress):
    images = load_real_digits("test").images
    net = load_features()
    with torch.no_grad():
        features = torch.cat([net.features(part) for part in images.split(1000)])
    rows = {}
    for n in SIZES:
        distances = [measure(features, n, seed) for seed in SEEDS]
        progress(f"n = {n}: {distances}")
        rows[f"n = {n}"] = {
            "mean": statistics.mean(distances),
            "standard deviation": statistics.stdev(distances),
            "smallest": min(distances),
            "largest": max(distances),
        }
    return rows


def measure(features, n, seed):
    """The Fréchet distance of two disjoint samples of n of the features (N, d)."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return frechet_distance(features[order[:n]], features[order[n : 2 * n]])
