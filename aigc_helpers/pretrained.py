"""Weights that this project trained itself, in `assets/`: each file below 1 MB, verified when it is read.

Chapter 00 shows one trained model of each chapter. They are the chapters' own models, trained by the notebooks'
own cells and stored in 8 bits. This makes them again, in about ten minutes:

    python -m aigc_helpers.pretrained [gan vae gpt diffusion]

and `python -m aigc_helpers.pretrained picture` draws the picture of the README with them.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys

import torch

ASSETS = pathlib.Path(__file__).parent / "assets"
COMMAND = "python -m aigc_helpers.pretrained"
SCALE = ":scale"  # the name of a weight's scales, after the weight's own

# model -> its notebook, the beginning of the cell that trains it, and what is kept then
MAKERS = {
    "gan": ("01_gan", "for _, (x, _) in steps(digits, DIGIT_STEPS", "ema.model, source=digits.source"),
    "vae": ("02_vae", "for _, pixels in steps(digits.images, VAE_STEPS", "vae.decoder, source=digits.source"),
    "gpt": ("03_gpt", "for _, batch in steps(windows, GPT_STEPS",
            'gpt, source=corpus.source, alphabet="".join(characters.alphabet)'),
    "diffusion": ("04_diffusion", "for step, (pixels, label) in steps(digits, DIGIT_STEPS",
                  "average.model, source=digits.source"),
}  # fmt: skip


def load_model(name):
    """A trained model, on the CPU, in evaluation mode and without gradients.

    "gan"        ConvGenerator: z (N, 64) -> images (N, 1, 28, 28) in [-1, 1]
    "vae"        the decoder of a VAE: z (N, 32) -> logits (N, 784)
    "gpt"        GPT: tokens (N, T) -> logits (N, T, V), and the Characters that it reads: a pair
    "diffusion"  UNet: images (N, 1, 28, 28), levels (N,), labels (N,) -> velocity (N, 1, 28, 28)

    Raises ValueError for another name, and when the file is not the one that the manifest names.
    """
    from aigc_helpers.models import diffusion, gan, gpt, vae

    if name not in MAKERS:
        raise ValueError(f"load_model: unknown model {name!r}; choose one of {', '.join(MAKERS)}")
    weights, about = read_asset(f"{name}.safetensors")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and thrown away: nobody else's dice move
        if name == "gpt":
            characters = gpt.Characters(about["alphabet"])
            return _ready(gpt.GPT(len(characters)), weights), characters
        make = {"gan": gan.ConvGenerator, "vae": lambda: vae.VAE().decoder, "diffusion": diffusion.UNet}
        return _ready(make[name](), weights)


def _ready(model, weights):
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------- files


def read_asset(file):
    """(weights as float32, header) of a file in `assets/`, verified against the SHA-256 in `manifest.json`.

    Raises ValueError, naming the command that makes it again, when the file is not the one that the manifest names.
    """
    from safetensors.torch import load

    entry, path = _manifest().get(file), ASSETS / file
    if entry is None or not path.exists():
        raise ValueError(f"{file} is not in aigc_helpers/assets: reinstall, or run `{COMMAND}` to make it")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise ValueError(f"{file} is damaged: reinstall, or run `{entry['made_by']}` to make it again")
    length = int.from_bytes(raw[:8], "little")  # of the header, which is JSON: from the bytes that were verified
    return _unpacked(load(raw)), json.loads(raw[8 : 8 + length]).get("__metadata__", {})


def write_asset(file, weights, made_by, **about):
    """Write a file into `assets/`, and its size, SHA-256 and the command that makes it into the manifest."""
    from aigc_helpers.training import save

    save(ASSETS / file, weights, **about)
    raw = (ASSETS / file).read_bytes()
    manifest = _manifest()
    manifest[file] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "made_by": made_by}
    text = json.dumps(dict(sorted(manifest.items())), indent=1) + "\n"
    (ASSETS / "manifest.json").write_text(text, encoding="utf-8")
    return len(raw)


def _manifest():
    path = ASSETS / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def packed(state):
    """A state dict in which matrices and kernels are 8-bit integers with one scale for each row, the rest 16-bit."""
    small = {}
    for name, weight in state.items():
        if not weight.is_floating_point():
            small[name] = weight
        elif weight.ndim < 2:
            small[name] = weight.half()
        else:
            rows = weight.float().flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            small[name] = (rows / scale).round().to(torch.int8).reshape(weight.shape)
            small[name + SCALE] = scale.flatten()
    bad = [name for name, weight in small.items() if not weight.isfinite().all()]
    if bad:
        raise ValueError(f"packed: {bad[0]} has values that are not finite or do not fit into 16 bits")
    return small


def _unpacked(small):
    state = {}
    for name, weight in small.items():
        if name.endswith(SCALE):
            continue
        if name + SCALE in small:
            scale = small[name + SCALE].reshape(-1, *[1] * (weight.ndim - 1))
            weight = weight.float() * scale
        state[name] = weight.float() if weight.is_floating_point() else weight
    return state


# ---------------------------------------------------------------- making them


def keep(name, model, source, **about):
    """Store a chapter's trained model; its notebook calls this in a copy that `main` runs. Returns bytes."""
    if "embedded" in source:
        raise ValueError(f"{COMMAND}: {name} is to be trained on the real data, not on {source}: set AIGC_DATA_DIR")
    return write_asset(f"{name}.safetensors", packed(model.state_dict()), f"{COMMAND} {name}", source=source, **about)


