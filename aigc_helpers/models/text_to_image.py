"""Generated from notebooks/05_text_to_image.ipynb: edit it there, then run `python -m tools export`."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_whole
from aigc_helpers.models.diffusion import learning_rate, time_embedding, update_ema
from aigc_helpers.models.gpt_beyond import Muon
from aigc_helpers.training import autocast, steps


def norm(x):
    """Vectors (N, ..., D), each shifted and scaled to mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:])


def attend(q, k, mask=None):
    """Weights (N, heads, T, S) of queries (N, heads, T, d) on keys (N, heads, S, d): eq. (1).

    mask (N, S) is True where there is something to attend to.
    """
    logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)  # for all heads, queries
    return logits.softmax(dim=3)


class Attention(nn.Module):
    """x (N, T, D) attends to source (N, S, E) -> (N, T, D). A list `keep` gets the weights."""

    def __init__(self, width, source_width=None, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(source_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # what a new layer adds is 0

    def split(self, x):
        """(N, T, D) -> (N, heads, T, D / heads): a vector's first numbers are the first head's."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x, source, mask=None, keep=None):
        key, value = self.key_value(source).chunk(2, dim=2)
        q = norm(self.split(self.query(x)))
        k = norm(self.split(key))
        weights = attend(q, k, mask)
        if keep is not None:
            keep.append(weights.detach().float())
        # F.scaled_dot_product_attention does this and `attend` in one call, and keeps no weights.
        answer = weights.to(value.dtype) @ self.split(value)   # (N, heads, T, D / heads)
        return self.out(answer.transpose(1, 2).flatten(2))


PAD = 0  # the token that means: no word here


class MLP(nn.Module):
    """Two layers with a GELU between them, each vector by itself: (..., D) -> (..., D)."""

    def __init__(self, width, factor=2):
        super().__init__()
        self.up = nn.Linear(width, factor * width, bias=False)
        self.down = nn.Linear(factor * width, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class TextBlock(nn.Module):
    """Self-attention among the words, then an MLP: (N, S, D) -> (N, S, D)."""

    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.mlp = MLP(width)

    def forward(self, x, mask):
        h = norm(x)
        x = x + self.attention(h, h, mask)
        return x + self.mlp(norm(x))


class TextEncoder(nn.Module):
    """Tokens (N, T) -> word vectors (N, 1 + T, D), and a mask (N, 1 + T) of those that count.

    The first vector is the start token, which every caption has.
    """

    def __init__(self, num_words, length, width=128, num_blocks=2):
        super().__init__()
        self.words = nn.Embedding(num_words, width)
        self.positions = nn.Parameter(0.5 * torch.randn(1 + length, width))
        self.blocks = nn.ModuleList(TextBlock(width) for _ in range(num_blocks))

    def forward(self, tokens):
        words = F.pad(self.words(tokens), (0, 0, 1, 0))        # room for the start
        x = words + self.positions[: 1 + tokens.shape[1]]
        mask = F.pad(tokens != PAD, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        return x, mask


def unit(x):
    """Vectors (N, D), each divided by its length."""
    return F.normalize(x.float(), dim=1)


class CLIP(nn.Module):
    """Pictures and captions as vectors of length 1 in one space; Radford 2021."""

    def __init__(self, num_words=28, length=12, width=128, dim=64):
        super().__init__()
        self.text = TextEncoder(num_words, length, width)
        self.text_out = nn.Linear(width, dim, bias=False)
        self.image = nn.Sequential(
            nn.PixelUnshuffle(2),                              # 2x2 pixels to channels: 12x16x16
            nn.Conv2d(12, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),         # 64x8x8
            nn.ReLU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),         # 96x4x4
            nn.ReLU(),
            nn.Flatten(),
        )
        self.image_out = nn.Linear(96 * 4 * 4, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed_images(self, images):
        """Images (N, 3, 32, 32) in [-1, 1] -> vectors (N, dim) of length 1."""
        return unit(self.image_out(self.image(images)))

    def embed_text(self, tokens):
        """Tokens (N, T) -> vectors (N, dim) of length 1: the mean of the words' vectors, mapped."""
        words, mask = self.text(tokens)
        share = mask / mask.sum(dim=1, keepdim=True)
        mean = (share[:, :, None] * norm(words)).sum(dim=1)
        return unit(self.text_out(mean))

    def scale(self):
        """One over the temperature: what cosines are multiplied by, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)


def clip_loss(pictures, texts, scale, same=None):
    """InfoNCE of vectors (B, D), in both directions: eq. (2); with several positives eq. (4).

    same (B, B): True where text j fits picture i; without it, only where i = j.
    """
    logits = scale * pictures @ texts.T
    if same is None:
        same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    right = logits.masked_fill(~same, -torch.inf)
    by_picture = logits.logsumexp(dim=1) - right.logsumexp(dim=1)
    by_text = logits.logsumexp(dim=0) - right.logsumexp(dim=0)
    return (by_picture.mean() + by_text.mean()) / 2


def duplicate_floor(B, K):
    """The least InfoNCE loss of B pairs whose captions are drawn evenly from K: eq. (3)."""
    require_whole("duplicate_floor", "B", B, least=1)
    require_whole("duplicate_floor", "K", K, least=1)
    total = 0.0
    for n in range(B):
        chance = math.comb(B - 1, n) * (1 / K) ** n * (1 - 1 / K) ** (B - 1 - n)
        total += chance * math.log(1 + n)
    return total


def conv(c_in, c):
    """A 3x3 convolution, group normalisation, SiLU: as in 04's blocks."""
    layer = nn.Conv2d(c_in, c, 3, padding=1)
    return nn.Sequential(layer, nn.GroupNorm(8, c), nn.SiLU())


class AutoEncoder(nn.Module):
    """Images (N, 3, 32, 32) in [-1, 1] <-> latents (N, 4, 8, 8), standardised by channel."""

    def __init__(self, channels=4):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),                              # 48x8x8
            conv(48, 96),
            conv(96, 96),
            nn.Conv2d(96, channels, 1),                        # 4x8x8
        )
        self.decoder = nn.Sequential(
            conv(channels, 128),
            conv(128, 128),
            nn.Conv2d(128, 48, 3, padding=1),
            nn.PixelShuffle(4),                                # 3x32x32
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.to(memory_format=torch.channels_last)

    def raw(self, images):
        """The encoder's numbers as they come, (N, 4, 8, 8)."""
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def from_raw(self, z):
        """Images of raw latents."""
        return self.decoder(z.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def standardise(self, images):
        """Measure mean and standard deviation of each channel on these images."""
        z = torch.cat([self.raw(part) for part in images.split(250)])
        self.mean.copy_(z.mean(dim=(0, 2, 3)))
        self.std.copy_(z.std(dim=(0, 2, 3)))

    def encode(self, images):
        """Standardised latents: eq. (5)."""
        return (self.raw(images) - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, z):
        """Images, about in [-1, 1], of standardised latents."""
        return self.from_raw(z * self.std[:, None, None] + self.mean[:, None, None])


def make_optimizers(model, inside, rate=3e-3):
    """Muon for the large matrices and kernels of the modules `inside`; Adam for all else."""
    large = [
        weight
        for module in inside
        for weight in module.parameters()
        if weight.ndim >= 2 and min(weight.shape[:2]) >= 32
    ]
    chosen = {id(weight) for weight in large}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [Muon(large, lr=0.02), torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.99))]


