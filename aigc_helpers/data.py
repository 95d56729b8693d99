"""Data for every chapter: handwritten digits and a text in memory, and toy distributions in the plane.

`load_digits` and `load_text` look in this order, and say in one line what they found:

1. the folder named by the environment variable `AIGC_DATA_DIR` (digits as torchvision keeps them, in
   MNIST/raw; the text as text/tinyshakespeare.txt);
2. this package's cache, if its contents have the right digest;
3. a download from one of several mirrors, with a time limit (`AIGC_OFFLINE=1` forbids it);
4. the embedded set: scikit-learn's real handwritten digits, brought to MNIST's format; for text, the
   documentation of the Python language inside the standard library.

Whatever the source, MNIST is accepted only if the SHA-256 of the *decoded* arrays is right, and the
text only if that of its bytes is. A damaged file is never used, and it hides neither a good `.gz`
beside it nor the next source. Nothing is ever half written: a download is verified, goes to a
temporary file, and only then takes its place.

Every function that takes images reads them by `as_signed` or `as_unit`, which know types and ranges.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import itertools
import math
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib

import numpy as np
import torch

from aigc_helpers._environment import read_switch
from aigc_helpers._files import write_whole
from aigc_helpers.arguments import require_whole

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT_S = 10.0  # for one silent moment of one server
DEADLINE_S = 28.0  # for all downloads of one call together: a server that drips must not hold a lesson up
MAX_BYTES = 1 << 25  # of one answer; the longest file has 9.9 million
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHA256 = {  # of the decoded images followed by the decoded labels
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}
NUM_EMBEDDED_TRAIN = 1297  # of 1,797; the other 500 are the test split
MNIST = "MNIST"
EMBEDDED = "scikit-learn digits (embedded)"

TEXT_FILE = "tinyshakespeare.txt"  # 40,000 lines of plays, put together by Karpathy for char-rnn (2015)
TEXT_MIRRORS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
)
TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of its bytes
SHAKESPEARE = "tiny Shakespeare"
EMBEDDED_TEXT = "Python's documentation topics (embedded)"


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """Images (N, 1, 28, 28) uint8, labels (N,) int64, and the name of their source."""

    images: torch.Tensor
    labels: torch.Tensor
    source: str

    def __len__(self):
        return len(self.labels)

    def subset(self, n, seed=0) -> Digits:
        """n of them, drawn without replacement.

        Raises ValueError if there are fewer, or if n or the seed is bad.
        """
        n = require_whole("subset", "n", n, least=1)
        if n > len(self):
            have = f"there are {len(self)} ({self.source})"
            raise ValueError(f"subset: asked for {n} images, but {have}")
        keep = torch.randperm(len(self), generator=_make_generator("subset", seed))[:n]
        return Digits(self.images[keep], self.labels[keep], self.source)


def _require_split(caller, split):
    if split not in tuple(FILES):
        raise ValueError(f"{caller}: split must be 'train' or 'test', got {split!r}")


def _make_generator(caller, seed) -> torch.Generator:
    """A new CPU generator. Raises ValueError for what is no seed."""
    seed = require_whole(caller, "seed", seed, least=0, most=2**63 - 1)
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- types and ranges of pixels

BEYOND = 1e-3  # how far rounding, or turning an image, may carry a value beyond its range


def to_signed(x):
    """Pixels 0..255 (uint8) to float32 in [-1, 1], the range of a Tanh.

    Raises ValueError for other types.
    """
    _require_pixels("to_signed", x)
    return x.float() / 127.5 - 1


def to_unit(x):
    """Pixels 0..255 (uint8) to float32 in [0, 1]. Raises ValueError for other types."""
    _require_pixels("to_unit", x)
    return x.float() / 255


def _require_pixels(caller, x):
    """Scaling twice gives a nearly constant image and no error: refuse what has been scaled already."""
    if getattr(x, "dtype", None) != torch.uint8:
        what = str(getattr(x, "dtype", type(x).__name__)).removeprefix("torch.")
        need = "needs a tensor of uint8 pixels 0..255"
        raise ValueError(f"{caller}: {need}, got {what}; was it scaled before?")


def as_signed(images, caller="as_signed", clip=False) -> torch.Tensor:
    """Images of any usual type as float32 in [-1, 1], of the same shape, on the same device.

    images: a tensor or a NumPy array: uint8 or other whole numbers 0..255, bool (black and white),
        or floats in [-1, 1], which keep their values.
    caller: the function that a message names.
    clip:   cut floats beyond [-1, 1] instead of refusing them, for pictures of noisy images.

    Raises ValueError for anything else: floats that seem to be in [0, 1], another range or type,
    NaN, no images.
    """
    x = _as_tensor(images, caller, "[-1, 1]")
    if x.dtype == torch.bool:
        return x.float() * 2 - 1
    if not x.is_floating_point():
        return to_signed(_as_pixels(x, caller))
    x = x.float()
    low, high = _find_range(x, caller)
    if low >= 0 and high > low:
        advice = "they seem to be in [0, 1], as from to_unit or a sigmoid: use 2 * images - 1"
    elif not clip and (low < -1 - BEYOND or high > 1 + BEYOND):
        advice = "use images.clamp(-1, 1) for samples that overshoot, to_signed for uint8 pixels"
    else:
        return x.clamp(-1, 1) if clip else x
    raise ValueError(f"{caller}: needs floats in [-1, 1], got {low:.3g} to {high:.3g}; {advice}")


def as_unit(images, caller="as_unit") -> torch.Tensor:
    """Images of any usual type as float32 in [0, 1], of the same shape, on the same device.

    images: a tensor or a NumPy array: uint8 or other whole numbers 0..255, bool (0 and 1), or
        floats in [0, 1], which keep their values.
    caller: the function that a message names.

    Raises ValueError for anything else: floats in [-1, 1], another range or type, NaN, no images.
    """
    x = _as_tensor(images, caller, "[0, 1]")
    if x.dtype == torch.bool:
        return x.float()
    if not x.is_floating_point():
        return to_unit(_as_pixels(x, caller))
    x = x.float()
    low, high = _find_range(x, caller)
    if -BEYOND <= low and high <= 1 + BEYOND:
        return x
    if low >= -1 - BEYOND and high <= 1 + BEYOND:
        advice = "they seem to be in [-1, 1]: use (images + 1) / 2"
    else:
        advice = "use images.clamp(0, 1) for samples that overshoot, to_unit for uint8 pixels"
    raise ValueError(f"{caller}: needs floats in [0, 1], got {low:.3g} to {high:.3g}; {advice}")


def _as_tensor(images, caller, wanted):
    """A tensor of one number or more. Raises ValueError."""
    numeric = isinstance(images, np.ndarray) and images.dtype.kind in "uibf"
    x = torch.as_tensor(images) if numeric else images
    if torch.is_tensor(x) and x.numel() and not x.is_complex():
        return x
    got = f"{x.dtype} of shape {tuple(x.shape)}" if torch.is_tensor(x) else type(images).__name__
    need = f"needs a tensor of images (uint8 pixels 0..255, bool, or floats in {wanted})"
    raise ValueError(f"{caller}: {need}, got {got}")


def _as_pixels(x, caller):
    """Whole numbers 0..255 as uint8. Raises ValueError."""
    if x.dtype == torch.uint8:
        return x
    low, high = _find_range(x, caller)
    if high == 1 and low >= 0:  # 1 of 255, or the white of a black-and-white image?
        advice = "use .bool() for black and white, .to(torch.uint8) for pixels"
    elif low < 0 or high > 255:
        advice = "pixels are 0..255"
    else:
        return x.to(torch.uint8)
    raise ValueError(f"{caller}: got whole numbers ({x.dtype}) from {low} to {high}; {advice}")


def _find_range(x, caller):
    """Smallest and largest value. Raises ValueError for NaN or Inf."""
    low, high = (value.item() for value in x.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        problem = "got images with NaN or Inf in them: has the generator diverged?"
        raise ValueError(f"{caller}: {problem}")
    return low, high


class BadData(Exception):
    """A file that is not what it should be; the message says what is wrong in a few words."""


# ---------------------------------------------------------------- handwritten digits


def load_digits(split="train", n=None, seed=0, verbose=True) -> Digits:
    """Handwritten digits in memory, from the best source at hand; see the top of this file for the order.

    split: "train" or "test". n: a random subset of that many (seeded), at most all of them.
    Prints one line that names the source, unless verbose is False. Raises ValueError for a bad argument.
    """
    _require_split("load_digits", split)
    if n is not None:
        n = require_whole("load_digits", "n", n, least=1)
    _make_generator("load_digits", seed)  # a bad seed is refused before anything is read
    read_switch("AIGC_OFFLINE")  # and so is a bad setting, wherever the digits come from
    digits, where = _find(split)
    if n is not None and n < len(digits):
        digits = digits.subset(n, seed)
    if verbose:
        print(f"[data: {len(digits):,} {split} images from {digits.source}; {where}]")
    return digits


def _find(split):
    """The digits of a split and a few words on where they came from, and why not from a better place."""
    sources = {"AIGC_DATA_DIR": _from_folder, "cache": _from_cache, "download": _from_mirrors}
    found, where = _first(sources, split)
    return (load_embedded_digits(split) if found is None else Digits(*found, MNIST)), where


def _first(sources, *args):
    """What the first of the sources has that has anything, or None; and where it was, and why not elsewhere.

    A source is called with args; it returns (found or None, note), or raises BadData.
    """
    notes = []
    for name, source in sources.items():
        try:
            found, note = source(*args)
        except BadData as problem:
            notes.append(f"{name}: {problem}")
            continue
        if found is not None:
            return found, "; ".join([note, *notes])
    return None, "; ".join(["embedded", *notes])


def _from_folder(split):
    folder = os.environ.get("AIGC_DATA_DIR")
    if not folder:
        return None, ""
    raw = pathlib.Path(os.path.expanduser(folder)) / "MNIST" / "raw"
    if not os.path.isdir(raw):
        raise BadData("no MNIST/raw in it")
    verify = functools.partial(_verify_files, split)
    found, instead = _read_best(raw, FILES[split], ("", ".gz"), verify)
    return found, f"AIGC_DATA_DIR{instead}"


def _from_cache(split):
    verify = functools.partial(_verify_files, split)
    return _read_cache(FILES[split], (".gz", ""), verify)


def _read_cache(names, endings, verify):
    """What `_read_best` finds in the cache, if there is a file of each name."""
    for name in names:  # path.exists() would raise where it may not look
        if not any(os.path.exists(cache_dir() / (name + ending)) for ending in endings):
            return None, ""
    try:
        found, instead = _read_best(cache_dir(), names, endings, verify)
    except BadData as problem:
        raise BadData(f"{problem}, to be replaced") from None
    return found, f"cache{instead}"


def _read_best(folder, names, endings, verify):
    """The first choice of files that passes, so that no damaged file hides a good one beside it.

    names:   the files wanted, each with any of the `endings`; the first ending is tried first.
    verify:  takes {file name: bytes}, returns what is in them, or raises BadData.
    Returns what `verify` does, and words on what was read instead of a damaged file, or "".
    Raises BadData with the first problem.
    """
    choices = []
    for name in names:
        paths = [folder / (name + ending) for ending in endings]
        choices.append([path for path in paths if os.path.exists(path)] or paths[:1])
    first_problem = None
    for chosen in itertools.product(*choices):
        try:
            found = verify({path.name: _read_bytes(path) for path in chosen})
        except BadData as problem:
            first_problem = first_problem or problem
            continue
        others = [p.name for p, paths in zip(chosen, choices, strict=True) if p != paths[0]]
        words = f" ({first_problem}; read instead: {' '.join(others)})" if others else ""
        return found, words
    raise first_problem


_failed = set()  # splits that this process could not download when it last tried


def _from_mirrors(split):
    """Download both files of a split; keep them in the cache if it can be written.

    Where one split could not be had, the other is not tried: nobody waits twice, and training and test
    images come from one source. Asking again for the split that failed tries again.
    """
    _require_online()
    if _failed - {split}:
        raise BadData("not tried, as it failed for the other split")
    mirrors = [{f"{name}.gz": f"{mirror}{name}.gz" for name in FILES[split]} for mirror in MIRRORS]
    try:
        found = _download(mirrors, functools.partial(_verify_files, split))
    except BadData:
        _failed.add(split)
        raise
    _failed.discard(split)
    return found


def _download(mirrors, verify):
    """verify({name: bytes}) of the files of the first mirror {name: URL} that serves them whole.

    Keeps them in the cache if it can be written. Raises BadData with the reasons of all mirrors.
    """
    deadline = time.monotonic() + DEADLINE_S
    problems = []
    for urls in mirrors:
        try:
            files = {name: _fetch(url, deadline) for name, url in urls.items()}
            return verify(files), "downloaded" + _keep(files)
        except BadData as problem:
            problems.append(str(problem))
    raise BadData(" / ".join(dict.fromkeys(problems)) or "no mirror is configured")


def _verify_files(split, files):
    """Images and labels from {file name: bytes} of the two files of a split. Raises BadData."""
    arrays = [_decode(_unpack(data, name), name) for name, data in files.items()]
    return _verify(split, arrays)


def _require_online():
    if read_switch("AIGC_OFFLINE"):
        raise BadData("AIGC_OFFLINE is set")


def cache_dir() -> pathlib.Path:
    """The folder of downloaded data: `AIGC_CACHE_DIR`, or the platform's place for caches."""
    if os.environ.get("AIGC_CACHE_DIR"):
        return pathlib.Path(os.path.expanduser(os.environ["AIGC_CACHE_DIR"]))
    try:
        home = pathlib.Path.home()
    except RuntimeError:  # a container's user without a name; what lies there is verified as anywhere
        home = pathlib.Path(tempfile.gettempdir())
    if sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "aigc_helpers"


