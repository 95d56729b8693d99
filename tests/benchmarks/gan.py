"""Figures of 01_gan that depend on the machine; by hand:

    python tests/benchmarks/gan.py [imports] [throughput] [digits] [--seconds 90]

All three take about 6 minutes. Nothing else should run on the machine meanwhile. The peer is the
listing's training fed by torchvision, as tutorials have it, in the precision in which it is quicker
here, as ours is in its own. Needs MNIST in AIGC_DATA_DIR, the cache, or a network.
"""

import contextlib
import gzip
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from common import PRECISIONS, run, use_precision
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aigc_helpers import training
from aigc_helpers.data import FILES, cache_dir, load_digits, to_signed, to_unit
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import gan


def imports():
    """What `import aigc_helpers` and all its modules add to `import torch`."""
    code = (
        "import time, torch; start = time.perf_counter(); import aigc_helpers; "
        "package = time.perf_counter() - start; "
        "from aigc_helpers import checks, data, metrics, panels, plotting, training, weights; "
        "print(package, time.perf_counter() - start)"
    )
    packages = []
    everything = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        package, modules = map(float, done.stdout.split())
        packages.append(1000 * package)
        everything.append(1000 * modules)
    told = f"all helper modules: {statistics.median(everything):.0f} ms (wanted: <= 300)"
    print(f"import aigc_helpers: {statistics.median(packages):.1f} ms; {told}")


# ---------------------------------------------------------------- feeding the model


@contextlib.contextmanager
def torchvision_digits():
    """MNIST by torchvision: from AIGC_DATA_DIR, or from the cached archives, unpacked."""
    from torchvision import datasets, transforms

    with tempfile.TemporaryDirectory() as folder:
        if os.environ.get("AIGC_DATA_DIR"):
            folder = os.environ["AIGC_DATA_DIR"]
        else:
            load_digits("train")  # so that it is cached
            raw = pathlib.Path(folder) / "MNIST" / "raw"
            raw.mkdir(parents=True)
            for name in FILES["train"] + FILES["test"]:
                packed = (cache_dir() / f"{name}.gz").read_bytes()
                (raw / name).write_bytes(gzip.decompress(packed))
        yield datasets.MNIST(folder, train=True, transform=transforms.ToTensor())


def time_steps(batches, num_steps, precision, fused):
    """Milliseconds a step of the listing's networks, mended; batches (N, 784) in [-1, 1]."""
    torch.manual_seed(0)
    G = gan.Generator(64, 784)
    D = gan.Discriminator(784, sigmoid=False)
    g_opt = torch.optim.Adam(G.parameters(), 2e-4, fused=fused)
    d_opt = torch.optim.Adam(D.parameters(), 2e-4, fused=fused)
    times = []
    last = time.perf_counter()
    for real in batches:
        with use_precision(precision):
            fake = G(torch.randn(len(real), 64))
            d_loss = gan.discriminator_loss(D(real).float(), D(fake.detach()).float())
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        D.requires_grad_(False)
        with use_precision(precision):
            g_loss = gan.generator_loss(D(fake).float())
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(times) == num_steps:
            break
    return 1000 * statistics.median(times)


def time_quicker(feed, num_steps, fused):
    """(milliseconds a step, precision) in the quicker of the two precisions."""
    times = {p: time_steps(feed(), num_steps, p, fused) for p in PRECISIONS}
    precision = min(times, key=times.get)
    return times[precision], precision


def time_feeding(batches, num_steps):
    """Milliseconds a batch without any training."""
    times = []
    last = time.perf_counter()
    for _ in batches:
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(times) == num_steps:
            break
    return 1000 * statistics.median(times)


def throughput(plan=((128, 150), (512, 60), (1024, 40))):
    """The same networks: ours from memory, fused; the peer by torchvision and a DataLoader.

    The batch size decides: a step of small batches is mostly the optimiser's, whoever feeds it.
    """
    digits = load_digits("train")
    with torchvision_digits() as dataset:
        for batch, num_steps in plan:
            loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)

            def feed_ours(batch=batch, num_steps=num_steps):
                for _, (pixels, _) in training.steps(digits, num_steps + 1, batch):
                    yield to_signed(pixels).flatten(1)

            def feed_theirs(loader=loader):
                for x, _ in loader:
                    yield (2 * x - 1).flatten(1)

            for _ in range(2):
                ours, our_precision = time_quicker(feed_ours, num_steps, fused=True)
                theirs, their_precision = time_quicker(feed_theirs, num_steps, fused=False)
                told = f"from memory {ours:.2f} in {our_precision}"
                told += f", torchvision {theirs:.2f} in {their_precision}"
                print(f"batch {batch}: ms a step: {told}: x{theirs / ours:.1f}")
            ours = time_feeding(feed_ours(), num_steps)
            theirs = time_feeding(feed_theirs(), num_steps)
            told = f"from memory {ours:.3f}, torchvision {theirs:.2f}: x{theirs / ours:.0f}"
            print(f"batch {batch}: feeding alone, ms a batch: {told}")


