"""Three routes from a caption to a picture, each trained for the same seconds, three seeds.

Frozen and the same for all: chapter 05's CLIP and autoencoder, and 05b's codebook with its decoder.
After them each system has 45 seconds of processor time on one thread: the GPT over codes; a prior
(9 of the seconds) and a decoder of vectors; the denoiser that attends to words. Scored on 250 captions
of seen combinations and 250 with a held-out one, with guidance w = 2 but where a row says otherwise,
by `SceneJudge.standard()`; recall of the digits of the 250 real scenes by its features.
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
SECONDS = 45.0
PRIOR_SHARE = 0.2
NUM = 250
BEST_OF = 4
DECIMALS = {
    "pictures seen": 0, "digits": 2, "colours": 2, "binding": 2, "place": 2, "joint": 2, "held-out": 2,
    "recall": 2, "ms a picture": 0,
}  # fmt: skip
SEEN = [0]  # pictures in the latest training
PARTS = ("digits", "colours", "binding", "place", "joint")


def run(progress):
    load_real_digits("test")  # the embedded digits will not do
    torch.set_num_threads(1)
    parts = _Parts()
    found = {}
    weights = {}
    for seed in SEEDS:
        for name, draw, count in _train_all(parts, seed):
            row = {"pictures seen": SEEN[0]} | parts.score(draw)
            found.setdefault(name, []).append(row)
            weights[name] = f"{count:,}"
            progress(f"seed {seed}, {name}: {row}")
    rows = {name: summarize(scores, DECIMALS) | {"weights": weights[name]} for name, scores in found.items()}
    ceiling = {name: f"{value:.2f}" for name, value in parts.ceiling().items()}
    rows["real scenes through the autoencoder (ceiling)"] = ceiling
    return rows


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
        self.real = self.judge.digit_features(self.seen.images)

    def score(self, draw):
        began = time.process_time()
        images = draw(self.seen.tokens)
        each = (time.process_time() - began) / NUM
        match = self.judge.match(images, self.seen.facts)
        row = {name: match.share(name) for name in PARTS}
        row["held-out"] = self.judge.match(draw(self.held.tokens), self.held.facts).share()
        row["recall"] = precision_recall(self.real, self.judge.digit_features(images))[1]
        return row | {"ms a picture": 1000 * each}

    @torch.no_grad()
    def ceiling(self):
        row = {}
        images = self.coder.decode(self.coder.encode(self.seen.images)).clamp(-1, 1)
        match = self.judge.match(images, self.seen.facts)
        row = {name: match.share(name) for name in PARTS}
        again = self.coder.decode(self.coder.encode(self.held.images)).clamp(-1, 1)
        row["held-out"] = self.judge.match(again, self.held.facts).share()
        return row | {"recall": precision_recall(self.real, self.judge.digit_features(images))[1]}


def _train_all(parts, seed):
    """(name, what draws pictures for captions, trained weights) of each row."""
    random = torch.Generator().manual_seed(1000 + seed)
    gpt = _train_gpt(parts, seed)
    count = _size(gpt)

    def codes(tokens, w=2.0):
        return dalle.draw_by_codes(parts.vq, gpt, tokens, w, generator=random)

    def chosen(tokens):
        images = codes(tokens.repeat_interleave(BEST_OF, 0), 0.0)
        return images[dalle.choose(parts.clip, images, tokens, BEST_OF)]

    yield "codes, one after another", codes, count
    yield f"the same, w = 0, CLIP's best of {BEST_OF}", chosen, count
    prior = _train_prior(parts, seed)
    decoder = _train_decoder(parts, seed)

    def vectors(tokens):
        with torch.no_grad():
            v = dalle.draw_vectors(prior, parts.clip.embed_text(tokens), generator=random)
        return dalle.draw_from_vectors(decoder, parts.coder, v, 2.0, generator=random)

    yield "one vector: prior and decoder", vectors, _size(prior) + _size(decoder)
    net = _train_words(parts, seed)
    system = text_to_image.TextToImage(parts.text, net, parts.coder)

    def words(tokens):
        return text_to_image.draw(system, tokens, 2.0, generator=random)

    yield "words that steer a denoiser", words, _size(net)


def _size(model):
    return sum(weight.numel() for weight in model.parameters())


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
