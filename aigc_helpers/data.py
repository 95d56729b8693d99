"""Data for every chapter: handwritten digits in memory, and toy distributions in the plane.

`load_digits` looks in this order, and says in one line what it found:

1. the folder named by the environment variable `AIGC_DATA_DIR` (files as torchvision keeps them);
2. this package's cache, if its contents have the right digest;
3. a download from one of several mirrors, with a time limit (`AIGC_OFFLINE=1` forbids it);
4. the embedded set: scikit-learn's real handwritten digits, brought to MNIST's format.

Whatever the source, MNIST is accepted only if the SHA-256 of the *decoded* arrays is right. A damaged
file is never used, and nothing is ever half written: a download goes to a temporary file, is
verified, and only then takes its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import math
import os
import pathlib
import sys
import tempfile
import time
import urllib.request
import zlib

import numpy as np
import torch

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT_S = 10.0  # for one silent moment of one server
DEADLINE_S = 40.0  # for all downloads of one call together: a server that drips must not hold a lesson up
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHA256 = {  # of the decoded images followed by the decoded labels
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}
NUM_EMBEDDED_TRAIN = 1297  # of 1,797; the other 500 are the test split
MNIST, EMBEDDED = "MNIST", "scikit-learn digits (embedded)"


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images (N, 1, 28, 28) uint8, labels (N,) int64, and the name of their source."""

    images: torch.Tensor
    labels: torch.Tensor
    source: str

    def __len__(self):
        return len(self.labels)

    def subset(self, n, seed=0) -> Digits:
        """n of them, drawn without replacement. Raises ValueError if there are fewer than n."""
        if not 1 <= n <= len(self):
            raise ValueError(f"subset: asked for {n} images, but there are {len(self)} ({self.source})")
        keep = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        return Digits(self.images[keep], self.labels[keep], self.source)


def to_signed(x):
    """Pixels 0..255 (uint8) to float32 in [-1, 1], the range of a Tanh."""
    return x.float() / 127.5 - 1


def to_unit(x):
    """Pixels 0..255 (uint8) to float32 in [0, 1]."""
    return x.float() / 255


class BadData(Exception):
    """A file that is not what it should be; the message says what is wrong in a few words."""


# ---------------------------------------------------------------- handwritten digits


def load_digits(split="train", n=None, seed=0, verbose=True) -> Digits:
    """Handwritten digits in memory, from the best source at hand; see the top of this file for the order.

    split: "train" or "test". n: a random subset of that many (seeded), at most all of them.
    Prints one line that names the source, unless verbose is False. Raises ValueError for a bad argument.
    """
    if split not in FILES:
        raise ValueError(f"load_digits: split must be 'train' or 'test', got {split!r}")
    if n is not None and (not isinstance(n, int) or n < 1):
        raise ValueError(f"load_digits: n must be a positive whole number or None, got {n!r}")
    digits, where = _find(split)
    if n is not None and n < len(digits):
        digits = digits.subset(n, seed)
    if verbose:
        print(f"[data: {len(digits):,} {split} images from {digits.source}; {where}]")
    return digits


def _find(split):
    """The digits of a split and a few words on where they came from, and why not from a better place."""
    notes = []
    for name, source in (("AIGC_DATA_DIR", _from_folder), ("cache", _from_cache), ("download", _from_mirrors)):
        try:
            found, note = source(split)
        except BadData as problem:
            notes.append(f"{name}: {problem}")
            continue
        if found is not None:
            return Digits(*found, MNIST), "; ".join([note, *notes])
    return load_embedded_digits(split), "; ".join(["embedded", *notes])


def _from_folder(split):
    folder = os.environ.get("AIGC_DATA_DIR")
    if not folder:
        return None, ""
    raw = pathlib.Path(folder) / "MNIST" / "raw"
    return _verified(split, [_read_file(raw / name) for name in FILES[split]]), "AIGC_DATA_DIR"


def _from_cache(split):
    folder = cache_dir()
    if not all((folder / f"{name}.gz").exists() for name in FILES[split]):
        return None, ""
    try:
        return _verified(split, [_read_file(folder / name) for name in FILES[split]]), "cache"
    except BadData as problem:
        raise BadData(f"{problem}, to be replaced") from None


