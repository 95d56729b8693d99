"""Figures of 02_vae that depend on the machine; by hand:

    python tests/benchmarks/vae.py [epoch] [bounds] [--seconds 90]

Both take about 4 minutes. Nothing else should run on the machine meanwhile. The peer is the classic
model fed by torchvision, as tutorials have it, in the precision in which it is quicker here, as
ours is in its own. Needs MNIST in AIGC_DATA_DIR, the cache, or a network.
"""

import itertools
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import PRECISIONS, run, use_precision

from aigc_helpers import training
from aigc_helpers.data import load_digits, to_unit
from aigc_helpers.models import vae, vae_beyond


class ClassicVAE(nn.Module):
    """784-400-20 with ReLU, as in many tutorials."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))


def train_classic(batches, precision, fused):
    """Seconds for the classic model on all batches (N, 784) in [0, 1]; loss summed over pixels."""
    torch.manual_seed(0)
    model = ClassicVAE()
    opt = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)
    start = time.perf_counter()
    for x in batches:
        with use_precision(precision):
            mu, logvar = model.encoder(x).float().chunk(2, dim=1)
            logits = model.decoder(vae.reparameterise(mu, logvar)).float()
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = distortion + vae.gaussian_kl(mu, logvar).sum()
        opt.zero_grad()
        (loss / len(x)).backward()
        opt.step()
    return time.perf_counter() - start


def train_quicker(feed, num_steps, fused):
    """(seconds of all of feed(), precision): a tenth of it says which precision is quicker."""
    trial = {}
    for precision in PRECISIONS:
        batches = itertools.islice(feed(), max(3, num_steps // 10))
        trial[precision] = train_classic(batches, precision, fused)
    precision = min(trial, key=trial.get)
    return train_classic(feed(), precision, fused), precision


def epoch(batch_sizes=(128, 512, 1024)):
    """An epoch of the classic model: ours from memory, fused; the peer by torchvision.

    A step of small batches is mostly the optimiser's, whoever feeds it.
    """
    from gan import torchvision_digits

    digits = load_digits("train")
    with torchvision_digits() as dataset:
        for batch in batch_sizes:
            num_steps = len(digits) // batch
            loader = torch.utils.data.DataLoader(dataset, batch, shuffle=True, drop_last=True)

            def feed_ours(batch=batch, num_steps=num_steps):
                for _, pixels in training.steps(digits.images, num_steps, batch):
                    yield to_unit(pixels).flatten(1)

            def feed_theirs(loader=loader):
                for x, _ in loader:
                    yield x.flatten(1)

            for _ in range(2):
                ours, our_precision = train_quicker(feed_ours, num_steps, fused=True)
                theirs, their_precision = train_quicker(feed_theirs, num_steps, fused=False)
                told = f"from memory {ours:.2f} s in {our_precision}"
                told += f", torchvision {theirs:.2f} s in {their_precision}"
                print(f"batch {batch}: an epoch of 784-400-20: {told}: x{theirs / ours:.1f}")


def bounds(seconds):
    """ELBO and 500-sample bound on test digits after so many seconds of 02's training, section 5."""
    digits = load_digits("train")
    test = load_digits("test")
    training.seed_everything(0)
    model = vae.ConvVAE(32)
    opt = torch.optim.Adam(model.parameters(), lr=4e-3, fused=True)
    start = time.perf_counter()
    for step, pixels in training.steps(digits.images, 10**6, 128):
        spent = (time.perf_counter() - start) / seconds
        if spent >= 1:
            break
        warm_up = min(1.0, step / 200)
        opt.param_groups[0]["lr"] = 4e-3 * warm_up * 0.5 * (1 + math.cos(math.pi * spent))
        with training.autocast("cpu"):
            distortion, rate = vae.elbo_terms(model, vae.binarise(pixels))
        opt.zero_grad()
        (distortion.mean() + rate.sum(dim=1).mean()).backward()
        opt.step()
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x_test = vae.binarise(test.images, generator)
        tenth = x_test[::10].split(20)
        tight = [vae_beyond.importance_bound(model, x, 500, generator) for x in tenth]
    tight = torch.cat(tight)
    elbo = vae.mean_elbo(model, x_test)
    print(f"{step} steps in {seconds:.0f} s: ELBO {elbo:.2f} nats on {len(x_test)} test digits")
    told = f"{tight.mean():.2f} on {len(tight)} of them (wanted: >= -85.5, aim -84)"
    print(f"500-sample bound {told}")


if __name__ == "__main__":
    run({"epoch": epoch, "bounds": bounds}, seconds=90)
