"""Four families on MNIST, the same seconds for each, three seeds: chapter 06.

Trained on 50,000 digits without labels, on one thread; the clock is the processor's time for training
alone. Snapshots at 15, 30, 60 and 90 s of one run: rates rise over 30 steps and then stay, and what
draws is an average of the weights (mean age: a sixth of the run). Networks, losses and samplers are the pages':
01's GAN, 02's VAE, 03's GPT over the codes of 02b's VQ-VAE (its 400 steps are part of the seconds), 04's
diffusion by DDPM in 20 evaluations. Each had three settings tried for 20 s, seed 9, judged by FID against
the other 10,000 training digits; the page's own was one of them, the best one raced. One exception: the
GAN's best rate of those 20 s broke down later in the race (rows "GAN at rate 0.004"), so that its page's
rate races instead: a second try, given after the scores were seen, that no other family had.
Scored by `DigitJudge.standard()`, n = 2,000.
"pixel distance": the Frechet distance to the same reference by 32 principal components of the pixels.
"nearest": distance to the nearest of the 50,000, median; "copies": share nearer to 10,000 of them than to
the 10,000 kept away, with its standard error. "with labels": the same for 30 s, with the digit's label as an input.
"""

from __future__ import annotations

import copy
import time

import torch

from aigc_helpers.data import cache_dir, to_signed
from aigc_helpers.metrics import DigitJudge, frechet_distance
from aigc_helpers.models import diffusion, gan, vae, vae_beyond
from aigc_helpers.models.gpt import GPT, generate, next_token_loss
from aigc_helpers.models.side_by_side import copied_share, follow, nearest_digit, share_of_rate
from aigc_helpers.training import autocast
from aigc_helpers.weights import write_asset

from ..experimenting import COMMAND, count_weights, load_real_digits, take_step

SEEDS = (0, 1, 2)
MARKS = (15.0, 30.0, 60.0, 90.0)  # seconds
TRY_SECONDS = 20.0
TRY_SEED = 9
LABEL_SECONDS = 30.0
NUM = 2000
SIZES = (200, 500, 1000, 2000)  # how many of the 2,000 are scored, to show what n does
NUM_KEPT_AWAY = 10_000
VQ_STEPS = 400
K = 32
NO_LABEL = 10
EVALUATIONS = 20
NUM_SHOWN = 24  # pictures of each family and mark in the asset
NUM_FILLED = 500
VISIBLE = 12  # rows of a digit that is filled in below
NUM_GAME = 128  # ... and at the last mark, for the game


# ---------------------------------------------------------------- the families


class Family:
    """A training that goes step by step, and what draws by its averaged weights."""

    batch_size = 64

    def start(self, nets, opts):
        self.nets = nets
        self.opts = opts
        self.averages = [copy.deepcopy(net).eval().requires_grad_(False) for net in nets]
        self.num_steps = 0

    def begin_step(self):
        """The rate of this step: up over the first steps, then level."""
        self.num_steps += 1
        share = share_of_rate(self.num_steps)
        for opt in self.opts:
            for group in opt.param_groups:
                full = group.setdefault("full", group["lr"])
                group["lr"] = share * full

    def end_step(self):
        """Let the averaged weights follow."""
        for average, net in zip(self.averages, self.nets, strict=True):
            follow(average, net, self.num_steps)

    def drawing_parts(self):
        return self.nets

    def trained_parts(self):
        return self.nets

    def draw(self, num, random, label=None):
        """Images (num, 1, 28, 28) in [-1, 1]."""
        parts = [self.draw_some(part, random) for part in as_labels(num, label).split(250)]
        return torch.cat(parts)


def as_labels(num, label):
    return torch.full((num,), NO_LABEL) if label is None else label


