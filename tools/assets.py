"""Train the small models in `aigc_helpers/assets/`: the chapters' by their notebooks' own cells.

A cell tagged `asset:NAME` ends the training of a model; the notebook's metadata say what is kept:

    "aigc": {"assets": {"gan": {"model": "ema.model", "source": "digits.source"}}}

Each value is an expression that the notebook's kernel evaluates: `model` a module, the others
strings for the header of the file. Some models are trained here, for longer than a page's reader
would wait.
"""

from __future__ import annotations

import time

import nbformat
import torch
import torch.nn.functional as F

from aigc_helpers.data import load_digits, load_embedded_digits, to_signed
from aigc_helpers.metrics import FEATURES_FILE, DigitFeatures
from aigc_helpers.models import dalle
from aigc_helpers.models.text_to_image import make_optimizers, set_rates
from aigc_helpers.scene_judge import JUDGE_FILE, NUM_LAYOUTS, SceneJudge, SceneNet, cut_windows
from aigc_helpers.scenes import POSITIONS, SIZE, draw_facts, draw_scenes, load_scenes
from aigc_helpers.training import autocast, seed_everything, steps
from aigc_helpers.weights import ASSETS, load_model, pack, write_asset

from .book import ROOT, NotebookError, asset_tags, code_cells, paths, read
from .experimenting import load_real_digits, take_step
from .running import execute

COMMAND = "python -m tools assets"
FEATURES = FEATURES_FILE.removesuffix(".safetensors")
JUDGE = JUDGE_FILE.removesuffix(".safetensors")


def assets(names=(), root=ROOT):
    """Train the models of these names, all if none, write them, and print their sizes.

    Raises NotebookError for an unknown name, and if a notebook does not say what it keeps.
    """
    tagged = find_tagged(root)
    others = {FEATURES: make_features, JUDGE: make_scene_judge} | LONGER
    known = [*tagged, *others]
    unknown = [name for name in names if name not in known]
    if unknown:
        choices = ", ".join(known)
        raise NotebookError(f"assets: unknown model {unknown[0]!r}; choose from {choices}")
    for name in names or known:
        size = others[name]() if name in others else make(name, tagged[name])
        print(f"{name}: {size / 1e3:.0f} kB", flush=True)


def find_tagged(root=ROOT):
    """{name: its notebook's file} of the assets that cells are tagged with, chapter by chapter."""
    found = {}
    for path in paths(root):
        for cell in code_cells(read(path)):
            for name in asset_tags(cell):
                if name in found:
                    raise NotebookError(
                        f"{path.name} and {found[name].name} both have a cell tagged "
                        f"`asset:{name}`: keep one"
                    )
                found[name] = path
    return found


# ---------------------------------------------------------------- the chapters' models


def make(name, path):
    """Run the notebook `path` to its cell tagged `asset:<name>`, keep the model. Returns bytes."""
    nb = read(path)
    kept = nb.metadata.get("aigc", {}).get("assets", {}).get(name)
    if not kept or "model" not in kept:
        raise NotebookError(
            f"{path.name}: a cell is tagged `asset:{name}`, but the notebook's metadata "
            f"`aigc.assets.{name}` does not name what is kept: add "
            '{"model": "<expression>", "source": "<expression>"}'
        )
    end = next(k for k, cell in enumerate(nb.cells) if name in asset_tags(cell))
    arguments = ", ".join(f"{key}={value}" for key, value in kept.items())
    source = f"from tools.assets import keep\n\nkeep({name!r}, {arguments})"
    # The kernel starts in the notebook's folder: the tools are found from the project's.
    head = nbformat.v4.new_code_cell(f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})")
    # A panel may show the very model that is to be made: without it the file could not be made again.
    cells = [cell for cell in nb.cells[: end + 1] if "panel" not in cell.metadata.get("tags", [])]
    nb.cells = [head, *cells, nbformat.v4.new_code_cell(source)]
    execute(nb, path)
    return (ASSETS / f"{name}.safetensors").stat().st_size


def keep(name, model, source, **about):
    """Store a chapter's trained model; called in the kernel of its notebook. Returns bytes."""
    if "embedded" in source:
        raise ValueError(
            f"{COMMAND}: {name} is to be trained on the real data, not on {source}: "
            "set AIGC_DATA_DIR"
        )
    weights = pack(model.state_dict())
    return write_asset(f"{name}.safetensors", weights, f"{COMMAND} {name}", source=source, **about)


# ---------------------------------------------------------------- the features of the metrics


