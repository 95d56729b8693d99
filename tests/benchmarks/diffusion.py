"""Figures of 04_diffusion that depend on the machine; by hand:

    python tests/benchmarks/diffusion.py [speed] [quality] [sampling] [--seconds 150]

All three take about 9 minutes. Nothing else should run on the machine meanwhile. The peer is the
U-Net of `diffusers`, which is not among the requirements (`pip install diffusers`), in the
precision in which it is quicker here, as ours is in its own. Needs MNIST.
"""

import copy
import statistics
import time

import torch
from common import forced, measure_rates, quicker, run, tell, use_precision

from aigc_helpers import training
from aigc_helpers.data import load_digits, to_signed
from aigc_helpers.metrics import DigitJudge
from aigc_helpers.models import diffusion

BATCH = 64
PEER_BATCH = 128
LR = 3e-3
CPU = torch.device("cpu")
FLOW = diffusion.RECTIFIED_FLOW
LINEAR = diffusion.make_schedule("linear")


def make_peer():
    """The U-Net of `diffusers`: blocks (32, 64, 64), attention in the last two."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def call_peer(net, precision=None):
    """The peer as our functions call a network; in this precision, or in that of the caller."""

    def predict(x, t, *label):
        if precision is None:
            return net(x, 1000 * t).sample
        with use_precision(precision):
            return net(x, 1000 * t).sample.float()

    return predict


def make_step(net, call, batch):
    """A training step at 28 x 28, velocity prediction, AdamW, as a function."""
    x0 = torch.rand(batch, 1, 28, 28) * 2 - 1
    label = torch.arange(batch) % 10
    opt = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def step():
        loss = diffusion.denoising_loss(call, x0, FLOW, "velocity", None, label)
        opt.zero_grad()
        loss.backward()
        opt.step()

    return step


def measure_both(batch=PEER_BATCH):
    """({precision: images a second} of the peer, the same of ours)."""
    peer = make_peer()
    ours = diffusion.UNet()
    rivals = {
        "diffusers": (make_step(peer, call_peer(peer), batch), 3),
        "ours": (make_step(ours, ours, batch), 10),
    }
    rates = measure_rates(rivals, batch)
    return rates["diffusers"], rates["ours"]


def speed():
    """Training images a second at one batch size, both models in both precisions, in one run."""
    theirs, ours = measure_both()
    ratio = max(ours.values()) / max(theirs.values())
    print(f"training images a second at batch {PEER_BATCH}:")
    print(f"diffusers {tell(theirs)}; ours {tell(ours)}")
    told = f"diffusers in {quicker(theirs)}, ours in {quicker(ours)}"
    print(f"each in its quicker precision ({told}): x{ratio:.1f}")


def train_ours(digits, seconds):
    """(averaged network, steps) of the notebook's training, with a clock for a number of steps."""
    training.seed_everything(0)
    net = diffusion.UNet()
    average = copy.deepcopy(net)
    opt = torch.optim.Adam(net.parameters(), lr=LR, betas=(0.9, 0.99))
    start = time.perf_counter()
    total = 10**4
    num_steps = 0
    for step, (pixels, label) in training.steps(digits, 10**6, BATCH):
        spent = time.perf_counter() - start
        if spent >= seconds:
            break
        if step > 5:
            total = step * seconds / spent  # how many steps there will be, by what has been seen
        for group in opt.param_groups:
            group["lr"] = diffusion.learning_rate(step, max(step, total), LR)
        x0 = to_signed(pixels)
        label = diffusion.drop_labels(label)
        with diffusion.autocast(CPU):
            loss = diffusion.denoising_loss(net, x0, FLOW, "velocity", None, label, middle=True)
        opt.zero_grad()
        loss.backward()
        opt.step()
        diffusion.update_ema(average, net, 1 - 5 / max(step, total))
        num_steps = step
    return average.eval(), num_steps


def train_peer(digits, seconds, precision):
    """(network, steps) of the peer's training by noise prediction, as tutorials do."""
    training.seed_everything(0)
    net = make_peer()
    call = call_peer(net)
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    start = time.perf_counter()
    num_steps = 0
    for step, (pixels, _) in training.steps(digits, 10**6, PEER_BATCH):
        if time.perf_counter() - start >= seconds:
            break
        with use_precision(precision):
            loss = diffusion.denoising_loss(call, to_signed(pixels), LINEAR, "eps")
        opt.zero_grad()
        loss.backward()
        opt.step()
        num_steps = step
    return net.eval().requires_grad_(False), num_steps


def quality(seconds):
    """FID of 2,000 samples in 20 evaluations after so many seconds of training; one seed."""
    theirs, ours = measure_both()
    digits = load_digits("train")
    judge = DigitJudge.standard()
    label = torch.arange(judge.n) % 10
    noise = torch.randn(judge.n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    fid = {}
    with forced(diffusion, quicker(ours)):
        net, num_steps = train_ours(digits, seconds)
        for name, eta in (("DDIM", 0.0), ("DDPM", 1.0)):
            drawn = diffusion.draw_many(net, label, noise, 20, eta=eta, generator=random)
            fid[name] = judge.score(drawn).fid
    told = ", ".join(f"{name} {score.value:.2f}" for name, score in fid.items())
    trained = f"{num_steps} steps of {BATCH} in {seconds:.0f} s in {quicker(ours)}"
    floor = f"floor {fid['DDPM'].floor:.2f}"
    print(f"ours: {trained}: FID of {judge.n} {told} ({floor})", flush=True)

    net, num_steps = train_peer(digits, seconds, quicker(theirs))
    call = call_peer(net, quicker(theirs))
    settings = {"schedule": LINEAR, "target": "eps", "generator": random}
    drawn = diffusion.draw_many(call, label, noise, 20, **settings)
    score = judge.score(drawn).fid.value
    trained = f"{num_steps} steps of {PEER_BATCH} in {seconds:.0f} s in {quicker(theirs)}"
    print(f"diffusers: {trained}: FID of {judge.n} DDPM {score:.2f} ({floor})")
    print(f"ours, by DDPM, is 1/{score / fid['DDPM'].value:.1f} of it")


def sampling():
    """Seconds for 100 samples in 20 network evaluations."""
    net = diffusion.UNet().eval()
    label = torch.arange(100) % 10
    times = []
    for _ in range(5):
        began = time.perf_counter()
        diffusion.draw_digits(net, label, 20)
        times.append(time.perf_counter() - began)
    print(f"100 samples in 20 evaluations: {statistics.median(times):.2f} s (wanted: <= 1)")


if __name__ == "__main__":
    run({"speed": speed, "quality": quality, "sampling": sampling}, seconds=150)
