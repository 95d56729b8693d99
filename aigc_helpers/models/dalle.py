"""Generated from notebooks/05b_dalle.ipynb: edit it there, then run `python -m tools export`."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_whole
from aigc_helpers.models.diffusion import (
    RECTIFIED_FLOW,
    diffuse,
    draw_times,
    sample,
    time_embedding,
)
from aigc_helpers.models.gpt import GPT, Cache, next_logits, next_probabilities
from aigc_helpers.models.text_to_image import CaptionDiT
from aigc_helpers.scenes import PAD, WORDS
from aigc_helpers.training import autocast


TILE = 4  # pixels on each side of a tile
SIDE = 8  # tiles on each side of a picture
NUM_CODES = SIDE * SIDE
NUM_WORDS = len(WORDS)


def cut_tiles(images):
    """Pictures (N, 3, 32, 32) -> tiles (N, 64, 48), row by row, of 4x4 pixels."""
    return F.pixel_unshuffle(images, TILE).flatten(2).transpose(1, 2)


def lay_tiles(tiles):
    """Tiles (N, 64, 48) -> pictures (N, 3, 32, 32): `cut_tiles`, undone."""
    return F.pixel_shuffle(tiles.transpose(1, 2).unflatten(2, (SIDE, SIDE)), TILE)


def choose_entries(z, entries):
    """For vectors z (n, d): the nearest of entries (K, d), and the squared distance; both (n,)."""
    parts = [torch.cdist(part, entries).min(dim=1) for part in z.split(20_000)]
    distance = torch.cat([part.values for part in parts])
    return torch.cat([part.indices for part in parts]), distance.square()


def fit_codebook(z, K, num_rounds=15, generator=None, start=None):
    """Entries (K, d) for vectors z (n, d), n at least K, by k-means: eq. (1).

    start (K, d): the first entries; without it, vectors drawn at random.
    """
    require_whole("fit_codebook", "K", K, least=1, most=len(z))
    require_whole("fit_codebook", "num_rounds", num_rounds, least=1)
    entries = z[torch.randperm(len(z), generator=generator)[:K]] if start is None else start
    entries = entries.clone()
    for _ in range(num_rounds):
        index, _ = choose_entries(z, entries)
        counts = torch.bincount(index, minlength=K)
        sums = torch.zeros_like(entries).index_add_(0, index, z)
        used = counts > 0
        entries[used] = sums[used] / counts[used, None]
    return entries


class SceneVQ(nn.Module):
    """Pictures (N, 3, 32, 32) in [-1, 1] as the numbers of 64 tiles of a codebook, and back."""

    def __init__(self, K=256):
        super().__init__()
        require_whole("SceneVQ", "K", K, least=1)
        self.codebook = nn.Parameter(torch.full((K, 3 * TILE**2), -1.0))   # tile 0 stays black

    def fit(self, images, generator=None):
        """Choose all tiles but the black one for those tiles of the images that hold some ink."""
        tiles = cut_tiles(images).flatten(0, 1)
        inked = tiles[tiles.amax(dim=1) > -0.9]
        self.codebook.data[1:] = fit_codebook(inked, len(self.codebook) - 1, generator=generator)

    @torch.no_grad()
    def encode(self, images):
        """The codes (N, 64) of pictures, row by row."""
        index, _ = choose_entries(cut_tiles(images).flatten(0, 1), self.codebook)
        return index.view(len(images), NUM_CODES)

    @torch.no_grad()
    def decode(self, codes):
        """Pictures (N, 3, 32, 32) in [-1, 1] of codes (N, 64)."""
        return lay_tiles(self.codebook[codes]).clamp(-1, 1)


def make_scene_gpt(codebook=None, K=256, width=128, num_blocks=4):
    """Chapter 03's GPT over captions of 12 words and the 64 codes of a picture.

    codebook (K, 48): tiles that are alike then begin with embeddings that are alike.
    """
    K = K if codebook is None else len(codebook)
    require_whole("make_scene_gpt", "K", K, least=1)
    gpt = GPT(NUM_WORDS + K, 12 + NUM_CODES - 1, width, num_heads=4, num_blocks=num_blocks)
    row_and_column = 0.1 * torch.randn(2, SIDE, width)
    where = row_and_column[0][:, None] + row_and_column[1]         # (8, 8, width)
    gpt.position.weight.data[12:] += where.flatten(0, 1)[:-1]
    if codebook is not None:
        centred = codebook - codebook.mean(dim=0)
        gpt.token.weight.data[NUM_WORDS:] += 0.007 * centred @ torch.randn(3 * TILE**2, width)
    return gpt


def as_sequences(tokens, codes):
    """Captions (N, 12) and codes (N, 64) as sequences (N, 76) of one alphabet: code k is 28 + k."""
    return torch.cat([tokens, NUM_WORDS + codes], dim=1)


def drop_captions(tokens, share=0.1, generator=None):
    """Captions (N, 12), each emptied with this probability."""
    require_number("drop_captions", "share", share, least=0, most=1)
    dropped = torch.rand(len(tokens), 1, generator=generator) < share
    return torch.where(dropped, PAD, tokens)


def code_losses(gpt, tokens, codes):
    """-log p, nats, of each code (N, 64) after its caption and the codes before it: eq. (2)."""
    sequences = as_sequences(tokens, codes)
    logits = gpt(sequences[:, :-1])                                # (N, 75, 28 + K)
    logits = logits[:, tokens.shape[1] - 1 :, NUM_WORDS:].float()  # those that foretell codes
    return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none")


def guided_logits(with_caption, without, w):
    """Eq. (3): logits (N, K), led away from those without the caption by w."""
    return with_caption + w * (with_caption - without)


@torch.no_grad()
def draw_codes(gpt, tokens, w=0.0, temperature=1.0, top_k=None, generator=None):
    """Codes (N, 64) for captions (N, 12), one after another, by eq. (2) and (3)."""
    require_number("draw_codes", "w", w, least=0)
    rows = torch.cat([tokens, torch.zeros_like(tokens)]) if w > 0 else tokens
    copies = len(rows) // len(tokens)
    cache = Cache()
    drawn = []
    for _ in range(NUM_CODES):
        logits = next_logits(gpt, rows, cache)[:, NUM_WORDS:].float()
        if w > 0:
            logits = guided_logits(*logits.chunk(2), w)
        p = next_probabilities(logits, temperature, top_k)
        code = torch.multinomial(p, 1, generator=generator)
        drawn.append(code)
        rows = torch.cat([rows, NUM_WORDS + code.repeat(copies, 1)], dim=1)
    return torch.cat(drawn, dim=1)


def draw_by_codes(vq, gpt, tokens, w=2.0, temperature=1.0, top_k=None, generator=None):
    """Pictures (N, 3, 32, 32) in [-1, 1] for captions (N, 12), 250 at a time: DALL-E 1."""
    settings = {"w": w, "temperature": temperature, "top_k": top_k, "generator": generator}
    parts = [vq.decode(draw_codes(gpt, part, **settings)) for part in tokens.split(250)]
    return torch.cat(parts)


@torch.no_grad()
def choose(clip, images, tokens, best_of):
    """The picture nearest to its caption among each `best_of` of images (N * best_of, 3, 32, 32).

    Those of a caption stand together; tokens (N, 12). Returns their places in images (N,): eq. (4).
    """
    require_whole("choose", "best_of", best_of, least=1)
    vectors = torch.cat([clip.embed_images(part) for part in images.split(500)])
    cosines = (vectors.unflatten(0, (-1, best_of)) * clip.embed_text(tokens)[:, None]).sum(dim=2)
    return torch.arange(len(tokens)) * best_of + cosines.argmax(dim=1)


DIM = 64  # numbers in CLIP's vectors
LENGTH = math.sqrt(DIM)  # the prior works on vectors of this length


class Prior(nn.Module):
    """Noisy picture vectors x (N, 64), times t (N,), caption vectors (N, 64) -> velocities."""

    def __init__(self, hidden=256, num_blocks=3):
        super().__init__()
        self.enter = nn.Linear(2 * DIM + 64, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(),
                          nn.Linear(hidden, hidden))
            for _ in range(num_blocks)
        )
        self.leave = nn.Linear(hidden, DIM)

    def forward(self, x, t, texts):
        h = self.enter(torch.cat([x, LENGTH * texts, time_embedding(t)], dim=1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)


def prior_loss(prior, pictures, texts, generator=None):
    """Eq. (5) for CLIP's vectors of pictures and of captions, both (N, 64) of length 1."""
    t = draw_times(len(pictures), generator=generator)
    eps = torch.randn(pictures.shape, generator=generator)
    x = diffuse(LENGTH * pictures, t, eps, RECTIFIED_FLOW)
    return (prior(x, t, texts) - (eps - LENGTH * pictures)).square().mean()