class Gan(Family):
    """01, section 7: non-saturating loss, R1 every eighth step, the spread of the batch."""

    evaluations = 1

    def __init__(self, seed, rate=2e-3):
        torch.manual_seed(seed)
        layout = torch.channels_last
        self.G, self.D = [net.to(memory_format=layout) for net in self.make_networks()]
        self.g_opt = torch.optim.Adam(self.G.parameters(), rate, betas=(0.0, 0.99), fused=True)
        self.d_opt = torch.optim.Adam(self.D.parameters(), rate, betas=(0.0, 0.99), fused=True)
        self.start([self.G], [self.g_opt, self.d_opt])

    def make_networks(self):
        """The generator and the discriminator."""
        return [kind().apply(gan.init_weights) for kind in (gan.DigitGenerator, gan.DigitDiscriminator)]

    def trained_parts(self):
        return [self.G, self.D]

    def step(self, pixels, label, random):
        self.begin_step()
        real = to_signed(pixels).contiguous(memory_format=torch.channels_last)
        z = torch.randn(len(real), self.G.z_dim, generator=random)
        with autocast("cpu"):
            fake = self.G(z)
            d_loss = gan.discriminator_objective(self.D, real, fake)
        if self.num_steps % 8 == 0:
            d_loss = d_loss + 8 * gan.r1_penalty(self.D, real)
        take_step([self.d_opt], d_loss)
        self.D.requires_grad_(False)
        with autocast("cpu"):
            g_loss = gan.generator_loss(self.D(fake))
        take_step([self.g_opt], g_loss)
        self.D.requires_grad_(True)
        self.end_step()

    @torch.no_grad()
    def draw_some(self, label, random):
        G = self.averages[0]
        return G(torch.randn(len(label), G.z_dim, generator=random))


class Vae(Family):
    """02, section 5: ConvVAE on binarised digits; draws are the pixels' probabilities."""

    batch_size = 128
    evaluations = 1
    make_model = vae.ConvVAE

    def __init__(self, seed, rate=4e-3):
        torch.manual_seed(seed)
        self.model = self.make_model()
        self.opt = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        self.start([self.model], [self.opt])

    def drawing_parts(self):
        return [self.model.decoder]

    def step(self, pixels, label, random):
        self.begin_step()
        x = vae.binarise(pixels, random)
        with autocast("cpu"):
            distortion, per_dim = vae.elbo_terms(self.model, x, generator=random)
        loss = (distortion + per_dim.sum(dim=1)).mean()
        take_step([self.opt], loss)
        self.end_step()

    @torch.no_grad()
    def draw_some(self, label, random):
        model = self.averages[0]
        z = torch.randn(len(label), model.z_dim, generator=random)
        return (2 * torch.sigmoid(model.decode(z)) - 1).reshape(-1, 1, 28, 28)


