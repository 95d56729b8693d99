"""Figures of 04_diffusion that depend on the machine; by hand: `python tests/benchmarks/diffusion.py [part ...]`.

Parts: speed, quality, sampling, panels (all by default; about 9 minutes). Nothing else should run on the machine meanwhile.
speed and quality compare with `diffusers`, which is not among the requirements: `pip install diffusers`. Needs MNIST.
"""

import contextlib
import os
import pathlib
import statistics
import sys
import time

import torch

from aigc_helpers import training
from aigc_helpers.data import load_digits, to_signed
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion
from aigc_helpers.models.gpt_beyond import Muon

sys.path[:0] = [str(pathlib.Path(__file__).parent.parent), str(pathlib.Path(__file__).parent)]
os.environ["AIGC_PROGRESS"] = "0"
SECONDS, BATCH, SAMPLES = 150, 64, 1000
CPU = torch.device("cpu")


def library():
    """The U-Net of `diffusers` that the comparison is with: blocks (32, 64, 64), attention in the last two."""
    from diffusers import UNet2DModel

    return UNet2DModel(sample_size=28, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(32, 64, 64),
                       down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                       up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"))  # fmt: skip


def speed(batch=128):
    """Training images a second at batch 128 and 28x28, both models in one run, in turn."""
    x0, label, path = torch.rand(batch, 1, 28, 28) * 2 - 1, torch.arange(batch) % 10, diffusion.make_path("straight")
    theirs, ours = library(), diffusion.UNet()
    for bf16 in (False, True):
        if bf16 and isinstance(training.autocast(CPU), contextlib.nullcontext):
            print("bfloat16: this processor is not quick at it")
            continue
        rates = {}
        for name, net, num_steps in (("diffusers", theirs, 4), ("ours", ours, 12), ("diffusers", theirs, 4), ("ours", ours, 12)):
            opt, times = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True), []
            call = (lambda x, t, y: theirs(x, t).sample) if net is theirs else ours
            for _ in range(num_steps):
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = diffusion.denoising_loss(call, x0, path, "velocity", None, label)
                opt.zero_grad()
                loss.backward()
                opt.step()
                times.append(time.perf_counter() - began)
            rates.setdefault(name, []).append(batch / statistics.median(times))
        ours_rate, their_rate = max(rates["ours"]), max(rates["diffusers"])
        print(f"images a second, {'bf16' if bf16 else 'float32'}: diffusers {their_rate:.0f}, ours {ours_rate:.0f}: "
              f"x{ours_rate / their_rate:.1f} (wanted: >= {8 if bf16 else 6})")  # fmt: skip


def quality():
    """FID of 1,000 samples in 20 looks after SECONDS of training: ours as in the notebook, and the library's by noise prediction."""
    digits, test = load_digits("train"), load_digits("test")
    judge, label = DigitJudge(digits.images, test.images, n=SAMPLES), torch.arange(SAMPLES) % 10
    training.seed_everything(0)
    net, path = diffusion.UNet(), diffusion.make_path("straight")
    opts, average, start, total = diffusion.optimizers(net, Muon), training.EMA(net, 0.995), time.perf_counter(), 10**4
    for step, (pixels, y) in training.steps(digits, 10**6, BATCH):
        spent = time.perf_counter() - start
        if spent >= SECONDS:
            break
        if step > 5:
            total = step * SECONDS / spent
        diffusion.set_rates(opts, step, max(step, total))
        diffusion.train_step(net, opts, to_signed(pixels), y, path, "velocity", CPU)
        average.update()
    fid = {}
    for name, steps, settings in (("Euler, 20 looks", 20, {}), ("Heun, 19 looks", 10, {"heun": True}), ("DDPM, 20 looks", 20, {"eta": 1.0})):
        drawn = diffusion.draw_digits(average.model, label, path, steps, generator=torch.Generator().manual_seed(0), **settings)
        fid[name] = judge.score(drawn).fid
    told = ", ".join(f"{name} {score.value:.2f}" for name, score in fid.items())
    print(f"ours: {step} steps of {BATCH} in {SECONDS} s: FID {told} (floor {fid['Euler, 20 looks'].floor:.2f})", flush=True)

    net, path = library(), diffusion.make_path("linear")
    opt, start = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True), time.perf_counter()
    call = lambda x, t, *_: net(x, t).sample  # noqa: E731
    for step, (pixels, _) in training.steps(digits, 10**6, 128):
        if time.perf_counter() - start >= SECONDS:
            break
        taken = step
        with training.autocast(CPU):
            loss = diffusion.denoising_loss(call, to_signed(pixels), path)
        opt.zero_grad()
        loss.backward()
        opt.step()
    noise = torch.randn(SAMPLES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([diffusion.draw_digits(call, y, path, 20, "noise", x=x) for x, y in zip(noise.split(250), label.split(250), strict=True)])
    score = judge.score(drawn).fid.value
    print(f"diffusers: {taken} steps of 128 in {SECONDS} s: FID {score:.1f}", flush=True)
    print(f"ours, by Euler, is 1/{score / fid['Euler, 20 looks'].value:.0f} of it (wanted: <= 1/10)")


def sampling():
    """Seconds for 100 samples in 20 looks."""
    net, path, label = diffusion.UNet().eval(), diffusion.make_path("straight"), torch.arange(100) % 10
    times = []
    for _ in range(5):
        began = time.perf_counter()
        diffusion.draw_digits(net, label, path, 20)
        times.append(time.perf_counter() - began)
    print(f"100 samples in 20 looks: {statistics.median(times):.2f} s (wanted: <= 2)")


def panels():
    """Latency of every control (drawing included); the models are not trained."""
    from latency import print_latency
    from test_panels import DIFFUSION_PANELS, diffusion_namespace

    space = diffusion_namespace()
    space["artist"] = diffusion.UNet().eval()
    for name in DIFFUSION_PANELS:
        print_latency(name, space[name])


if __name__ == "__main__":
    for part in sys.argv[1:] or ("speed", "quality", "sampling", "panels"):
        print(f"== {part} ==", flush=True)
        globals()[part]()