def _from_mirrors(split):
    """Download both files of a split; keep them in the cache if it can be written."""
    if os.environ.get("AIGC_OFFLINE", "") not in ("", "0"):
        raise BadData("AIGC_OFFLINE is set")
    deadline, problems = time.monotonic() + DEADLINE_S, []
    for mirror in MIRRORS:
        try:
            packed = [_fetch(f"{mirror}{name}.gz", deadline) for name in FILES[split]]
            arrays = _verified(split, [_unpack(data, name) for data, name in zip(packed, FILES[split], strict=True)])
        except BadData as problem:
            problems.append(str(problem))
            continue
        return arrays, "downloaded" + _keep(FILES[split], packed)
    raise BadData(" / ".join(dict.fromkeys(problems)) or "no mirror is configured")


def cache_dir() -> pathlib.Path:
    """The folder of downloaded data: `AIGC_CACHE_DIR`, or the platform's place for caches."""
    if os.environ.get("AIGC_CACHE_DIR"):
        return pathlib.Path(os.environ["AIGC_CACHE_DIR"])
    if sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA") or pathlib.Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    else:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return base / "aigc_helpers"


def _read_file(path) -> np.ndarray:
    """Decode `path`, or `path`.gz where only that exists."""
    packed = path.with_name(path.name + ".gz")
    try:
        if path.exists():
            return _decode(path.read_bytes(), path.name)
        return _unpack(packed.read_bytes(), path.name)
    except FileNotFoundError:
        raise BadData(f"{path.name} is not there") from None
    except OSError as problem:
        raise BadData(f"{path.name} cannot be read ({problem.strerror or type(problem).__name__})") from None


def _unpack(data, name) -> np.ndarray:
    try:
        return _decode(gzip.decompress(data), name)
    except (OSError, EOFError, zlib.error):
        raise BadData(f"{name}.gz is damaged") from None


def _decode(data, name) -> np.ndarray:
    """The array in an IDX file of bytes: two zeros, 8 = uint8, the number of dimensions, their sizes, the data."""
    num_dims = data[3] if len(data) >= 4 and data[:3] == b"\x00\x00\x08" else 0
    header = 4 + 4 * num_dims
    if not num_dims or len(data) < header:
        raise BadData(f"{name} is damaged")
    shape = np.frombuffer(data, ">u4", num_dims, offset=4).astype(int)
    if len(data) != header + math.prod(shape.tolist()):
        raise BadData(f"{name} is damaged")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _verified(split, arrays):
    """Images and labels as tensors, if their digest is right. Raises BadData."""
    images, labels = arrays
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != SHA256[split]:
        raise BadData(f"the {split} files are damaged (wrong SHA-256)")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.copy()).long()


def _fetch(url, deadline) -> bytes:
    """The bytes behind a URL, within TIMEOUT_S for any silent moment and `deadline` for all. Raises BadData."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise BadData("no answer in time")
    try:
        with urllib.request.urlopen(url, timeout=min(TIMEOUT_S, left)) as response:
            chunks = []
            # read1 returns what has arrived, so that the clock is looked at even if the server drips
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise BadData("no answer in time")
    except TimeoutError:
        raise BadData("no answer in time") from None
    except (OSError, ValueError) as problem:  # URLError, refused, reset, bad URL; http.client's errors are below
        raise BadData("no answer in time" if "timed out" in str(problem) else "no network") from None
    except Exception as problem:  # http.client.HTTPException and kin: an answer that is not HTTP
        raise BadData(f"bad answer ({type(problem).__name__})") from None
    return b"".join(chunks)


def _keep(names, packed) -> str:
    """Put verified files into the cache; returns "" or a few words on why it could not be done."""
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        for name, data in zip(names, packed, strict=True):
            _write_whole(cache_dir() / f"{name}.gz", data)
    except OSError as problem:
        return f" (not cached: {problem.strerror or type(problem).__name__})"
    return ""


def _write_whole(path, data):
    """Write a file so that no other process ever sees a part of it; the last writer wins."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# ---------------------------------------------------------------- the embedded set


def load_embedded_digits(split="train") -> Digits:
    """The 1,797 handwritten digits inside scikit-learn (UCI, 8x8 pixels), brought to MNIST's format.

    As in MNIST the digit is scaled into a 20x20 box and its centre of mass is put in the centre of 28x28.
    The split (1,297 for training, 500 for testing) is a fixed shuffle.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    keep = order[:NUM_EMBEDDED_TRAIN] if split == "train" else order[NUM_EMBEDDED_TRAIN:]
    small = torch.from_numpy(bunch.images[keep]).float().unsqueeze(1) / 16
    labels = torch.from_numpy(bunch.target[keep]).long()
    return Digits(_centre(_enlarge(small)), labels, EMBEDDED)


def _enlarge(small):
    """(N, 1, 8, 8) in 0..1 to (N, 1, 20, 20), with MNIST's contrast: strokes white, paper black."""
    big = torch.nn.functional.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False)
    return ((big - 0.25) / 0.5).clamp(0, 1)


