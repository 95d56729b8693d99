"""Three routes from a caption to a picture, each trained for the same seconds, three seeds.

Frozen and the same for all: chapter 05's CLIP and autoencoder, and 05b's codebook. After them each
system has 40 seconds of processor time on one thread: the GPT over codes; a prior (8 of the seconds)
and a decoder of vectors; the denoiser that attends to words. Denoisers draw with guidance w = 2.
Scored on 250 captions of seen combinations and 250 with a held-out one by `SceneJudge.standard()`;
recall of the digits of 250 real scenes by its features, whose ceiling is that of other real scenes.
Pairs bound: among scenes of two digits and two colours whose digits and colours are right, the share
in which each digit has its own colour.
"""

from __future__ import annotations

import copy
import time

import torch

from aigc_helpers.metrics import precision_recall
from aigc_helpers.models import dalle, text_to_image
from aigc_helpers.models.diffusion import update_ema
from aigc_helpers.scene_judge import SceneJudge
from aigc_helpers.scenes import load_scenes
from aigc_helpers.training import autocast
from aigc_helpers.weights import load_model

from ..experimenting import load_real_digits, summarize, take_step

SEEDS = (0, 1, 2)
SECONDS = 40.0
PRIOR_SHARE = 0.2
NUM = 250
BEST_OF = 4
W = 2.0
W_CODES = 1.0
TEMPERATURE = 0.7
DECIMALS = {
    "pictures seen": 0, "digits": 2, "colours": 2, "place": 2, "joint": 2, "held-out": 2,
    "pairs bound": 2, "of pairs": 0, "recall": 2, "ms a picture": 0,
}  # fmt: skip
SEEN = [0]  # pictures in the latest training
PARTS = ("digits", "colours", "place", "joint")


def run(progress):
    load_real_digits("test")  # the embedded digits will not do
    torch.set_num_threads(1)
    parts = _Parts()
    found = {}
    for seed in SEEDS:
        for name, draw in _train_all(parts, seed):
            row = {"pictures seen": SEEN[0]} | parts.score(draw)
            found.setdefault(name, []).append(row)
            progress(f"seed {seed}, {name}: {row}")
    rows = {name: summarize(scores, DECIMALS) for name, scores in found.items()}
    rows["real scenes, as codes (ceiling)"] = _written(parts.ceiling(parts.as_codes))
    rows["real scenes, as latents (ceiling)"] = _written(parts.ceiling(parts.as_latents))
    return rows


def _written(row):
    return {name: f"{value:.{DECIMALS[name]}f}" for name, value in row.items()}


class _Parts:
    """The data, the frozen models and the judge."""

    def __init__(self):
        self.train = load_scenes("train", 20_000, verbose=False)
        self.seen = load_scenes("test", NUM, seed=11, verbose=False)
        self.held = load_scenes("test", NUM, "held out", seed=12, verbose=False)
        self.clip = load_model("scene_clip")
        self.text = load_model("text_to_image").text
        self.coder = load_model("scene_autoencoder")
        self.vq = load_model("scene_vq")
        self.judge = SceneJudge.standard()
        images = self.train.images
        with torch.no_grad():
            self.z = torch.cat([self.coder.encode(part).float() for part in images.split(250)])
            self.v = torch.cat([self.clip.embed_images(part) for part in images.split(500)])
            self.u = torch.cat([self.clip.embed_text(part) for part in self.train.tokens.split(500)])
        self.codes = self.vq.encode(images)
        others = load_scenes("test", NUM, seed=14, verbose=False)
        self.real = self.judge.digit_features(others.images)

    def score(self, draw):
        began = time.process_time()
        images = draw(self.seen.tokens)
        each = (time.process_time() - began) / NUM
        held = self.judge.match(draw(self.held.tokens), self.held.facts)
        return self.read(images) | {"held-out": held.share(), "ms a picture": 1000 * each}

    def read(self, images):
        match = self.judge.match(images, self.seen.facts)
        row = {name: match.share(name) for name in PARTS}
        facts = self.seen.facts
        asked = facts.is_pair & (facts.colours[:, 0] != facts.colours[:, 1])
        asked &= facts.digits[:, 0] != facts.digits[:, 1]
        asked &= match.right["digits"] & match.right["colours"]
        row["of pairs"] = asked.sum().item()
        row["pairs bound"] = match.right["binding"][asked].double().mean().item() if asked.any() else 0.0
        row["recall"] = precision_recall(self.real, self.judge.digit_features(images))[1]
        return row

    def as_codes(self, images):
        return self.vq.decode(self.vq.encode(images))

    @torch.no_grad()
    def as_latents(self, images):
        return self.coder.decode(self.coder.encode(images)).clamp(-1, 1)

    def ceiling(self, through):
        held = self.judge.match(through(self.held.images), self.held.facts)
        return self.read(through(self.seen.images)) | {"held-out": held.share()}


