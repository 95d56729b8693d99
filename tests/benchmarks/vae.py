"""Figures of 02_vae that depend on the machine; run by hand: `python tests/benchmarks/vae.py [epoch bounds panels]`.

Parts: epoch, bounds, panels (all by default; about 4 minutes). Nothing else should run on the machine meanwhile.
Needs MNIST in AIGC_DATA_DIR, the cache, or a network.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers import training
from aigc_helpers.data import load_digits
from aigc_helpers.models import vae

sys.path[:0] = [str(pathlib.Path(__file__).parent.parent), str(pathlib.Path(__file__).parent)]
os.environ["AIGC_PROGRESS"] = "0"
SECONDS = 90


class ClassicVAE(nn.Module):
    """784-400-20 with ReLU, as in many tutorials."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))


def classic_epoch(batches, ours):
    """Seconds for the classic model on all batches (N, 784), Adam, the loss summed over pixels.

    ours: trained as the notebook trains, with a fused optimiser and 16-bit arithmetic; else as tutorials do.
    """
    torch.manual_seed(0)
    model = ClassicVAE()
    opt = torch.optim.Adam(model.parameters(), 1e-3, fused=ours)
    start = time.perf_counter()
    for x in batches:
        with training.autocast("cpu") if ours else contextlib.nullcontext():
            mu, logvar = model.encoder(x).float().chunk(2, dim=1)
            logits = model.decoder(vae.reparameterise(mu, logvar)).float()
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + vae.gaussian_kl(mu, logvar).sum()
        opt.zero_grad()
        (loss / len(x)).backward()
        opt.step()
    return time.perf_counter() - start


def epoch():
    """An epoch of the classic model, fed from memory and fed by torchvision through a DataLoader, in one run."""
    from gan import _torchvision_folder
    from torchvision import datasets, transforms

    digits = load_digits("train")
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.MNIST(_torchvision_folder(folder), train=True, transform=transforms.ToTensor())
        for batch in (128, 512, 1024):                            # a step of small batches is mostly the optimiser's
            num_steps = len(digits) // batch
            loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True)
            for _ in range(2):
                fed = (x.flatten(1).float() / 255 for _, x in training.steps(digits.images, num_steps, batch))
                ours, theirs = classic_epoch(fed, True), classic_epoch((x.flatten(1) for x, _ in loader), False)
                print(f"batch {batch}: an epoch of 784-400-20: from memory {ours:.2f} s, torchvision {theirs:.2f} s: "
                      f"x{theirs / ours:.1f} (wanted: >= 6)")  # fmt: skip


def bounds():
    """ELBO and 500-sample bound on all test digits after 90 seconds of the notebook's training."""
    digits, test = load_digits("train"), load_digits("test")
    training.seed_everything(0)
    model = vae.VAE(32)
    share = (digits.images.flatten(1).float().mean(dim=0) / 255).clamp(0.001, 0.999)
    with torch.no_grad():
        model.decoder[-1].bias.copy_(torch.logit(share))
    opt = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    start, spent, step = time.perf_counter(), 0.0, 0
    for step, pixels in training.steps(digits.images, 10**6, 128):
        spent = (time.perf_counter() - start) / SECONDS
        if spent >= 1:
            break
        opt.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 200) * 0.5 * (1 + np.cos(np.pi * spent))
        with training.autocast("cpu"):
            distortion, rate = vae.elbo_terms(model, vae.binarise(pixels))
        opt.zero_grad()
        (distortion.mean() + rate.sum(dim=1).mean()).backward()
        opt.step()
    model.eval()
    seeded = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x_test = vae.binarise(test.images, seeded)
        parts = [vae.elbo_terms(model, x, generator=seeded) for x in x_test.split(500)]
        elbo = -torch.cat([distortion + rate.sum(dim=1) for distortion, rate in parts]).mean()
        tight = torch.cat([vae.importance_bound(model, x, 500, seeded) for x in x_test[::10].split(20)]).mean()
    print(f"{step} steps in {SECONDS} s: ELBO {elbo:.2f} nats on {len(x_test)} test digits (wanted: >= -96); "
          f"500-sample bound {tight:.2f} on {len(x_test[::10])} of them (wanted: >= -92, aim -88)")  # fmt: skip


def panels():
    """Latency of every slider (drawing included)."""
    from latency import print_latency
    from test_panels import VAE_PANELS, vae_namespace

    space = vae_namespace()
    for name in VAE_PANELS:
        print_latency(name, space[name])


if __name__ == "__main__":
    for part in sys.argv[1:] or ("epoch", "bounds", "panels"):
        print(f"== {part} ==", flush=True)
        globals()[part]()
