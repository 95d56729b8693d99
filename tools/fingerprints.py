"""What a notebook's stored outputs come from: a record of its full run, and whether it still holds.

`python -m tools run` leaves it in the notebook's metadata. Nothing that a full run computes has changed as long as the
page's code, the models, losses, metrics and loaders that it imports, and the weights that it loads are the same bytes.
How a page draws, prints and refuses is tested on every change, at a tenth of the training.
"""

from __future__ import annotations

import hashlib

from . import bundling
from .book import ROOT, own_cells, paths, read

# Helpers that draw, print, refuse or store, and compute nothing of what a page claims.
DRESS = ("panels", "plotting", "checks", "arguments", "weights", "_files", "_environment")


def files_behind(nb, path, root=ROOT):
    """The files that a full run of a notebook stands on, beside its own code: helpers and weights."""
    code = bundling.code_of(nb, path.name)
    modules = {
        name: file
        for name, file in bundling.list_modules(root).items()
        if name.removeprefix("aigc_helpers").lstrip(".").partition(".")[0] not in DRESS
    }
    _, reached = bundling.reach(code, modules)
    assets = bundling.list_assets(code, modules, root)
    return sorted([modules[name] for name in reached] + [file for file in assets if file.name != "manifest.json"])


def fingerprint(nb, path, root=ROOT):
    """SHA-256, as 16 digits, of a notebook's code cells and of the files behind them."""
    digest = hashlib.sha256()
    for cell in own_cells(nb):
        digest.update(cell.source.encode() + b"\0")
    for file in files_behind(nb, path, root):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def is_fresh(nb, path, root=ROOT):
    """Whether the stored outputs are those of a full run on MNIST of what the notebook now stands on."""
    record = nb.metadata.get("aigc", {}).get("full_run")
    return record is not None and record["of"] == fingerprint(nb, path, root)


def due(root=ROOT):
    """A line for each notebook whose stored outputs are not those of a full run on MNIST as it now stands."""
    lines = []
    for path in paths(root):
        nb = read(path)
        if not is_fresh(nb, path, root):
            known = "full_run" in nb.metadata.get("aigc", {})
            why = "what its full run stood on has changed since" if known else "no record of a full run"
            lines.append(f"{path.name}: {why}: python -m tools run {path.stem.partition('_')[0]}")
    return lines