def _read_bytes(path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadData(f"{path.name} is not there") from None
    except OSError as problem:
        raise BadData(f"{path.name} cannot be read ({_short(problem)})") from None


def _unpack(data, name) -> bytes:
    """The contents of a file, packed (its name ends in .gz) or plain."""
    if not name.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        raise BadData(f"{name} is damaged") from None


def _decode(data, name) -> np.ndarray:
    """The array in an IDX file: two zeros, 8 for uint8, the number of dimensions, their sizes, the bytes."""
    num_dims = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 else 0
    header = 4 + 4 * num_dims
    if num_dims not in (1, 3) or len(data) < header:
        raise BadData(f"{name} is damaged")
    shape = np.frombuffer(data, ">u4", num_dims, offset=4).tolist()
    if 0 in shape or len(data) != header + math.prod(shape):
        raise BadData(f"{name} is damaged")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _verify(split, arrays):
    """Images and labels as tensors, if their digest is right. Raises BadData."""
    images, labels = arrays
    if images.shape != (len(labels), 28, 28) or labels.ndim != 1:  # the digest does not see the shape
        raise BadData(f"the {split} files are damaged (wrong shape)")
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != SHA256[split]:
        raise BadData(f"the {split} files are damaged (wrong SHA-256)")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.copy()).long()