def _centre(boxes):
    """Put each box (20, 20) into 28x28 with its centre of mass in the middle; uint8 (N, 1, 28, 28)."""
    out = torch.zeros(len(boxes), 1, 28, 28, dtype=torch.uint8)
    axis = torch.arange(20.0)
    for k, box in enumerate(boxes[:, 0]):
        mass = box.sum()
        row, column = (box.sum(1) @ axis / mass).item(), (box.sum(0) @ axis / mass).item()
        top, left = (min(8, max(0, round(13.5 - middle))) for middle in (row, column))
        out[k, 0, top : top + 20, left : left + 20] = (box * 255).round().to(torch.uint8)
    return out


# ---------------------------------------------------------------- toys in the plane

RING_RADIUS, RING_SIGMA, GRID_SPACING, GRID_SIGMA = 1.6, 0.06, 0.8, 0.05
TOYS_2D = ("ring", "grid", "moons", "spiral", "checkerboard", "swiss_roll")


def toy_modes(name):
    """Centres (K, 2) and standard deviation of the mixtures "ring" (8 Gaussians) and "grid" (25)."""
    if name == "ring":
        angle = torch.arange(8) * (2 * math.pi / 8)
        return RING_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1), RING_SIGMA
    if name == "grid":
        axis = torch.arange(-2.0, 3.0) * GRID_SPACING
        return torch.cartesian_prod(axis, axis), GRID_SIGMA
    raise ValueError(f"toy_modes: only 'ring' and 'grid' have modes to count, got {name!r}")


def toy_2d(name, n, generator=0) -> torch.Tensor:
    """n points (n, 2), float32, of a toy distribution that fits into the square [-2.2, 2.2]^2.

    name: one of TOYS_2D. generator: a CPU torch.Generator, or a seed for a new one.
    Raises ValueError for an unknown name or n < 1.
    """
    if name not in TOYS_2D:
        raise ValueError(f"toy_2d: unknown toy {name!r}; choose one of {', '.join(TOYS_2D)}")
    if n < 1:
        raise ValueError(f"toy_2d: n must be at least 1, got {n}")
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator)
    if name in ("ring", "grid"):
        centres, sigma = toy_modes(name)
        pick = torch.randint(len(centres), (n,), generator=generator)
        return centres[pick] + sigma * torch.randn(n, 2, generator=generator)
    u = torch.rand(n, 2, generator=generator)
    return {"moons": _moons, "spiral": _spiral, "checkerboard": _checkerboard, "swiss_roll": _swiss_roll}[name](
        u, torch.randn(n, 2, generator=generator)
    )


def _moons(u, noise):
    angle, upper = math.pi * u[:, 0], u[:, 1] < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return 1.3 * torch.stack([x, y], dim=1) + 0.06 * noise.clamp(-3, 3)


def _spiral(u, noise):
    """Two arms, each a turn and a half."""
    angle, arm = 3 * math.pi * u[:, 0].sqrt(), (u[:, 1] < 0.5).float() * math.pi
    radius = 2.0 * angle / (3 * math.pi)
    return radius[:, None] * torch.stack([(angle + arm).cos(), (angle + arm).sin()], dim=1) + 0.04 * noise.clamp(-3, 3)


def _checkerboard(u, noise):
    """Uniform on the eight dark squares of a 4 x 4 board of side 4; `noise` is not needed."""
    x = 4 * u[:, 0] - 2
    row = 2 * (2 * u[:, 1]).floor() + (x.floor() % 2)  # a dark square of the column that x is in
    return torch.stack([x, row + (2 * u[:, 1]) % 1 - 2], dim=1)


def _swiss_roll(u, noise):
    """A strip rolled up: one arm, two turns, thinning outwards."""
    angle = 1.5 * math.pi * (1 + 2 * u[:, 0])
    return 2.0 / (4.5 * math.pi) * angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.04 * noise.clamp(
        -3, 3
    )