@torch.no_grad()
def draw_vectors(prior, texts, num_steps=20, generator=None, best_of=2):
    """Picture vectors (N, 64) of length 1 for caption vectors (N, 64): the nearest of best_of."""
    require_whole("draw_vectors", "best_of", best_of, least=1)
    many = texts.repeat_interleave(best_of, 0)

    def denoise(x, t):
        return x - t * prior(x, torch.full((len(x),), t), many)

    noise = torch.randn(many.shape, generator=generator)
    drawn = F.normalize(sample(denoise, noise, RECTIFIED_FLOW, num_steps), dim=1)
    drawn = drawn.unflatten(0, (-1, best_of))                      # (N, best_of, 64)
    nearest = (drawn * texts[:, None]).sum(dim=2).argmax(dim=1)
    return drawn[torch.arange(len(texts)), nearest]


class VectorDecoder(nn.Module):
    """Latents (N, 4, 8, 8), times (N,), picture vectors (N, 64) or zeros -> velocity of latents."""

    def __init__(self, num_tokens=4, width=128, num_blocks=3):
        super().__init__()
        self.spread = nn.Linear(DIM, num_tokens * width, bias=False)
        self.positions = nn.Parameter(0.5 * torch.randn(num_tokens, width))
        self.net = CaptionDiT(num_blocks=num_blocks)

    def forward(self, z, t, pictures):
        words = self.spread(LENGTH * pictures).unflatten(1, self.positions.shape) + self.positions
        mask = torch.ones(words.shape[:2], dtype=torch.bool)
        return self.net(z, t, words, mask)