def _fetch(url, deadline) -> bytes:
    """The bytes behind a URL. Raises BadData, by `deadline` (of time.monotonic) at the latest.

    The work is done in a thread that is left behind when time is up: nothing else limits a name server
    that is silent, or headers that arrive drop by drop.
    """
    left = deadline - time.monotonic()
    answers = queue.SimpleQueue()
    if left <= 0:
        raise BadData("no answer in time")

    def work():
        try:
            answers.put(_read_url(url, deadline))
        except Exception as problem:  # whatever a server may cause is judged in the caller's thread
            answers.put(problem)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=left)
    except queue.Empty:
        raise BadData("no answer in time") from None
    if isinstance(answer, Exception):
        raise BadData(_reason(answer)) from None
    return answer


def _read_url(url, deadline) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        # read1 returns what has arrived, so that the clock is looked at even if the server drips
        while chunk := response.read1(1 << 16):
            data += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(data) > MAX_BYTES:
                raise BadData("too long an answer")
    return bytes(data)


def _reason(problem) -> str:
    """A few words on why a URL could not be read."""
    cause = getattr(problem, "reason", None)
    cause = cause if isinstance(cause, Exception) else problem
    if isinstance(problem, BadData):
        return str(problem)
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP status {problem.code}"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(problem, OSError):  # no route, no name, refused, a certificate that is not trusted ...
        return f"no connection ({type(cause).__name__})"
    return f"bad answer ({type(problem).__name__})"


