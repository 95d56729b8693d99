"""The headline figures of 01_gan, measured by hand: `python tests/benchmarks/gan.py [part ...]`.

Parts: imports, throughput, panels, digits (all by default; `digits` takes about 4 minutes). Nothing else should run
on the machine meanwhile. Needs MNIST in AIGC_DATA_DIR, the cache, or a network.
"""

import contextlib
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

from aigc_helpers import training
from aigc_helpers.data import load_digits, to_signed, to_unit
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import gan

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
os.environ["AIGC_PROGRESS"] = "0"
SECONDS = 90


def imports():
    """What `import aigc_helpers` and all its modules add to `import torch`."""
    code = (
        "import time, torch; t = time.perf_counter(); import aigc_helpers; package = time.perf_counter() - t; "
        "from aigc_helpers import checks, data, metrics, panels, plotting, training; "
        "print(package, time.perf_counter() - t)"
    )
    runs = [
        tuple(map(float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()))
        for _ in range(5)
    ]
    package, everything = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"import aigc_helpers: {1000 * package:.1f} ms; all helper modules: {1000 * everything:.0f} ms (wanted: <= 300)")


# ---------------------------------------------------------------- feeding the model


def mlp_steps(batches, num_steps, ours):
    """Milliseconds a step of the listing's networks (mended) on batches of images (N, 784) in [-1, 1].

    ours: trained as the notebook trains, with fused optimisers and 16-bit arithmetic where the processor has it; else
    as tutorials do.
    """
    torch.manual_seed(0)
    G, D = gan.Generator(64, 784), gan.Discriminator(784, sigmoid=False)
    g_opt, d_opt = (torch.optim.Adam(net.parameters(), 2e-4, fused=ours) for net in (G, D))
    arithmetic = functools.partial(training.autocast, "cpu") if ours else contextlib.nullcontext
    times, last = [], time.perf_counter()
    for real in batches:
        with arithmetic():
            fake = G(torch.randn(len(real), 64))
            d_loss = gan.discriminator_loss(D(real).float(), D(fake.detach()).float())
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        D.requires_grad_(False)
        with arithmetic():
            g_loss = gan.generator_loss(D(fake).float())
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(times) == num_steps:
            return 1000 * statistics.median(times)


def throughput():
    """The same networks, trained as here and as tutorials do, fed by torchvision through a DataLoader; the feeding alone.

    The batch size decides: a step of small batches is mostly the optimiser's, whoever feeds it.
    """
    from torchvision import datasets, transforms

    digits = load_digits("train")
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.MNIST(_torchvision_folder(folder), train=True, transform=transforms.ToTensor())
        for batch, num_steps in ((128, 150), (512, 60), (1024, 40)):
            loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)

            def ours(batch=batch, num_steps=num_steps):
                return (to_signed(x).flatten(1) for _, (x, _) in training.steps(digits, num_steps + 1, batch))

            def theirs(loader=loader):
                return ((2 * x - 1).flatten(1) for x, _ in loader)

            for _ in range(2):
                fed, torch_fed = mlp_steps(ours(), num_steps, True), mlp_steps(theirs(), num_steps, False)
                print(f"batch {batch}: the listing's networks, ms a step: as here {fed:.2f}, fed by torchvision {torch_fed:.2f}: "
                      f"x{torch_fed / fed:.1f} (wanted: >= 5)")  # fmt: skip
            alone, torch_alone = _feed_only(ours(), num_steps), _feed_only(theirs(), num_steps)
            print(f"batch {batch}: feeding alone, ms a batch: from memory {alone:.3f}, torchvision {torch_alone:.2f}: "
                  f"x{torch_alone / alone:.0f}")  # fmt: skip


def _torchvision_folder(folder):
    """A folder with MNIST as torchvision wants it: AIGC_DATA_DIR, or the cached archives unpacked."""
    if os.environ.get("AIGC_DATA_DIR"):
        return os.environ["AIGC_DATA_DIR"]
    import gzip

    from aigc_helpers.data import FILES, cache_dir

    raw = pathlib.Path(folder) / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES["train"] + FILES["test"]:
        (raw / name).write_bytes(gzip.decompress((cache_dir() / f"{name}.gz").read_bytes()))
    return folder


def _feed_only(batches, num_steps):
    times, last = [], time.perf_counter()
    for _ in batches:
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(times) == num_steps:
            break
    return 1000 * statistics.median(times)


