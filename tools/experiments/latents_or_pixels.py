"""Latents or pixels at equal seconds: chapter 05, three systems that read captions, three seeds.

Each system has 60 s of processor time (one thread) on the same 20,000 scenes of MNIST's digits, reads
with the same frozen text encoder (that of the stored CLIP), learns the velocity of rectified flow from
standardised data in batches of 64 with Muon and Adam, and is averaged over its last fifth. The latents' 60 s
are 15 s of their autoencoder and 45 s of the transformer. The transformer on pixels is the same, with
as many patches; the U-Net on pixels is chapter 04's in three colours, with cross-attention to the
words on its coarse grid. Drawn with guidance 3 in 20 steps, for 120 captions of seen and 120 of
held-out combinations. The rates are the chapter's, tuned for the latents alone.
"""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.metrics import precision_recall
from aigc_helpers.models import diffusion
from aigc_helpers.models import text_to_image as t2i
from aigc_helpers.scene_judge import SceneJudge
from aigc_helpers.scenes import load_scenes
from aigc_helpers.training import autocast
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, summarize, take_step

SEEDS = (0, 1, 2)
SECONDS = 60.0  # of processor time, for all that a system trains
CODER_SECONDS = 15.0  # of them, for the autoencoder
NUM_CAPTIONS = 120
DECIMALS = {"joint": 3, "joint, held out": 3, "recall": 3, "training steps": 0}


class CaptionUNet(nn.Module):
    """Chapter 04's U-Net for scenes, which asks the words on its coarse grid.

    Folded pixels (N, 12, 16, 16), times (N,), words and their mask -> a velocity like the pixels.
    """

    def __init__(self, c=48, e_dim=128):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, e_dim), nn.SiLU(), nn.Linear(e_dim, e_dim))
        self.enter = nn.Conv2d(12, c, 3, padding=1)
        self.fine = diffusion.Block(c, c, e_dim)
        self.down = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.coarse1 = diffusion.Block(2 * c, 2 * c, e_dim)
        self.attention = diffusion.Attention(2 * c)
        self.ask_words = t2i.Attention(2 * c, 128)
        self.coarse2 = diffusion.Block(2 * c, 2 * c, e_dim)
        self.up = nn.Conv2d(2 * c, 4 * c, 1)
        self.merge = diffusion.Block(2 * c, c, e_dim)
        self.norm = nn.GroupNorm(8, c)
        self.leave = nn.Conv2d(c, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, z, t, words, mask):
        e = F.silu(self.time(diffusion.time_embedding(t)))
        z = z.contiguous(memory_format=torch.channels_last)
        skip = self.fine(self.enter(z), e)
        h = self.attention(self.coarse1(self.down(skip), e))
        places = h.flatten(2).transpose(1, 2)
        heard = self.ask_words(t2i.norm(places), t2i.norm(words), mask)
        h = h + heard.transpose(1, 2).unflatten(2, h.shape[2:])
        h = F.pixel_shuffle(self.up(self.coarse2(h, e)), 2)
        h = self.merge(torch.cat([h, skip], dim=1), e)
        return self.leave(F.silu(self.norm(h)))


class FoldedPixels(nn.Module):
    """In the autoencoder's place: pixels, folded 2x2 into channels and standardised."""

    def __init__(self, images):
        super().__init__()
        self.mean = images.mean()
        self.std = images.std()

    def encode(self, images):
        return F.pixel_unshuffle((images - self.mean) / self.std, 2)

    def decode(self, z):
        return F.pixel_shuffle(z, 2) * self.std + self.mean


def run(progress):
    digits = load_real_digits("train")
    progress(f"digits from {digits.source}")
    # A process for each seed, two at a time: seconds are of a process's own time on a core.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        by_seed = []
        for seed, rows in zip(SEEDS, pool.map(run_seed, SEEDS), strict=True):
            progress(f"seed {seed}: {rows}")
            by_seed.append(rows)
    return {name: summarize([rows[name] for rows in by_seed], DECIMALS) for name in SYSTEMS}


