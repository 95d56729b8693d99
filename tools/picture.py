"""The picture of the README: what the trained models of `aigc_helpers/assets/` draw and write.

And the pictures at the head of pages, put together from the pages' own stored outputs.
"""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image

from aigc_helpers import plotting
from aigc_helpers.models import diffusion, gpt
from aigc_helpers.weights import load_model

from .book import ROOT, read

GPT_WRITES = {"prompt": "ROMEO:\n", "characters": 180, "temperature": 0.7}


@torch.no_grad()
def picture(path=ROOT / "notebooks" / "images" / "models.png"):
    """Write the picture: 40 digits of each image model, and below them two texts of the GPT."""
    groups = {"GAN": draw_gan(40), "VAE": draw_vae(40), "Diffusion": draw_diffusion(40)}
    fig, axes = plotting.figure(9.0, 2.75, ncols=3, tight=False)
    fig.subplots_adjust(left=0.01, right=0.99, top=0.91, bottom=0.36, wspace=0.04)
    for ax, (title, images) in zip(axes, groups.items(), strict=True):
        plotting.draw_images(ax, images, ncols=10, title=title)
    fig.text(0.012, 0.31, "GPT", fontsize=11, va="top")
    for left, text in zip((0.06, 0.53), write_gpt(2), strict=True):
        lines = [line[:50] for line in text.split("\n")[:5]]
        fig.text(left, 0.31, "\n".join(lines), fontsize=9, va="top", family="monospace")
    path.write_bytes(plotting.to_png(fig, scale=2.0, colours=128))
    for name, (notebook, cells) in HEADS.items():
        head_picture(ROOT / "notebooks" / "images" / name, ROOT / "notebooks" / notebook, cells)


# picture at the head of a page -> the page, and the ids of the cells whose pictures it shows
HEADS = {
    "gan_beyond.png": ("01b_gan_beyond.ipynb", ("c-r3gan-figure", "c-digits-figure")),
    "vae_beyond.png": ("02b_vae_beyond.ipynb", ("prior-figure", "vq-figure")),
    "dalle.png": ("05b_dalle.ipynb", ("three-figure",)),
    "diffusion_beyond.png": ("04b_diffusion_beyond.ipynb", ("fig-bound", "few-check")),
}


def head_picture(path, notebook, cells):
    """Write the stored pictures of some cells of a page into one file, one below the other."""
    outputs = {cell.id: cell.get("outputs", ()) for cell in read(notebook).cells}
    parts = []
    for name in cells:
        png = next(o.data["image/png"] for o in outputs[name] if "image/png" in o.get("data", {}))
        parts.append(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    width = max(part.width for part in parts)
    page = Image.new("RGB", (width, sum(part.height for part in parts)), plotting.PAPER)
    top = 0
    for part in parts:
        page.paste(part, ((width - part.width) // 2, top))
        top += part.height
    plotting.with_palette(page, 128).save(path, "PNG", compress_level=9)


def draw_noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def draw_gan(num_images):
    return load_model("gan")(draw_noise(num_images, 64))


def draw_vae(num_images):
    brightness = load_model("vae")(draw_noise(num_images, 32)).sigmoid()
    return (2 * brightness - 1).view(-1, 1, 28, 28)


def draw_diffusion(num_images):
    labels = torch.arange(num_images) % 10
    x = draw_noise(num_images, 1, 28, 28)
    return diffusion.draw_digits(load_model("diffusion"), labels, 20, x=x)


def write_gpt(num_texts):
    model, characters = load_model("gpt")
    start = characters.encode(GPT_WRITES["prompt"])[None].repeat(num_texts, 1)
    generator = torch.Generator().manual_seed(2)
    tokens = gpt.generate(
        model, start, GPT_WRITES["characters"], generator, temperature=GPT_WRITES["temperature"]
    )
    return [characters.decode(row) for row in tokens]
