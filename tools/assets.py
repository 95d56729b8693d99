"""Train the small models in `aigc_helpers/assets/`: the chapters' by their notebooks' own cells.

A cell tagged `asset:NAME` ends the training of a model; the notebook's metadata say what is kept:

    "aigc": {"assets": {"gan": {"model": "ema.model", "source": "digits.source"}}}

Each value is an expression that the notebook's kernel evaluates: `model` a module, the others
strings for the header of the file.
"""

from __future__ import annotations

import nbformat
import torch
import torch.nn.functional as F

from aigc_helpers.data import load_digits, load_embedded_digits, to_signed
from aigc_helpers.metrics import FEATURES_FILE, DigitFeatures
from aigc_helpers.training import seed_everything, steps
from aigc_helpers.weights import ASSETS, pack, write_asset

from .book import ROOT, NotebookError, asset_tags, code_cells, paths, read
from .running import execute

COMMAND = "python -m tools assets"
FEATURES = FEATURES_FILE.removesuffix(".safetensors")


def assets(names=(), root=ROOT):
    """Train the models of these names, all if none, write them, and print their sizes.

    Raises NotebookError for an unknown name, and if a notebook does not say what it keeps.
    """
    tagged = find_tagged(root)
    known = [*tagged, FEATURES]
    unknown = [name for name in names if name not in known]
    if unknown:
        choices = ", ".join(known)
        raise NotebookError(f"assets: unknown model {unknown[0]!r}; choose from {choices}")
    for name in names or known:
        size = make_features() if name == FEATURES else make(name, tagged[name])
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