# ---------------------------------------------------------------- digits after 90 seconds


def listing_images(digits, n, seconds):
    """(n images of the source text's listing, steps), completed but not mended."""
    torch.manual_seed(0)
    G = gan.Generator(64, 784)
    D = gan.Discriminator(784)
    g_opt = torch.optim.Adam(G.parameters(), 2e-4)
    d_opt = torch.optim.Adam(D.parameters(), 2e-4)
    criterion = torch.nn.BCELoss()
    start = time.perf_counter()
    num_steps = 0
    for step, (pixels, _) in training.steps(digits, 10**6, 128):
        real = to_unit(pixels).flatten(1)
        fake = G(torch.randn(128, 64))
        real_out = D(real)
        fake_out = D(fake)
        real_loss = criterion(real_out, torch.ones_like(real_out))
        d_loss = real_loss + criterion(fake_out, torch.zeros_like(fake_out))
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        fake_out = D(G(torch.randn(128, 64)))
        g_opt.zero_grad()
        criterion(fake_out, torch.ones_like(fake_out)).backward()
        g_opt.step()
        num_steps = step
        if time.perf_counter() - start > seconds:
            break
    with torch.no_grad():
        drawn = G(torch.randn(n, 64)).clamp(0, 1)  # it was shown pixels from 0 to 1
    return 2 * drawn - 1, num_steps


def digit_images(digits, n, seconds):
    """(n images of the digit GAN, steps): the notebook's loop, a clock for a step count."""
    training.seed_everything(0)
    layout = torch.channels_last
    G = gan.DigitGenerator().apply(gan.init_weights).to(memory_format=layout)
    D = gan.DigitDiscriminator().apply(gan.init_weights).to(memory_format=layout)
    g_opt = torch.optim.Adam(G.parameters(), 2e-3, betas=(0.0, 0.99), fused=True)
    d_opt = torch.optim.Adam(D.parameters(), 2e-3, betas=(0.0, 0.99), fused=True)
    average = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    start = time.perf_counter()
    num_steps = 0
    for step, (pixels, _) in training.steps(digits, 10**6, 64):
        spent = (time.perf_counter() - start) / seconds
        for opt in (g_opt, d_opt):
            opt.param_groups[0]["lr"] = 2e-3 * min(1.0, max(0.0, 1 - spent) / 0.4)
        real = to_signed(pixels).contiguous(memory_format=layout)
        with training.autocast("cpu"):
            fake = G(torch.randn(64, 64))
            d_loss = gan.discriminator_objective(D, real, fake)
        if step % 8 == 0:
            d_loss = d_loss + 8 * gan.r1_penalty(D, real)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        D.requires_grad_(False)
        with training.autocast("cpu"):
            g_loss = gan.generator_loss(D(fake))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        average.update_parameters(G)
        num_steps = step
        if spent > 1:
            break
    with torch.no_grad():
        drawn = average.module.float().eval()(torch.randn(n, 64))
    return F.hardtanh(drawn), num_steps


def digits(seconds):
    """FID and class entropy after so many seconds of training: listing and digit GAN."""
    train = load_digits("train")
    judge = DigitJudge.standard()
    results = {}
    for name, make in (("listing", listing_images), ("digit GAN", digit_images)):
        images, num_steps = make(train, judge.n, seconds)
        score = judge.score(images)
        results[name] = score
        told = ", ".join(f"{k} {v.value:.3f} (floor {v.floor:.3f})" for k, v in score.row().items())
        print(f"{name}: {num_steps} steps in {seconds:.0f} s; {score.n} images: {told}")
        print(f"  classes {score.classes.tolist()}")
    ours = results["digit GAN"]
    ratio = ours.fid.value / results["listing"].fid.value
    told = f"class entropy {ours.entropy.value:.3f} (wanted: >= 0.95)"
    print(f"FID ratio {ratio:.3f} (wanted: <= 0.25); {told}")


if __name__ == "__main__":
    run({"imports": imports, "throughput": throughput, "digits": digits}, seconds=90)