def _keep(packed) -> str:
    """Put verified files into the cache; returns "" or a few words on why it could not be done."""
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        for name, data in packed.items():
            write_whole(cache_dir() / name, data)
    except OSError as problem:
        return f" (not cached: {_short(problem)})"
    return ""


def _short(problem) -> str:
    """An OSError without the path that it names."""
    return problem.strerror or type(problem).__name__


# ---------------------------------------------------------------- the embedded set


def load_embedded_digits(split="train") -> Digits:
    """The 1,797 handwritten digits inside scikit-learn (UCI, 8x8 pixels), brought to MNIST's format.

    As in MNIST the digit is scaled into a 20x20 box and its centre of mass is put in the centre of 28x28.
    The split (1,297 for training, 500 for testing) is a fixed shuffle. Raises ValueError for another split.
    """
    _require_split("load_embedded_digits", split)
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    keep = order[:NUM_EMBEDDED_TRAIN] if split == "train" else order[NUM_EMBEDDED_TRAIN:]
    small = torch.from_numpy(bunch.images[keep]).float().unsqueeze(1) / 16
    labels = torch.from_numpy(bunch.target[keep]).long()
    return Digits(_centre(_enlarge(small)), labels, EMBEDDED)


def _enlarge(small):
    """(N, 1, 8, 8) in 0..1 to (N, 1, 20, 20), with MNIST's contrast: strokes white, paper black.

    Less would give strokes fatter than MNIST's, more would break thin ones.
    """
    big = torch.nn.functional.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False)
    return ((big - 0.3) / 0.5).clamp(0, 1)