class Codes(Family):
    """03's GPT over the 49 codes of 02b's VQ-VAE; the first token is the label, or "no label"."""

    evaluations = 49

    def __init__(self, seed, rate=3e-3, width=96, num_blocks=3):
        self.seed = seed
        torch.manual_seed(seed)
        self.gpt = GPT(K + 11, 49, width, num_heads=4, num_blocks=num_blocks)
        matrices = [weight for weight in self.gpt.parameters() if weight.ndim == 2]
        others = [weight for weight in self.gpt.parameters() if weight.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ]
        self.opt = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
        self.start([self.gpt], [self.opt])

    def drawing_parts(self):
        return [self.gpt, self.vq.decoder]

    def trained_parts(self):
        return [self.gpt, self.vq]

    def prepare(self, images):
        """The tokenizer: its time is part of the clock."""
        self.vq = vae_beyond.train_vqvae(images, VQ_STEPS, K, self.seed)

    @torch.no_grad()
    def encode(self, pixels, random):
        """Codes (N, 49) of pixels, binarised."""
        x = vae.binarise(pixels, random).reshape(-1, 1, 28, 28)
        z = self.vq.encoder(x).movedim(1, -1)
        return vae_beyond.quantise(z, self.vq.codebook)[1].flatten(1)

    def decode(self, codes):
        return 2 * torch.sigmoid(self.vq.decode(codes.reshape(-1, 7, 7))) - 1

    def step(self, pixels, label, random):
        self.begin_step()
        tokens = torch.cat([K + label[:, None], self.encode(pixels, random)], dim=1)
        take_step([self.opt], next_token_loss(self.gpt, tokens))
        self.end_step()

    def write_on(self, tokens, random):
        """Images of tokens (N, T), the label's and the first codes, when the other codes are drawn."""
        num_new = 50 - tokens.shape[1]
        tokens = generate(Only(self.averages[0], K), tokens, num_new, random)
        return self.decode(tokens[:, 1:])

    def draw_some(self, label, random):
        return self.write_on(K + label[:, None], random)

    def fill(self, x0, random):
        """Images like x0 above row VISIBLE; what lies below is not looked at."""
        blank = x0.clone()
        blank[:, :, VISIBLE:] = -1
        codes = self.encode((blank + 1) / 2, random)[:, : 7 * VISIBLE // 4]
        label = as_labels(len(x0), None)
        filled = self.write_on(torch.cat([K + label[:, None], codes], dim=1), random)
        return torch.cat([x0[:, :, :VISIBLE], filled[:, :, VISIBLE:]], dim=2)


class Only:
    """A GPT whose logits are those of the first K tokens: a label does not come again."""

    def __init__(self, gpt, K):
        self.gpt = gpt
        self.K = K
        self.context = gpt.context

    def __call__(self, tokens, cache=None):
        return self.gpt(tokens, cache)[..., : self.K]


class Diffusion(Family):
    """04, section 8: the U-Net, rectified flow, times mostly in the middle; DDPM."""

    evaluations = EVALUATIONS

    def __init__(self, seed, rate=3e-3, c=48):
        torch.manual_seed(seed)
        self.net = diffusion.UNet(c)
        self.opt = torch.optim.Adam(self.net.parameters(), lr=rate, betas=(0.9, 0.99))
        self.start([self.net], [self.opt])

    def step(self, pixels, label, random):
        self.begin_step()
        x0 = to_signed(pixels)
        t = diffusion.draw_times(len(x0), middle=True, generator=random)
        eps = torch.randn(x0.shape, generator=random)
        x = diffusion.diffuse(x0, t, eps, diffusion.RECTIFIED_FLOW)
        with autocast("cpu"):
            velocity = self.net(x, t, label)
        loss = (velocity.float() - (eps - x0)).square().mean()
        take_step([self.opt], loss)
        self.end_step()

    def draw_some(self, label, random):
        return diffusion.draw_digits(self.averages[0], label, EVALUATIONS, generator=random)

    @torch.no_grad()
    def fill(self, x0, random):
        """Images like x0 above row VISIBLE: before each step that part is x0 at the step's noise."""
        flow = diffusion.RECTIFIED_FLOW
        is_known = torch.arange(28)[:, None] < VISIBLE
        label = as_labels(len(x0), None)
        denoise = diffusion.denoiser(self.averages[0], flow, "velocity", label, clip=True)
        x = torch.randn(x0.shape, generator=random)
        times = flow.times(EVALUATIONS)
        for t, s in zip(times[:-1], times[1:], strict=True):
            eps = torch.randn(x0.shape, generator=random)
            x = torch.where(is_known, diffusion.diffuse(x0, t, eps, flow), x)
            with autocast("cpu"):
                x0_hat = denoise(x, t)
            x = diffusion.ddim_step(x, x0_hat, t, s, flow, 1.0, random)
        return torch.where(is_known, x0, x).clamp(-1, 1)


# family -> what makes it, and the settings that were tried: the page's own comes first
FAMILIES = {
    "GAN": (Gan, [{"rate": 2e-3}, {"rate": 1e-3}, {"rate": 4e-3}]),
    "VAE": (Vae, [{"rate": 4e-3}, {"rate": 2e-3}, {"rate": 8e-3}]),
    "GPT over codes": (Codes, [{"rate": 3e-3}, {"rate": 1e-3}, {"rate": 6e-3}]),
    "diffusion": (
        Diffusion,
        [{"rate": 3e-3}, {"rate": 3e-3, "c": 32}, {"rate": 6e-3, "c": 32}],
    ),
}

FAST_GAN = "GAN at rate 0.004"  # the best of its short tries


def class_of(name):
    return FAMILIES["GAN" if name == FAST_GAN else name][0]


# ---------------------------------------------------------------- the clock


def train(family, images, labels, seed, marks):
    """Yields (mark, seconds of preparation) whenever the clock passes one of the marks.

    The clock is the processor's time, and stands still while somebody else looks.
    """
    random = torch.Generator().manual_seed(seed)
    began = time.process_time()
    if hasattr(family, "prepare"):
        family.prepare(images)
    used = prepared = time.process_time() - began
    for mark in marks:
        while used < mark:
            began = time.process_time()
            chosen = torch.randint(len(images), (family.batch_size,), generator=random)
            family.step(images[chosen], labels[chosen], random)
            used += time.process_time() - began
        yield mark, prepared


def make_part(name, settings, data, seed, marks, num, with_labels=False, fills=None):
    """What one run leaves: for each mark its steps, seconds and `num` pictures."""
    family = class_of(name)(seed, **settings)
    labels = data["labels"] if with_labels else torch.full_like(data["labels"], NO_LABEL)
    asked = torch.arange(num) % 10 if with_labels else None
    part = {"marks": {}}
    for mark, prepared in train(family, data["images"], labels, seed, marks):
        part["marks"][mark] = snapshot(family, prepared, seed, num, asked)
    part |= count_parts(family)
    if name == "GPT over codes":
        x = data["away"][:num]  # the judge's reference comes from the test digits
        codes = family.encode(x, torch.Generator().manual_seed(seed))
        part["through codes"] = as_bytes(family.decode(codes))
    if fills is not None and hasattr(family, "fill"):
        random = torch.Generator().manual_seed(2000 + seed)
        part["filled"] = as_bytes(torch.cat([family.fill(x, random) for x in fills.split(250)]))
    return part


def snapshot(family, prepared, seed, num, asked=None):
    """What a family is worth at a mark: its steps, the seconds that drawing takes, `num` pictures."""
    random = torch.Generator().manual_seed(1000 + seed)
    began = time.process_time()
    pictures = family.draw(num, random, asked)
    seconds = time.process_time() - began
    return {
        "steps": family.num_steps,
        "pictures seen": family.num_steps * family.batch_size,
        "of them preparing": prepared,
        "s per 1,000": 1000 / num * seconds,
        "pictures": as_bytes(pictures),
    }


def count_parts(family):
    return {
        "weights that draw": count_weights(*family.drawing_parts()),
        "trained weights": count_weights(*family.trained_parts()),
    }


def as_bytes(images):
    """Images in [-1, 1] as uint8 (N, 28, 28)."""
    return (127.5 * (images.reshape(-1, 28, 28) + 1)).round().clamp(0, 255).to(torch.uint8)


def kept_part(name, make):
    """A part of an earlier run that was stopped, or a new one. Delete the folder to begin anew."""
    folder = cache_dir() / "experiments" / "side_by_side"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.pt"
    if not file.exists():
        torch.save(make(), file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    return torch.load(file)


# ---------------------------------------------------------------- what is run


def load_data():
    digits = load_real_digits("train")
    test = load_real_digits("test")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    away, used = order.split([NUM_KEPT_AWAY, len(digits) - NUM_KEPT_AWAY])
    drawn = torch.randperm(len(test), generator=torch.Generator().manual_seed(5))
    return {
        "images": digits.images[used],
        "labels": digits.labels[used],
        "away": digits.images[away],
        "test": test.images[drawn],
        "test labels": test.labels[drawn],
        "all test digits": test,
    }


def run(progress):
    torch.set_num_threads(1)
    data = load_data()
    settings, rows = try_settings(data, progress)
    settings[FAST_GAN] = settings["GAN"]
    settings["GAN"] = {"rate": 2e-3}
    fills = to_signed(data["test"][:NUM_FILLED])
    parts = {}
    for seed in SEEDS:
        for name in settings:

            def make(name=name, seed=seed):
                return make_part(name, settings[name], data, seed, MARKS, NUM, fills=fills)

            parts[name, seed] = kept_part(f"{name}, seed {seed}", make)
            progress(f"{name}, seed {seed}: trained")
    labelled = {}
    for seed in SEEDS:
        for name in ("GPT over codes", "diffusion"):

            def make(name=name, seed=seed):
                marks = (LABEL_SECONDS,)
                return make_part(name, settings[name], data, seed, marks, NUM, with_labels=True)

            labelled[name, seed] = kept_part(f"{name}, with labels, seed {seed}", make)
            progress(f"{name}, with labels, seed {seed}: trained")
    rows |= score_all(data, parts, labelled, progress)
    keep_pictures(data, parts)
    return rows


def try_settings(data, progress):
    """The setting of each family that drew best after 20 s, and a row for each that was tried."""
    judge = DigitJudge(data["away"][:5000], data["away"][5000:], NUM // 2)
    best = {}
    rows = {}
    for name, (_, choices) in FAMILIES.items():
        found = []
        for k, settings in enumerate(choices):

            def make(name=name, settings=settings):
                return make_part(name, settings, data, TRY_SEED, (TRY_SECONDS,), NUM // 2)

            part = kept_part(f"{name}, setting {k}", make)
            found.append(judge.score(part["marks"][TRY_SECONDS]["pictures"]).fid.value)
            told = ", ".join(f"{key} {value:g}" for key, value in settings.items())
            rows[f"tried: {name}, {told}"] = {"FID": found[-1], "steps": part["marks"][TRY_SECONDS]["steps"]}
            progress(f"{name}, {told}: {found[-1]:.3f}")
        best[name] = choices[found.index(min(found))]
    return best, rows


# ---------------------------------------------------------------- what is measured


def score_all(data, parts, labelled, progress):
    judge = DigitJudge.standard(NUM, data["all test digits"])
    pixels = PixelJudge(judge, data)
    rows = {}
    for (name, seed), part in parts.items():
        for mark, found in part["marks"].items():
            row = measure(judge, found, part, class_of(name).evaluations)
            if mark == MARKS[-1]:
                row["pixel distance"] = pixels.distance(found["pictures"])
                row |= near_training(found["pictures"], data)
            if mark == MARKS[-1] and "filled" in part:
                row["filled right"] = share_read(judge, part["filled"], data["test labels"])
            rows[f"{name}, {mark:g} s, seed {seed}"] = row
        progress(f"{name}, seed {seed}: {row}")
    for (name, seed), part in labelled.items():
        found = part["marks"][LABEL_SECONDS]
        row = measure(judge, found, part, class_of(name).evaluations)
        row["right digit"] = share_read(judge, found["pictures"], torch.arange(NUM) % 10)
        rows[f"{name} with labels, {LABEL_SECONDS:g} s, seed {seed}"] = row
    for seed in SEEDS:
        found = parts["diffusion", seed]["marks"][MARKS[-1]]
        rows[f"diffusion, copies by fifths, seed {seed}"] = by_fifths(found["pictures"], data)
    for seed in SEEDS:
        through = parts["GPT over codes", seed]["through codes"]
        rows[f"real digits through codes, seed {seed}"] = values_of(judge, through)
    rows["nearest by the visible part"] = {"filled right": filled_by_nearest(judge, data)}
    rows |= by_size(data, parts)
    floor = floors_of(judge, through)
    floor["pixel distance"] = pixels.floor
    rows["real data (floor)"] = floor | near_training(data["test"][:NUM], data)
    return rows


class PixelJudge:
    """The Frechet distance to the judge's own reference, by principal components of the pixels."""

    def __init__(self, judge, data, num=32):
        x = self.flat(data["images"])
        self.mean = x.mean(dim=0)
        spread = torch.cov((x - self.mean).T)
        self.directions = torch.linalg.eigh(spread).eigenvectors[:, -num:]
        half = len(data["all test digits"]) // 2
        shuffled = data["all test digits"].subset(2 * half, judge.seed).images
        drawn = [judge._draw("PixelJudge", part) for part in shuffled.split(half)]
        reference, held_out = [as_bytes(part) for part in drawn]
        self.real = self.project(reference)
        self.floor = self.distance(held_out)

    def flat(self, pictures):
        return pictures.flatten(1).double() / 255

    def project(self, pictures):
        return (self.flat(pictures) - self.mean) @ self.directions

    def distance(self, pictures):
        return frechet_distance(self.real, self.project(pictures))


def measure(judge, found, part, evaluations):
    row = values_of(judge, found["pictures"])
    for key in ("steps", "pictures seen", "of them preparing", "s per 1,000"):
        row[key] = found[key]
    for key in ("weights that draw", "trained weights"):
        row[key] = part[key]
    return row | {"evaluations": evaluations}


def values_of(judge, pictures):
    """What the judge measures of pictures: a number for each column."""
    return {key: score.value for key, score in judge.score(pictures).row().items()}


def floors_of(judge, pictures):
    """The same columns for held-out digits, as many as there are pictures."""
    return {key: score.floor for key, score in judge.score(pictures).row().items()}


@torch.no_grad()
def read(judge, pictures):
    """Probabilities (N, 10) of the judge's classifier."""
    return torch.cat([judge.net(x).softmax(dim=1) for x in pictures[:, None].split(500)])


def share_read(judge, pictures, labels):
    """The share of pictures that the judge reads as these digits."""
    return (read(judge, pictures).argmax(dim=1) == labels[: len(pictures)]).float().mean().item()


def near_training(pictures, data):
    distance, _ = nearest_digit(pictures, data["images"])
    some = data["images"][:NUM_KEPT_AWAY]
    copies, error = copied_share(pictures, some, data["away"])
    in_white_pixels = distance.median().item() / 255
    return {"nearest": in_white_pixels, "copies": copies, "error of copies": error}


def by_fifths(pictures, data):
    """`copies` for each fifth of the training digits, against the same ones that were kept away."""
    fifths = data["images"].split(NUM_KEPT_AWAY)
    shares = [copied_share(pictures, some, data["away"])[0] for some in fifths]
    return {f"fifth {k}": share for k, share in enumerate(shares, 1)}


def filled_by_nearest(judge, data):
    """The share read right if the lower part comes from the training digit nearest in the upper."""
    x = data["test"][:NUM_FILLED]
    _, which = nearest_digit(x[..., :VISIBLE, :], data["images"][..., :VISIBLE, :])
    lower = data["images"][which][..., VISIBLE:, :]
    pasted = torch.cat([x[..., :VISIBLE, :], lower], dim=-2)
    return share_read(judge, pasted.reshape(-1, 28, 28), data["test labels"])


def by_size(data, parts):
    """FID of the first pictures of seed 0's last snapshots, for several n; and of the surest 200."""
    rows = {}
    for n in SIZES:
        judge = DigitJudge.standard(n, data["all test digits"])
        for name in FAMILIES:
            pictures = parts[name, 0]["marks"][MARKS[-1]]["pictures"]
            sets = {f"first {n:,}": pictures[:n]}
            if n == SIZES[0]:
                sure = read(judge, pictures).amax(dim=1)
                sets[f"surest {n}"] = pictures[sure.argsort(descending=True)[:n]]
            for which, chosen in sets.items():
                rows[f"{name}, {MARKS[-1]:g} s, seed 0, {which}"] = values_of(judge, chosen)
        rows[f"real data (floor), first {n:,}"] = floors_of(judge, chosen)
    return rows


# ---------------------------------------------------------------- pictures for the page

SHORT = {"GAN": "gan", "VAE": "vae", "GPT over codes": "gpt", "diffusion": "diffusion"}


def keep_pictures(data, parts):
    """Store pictures of seed 0, none of them chosen: `read_asset` returns uint8."""
    kept = {"real": data["test"].reshape(-1, 28, 28)[NUM_FILLED : NUM_FILLED + NUM_GAME]}
    for name, short in SHORT.items():
        marks = parts[name, 0]["marks"]
        kept[short] = marks[MARKS[-1]]["pictures"][:NUM_GAME]
        kept[f"{short}_grow"] = torch.stack([marks[m]["pictures"][:NUM_SHOWN] for m in MARKS])
        near = kept[short][:8]
        _, which = nearest_digit(near, data["images"])
        kept[f"{short}_nearest"] = data["images"][which].reshape(-1, 28, 28)
        if "filled" in parts[name, 0]:
            kept[f"{short}_filled"] = parts[name, 0]["filled"][:12]
    marks = parts[FAST_GAN, 0]["marks"]
    kept["gan_fast_grow"] = torch.stack([marks[m]["pictures"][:12] for m in MARKS])
    kept["to_fill"] = data["test"].reshape(-1, 28, 28)[:12]
    kept = {name: pictures.contiguous() for name, pictures in kept.items()}
    return write_asset("side_by_side.safetensors", kept, f"{COMMAND} side_by_side")