def decoder_loss(decoder, z0, pictures, generator=None):
    """Rectified flow on latents z0 (N, 4, 8, 8), with vectors (N, 64), a tenth of them zero."""
    t = draw_times(len(z0), middle=True, generator=generator)
    eps = torch.randn(z0.shape, generator=generator)
    dropped = torch.rand(len(z0), 1, generator=generator) < 0.1
    known = torch.where(dropped, 0.0, pictures)
    out = decoder(diffuse(z0, t, eps, RECTIFIED_FLOW), t, known)
    return (out.float() - (eps - z0)).square().mean()


def guided_denoise(decoder, pictures, w):
    """The denoised estimate of latents, led away from that without a vector by w."""
    both = torch.cat([pictures, torch.zeros_like(pictures)])

    def denoise(z, t):
        times = torch.full((len(both),), t)
        with_vector, without = decoder(torch.cat([z, z]), times, both).float().chunk(2)
        return z - t * (with_vector + w * (with_vector - without))

    return denoise


@torch.no_grad()
def draw_from_vectors(
    decoder, autoencoder, pictures, w=2.0, num_steps=20, generator=None, noise=None
):
    """Images (N, 3, 32, 32) in [-1, 1] of picture vectors (N, 64), with guidance w.

    noise (N, 4, 8, 8) to start from; drawn if None.
    """
    require_number("draw_from_vectors", "w", w, least=0)
    if noise is None:
        noise = torch.randn(len(pictures), 4, SIDE, SIDE, generator=generator)
    parts = []
    for some, start in zip(pictures.split(250), noise.split(250), strict=True):
        denoise = guided_denoise(decoder, some, w)
        with autocast("cpu"):
            z = sample(denoise, start, RECTIFIED_FLOW, num_steps)
        parts.append(autoencoder.decode(z.float()).clamp(-1, 1))
    return torch.cat(parts)


def slerp(pictures, d, share):
    """Unit vectors (N, D), turned towards d by a share of their angle: eq. (6)."""
    require_number("slerp", "share", share, least=0, most=1)
    angle = (pictures * d).sum(dim=1, keepdim=True).clamp(-0.9999, 0.9999).acos()
    first = ((1 - share) * angle).sin() * pictures
    return (first + (share * angle).sin() * d) / angle.sin()


@torch.no_grad()
def text_difference(clip, before, after):
    """The direction (N, 64), of length 1, from captions `before` to captions `after` (N, 12)."""
    return F.normalize(clip.embed_text(after) - clip.embed_text(before), dim=1)