def _centre(boxes):
    """Put each box (20, 20) into 28x28, its centre of mass nearest to pixel (14, 14), where MNIST has it.

    Returns uint8 (N, 1, 28, 28).
    """
    out = torch.zeros(len(boxes), 1, 28, 28, dtype=torch.uint8)
    axis = torch.arange(20.0)
    for k, box in enumerate(boxes[:, 0]):
        mass = box.sum()
        row = (box.sum(1) @ axis / mass).item()
        column = (box.sum(0) @ axis / mass).item()
        top, left = (min(8, max(0, round(14 - middle))) for middle in (row, column))
        out[k, 0, top : top + 20, left : left + 20] = (box * 255).round().to(torch.uint8)
    return out


# ---------------------------------------------------------------- text


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as one string, and the name of its source."""

    text: str
    source: str

    def __len__(self):
        return len(self.text)


def load_text(verbose=True) -> Text:
    """A text to learn from, from the best source at hand; see the top of this file for the order.

    Tiny Shakespeare has 1,115,394 characters, 65 different ones; the embedded text about 465,000, 94 different ones.
    Prints one line that names the source, unless verbose is False. Raises RuntimeError where there is no text
    at all (a Python installed without its documentation, and no network).
    """
    read_switch("AIGC_OFFLINE")  # a bad setting is refused, wherever the text comes from
    sources = {"AIGC_DATA_DIR": _text_from_folder, "cache": _text_from_cache, "download": _text_from_mirrors}
    found, where = _first(sources)
    if found is None:
        text = Text(_embed_text(where), EMBEDDED_TEXT)
    else:
        text = Text(found, SHAKESPEARE)
    if verbose:
        print(f"[data: {len(text):,} characters from {text.source}; {where}]")
    return text


def _text_from_folder():
    folder = os.environ.get("AIGC_DATA_DIR")
    if not folder:
        return None, ""
    folder = pathlib.Path(os.path.expanduser(folder)) / "text"
    if not any(os.path.exists(folder / (TEXT_FILE + ending)) for ending in ("", ".gz")):
        raise BadData(f"no text/{TEXT_FILE} in it")
    found, instead = _read_best(folder, [TEXT_FILE], ("", ".gz"), _verify_text)
    return found, f"AIGC_DATA_DIR{instead}"


def _text_from_cache():
    return _read_cache([TEXT_FILE], ("", ".gz"), _verify_text)


def _text_from_mirrors():
    _require_online()
    return _download([{TEXT_FILE: url} for url in TEXT_MIRRORS], _verify_text)


def _verify_text(files) -> str:
    """The text in {file name: bytes} of one file, if its digest is right. Raises BadData."""
    [(name, data)] = files.items()
    data = _unpack(data, name)
    if hashlib.sha256(data).hexdigest() != TEXT_SHA256:
        raise BadData("the text is damaged (wrong SHA-256)")
    return data.decode("ascii")


def _embed_text(where) -> str:
    """All topics of Python's `help`, in alphabetical order, brought to ASCII: printable characters and newlines."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some systems keep it in a package of its own
        message = "load_text: this Python has no documentation topics (pydoc_data), and no other text is at hand"
        raise RuntimeError(f"{message} ({where}); put tiny Shakespeare at AIGC_DATA_DIR/text/{TEXT_FILE}") from None
    plain = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\t", "''\"\"-- ", "\r")
    text = "\n\n".join(topics[name] for name in sorted(topics)).translate(plain).replace("\u2026", "...")
    return "".join(c for c in text if c == "\n" or " " <= c <= "~")