def set_rates(opts, step, num_steps):
    """Each optimiser's rate at this step: up, then down to 0 along half a cosine, as in 04."""
    for opt in opts:
        for group in opt.param_groups:
            full = group.setdefault("full", group["lr"])
            group["lr"] = learning_rate(step, num_steps, full)


class DenoisingBlock(nn.Module):
    """The block of the drawing: patches x (N, P, D) -> (N, P, D)."""

    def __init__(self, width, word_width):
        super().__init__()
        self.ask_patches = Attention(width)                    # self-attention
        self.ask_words = Attention(width, word_width)          # cross-attention
        self.mlp = MLP(width)
        self.offsets = nn.Parameter(torch.zeros(6, width))     # this block's own, beside the time's

    def forward(self, x, time, words, mask, keep=None):
        changes = (time + self.offsets).unsqueeze(2)           # (N, 6, 1, D)
        scale1, shift1, scale2, shift2, scale3, shift3 = changes.unbind(dim=1)
        h = norm(x) * (1 + scale1) + shift1
        x = x + self.ask_patches(h, h)
        h = norm(x) * (1 + scale2) + shift2
        x = x + self.ask_words(h, words, mask, keep)
        h = norm(x) * (1 + scale3) + shift3
        return x + self.mlp(h)


class CaptionDiT(nn.Module):
    """Latents (N, 4, 8, 8), times (N,), words (N, S, 128) with their mask -> a velocity like z.

    A list `keep` gets each block's cross-attention weights, (N, heads, patches, S). Peebles 2022.
    """

    def __init__(self, channels=4, side=8, patch=2, width=128, num_blocks=4, word_width=128):
        super().__init__()
        self.patch = patch
        self.enter = nn.Linear(channels * patch**2, width)
        self.positions = nn.Parameter(0.5 * torch.randn((side // patch) ** 2, width))
        self.time = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.shifts = nn.Linear(64, 6 * width)                 # of the time, for all blocks
        self.read = Attention(word_width)                      # the token refiner
        self.blocks = nn.ModuleList(
            DenoisingBlock(width, word_width) for _ in range(num_blocks)
        )
        self.leave = nn.Linear(width, channels * patch**2)
        for layer in (self.shifts, self.leave):
            nn.init.zeros_(layer.weight)  # a new network answers 0
            nn.init.zeros_(layer.bias)

    def forward(self, z, t, words, mask, keep=None):
        squares = F.pixel_unshuffle(z, self.patch)             # 16 numbers for each of 4x4 patches
        side = squares.shape[3]
        patches = squares.flatten(2).transpose(1, 2)           # (N, 16 patches, 16 numbers)
        x = self.enter(patches) + self.positions               # (N, 16 patches, 128)
        e = F.silu(self.time(time_embedding(t)))
        time = self.shifts(e).unflatten(1, (6, -1))            # (N, 6, 128)
        words = norm(words)
        words = norm(words + self.read(words, words, mask))
        for block in self.blocks:
            x = block(x, time, words, mask, keep)
        out = self.leave(norm(x)).transpose(1, 2)              # (N, 16 numbers, 16 patches)
        return F.pixel_shuffle(out.unflatten(2, (side, side)), self.patch)


def drop_captions(tokens, share=0.1, generator=None):
    """Tokens (N, T), each row emptied with this probability; Ho & Salimans 2022."""
    dropped = torch.rand(len(tokens), generator=generator).to(tokens.device) < share
    return tokens.masked_fill(dropped[:, None], PAD)


def caption_loss(net, text, z0, tokens, generator=None):
    """The squared error of the velocity of latents z0 (N, 4, 8, 8) with these captions: eq. (6)."""
    t = torch.randn(len(z0), generator=generator).sigmoid().to(z0.device)  # logit-normal times
    eps = torch.randn(z0.shape, generator=generator).to(z0)
    share = t[:, None, None, None]
    z = (1 - share) * z0 + share * eps
    with torch.no_grad():
        words, mask = text(tokens)  # frozen
    velocity = net(z, t, words, mask)
    return (velocity.float() - (eps - z0)).square().mean()


class TextToImage(nn.Module):
    """What draws: a text encoder, a denoiser, an autoencoder, all trained."""

    def __init__(self, text, net, autoencoder):
        super().__init__()
        self.text = text
        self.net = net
        self.autoencoder = autoencoder


def guided(net, nothing, w):
    """A denoiser led away from `nothing`, the (words, mask) of another caption, by w: eq. (7).

    w = 0 leaves its answers as they are.
    """
    require_number("guided", "w", w)
    if w == 0:
        return net

    def predict(z, t, words, mask):
        all_words = torch.cat([words, nothing[0].expand_as(words)])
        all_masks = torch.cat([mask, nothing[1].expand_as(mask)])
        both = net(torch.cat([z, z]), torch.cat([t, t]), all_words, all_masks)
        with_caption, without = both.chunk(2)
        return with_caption + w * (with_caption - without)

    return predict


@torch.no_grad()
def draw_latents(
    model, tokens, w=2.0, num_steps=20, noise=None, generator=None, away_from=None, keep=False
):
    """Latents (N, 4, 8, 8) for captions (N, T), from `noise` (drawn if None), by Euler's method.

    w: guidance, away from the tokens (1, T) `away_from`, or from no caption.
    keep: a list of num_steps + 1 latents, from the noise on.
    """
    require_whole("draw_latents", "num_steps", num_steps, least=1)
    if noise is None:
        noise = torch.randn(len(tokens), 4, 8, 8, generator=generator)
    other = torch.zeros_like(tokens[:1]) if away_from is None else away_from.to(tokens)
    z = noise.to(tokens.device)
    path = [z]
    with autocast(tokens.device):
        words, mask = model.text(tokens)
        velocity = guided(model.net, model.text(other), w)
        for step in range(num_steps, 0, -1):                   # t from 1 to 1 / num_steps
            t = torch.full((len(z),), step / num_steps, device=z.device)
            z = z - velocity(z, t, words, mask).float() / num_steps
            path.append(z)
    return path if keep else z


@torch.no_grad()
def draw(model, tokens, w=2.0, num_steps=20, noise=None, generator=None, away_from=None):
    """Images (N, 3, 32, 32) in [-1, 1] for captions (N, T), on the CPU: see `draw_latents`."""
    if noise is None:
        noise = torch.randn(len(tokens), 4, 8, 8, generator=generator)
    images = []
    for part, start in zip(tokens.split(250), noise.split(250), strict=True):
        z = draw_latents(model, part, w, num_steps, start, away_from=away_from)
        images.append(model.autoencoder.decode(z.float()).float().clamp(-1, 1).cpu())
    return torch.cat(images)


def train_captions(net, text, latents, tokens, num_steps, dropped=0.1, seed=0):
    """The loop of section 5 on latents (M, 4, 8, 8) and tokens (M, T): the averaged network."""
    device = latents.device
    average = copy.deepcopy(net)
    opts = make_optimizers(net, net.blocks)
    random = torch.Generator().manual_seed(seed)
    for step, (z0, caption) in steps((latents, tokens), num_steps, 64, device=device, seed=seed):
        set_rates(opts, step, num_steps)
        caption = drop_captions(caption, dropped, random)
        with autocast(device):
            loss = caption_loss(net, text, z0, caption, random)
        for opt in opts:
            opt.zero_grad()
        loss.backward()
        for opt in opts:
            opt.step()
        update_ema(average, net, 1 - 5 / num_steps)
    return average.eval().requires_grad_(False)
