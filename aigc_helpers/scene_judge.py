"""Does a picture show what its caption says? Two judges of scenes, of different make.

    judge = SceneJudge.standard()
    match = judge.match(images, scenes.facts)    # images (N, 3, 32, 32) in [-1, 1]
    match.row()                                  # {"digits": 0.98, ..., "joint": 0.97}
    match.share("joint"), match.error("joint")   # and its standard error

`SceneJudge` is a small network that this project trained itself, on scenes of all combinations, those
included that the pages keep from their models (`assets/scene_judge.safetensors`; made again by
`python -m tools assets scene_judge`). `RuleJudge` has no network of scenes: it measures extents,
centroids and hues, and leaves the digit to the classifier of `metrics.DigitJudge`. Where a model has
learnt to please one of them, the other is a witness.

Both `read` a picture: they say which facts they see, without knowing the caption. Their joint shares on
real scenes of test digits are below 1 (MNIST: 0.981 by either, half of the errors in common; embedded
digits: 0.96 by either), so put the ceiling, `judge.match(real.images, real.facts)`, beside every score.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_one_of
from aigc_helpers.data import as_signed
from aigc_helpers.metrics import load_features
from aigc_helpers.scenes import COLOURS, DIGIT_SIZE, NONE, POSITIONS, RELATIONS, RGB, SIZE, Facts
from aigc_helpers.weights import read_asset

JUDGE_FILE = "scene_judge.safetensors"
PARTS = ("digits", "colours", "binding", "place", "joint")
NUM_LAYOUTS = len(POSITIONS) + len(RELATIONS)  # and one more class: none of these
DIGIT_FEATURES = 32
LAYOUT_FEATURES = 16
WINDOW = 18  # a digit's 14 pixels, and 2 more on each side
_STRIDE = 8  # between the three rows, and the three columns, of windows
# For each layout the windows (row, column) of its first and second digit; a single digit is seen twice.
_WINDOWS = (
    *(((row, column), (row, column)) for row in (0, 2) for column in (0, 2)),
    ((1, 0), (1, 2)),
    ((0, 1), (2, 1)),
)
_AT_A_TIME = 500


# ---------------------------------------------------------------- what matches


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """Which of N pictures show what their captions say.

    right: name -> bool (N,):
        "digits"   the right digits, in whichever colours and places
        "colours"  the right colours, on whichever digits
        "binding"  each digit in its own colour
        "place"    as many digits as said, at the position, or in the relation, that is said
        "joint"    all of these
    """

    right: dict[str, torch.Tensor]

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.right["joint"])

    def share(self, name="joint") -> float:
        """The share of the pictures that have this right."""
        require_one_of("Match.share", "name", name, PARTS)
        return self.right[name].double().mean().item()

    def error(self, name="joint") -> float:
        """The standard error of that share: sqrt(p (1 - p) / N). It is 0 where all or none are right."""
        share = self.share(name)
        return math.sqrt(share * (1 - share) / self.n)

    def row(self) -> dict[str, float]:
        """All shares by name, for a table."""
        return {name: self.share(name) for name in PARTS}

    @property
    def product(self) -> float:
        """digits x colours x place: what the joint share would be if these three failed independently."""
        return self.share("digits") * self.share("colours") * self.share("place")

    def of(self, index) -> Match:
        """The match of some of the pictures: a mask (N,), a slice, or a tensor of numbers."""
        return Match({name: right[index] for name, right in self.right.items()})


def compare(found, wanted) -> Match:
    """Facts seen in N pictures against the facts of their captions. Raises ValueError for unequal numbers.

    Digits and colours are compared as sets: two digits that changed places have both digits right, and
    the place wrong.
    """
    if not isinstance(found, Facts) or not isinstance(wanted, Facts) or not 0 < len(found) == len(wanted):
        sizes = [len(facts) if isinstance(facts, Facts) else type(facts).__name__ for facts in (found, wanted)]
        raise ValueError(f"compare: needs two Facts of as many scenes, at least one, got {sizes[0]} and {sizes[1]}")

    def same_set(a, b):
        return (a.sort(dim=1).values == b.sort(dim=1).values).all(dim=1)

    def as_noun(facts):
        return facts.digits * 10 + facts.colours

    # Which digit is the first? The one that fits the first of the caption better than the second's.
    straight = (found.digits == wanted.digits).sum(dim=1) + (found.colours == wanted.colours).sum(dim=1)
    crossed = (found.digits.flip(1) == wanted.digits).sum(dim=1)
    crossed = crossed + (found.colours.flip(1) == wanted.colours).sum(dim=1)
    in_order = (straight >= crossed) | ~wanted.is_pair
    same_layout = (found.relation == wanted.relation) & (found.position == wanted.position)
    right = {
        "digits": same_set(found.digits, wanted.digits),
        "colours": same_set(found.colours, wanted.colours),
        "binding": same_set(as_noun(found), as_noun(wanted)),
        "place": same_layout & in_order,
    }
    return Match({**right, "joint": right["binding"] & right["place"]})


class _Judge:
    """What both judges share: `match` by `read`."""

    def read(self, images) -> Facts:
        raise NotImplementedError

    def match(self, images, facts) -> Match:
        """Which of N pictures (N, 3, 32, 32) show the facts of their captions.

        Raises ValueError for images that `read` refuses, and for another number of facts.
        """
        return compare(self.read(images), facts)


def _as_scenes(caller, images):
    """Images (N, 3, 32, 32) as float32 in [-1, 1] on the CPU; floats that overshoot are cut. Raises ValueError."""
    shape = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
    if not torch.is_tensor(images) or images.shape[1:] != (3, SIZE, SIZE) or not len(images):
        raise ValueError(f"{caller}: needs images (N, 3, {SIZE}, {SIZE}), N at least 1, got {shape}")
    return as_signed(images.detach().cpu(), caller, clip=True)


# ---------------------------------------------------------------- the judge that was trained


def _convolution(inputs, outputs, stride=1):
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class SceneNet(nn.Module):
    """The network of `SceneJudge`: one part sees where digits stand, the other reads one digit at a time.

    layout: pictures (N, 3, 32, 32) in [-1, 1] -> logits (N, 7): a position of one digit, a relation of
        two, or none of these.
    read_digits: windows (M, 3, 18, 18) -> logits (M, 10) of the digit and (M, 4) of its colour.
    """

    def __init__(self):
        super().__init__()
        self.layout_body = nn.Sequential(
            nn.AvgPool2d(2),
            _convolution(3, 16),
            _convolution(16, 32, stride=2),
            _convolution(32, 32, stride=2),
            nn.Flatten(),
            nn.Linear(32 * 16, LAYOUT_FEATURES),
        )
        self.layout_head = nn.Linear(LAYOUT_FEATURES, NUM_LAYOUTS + 1)
        self.digit_body = nn.Sequential(
            _convolution(3, 32),
            _convolution(32, 64, stride=2),
            _convolution(64, 64),
            _convolution(64, 128, stride=2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(128 * 25, DIGIT_FEATURES),
        )
        self.digit_head = nn.Linear(DIGIT_FEATURES, 10 + len(COLOURS))

    def layout(self, x):
        return self.layout_head(F.relu(self.layout_body(x)))

    def read_digits(self, windows):
        return self.digit_head(F.relu(self.digit_body(windows))).split([10, len(COLOURS)], dim=1)


def cut_windows(images, layout):
    """The windows (N, 2, 3, 18, 18) in which pictures (N, 3, 32, 32) of a layout (N,) 0..5 have their digits."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    grid = padded.unfold(2, WINDOW, _STRIDE).unfold(3, WINDOW, _STRIDE)  # (N, 3, 3, 3, 18, 18)
    places = torch.tensor(_WINDOWS)[layout]  # (N, 2, 2)
    scene = torch.arange(len(images))[:, None]
    return grid.permute(0, 2, 3, 1, 4, 5)[scene, places[:, :, 0], places[:, :, 1]]