def make(name):
    """Run a chapter's notebook up to the end of its training, and keep the model. Returns its size in bytes."""
    import nbformat

    from aigc_helpers import notebooks

    stem, loop, kept = MAKERS[name]
    path = notebooks.ROOT / "notebooks" / f"{stem}.ipynb"
    nb = notebooks.read(path)
    ends = [k for k, cell in enumerate(nb.cells) if cell.cell_type == "code" and loop in cell.source]
    if len(ends) != 1:
        here = "aigc_helpers/pretrained.py"
        raise notebooks.NotebookError(f"{path.name}: {len(ends)} cells hold `{loop}`: mend MAKERS in {here}")
    last = nbformat.v4.new_code_cell(f"from aigc_helpers import pretrained\npretrained.keep({name!r}, {kept})")
    nb.cells = [*nb.cells[: ends[0] + 1], last]
    notebooks.execute(nb, path)
    return (ASSETS / f"{name}.safetensors").stat().st_size


@torch.no_grad()
def draw_picture(path):
    """Write the README's picture: digits of the three picture models, and below them text of the GPT."""
    from aigc_helpers import plotting
    from aigc_helpers.models import diffusion, gpt

    def noise(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(4))

    labels, road = torch.arange(40) % 10, diffusion.make_path("straight")
    groups = {
        "GAN": load_model("gan")(noise(40, 64)),
        "VAE": (2 * load_model("vae")(noise(40, 32)).sigmoid() - 1).view(-1, 1, 28, 28),
        "Diffusion": diffusion.draw_digits(load_model("diffusion"), labels, road, 20, x=noise(40, 1, 28, 28)),
    }
    model, characters = load_model("gpt")
    start, random = characters.encode("ROMEO:\n")[None].repeat(2, 1), torch.Generator().manual_seed(2)
    texts = gpt.generate(model, start, 180, random, temperature=0.7)
    fig, axes = plotting.figure(9.0, 2.75, ncols=3, tight=False)
    fig.subplots_adjust(left=0.01, right=0.99, top=0.91, bottom=0.36, wspace=0.04)
    for ax, (title, images) in zip(axes, groups.items(), strict=True):
        plotting.draw_images(ax, images, ncols=10, title=title)
    fig.text(0.012, 0.31, "GPT", fontsize=11, va="top")
    for left, tokens in zip((0.06, 0.53), texts, strict=True):
        lines = [line[:50] for line in characters.decode(tokens).split("\n")[:5]]
        fig.text(left, 0.31, "\n".join(lines), fontsize=9, va="top", family="monospace")
    path.write_bytes(plotting.to_png(fig, scale=2.0, colours=128))


def main(names=()):
    """Make the models of these names, all if none, and print their sizes; "picture" makes the README's picture."""
    if list(names) == ["picture"]:
        from aigc_helpers import notebooks

        return draw_picture(notebooks.ROOT / "notebooks" / "images" / "models.png")
    for name in names or MAKERS:
        if name not in MAKERS:
            raise SystemExit(f"{COMMAND}: unknown model {name!r}; choose from {', '.join(MAKERS)}")
        print(f"{name}: {make(name) / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