def _train_all(parts, seed):
    """(name, what draws pictures for captions) of each row."""
    random = torch.Generator().manual_seed(1000 + seed)
    gpt = _train_gpt(parts, seed)

    def plain(tokens):
        return dalle.draw_by_codes(parts.vq, gpt, tokens, 0.0, generator=random)

    def codes(tokens):
        return dalle.draw_by_codes(parts.vq, gpt, tokens, W_CODES, TEMPERATURE, generator=random)

    def chosen(tokens):
        images = codes(tokens.repeat_interleave(BEST_OF, 0))
        return images[dalle.choose(parts.clip, images, tokens, BEST_OF)]

    yield "codes, w = 0, temperature 1", plain
    yield f"codes, w = 1, temperature {TEMPERATURE}", codes
    yield f"the same, CLIP's best of {BEST_OF}", chosen
    prior = _train_prior(parts, seed)
    decoder = _train_decoder(parts, seed)

    @torch.no_grad()
    def by_prior(tokens):
        v = dalle.draw_vectors(prior, parts.clip.embed_text(tokens), generator=random)
        return dalle.draw_from_vectors(decoder, parts.coder, v, W, generator=random)

    @torch.no_grad()
    def by_caption(tokens):
        u = parts.clip.embed_text(tokens)
        return dalle.draw_from_vectors(decoder, parts.coder, u, W, generator=random)

    yield "one vector, by the prior", by_prior
    yield "one vector, the caption's own", by_caption
    net = _train_words(parts, seed)
    system = text_to_image.TextToImage(parts.text, net, parts.coder)

    def words(tokens):
        return text_to_image.draw(system, tokens, W, generator=random)

    yield "words that steer a denoiser", words


def _for_seconds(seconds, seed, batch_size, num):
    """Yields (share of the time that is over, a batch of places) until the processor's time is used."""
    random = torch.Generator().manual_seed(seed)
    began = time.process_time()
    SEEN[0] = 0
    while (share := (time.process_time() - began) / seconds) < 1:
        SEEN[0] += batch_size
        yield share, torch.randint(num, (batch_size,), generator=random)


def _set_rates(opts, share, step, down):
    for opt in opts:
        for group in opt.param_groups:
            full = group.setdefault("full", group["lr"])
            group["lr"] = full * min(1.0, step / 20, (1 - share) / down)


def _train_gpt(parts, seed):
    torch.manual_seed(seed)
    gpt = dalle.make_scene_gpt(parts.vq.codebook)
    opts = text_to_image.make_optimizers(gpt, gpt.blocks)
    random = torch.Generator().manual_seed(seed)
    for step, (share, k) in enumerate(_for_seconds(SECONDS, seed, 32, len(parts.codes)), start=1):
        _set_rates(opts, share, step, 0.7)
        tokens = dalle.drop_captions(parts.train.tokens[k], 0.1, random)
        with autocast("cpu"):
            loss = dalle.code_losses(gpt, tokens, parts.codes[k]).mean()
        take_step(opts, loss)
    return gpt.eval().requires_grad_(False)


def _train_prior(parts, seed):
    torch.manual_seed(seed)
    prior = dalle.Prior()
    opts = [torch.optim.AdamW(prior.parameters(), lr=2e-3, weight_decay=0.0)]
    random = torch.Generator().manual_seed(seed)
    seconds = PRIOR_SHARE * SECONDS
    for step, (share, k) in enumerate(_for_seconds(seconds, seed, 256, len(parts.v)), start=1):
        _set_rates(opts, share, step, 0.7)
        take_step(opts, dalle.prior_loss(prior, parts.v[k], parts.u[k], random))
    return prior.eval().requires_grad_(False)


def _train_denoiser(net, blocks, loss_of, seconds, seed, num):
    """The averaged network after so many seconds of `loss_of(net, places, generator)`."""
    average = copy.deepcopy(net).requires_grad_(False)
    opts = text_to_image.make_optimizers(net, blocks)
    random = torch.Generator().manual_seed(seed)
    for step, (share, k) in enumerate(_for_seconds(seconds, seed, 64, num), start=1):
        _set_rates(opts, share, step, 0.7)
        with autocast("cpu"):
            loss = loss_of(net, k, random)
        take_step(opts, loss)
        update_ema(average, net, min(0.99, (1 + step) / (10 + step)))
    return average.eval()


def _train_decoder(parts, seed):
    torch.manual_seed(seed)
    seconds = (1 - PRIOR_SHARE) * SECONDS

    def loss_of(net, k, random):
        return dalle.decoder_loss(net, parts.z[k], parts.v[k], random)

    net = dalle.VectorDecoder()
    return _train_denoiser(net, net.net.blocks, loss_of, seconds, seed, len(parts.z))


def _train_words(parts, seed):
    torch.manual_seed(seed)

    def loss_of(net, k, random):
        tokens = dalle.drop_captions(parts.train.tokens[k], 0.1, random)
        return text_to_image.caption_loss(net, parts.text, parts.z[k], tokens, random)

    net = text_to_image.CaptionDiT()
    return _train_denoiser(net, net.blocks, loss_of, SECONDS, seed, len(parts.z))