class SceneJudge(_Judge):
    """Reads scenes with a trained network; also gives features for distances and recall.

    net: a `SceneNet`, in evaluation mode.
    """

    def __init__(self, net):
        self.net = net

    @classmethod
    def standard(cls) -> SceneJudge:
        """The judge of the pages. Raises ValueError when its file is not the one that the manifest names."""
        with torch.random.fork_rng(devices=[]):
            net = SceneNet()
        net.load_state_dict(read_asset(JUDGE_FILE)[0])
        return cls(net.eval().requires_grad_(False))

    @torch.no_grad()
    def read(self, images) -> Facts:
        """The facts of pictures (N, 3, 32, 32): floats in [-1, 1], cut where they overshoot, or uint8.

        Where the network sees none of the layouts, relation and position are both -1.
        Raises ValueError for other images, NaN, none.
        """
        x = _as_scenes("SceneJudge.read", images)
        parts = [self._read(part) for part in x.split(_AT_A_TIME)]
        return Facts(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _read(self, x):
        logits = self.net.layout(x)
        layout = logits[:, :NUM_LAYOUTS].argmax(dim=1)
        is_clear = logits.argmax(dim=1) < NUM_LAYOUTS
        is_pair = layout >= len(POSITIONS)
        digits, colours = self.net.read_digits(cut_windows(x, layout).flatten(0, 1))
        digits = digits.argmax(dim=1).reshape(-1, 2)
        colours = colours.argmax(dim=1).reshape(-1, 2)
        digits[~is_pair, 1] = NONE
        colours[~is_pair, 1] = NONE
        relation = torch.where(is_pair & is_clear, layout - len(POSITIONS), NONE)
        position = torch.where(~is_pair & is_clear, layout, NONE)
        return digits, colours, relation, position

    @torch.no_grad()
    def features(self, images) -> torch.Tensor:
        """Features (N, 80) of pictures, for `frechet_distance`, `precision_recall` and `coverage`.

        32 numbers of the first digit, 32 of the second (0 where there is one digit), 16 of the layout.
        """
        x = _as_scenes("SceneJudge.features", images)
        return torch.cat([self._features(part) for part in x.split(_AT_A_TIME)])

    def _features(self, x):
        of_layout = self.net.layout_body(x)
        layout = self.net.layout_head(F.relu(of_layout))[:, :NUM_LAYOUTS].argmax(dim=1)
        of_digits = self.net.digit_body(cut_windows(x, layout).flatten(0, 1)).reshape(-1, 2, DIGIT_FEATURES)
        is_pair = (layout >= len(POSITIONS))[:, None]
        return torch.cat([of_digits[:, 0], of_digits[:, 1] * is_pair, of_layout], dim=1)

    @torch.no_grad()
    def digit_features(self, images) -> torch.Tensor:
        """Features (M, 32) of all digits of N pictures one by one, the first of each and then the second ones.

        They see handwriting and colour and no layout: recall on them asks whether the digits vary as
        real ones do. `features`, of whole scenes, mostly asks whether all combinations are there: of
        1,000 scenes of MNIST, recall by these here falls from 0.88 (all handwritings) to 0.39 (eight of
        each digit) and 0.01 (one), by those from 0.97 to 0.93 and 0.72.
        """
        features = self.features(images)
        first, second = features[:, :DIGIT_FEATURES], features[:, DIGIT_FEATURES : 2 * DIGIT_FEATURES]
        return torch.cat([first, second[(second != 0).any(dim=1)]])


# ---------------------------------------------------------------- the judge by rules


LIT = 0.3  # ink, 0..1, above which a pixel counts for the reach of a digit
FAINT = 0.1  # ink below which a pixel is black
WIDEST = 14  # pixels of one digit: what reaches further is two


class RuleJudge(_Judge):
    """Reads scenes by rules, as a witness beside `SceneJudge`.

    One digit or two: by how far the lit pixels reach; two are cut apart where the least ink is.
    Position: by the centroid. Colour: the named hue nearest to the mean of the pixels, each weighted by
    its own brightness. Digit: the ink around the centroid, enlarged to 28 x 28, by the classifier of
    `metrics.DigitJudge`, which was trained on plain digits and has seen no scene.
    """

    def __init__(self):
        self.net = load_features()
        rgb = torch.tensor(RGB, dtype=torch.float32) / 255
        self.hues = F.normalize(rgb, dim=1)
        self.rgb = rgb

    @torch.no_grad()
    def read(self, images) -> Facts:
        """The facts of pictures (N, 3, 32, 32): floats in [-1, 1], cut where they overshoot, or uint8.

        Where there is no digit, or ink everywhere, relation and position are both -1.
        Raises ValueError for other images, NaN, none.
        """
        x = (_as_scenes("RuleJudge.read", images) + 1) / 2
        parts = [self._read(part) for part in x.split(_AT_A_TIME)]
        return Facts(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _read(self, rgb):
        ink = rgb.amax(dim=1)
        ink = ink * (ink > FAINT)
        height, width = _extent(ink.amax(dim=2) > LIT), _extent(ink.amax(dim=1) > LIT)
        is_wide, is_high = width > WIDEST, height > WIDEST
        is_pair = is_wide ^ is_high
        relation = torch.where(is_pair, torch.where(is_high, 1, 0), NONE)

        # The masks of both digits: what lies before the cut, and behind it; of a single digit, all.
        cut = torch.where(is_high, _find_cut(ink.sum(dim=2)), _find_cut(ink.sum(dim=1)))[:, None, None]
        pixels = torch.arange(SIZE)
        along = torch.where(is_high[:, None, None], pixels[:, None], pixels[None, :])
        before = (along < cut) | ~is_pair[:, None, None]
        masked = torch.stack([ink * before, ink * ~before], dim=1)  # (n, 2, 32, 32)

        total = masked.sum(dim=(2, 3))
        is_there = masked.amax(dim=(2, 3)) > LIT
        relation[~is_there.all(dim=1)] = NONE
        moments = [(masked.sum(dim=across) * pixels).sum(dim=2) for across in (3, 2)]
        centre = torch.stack(moments, dim=2) / total.clamp_min(1e-6)[:, :, None]  # (n, 2, 2)
        low = (centre[:, 0] > (SIZE - 1) / 2).long()  # (n, 2): below the middle, right of it
        is_single = ~is_wide & ~is_high & is_there[:, 0]
        position = torch.where(is_single, 2 * low[:, 0] + low[:, 1], NONE)

        mean = torch.einsum("nkhw,nchw->nkc", masked, rgb)
        colours = (mean @ self.hues.T).argmax(dim=2)
        colours[~is_there] = NONE
        digits = torch.full_like(colours, NONE)
        if is_there.any():
            digits[is_there] = self._read_digits(masked[is_there], centre[is_there])
        return digits, colours, relation, position

    def _read_digits(self, ink, centre):
        """The digits (m,) of inks (m, 32, 32) around their centres (m, 2), (row, column)."""
        ink = ink[:, None] / ink.amax(dim=(1, 2))[:, None, None, None]
        # A window of 14 pixels around the centre, seen at twice the size.
        middle = (centre + 0.5) / SIZE * 2 - 1
        maps = torch.zeros(len(ink), 2, 3)
        maps[:, 0, 0] = maps[:, 1, 1] = DIGIT_SIZE / SIZE
        maps[:, 0, 2] = middle[:, 1]
        maps[:, 1, 2] = middle[:, 0]
        grid = F.affine_grid(maps, (len(ink), 1, 28, 28), align_corners=False)
        large = F.grid_sample(ink, grid, mode="bicubic", align_corners=False)
        features = self.net.body(large.clamp(0, 1) * 2 - 1)
        return self.net.head(F.relu(features)).argmax(dim=1)


def _extent(lit):
    """How many pixels lie from the first to the last lit one, of rows (n, 32) of bools: (n,)."""
    pixels = torch.arange(SIZE)
    last = torch.where(lit, pixels, -1).amax(dim=1)
    first = torch.where(lit, pixels, SIZE).amin(dim=1)
    return (last - first + 1).clamp_min(0)


def _find_cut(profile):
    """Where profiles (n, 32) of ink are cut in two: in the middle third, where the least ink is: (n,)."""
    pixels = torch.arange(SIZE, dtype=torch.float32)
    away = (pixels - (SIZE - 1) / 2).abs()
    cost = profile + 1e-3 * away
    return torch.where(away < SIZE / 6, cost, torch.inf).argmin(dim=1)