def make_features():
    """Train the feature network and write it to `assets/`, in half precision. Returns bytes."""
    net, accuracy = train_features()
    weights = {name: tensor.half() for name, tensor in net.state_dict().items()}
    print(f"{FEATURES}: MNIST test accuracy {accuracy:.4f}", flush=True)
    return write_asset(FEATURES_FILE, weights, f"{COMMAND} {FEATURES}")


def train_features(num_epochs=6, seed=0):
    """Train the feature network on MNIST and the embedded digits.

    Small shifts, scalings, rotations and blurs are applied, so that a fake is judged by its shape
    and not by a pixel of displacement. Returns it and its accuracy on MNIST's test set.
    """
    seed_everything(seed)
    mnist = load_digits("train")
    embedded = load_embedded_digits("train")
    images = torch.cat([mnist.images, embedded.images])
    labels = torch.cat([mnist.labels, embedded.labels])
    net = DigitFeatures()
    batch_size = 128
    num_steps = num_epochs * len(images) // batch_size
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, total_steps=num_steps)
    for _, (x, y) in steps((images, labels), num_steps, batch_size, seed=seed):
        loss = F.cross_entropy(net(augment(to_signed(x))), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    test = load_digits("test")
    with torch.no_grad():
        predicted = torch.cat([net(x).argmax(dim=1) for x in test.images.split(1000)])
    scale_features(net, images[::20])
    return net.eval(), (predicted == test.labels).float().mean().item()


@torch.no_grad()
def scale_features(net, images):
    """Give the features a mean variance of 1, a unit for distances; the logits stay as they are."""
    features = torch.cat([net.features(x) for x in images.split(500)])
    scale = features.var(dim=0).mean().sqrt()
    last = net.body[-1]
    last.weight /= scale
    last.bias /= scale
    net.head.weight *= scale  # a ReLU passes a positive factor through


def augment(x):
    """Random affine maps (up to 10 degrees, 10 %, 2 pixels) of images (N, 1, 28, 28) in [-1, 1]."""
    n = len(x)
    angle = (torch.rand(n) - 0.5) * 0.35
    scale = 1 + (torch.rand(n) - 0.5) * 0.2
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * scale
    theta[:, 0, 1] = -angle.sin() * scale
    theta[:, 1, 0] = angle.sin() * scale
    theta[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.28
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


# ---------------------------------------------------------------- the judge of scenes


def make_scene_judge():
    """Train the judge of scenes and write it to `assets/`, in half precision. Returns bytes."""
    net = train_scene_judge()
    weights = {name: tensor.half() for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    for combinations in ("seen", "held out"):
        scenes = load_scenes("test", 4000, combinations, verbose=False)
        shares = SceneJudge(net).match(scenes.images, scenes.facts).row()
        told = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
        print(f"{JUDGE}: {len(scenes):,} scenes of test digits, {combinations}: {told}", flush=True)
    return write_asset(JUDGE_FILE, weights, f"{COMMAND} {JUDGE}")


def train_scene_judge(num_steps=1800, seed=0):
    """Train the judge on scenes of all combinations, of MNIST's and the embedded training digits.

    Digits are turned, scaled and moved a little; scenes blurred, dimmed and made noisy: it shall read
    pictures that a model has made.
    """
    seed_everything(seed)
    generator = torch.Generator().manual_seed(seed)
    mnist = load_digits("train")
    embedded = load_embedded_digits("train")
    images = torch.cat([mnist.images, embedded.images])
    labels = torch.cat([mnist.labels, embedded.labels])
    net = SceneNet()
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=num_steps)
    for _, (x, y) in steps((images, labels), num_steps, batch_size=320, seed=seed):
        facts = draw_facts(128, "all", generator=generator)
        clean = draw_scenes(facts, augment(to_signed(x)).clamp(-1, 1), y, generator=generator)
        spoilt = spoil(clean, facts)[:64]
        seen = roughen(torch.cat([clean, spoilt]))
        layout = torch.where(facts.is_pair, len(POSITIONS) + facts.relation, facts.position)
        none = torch.full((len(spoilt),), NUM_LAYOUTS)
        is_there = facts.digits >= 0
        windows = cut_windows(seen[: len(clean)], layout)[is_there]
        with torch.autocast("cpu", torch.bfloat16):
            layouts = net.layout(seen)
            digits, colours = net.read_digits(windows)
        loss = F.cross_entropy(layouts.float(), torch.cat([layout, none]))
        loss = loss + F.cross_entropy(digits.float(), facts.digits[is_there], label_smoothing=0.02)
        loss = loss + F.cross_entropy(colours.float(), facts.colours[is_there])
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    net.eval()
    scale_judge(net, clean, cut_windows(clean, layout)[is_there])
    return net


@torch.no_grad()
def scale_judge(net, images, windows):
    """Give the features of both parts a mean variance of 1; the logits stay as they are."""
    for body, head, x in (
        (net.layout_body, net.layout_head, images),
        (net.digit_body, net.digit_head, windows),
    ):
        scale = body(x).var(dim=0).mean().sqrt()
        body[-1].weight /= scale
        body[-1].bias /= scale
        head.weight *= scale


def spoil(images, facts):
    """Pictures that are no scene, made of N scenes, in random order: at least N of them.

    One digit of two is wiped out; one digit stands in the middle; two scenes lie over each other, but
    for those that make a relation by chance; nothing is there.
    """
    n = len(images)
    half = torch.arange(SIZE) < SIZE // 2
    is_above = facts.relation == 1
    wiped = torch.where(is_above[:, None, None], half[:, None], half[None, :])[:, None]
    wiped = wiped ^ (torch.rand(n, 1, 1, 1) < 0.5)
    one_left = torch.where(wiped, -1.0, images)[facts.is_pair]
    centred = [
        images[facts.position == k].roll((8 if k < 2 else -8, 8 if k % 2 == 0 else -8), dims=(2, 3)) for k in range(4)
    ]
    other = torch.randperm(n)
    layout = torch.where(facts.is_pair, len(POSITIONS) + facts.relation, facts.position)
    is_diagonal = ~facts.is_pair & ~facts.is_pair[other] & (layout + layout[other] == 3)
    is_crowd = (facts.is_pair | facts.is_pair[other]) & (layout != layout[other])
    doubled = torch.maximum(images, images[other])[is_diagonal | is_crowd]
    nothing = torch.full_like(images[: n // 16], -1.0)
    spoilt = torch.cat([one_left, *centred, doubled, nothing])
    return spoilt[torch.randperm(len(spoilt))]


def roughen(images):
    """Pictures (N, 3, 32, 32) in [-1, 1], each shifted by a pixel at most, blurred, tinted, dimmed and noisy."""
    n = len(images)
    down, right = torch.randint(0, 3, (2,)).tolist()
    x = F.pad(images + 1, (1, 1, 1, 1))[:, :, down : down + SIZE, right : right + SIZE]
    x = x.lerp(F.avg_pool2d(x, 3, 1, 1), 0.6 * torch.rand(n, 1, 1, 1))
    x = x * (0.7 + 0.35 * torch.rand(n, 1, 1, 1)) * (0.9 + 0.2 * torch.rand(n, 3, 1, 1))
    x = x + 0.15 * torch.rand(n, 1, 1, 1) * torch.randn(x.shape)
    return (x - 1).clamp(-1, 1)


# ---------------------------------------------------------------- 05b's GPT, trained for longer

LONG_GPT = 1600  # steps of 32 scenes
NUM_SCENES = 60_000


def make_scene_gpt():
    """Train 05b's GPT on the stored codebook, and write it. Returns bytes."""
    source = load_real_digits("train").source
    vq = load_model("scene_vq")
    scenes = load_scenes("train", NUM_SCENES, verbose=False)
    codes = torch.cat([vq.encode(part) for part in scenes.images.split(1000)])
    seed_everything(0)
    gpt = dalle.make_scene_gpt(vq.codebook)
    opts = make_optimizers(gpt, gpt.blocks)
    random = torch.Generator().manual_seed(0)
    began = time.process_time()
    for step, (tokens, part) in steps((scenes.tokens, codes), LONG_GPT, 32):
        set_rates(opts, step, LONG_GPT)
        tokens = dalle.drop_captions(tokens, 0.1, random)
        with autocast("cpu"):
            loss = dalle.code_losses(gpt, tokens, part).mean()
        take_step(opts, loss)
        if step % 100 == 0:
            print(f"scene_gpt: step {step}, {loss.item():.3f} nats a code", flush=True)
    seconds = f"{time.process_time() - began:.0f}"
    return keep("scene_gpt", gpt, source, seconds=seconds, scenes=f"{32 * LONG_GPT:,}")


# models of the chapters that no cell trains: name -> what trains and keeps it
LONGER = {"scene_gpt": make_scene_gpt}