def run_seed(seed):
    """{system: its scores} with this seed."""
    torch.set_num_threads(1)
    text = load_model("scene_clip").text
    train = load_scenes("train", 20_000, verbose=False)
    asked = {
        "joint": load_scenes("test", NUM_CAPTIONS, seed=1, verbose=False),
        "joint, held out": load_scenes("test", NUM_CAPTIONS, "held out", seed=2, verbose=False),
    }
    judge = SceneJudge.standard()
    rows = {}
    for name, make in SYSTEMS.items():
        space, net, seconds = make(train, seed)
        net, num_steps = train_for(net, text, space, train, seconds, seed)
        row = measure(t2i.TextToImage(text, net, space), judge, asked, seed)
        rows[name] = row | {"training steps": num_steps}
        print(f"seed {seed}, {name}: {rows[name]}", flush=True)
    return rows


def make_latents(train, seed):
    coder = train_coder(train.images, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = t2i.CaptionDiT()
    return coder, net, SECONDS - CODER_SECONDS


def make_patches(train, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = t2i.CaptionDiT(channels=12, side=16, patch=4)
    return FoldedPixels(train.images), net, SECONDS


def make_unet(train, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CaptionUNet()
    return FoldedPixels(train.images), net, SECONDS


SYSTEMS = {
    "latents, transformer": make_latents,
    "pixels, transformer": make_patches,
    "pixels, U-Net": make_unet,
}


def timed_steps(seconds, opts):
    """Steps until so many seconds of processor time are used; the rates go up, and down to 0."""
    began = time.process_time()
    step = 0
    while (share := (time.process_time() - began) / seconds) < 1:
        step += 1
        rate = diffusion.learning_rate(50 + 950 * share, 1000, 1.0) * min(1.0, step / 50)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group.setdefault("full", group["lr"]) * rate
        yield step


def train_coder(images, seed):
    """Section 3's autoencoder, trained for CODER_SECONDS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        coder = t2i.AutoEncoder()
    opts = t2i.make_optimizers(coder, [coder.encoder, coder.decoder])
    random = torch.Generator().manual_seed(seed)
    for _ in timed_steps(CODER_SECONDS, opts):
        batch = images[torch.randint(len(images), (16,), generator=random)]
        with autocast("cpu"):
            z = coder.raw(batch)
            decoded = coder.from_raw(z + 0.05 * torch.randn(z.shape, generator=random))
        loss = (decoded.float() - batch).square().mean() + 1e-3 * z.float().square().mean()
        take_step(opts, loss)
    coder.eval().requires_grad_(False)
    coder.standardise(images[:2000])
    return coder


def with_kernels(net):
    """The U-Net's optimisers: Muon for the kernels and matrices of its blocks."""
    inside = [net.fine, net.coarse1, net.attention, net.ask_words, net.coarse2, net.merge]
    return t2i.make_optimizers(net, [*inside, net.down, net.up])


def train_for(net, text, space, train, seconds, seed):
    """The averaged network after so many seconds of section 5's loop, and its number of steps."""
    with torch.no_grad():
        data = torch.cat([space.encode(part).contiguous() for part in train.images.split(500)])
    average = copy.deepcopy(net)
    opts = t2i.make_optimizers(net, net.blocks) if hasattr(net, "blocks") else with_kernels(net)
    random = torch.Generator().manual_seed(seed)
    step = 0
    for step in timed_steps(seconds, opts):
        chosen = torch.randint(len(data), (64,), generator=random)
        tokens = t2i.drop_captions(train.tokens[chosen], generator=random)
        with autocast("cpu"):
            loss = t2i.caption_loss(net, text, data[chosen], tokens, random)
        take_step(opts, loss)
        diffusion.update_ema(average, net, 1 - 1 / (10 + 0.2 * step))  # the last fifth, growing
    return average.eval().requires_grad_(False), step


def measure(model, judge, asked, seed):
    """Joint shares and recall of pictures for the captions that are asked."""
    row = {}
    for name, scenes in asked.items():
        random = torch.Generator().manual_seed(seed)
        shape = model.autoencoder.encode(scenes.images[:1]).shape[1:]
        noise = torch.randn(len(scenes), *shape, generator=random)
        images = t2i.draw(model, scenes.tokens, 3.0, noise=noise)
        row[name] = judge.match(images, scenes.facts).share("joint")
        if name == "joint":
            real = judge.digit_features(scenes.images)
            row["recall"] = precision_recall(real, judge.digit_features(images))[1]
    return row