# ---------------------------------------------------------------- toys in the plane

RING_RADIUS = 1.6
RING_SIGMA = 0.06
GRID_SPACING = 0.8
GRID_SIGMA = 0.05
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

    name: one of TOYS_2D. generator: a CPU torch.Generator, a seed for a new one, or None for PyTorch's own.
    Raises ValueError for an unknown name, n < 1 or a bad seed.
    """
    if name not in TOYS_2D:
        raise ValueError(f"toy_2d: unknown toy {name!r}; choose one of {', '.join(TOYS_2D)}")
    n = require_whole("toy_2d", "n", n, least=1)
    if generator is not None and not isinstance(generator, torch.Generator):
        generator = _make_generator("toy_2d", generator)
    if name in ("ring", "grid"):
        centres, sigma = toy_modes(name)
        pick = torch.randint(len(centres), (n,), generator=generator)
        return centres[pick] + sigma * torch.randn(n, 2, generator=generator)
    u = torch.rand(n, 2, generator=generator)
    noise = torch.randn(n, 2, generator=generator).clamp(-3, 3)
    curves = {"moons": _moons, "spiral": _spiral, "checkerboard": _checkerboard, "swiss_roll": _swiss_roll}
    return curves[name](u, noise)


def _moons(u, noise):
    """Two half circles, each reaching into the other."""
    angle = math.pi * u[:, 0]
    upper = u[:, 1] < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return 1.3 * torch.stack([x, y], dim=1) + 0.06 * noise


def _spiral(u, noise):
    """Two arms, each a turn and a half."""
    angle = 3 * math.pi * u[:, 0].sqrt()
    arm = (u[:, 1] < 0.5).float() * math.pi
    radius = 2.0 * angle / (3 * math.pi)
    return radius[:, None] * torch.stack([(angle + arm).cos(), (angle + arm).sin()], dim=1) + 0.04 * noise


def _checkerboard(u, noise):
    """Uniform on the eight dark squares of a 4 x 4 board of side 4; `noise` is not needed."""
    x = 4 * u[:, 0] - 2
    row = 2 * (2 * u[:, 1]).floor() + (x.floor() % 2)  # a dark square of the column that x is in
    return torch.stack([x, row + (2 * u[:, 1]) % 1 - 2], dim=1)


def _swiss_roll(u, noise):
    """A strip rolled up: one arm, a turn and a half, thinning outwards."""
    angle = 1.5 * math.pi * (1 + 2 * u[:, 0])
    radius = 2.0 * angle / (4.5 * math.pi)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.04 * noise