# ---------------------------------------------------------------- panels


def panels():
    """Latency of every slider and list (drawing included), and chunks a second of the Arena."""
    from latency import print_latency
    from test_panels import PANELS, gan_namespace

    space = gan_namespace()
    for name in PANELS:
        print_latency(name, space[name])
    panel = space["arena_panel"]
    panel.set(data="ring", loss="non-saturating", d_steps=1, noise_dim=2)
    panel.buttons["New game"].click()
    start = time.perf_counter()
    for _ in range(60):
        panel.play.value += 1
    print(f"Arena: {60 / (time.perf_counter() - start):.1f} chunks of 10 rounds a second, drawing included (wanted: >= 8)")


# ---------------------------------------------------------------- digits after 90 seconds


def listing_images(digits, n, seconds=SECONDS):
    """n images of the source text's listing (completed, nothing mended) after that many seconds."""
    torch.manual_seed(0)
    G, D = gan.Generator(64, 784), gan.Discriminator(784)
    g_opt, d_opt = (torch.optim.Adam(net.parameters(), 2e-4) for net in (G, D))
    criterion, start, step = torch.nn.BCELoss(), time.perf_counter(), 0
    for _, (x, _) in training.steps(digits, 10**6, 128):
        real, fake = to_unit(x).flatten(1), G(torch.randn(128, 64))
        real_out, fake_out = D(real), D(fake)
        d_loss = criterion(real_out, torch.ones_like(real_out)) + criterion(fake_out, torch.zeros_like(fake_out))
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        fake_out = D(G(torch.randn(128, 64)))
        g_opt.zero_grad()
        criterion(fake_out, torch.ones_like(fake_out)).backward()
        g_opt.step()
        step += 1
        if time.perf_counter() - start > seconds:
            break
    with torch.no_grad():
        return 2 * G(torch.randn(n, 64)).clamp(0, 1) - 1, step  # it was shown pixels from 0 to 1


def conv_images(digits, n, seconds=SECONDS):
    """n images of the convolutional GAN after that many seconds: the notebook's loop, with a clock for a step count."""
    training.seed_everything(0)
    layout = torch.channels_last
    G, D = (net().apply(gan.init_weights).to(memory_format=layout) for net in (gan.ConvGenerator, gan.ConvDiscriminator))
    opts = g_opt, d_opt = [torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.99), fused=True) for net in (G, D)]
    ema, start, step = training.EMA(G, decay=0.998), time.perf_counter(), 0
    for _, (x, _) in training.steps(digits, 10**6, 64):
        spent = (time.perf_counter() - start) / seconds
        for opt in opts:
            opt.param_groups[0]["lr"] = 1e-3 * min(1.0, max(0.0, 1 - spent) / 0.4)
        with training.autocast("cpu"):
            fake = G(torch.randn(64, 64))
            d_loss = gan.discriminator_objective(D, to_signed(x).contiguous(memory_format=layout), fake)
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
        ema.update()
        step += 1
        if spent > 1:
            break
    with torch.no_grad():
        return F.hardtanh(ema.model.float().eval()(torch.randn(n, 64))), step


def digits():
    """FID and class entropy after 90 seconds of training, the listing beside the convolutional GAN."""
    train, test = load_digits("train"), load_digits("test")
    real = test.subset(len(test)).images  # shuffled: one half judges, the other sets the floor
    judge = DigitJudge(real[: len(real) // 2], real[len(real) // 2 :], n=5000)
    results = {}
    for name, make in (("listing", listing_images), ("convolutional GAN", conv_images)):
        images, step = make(train, judge.n)
        results[name] = score = judge.score(images)
        print(f"{name}: {step} steps in {SECONDS} s; " + ", ".join(f"{k} {v.value:.3f} (floor {v.floor:.3f})" for k, v in score.row().items()))
        print(f"  classes {score.classes.tolist()}")
    ratio = results["convolutional GAN"].fid.value / results["listing"].fid.value
    print(f"FID ratio {ratio:.3f} (wanted: <= 0.25); class entropy {results['convolutional GAN'].entropy.value:.3f} (wanted: >= 0.95)")


if __name__ == "__main__":
    for part in sys.argv[1:] or ("imports", "throughput", "panels", "digits"):
        print(f"== {part} ==", flush=True)
        globals()[part]()
