"""Digits come from the best source at hand, verified, whatever goes wrong; toys have the shapes they claim.

No test leaves this machine: mirrors are loopback servers, and the MNIST files that they serve are small and
random, with the digests put in to match. The real digests are tested where the real files are at hand:
in the folder named by AIGC_DATA_DIR, or in ../shared/data.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import json
import math
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error

import numpy as np
import pytest
import torch

from aigc_helpers import _files, arguments, data
from aigc_helpers._environment import read_switch
from aigc_helpers.data import Digits, load_digits, load_embedded_digits, load_text, toy_2d, toy_modes
from aigc_helpers.weights import load as load_weights
from aigc_helpers.weights import save as save_weights

ROOT = pathlib.Path(__file__).resolve().parent.parent
REAL = pathlib.Path(os.environ.get("AIGC_DATA_DIR") or ROOT.parent / "shared" / "data").absolute()
EMBEDDED = "scikit-learn digits (embedded)"
CHINESE = "带 空格 的 文件夹"
LIMITS = data.TIMEOUT_S, data.DEADLINE_S, data.MIRRORS, data.SHA256
REAL_TEXT_SHA256 = data.TEXT_SHA256
NEVER = 8.0  # seconds after which a bad server gives up: a loader that waits for it fails its test

needs_mnist = pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="no MNIST at hand; AIGC_DATA_DIR may name its folder"
)


# ---------------------------------------------------------------- small files in MNIST's format


def idx(array):
    """A file in IDX format, written by the book rather than by the code under test."""
    return b"\0\0\x08" + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


def make_split(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)


ARRAYS = {"train": make_split(300, 0), "test": make_split(40, 1)}
DIGESTS = {split: hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest() for split, (x, y) in ARRAYS.items()}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PLAIN = {
    IMAGES: idx(ARRAYS["train"][0]),
    LABELS: idx(ARRAYS["train"][1]),
    "t10k-images-idx3-ubyte": idx(ARRAYS["test"][0]),
    "t10k-labels-idx1-ubyte": idx(ARRAYS["test"][1]),
}
PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40
PACKED = {f"{name}.gz": gzip.compress(raw, 1) for name, raw in PLAIN.items()}


def assert_right(digits, split="train"):
    images, labels = ARRAYS[split]
    assert digits.source == "MNIST"
    assert digits.images.dtype == torch.uint8 and digits.labels.dtype == torch.int64
    assert np.array_equal(digits.images.numpy(), images[:, None])
    assert np.array_equal(digits.labels.numpy(), labels)


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No setting of this machine, an empty cache, no mirror, no proxy, and the small files' digests."""
    for name in ("AIGC_DATA_DIR", "AIGC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIGC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(data, "MIRRORS", ())
    monkeypatch.setattr(data, "SHA256", DIGESTS)
    monkeypatch.setattr(data, "TEXT_MIRRORS", ())
    monkeypatch.setattr(data, "TEXT_SHA256", hashlib.sha256(PLAY).hexdigest())
    monkeypatch.setattr(data, "_failed", set())


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def load(capsys, tmp_path):
    """load_digits, with the one line that it prints: (digits, line without its brackets)."""

    def loader(split="train", **options):
        capsys.readouterr()
        digits = load_digits(split, **options)
        printed = capsys.readouterr()
        assert printed.err == ""
        found = re.fullmatch(r"\[data: ([^\n]*)\]\n", printed.out)
        assert found, printed.out
        assert str(tmp_path) not in found[1]
        return digits, found[1]

    return loader


# ---------------------------------------------------------------- mirrors on the loopback


class Mirror(http.server.ThreadingHTTPServer):
    """Serves PACKED, in the manner named by `mode`; `hits` are the paths asked for."""

    daemon_threads, block_on_close = True, False

    def __init__(self, mode):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.hits, self.files = mode, [], PACKED
        self.half_way, self.over = threading.Event(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/mnist/"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.hits.append(name)
        getattr(self, self.server.mode)(self.server.files[name])

    def headers_of(self, length, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def drip(self, raw, seconds=0.02):
        end = time.monotonic() + NEVER
        while time.monotonic() < end and not self.server.over.wait(seconds):
            self.wfile.write(raw)
            self.wfile.flush()

    def good(self, raw):
        self.headers_of(len(raw))
        self.wfile.write(raw)

    def portal(self, raw):
        page = b"<!DOCTYPE html><title>Sign in to the hotel's network</title>"
        self.headers_of(len(page), "text/html")
        self.wfile.write(page)

    def other_data(self, raw):
        """Good files of something else, as Fashion-MNIST would be."""
        images, labels = make_split(300, 2)
        self.good(gzip.compress(idx(images if b"\x03" == gzip.decompress(raw)[3:4] else labels), 1))

    def missing(self, raw):
        self.send_error(404)

    def cut(self, raw):
        self.headers_of(len(raw))
        self.wfile.write(raw[: len(raw) // 2])

    def not_http(self, raw):
        self.wfile.write(b"220 ready for mail\r\n\r\n")

    def endless(self, raw):
        self.headers_of(None)
        self.drip(bytes(1 << 20), 0)

    def silent(self, raw):
        self.server.over.wait(NEVER)

    def drip_headers(self, raw):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.drip(b"X-Wait: 1\r\n", 0.2)

    def drip_body(self, raw):
        self.headers_of(1 << 20)
        self.drip(b"\x1f")

    def half_labels(self, raw):
        """All of the images and half of the labels; then nothing more."""
        if "images" in self.path:
            return self.good(raw)
        self.headers_of(len(raw))
        self.wfile.write(raw[: len(raw) // 2])
        self.wfile.flush()
        self.server.half_way.set()
        self.server.over.wait(NEVER)


@pytest.fixture
def serve(monkeypatch):
    """Start servers of the modes given, and make them the mirrors, in that order."""
    with contextlib.ExitStack() as stack:

        def start(*modes):
            servers = [Mirror(mode) for mode in modes]
            for server in servers:
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                stack.callback(server.over.set)
                threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            monkeypatch.setattr(data, "MIRRORS", tuple(server.url for server in servers))
            return servers

        yield start


# ---------------------------------------------------------------- pixels


def test_pixels_reach_both_ends_of_their_range():
    x = torch.arange(256, dtype=torch.uint8)
    for convert, low in ((data.to_signed, -1.0), (data.to_unit, 0.0)):
        y = convert(x)
        assert y.dtype == torch.float32 and y[0] == low and y[-1] == 1.0
        torch.testing.assert_close(y, torch.linspace(low, 1, 256))


@pytest.mark.parametrize("convert", [data.to_signed, data.to_unit])
@pytest.mark.parametrize("x", [torch.rand(3), torch.arange(3), np.zeros(3, np.uint8), [0, 255], None])
def test_pixels_that_are_no_bytes_are_refused(convert, x):
    """Scaling twice would otherwise give a grey image and no error."""
    message = rf"^{convert.__name__}: needs a tensor of uint8 pixels 0\.\.255, got \w+; was it scaled before\?$"
    with pytest.raises(ValueError, match=message):
        convert(x)


PIXELS = torch.tensor([[0, 20, 128, 255]], dtype=torch.uint8)
SIGNED = torch.tensor([[-1.0, 2 * 20 / 255 - 1, 2 * 128 / 255 - 1, 1.0]])
USUAL = {  # images of the same grey values
    "uint8": PIXELS,
    "int16": PIXELS.short(),
    "int64": PIXELS.long(),
    "NumPy's uint8": PIXELS.numpy(),
    "NumPy's int32": PIXELS.int().numpy(),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("kind", USUAL)
def test_images_of_whole_numbers_are_pixels(kind):
    signed, unit = data.as_signed(USUAL[kind]), data.as_unit(USUAL[kind])
    assert signed.dtype == unit.dtype == torch.float32
    torch.testing.assert_close(signed, SIGNED)
    torch.testing.assert_close(unit, PIXELS / 255)


@pytest.mark.parametrize("dtype", FLOATS)
def test_images_of_floats_keep_their_values(dtype):
    signed, unit = data.as_signed(SIGNED.to(dtype)), data.as_unit((PIXELS / 255).to(dtype))
    assert signed.dtype == unit.dtype == torch.float32
    tolerance = {"rtol": 0, "atol": torch.finfo(dtype).eps}
    torch.testing.assert_close(signed, SIGNED, **tolerance)
    torch.testing.assert_close(unit, PIXELS / 255, **tolerance)


def test_black_and_white_images():
    bits = torch.tensor([True, False])
    assert data.as_signed(bits).tolist() == [1, -1] and data.as_unit(bits).tolist() == [1, 0]
    assert data.as_signed(bits.numpy()).tolist() == [1, -1]
    black = torch.zeros(2, 3, dtype=torch.int64)  # black, whichever way it is read
    assert (data.as_signed(black) == -1).all() and (data.as_unit(black) == 0).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.5, 1.0])
def test_one_grey_is_no_range(value):
    """A blank page is an image: nothing says that its values are in other units."""
    assert (data.as_signed(torch.full((3, 4), value)) == value).all()


def test_images_may_be_a_hair_beyond_their_range_and_noisy_ones_are_cut_on_request():
    hair = torch.tensor([-1.0005, 1.0005])
    assert data.as_signed(hair).tolist() == hair.tolist()
    assert data.as_unit(torch.tensor([-0.0005, 1.0005])).tolist() == pytest.approx([-0.0005, 1.0005])
    noisy = torch.tensor([-3.0, 0.25, 4.0])
    assert data.as_signed(noisy, clip=True).tolist() == [-1, 0.25, 1]
    with pytest.raises(ValueError, match="as_signed: needs floats in .-1, 1., got -3 to 4"):
        data.as_signed(noisy)


def test_reading_images_keeps_gradients_and_what_was_given():
    x = SIGNED.clone().requires_grad_()
    (2 * data.as_signed(x)).sum().backward()
    assert (x.grad == 2).all()
    pixels = PIXELS.clone()
    data.as_signed(pixels).add_(1)
    assert torch.equal(pixels, PIXELS)


UNUSUAL = {  # what it is: images, what as_signed says, what as_unit says (None where it is right)
    "in [0, 1]": (PIXELS / 255, r"got 0 to 1; .*\[0, 1\].*2 \* images - 1", None),
    "in [-1, 1]": (SIGNED, None, r"got -1 to 1; .*\[-1, 1\].*\(images \+ 1\) / 2"),
    "pixels as floats": (PIXELS.float(), "got 0 to 255; ", "got 0 to 255; .*to_unit"),
    "overshooting": (2 * SIGNED, r"got -2 to 2; .*clamp\(-1, 1\)", r"got -2 to 2; .*clamp\(0, 1\)"),
    "too high only": (SIGNED + 0.5, r"got -0.5 to 1.5; .*clamp\(-1, 1\)", "got -0.5 to 1.5; "),
    "too low only": (SIGNED - 0.5, r"got -1.5 to 0.5; .*clamp\(-1, 1\)", "got -1.5 to 0.5; "),
    "not a number": (torch.tensor([0.0, float("nan")]), "NaN or Inf", "NaN or Inf"),
    "infinite": (torch.tensor([0.0, -float("inf")]), "NaN or Inf", "NaN or Inf"),
    "whole but negative": (torch.tensor([-1, 1, 5]), "whole numbers .* from -1 to 5", "from -1 to 5"),
    "whole but beyond 255": (torch.tensor([0, 256]), "from 0 to 256; pixels", "from 0 to 256; pixels"),
    "whole, 0 and 1": (torch.tensor([0, 1]), r"from 0 to 1; use \.bool", r"from 0 to 1; use \.bool"),
    "whole, -1 and 1": (torch.tensor([-1, 1]), "from -1 to 1; pixels", "from -1 to 1; pixels"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "got torch.complex64", "got torch.complex64"),
    "none": (torch.zeros(0, 784), r"got torch.float32 of shape \(0, 784\)", "needs a tensor of images"),
    "a list": ([[0, 255]], "got list", "got list"),
    "text": (np.array(["a"]), "got ndarray", "got ndarray"),
    "nothing": (None, "got NoneType", "got NoneType"),
}


@pytest.mark.parametrize("read", [data.as_signed, data.as_unit])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_other_images_get_one_message(kind, read):
    images, of_signed, of_unit = UNUSUAL[kind]
    message = of_signed if read is data.as_signed else of_unit
    if message is None:
        return torch.testing.assert_close(read(images), images)
    for options, name in (({}, read.__name__), ({"caller": "tile"}, "tile")):
        with pytest.raises(ValueError, match=f"^{name}: .*{message}") as caught:
            read(images, **options)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- toys


@pytest.mark.parametrize("name", data.TOYS_2D)
def test_toys_have_their_type_size_and_scale(name):
    x = toy_2d(name, 20_000, 1)
    assert x.shape == (20_000, 2) and x.dtype == torch.float32
    assert x.abs().max() <= 2.2
    assert x.mean(dim=0).abs().max() < 0.35
    assert ((0.5 < x.std(dim=0)) & (x.std(dim=0) < 1.5)).all()
    assert toy_2d(name, 1, 1).shape == (1, 2)


@pytest.mark.parametrize("name", data.TOYS_2D)
def test_toys_depend_on_their_seed_and_nothing_else(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x = toy_2d(name, 50, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, toy_2d(name, 50, 3)) and torch.equal(x, toy_2d(name, 50, np.int64(3)))
    assert not torch.equal(x, toy_2d(name, 50, 4))
    assert torch.equal(toy_2d(name, 50), toy_2d(name, 50, 0))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(x, toy_2d(name, 50, generator)) and not torch.equal(x, toy_2d(name, 50, generator))
    torch.manual_seed(3)  # None means PyTorch's own generator
    assert torch.equal(x, toy_2d(name, 50, None))


@pytest.mark.parametrize(("name", "count", "sigma"), [("ring", 8, 0.06), ("grid", 25, 0.05)])
def test_mixtures_have_equal_gaussians_at_their_modes(name, count, sigma):
    n = 50_000
    centres, width = toy_modes(name)
    assert centres.shape == (count, 2) and width == sigma
    x = toy_2d(name, n, 2)
    nearest = torch.cdist(x, centres).argmin(dim=1)
    shares, rest = nearest.bincount(minlength=count) / n, x - centres[nearest]
    assert (shares - 1 / count).abs().max() < 5 * math.sqrt(1 / count / n)
    assert rest.std(dim=0).tolist() == pytest.approx([sigma, sigma], rel=0.02)
    assert rest.mean(dim=0).abs().max() < 5 * sigma / math.sqrt(n)
    assert (rest[:, 0] * rest[:, 1]).mean().abs() < 5 * sigma**2 / math.sqrt(n)


def test_modes_are_where_the_books_have_them():
    ring, grid = toy_modes("ring")[0], toy_modes("grid")[0]
    torch.testing.assert_close(ring.norm(dim=1), torch.full((8,), 1.6))
    side = torch.full((8,), 3.2 * math.sin(math.pi / 8))  # of a regular octagon
    torch.testing.assert_close((ring - ring.roll(1, 0)).norm(dim=1), side)
    wanted = {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    assert {(round(x / 0.8), round(y / 0.8)) for x, y in grid.tolist()} == wanted
    torch.testing.assert_close(grid / 0.8, (grid / 0.8).round())


def test_the_checkerboard_fills_its_eight_dark_squares_evenly():
    x = toy_2d("checkerboard", 40_000, 3)
    square = x.floor().long() + 2
    assert square.min() == 0 and square.max() == 3
    assert (square.sum(dim=1) % 2 == 0).all()
    counts = (4 * square[:, 0] + square[:, 1]).bincount(minlength=16)
    counts = counts[counts > 0]
    assert len(counts) == 8 and (counts / 40_000 - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 / 40_000)
    inside = x - x.floor()
    assert (inside.mean(dim=0) - 0.5).abs().max() < 0.01
    assert (inside.std(dim=0) - 1 / math.sqrt(12)).abs().max() < 0.01


def test_the_moons_are_two_half_circles():
    x = toy_2d("moons", 20_000, 4) / 1.3
    upper, lower = torch.tensor([-0.5, -0.25]), torch.tensor([0.5, 0.25])  # the centres of the two circles
    errors = torch.stack([((x - c).norm(dim=1) - 1).abs() for c in (upper, lower)])
    on_upper = errors[0] < errors[1]
    assert (errors.min(dim=0).values < 0.2).all()
    assert errors.min(dim=0).values.mean() == pytest.approx(0.06 / 1.3 * math.sqrt(2 / math.pi), rel=0.1)
    assert on_upper.float().mean() == pytest.approx(0.5, abs=0.03)
    assert x[:, 0].min() < -1.4 and x[:, 0].max() > 1.4
    assert x.mean(dim=0).abs().max() < 0.05  # half a turn of the plane swaps the moons


@pytest.mark.parametrize(
    ("name", "arms", "first", "last"),
    [("spiral", 2, 0.0, 3 * math.pi), ("swiss_roll", 1, 1.5 * math.pi, 4.5 * math.pi)],
)
def test_spirals_grow_with_their_angle(name, arms, first, last):
    x = toy_2d(name, 20_000, 5)
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    per_turn = 2.0 / last  # the radius is 2 at the last angle
    angles = (angle[:, None] + 2 * math.pi / arms * torch.arange(-1, 7)).clamp(first, last)
    errors, winding = (radius[:, None] - per_turn * angles).abs().min(dim=1)
    far = radius > 0.3  # near the origin the angle says little
    assert errors[far].max() < 0.2
    assert errors[far].mean() < 0.05
    assert radius.max() > 1.9 and radius.min() == pytest.approx(per_turn * first, abs=0.25)
    if arms == 2:
        share = (winding[far] % 2 == 0).float().mean().item()
        assert share == pytest.approx(0.5, abs=0.05)
        assert (x[far].mean(dim=0)).abs().max() < 0.05  # the arms balance each other


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy_2d("rings", 5), "toy_2d: unknown toy 'rings'; choose one of ring, grid, moons"),
        (lambda: toy_2d(None, 5), "toy_2d: unknown toy None"),
        (lambda: toy_2d("ring", 0), "toy_2d: n must be a whole number of at least 1, got 0"),
        (lambda: toy_2d("moons", -3), "toy_2d: n must be a whole number of at least 1, got -3"),
        (lambda: toy_2d("ring", 2.5), "toy_2d: n must be a whole number of at least 1, got 2.5"),
        (lambda: toy_2d("ring", float("nan")), "toy_2d: n must be a whole number of at least 1, got nan"),
        (lambda: toy_2d("ring", "5"), "toy_2d: n must be a whole number of at least 1, got '5'"),
        (lambda: toy_2d("ring", True), "toy_2d: n must be a whole number of at least 1, got True"),
        (lambda: toy_2d("ring", 5, "me"), "toy_2d: seed must be a whole number from 0 to 9223372036854775807, got 'me'"),
        (lambda: toy_2d("ring", 5, 0.5), "toy_2d: seed must be a whole number from 0 to 9223372036854775807, got 0.5"),
        (lambda: toy_2d("ring", 5, 1 << 80), "toy_2d: seed must be a whole number from 0 to 9223372036854775807, got 1208"),
        (lambda: toy_modes("moons"), "toy_modes: only 'ring' and 'grid' have modes to count, got 'moons'"),
        (lambda: load_digits("validation"), "load_digits: split must be 'train' or 'test', got 'validation'"),
        (lambda: load_digits(["train"]), "load_digits: split must be 'train' or 'test', got ['train']"),
        (lambda: load_digits(n=0), "load_digits: n must be a whole number of at least 1, got 0"),
        (lambda: load_digits(n=1e3), "load_digits: n must be a whole number of at least 1, got 1000.0"),
        (lambda: load_digits(seed="a"), "load_digits: seed must be a whole number from 0 to 9223372036854775807, got 'a'"),
        (lambda: load_digits(seed=None), "load_digits: seed must be a whole number from 0 to 9223372036854775807, got None"),
        (lambda: load_embedded_digits("all"), "load_embedded_digits: split must be 'train' or 'test', got 'all'"),
        (lambda: load_digits(seed=-1), "load_digits: seed must be a whole number from 0 to 9223372036854775807, got -1"),
        (lambda: few().subset(0), "subset: n must be a whole number of at least 1, got 0"),
        (lambda: few().subset(4), "subset: asked for 4 images, but there are 3 (a test)"),
        (lambda: few().subset(1.0), "subset: n must be a whole number of at least 1, got 1.0"),
        (lambda: few().subset(1, seed=[]), "subset: seed must be a whole number from 0 to 9223372036854775807, got []"),
    ],
)
def test_bad_arguments_get_one_clear_message(call, message, serve):
    (server,) = serve("good")
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert server.hits == []  # refused before anything is fetched


# ---------------------------------------------------------------- Digits


def few(n=3):
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 28, 28).contiguous()
    return Digits(images, torch.arange(n) + 100, "a test")


def test_a_subset_keeps_images_and_labels_together_and_draws_without_replacement():
    digits = few(200)
    assert len(digits) == 200
    part = digits.subset(150, seed=4)
    assert len(part) == 150 and part.source == "a test" and part.images.shape == (150, 1, 28, 28)
    assert torch.equal(part.images[:, 0, 5, 5].long() + 100, part.labels)
    assert len(part.labels.unique()) == 150
    assert torch.equal(part.labels, digits.subset(150, seed=4).labels)
    assert not torch.equal(part.labels, digits.subset(150, seed=5).labels)
    assert sorted(digits.subset(200).labels.tolist()) == digits.labels.tolist()
    assert len(digits.subset(np.int64(7))) == 7


def test_digits_cannot_be_changed_by_accident_and_compare_by_identity():
    digits = few()
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.source = "another"
    assert digits == digits and digits != few()  # comparing tensors would raise


# ---------------------------------------------------------------- the embedded digits


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_digits("train"), load_embedded_digits("test")


FIRST_EMBEDDED = [1, 7, 6, 5, 2, 2, 9, 1]


def test_the_embedded_splits_are_fixed_disjoint_and_complete(embedded):
    from sklearn.datasets import load_digits as sklearn_digits

    train, test = embedded
    assert (len(train), len(test)) == (1297, 500)
    for digits in embedded:
        assert digits.source == EMBEDDED
        assert digits.images.shape == (len(digits), 1, 28, 28) and digits.images.dtype == torch.uint8
        assert digits.labels.dtype == torch.int64 and digits.labels.bincount(minlength=10).min() >= 35
    seen = [{image.numpy().tobytes() for image in digits.images} for digits in embedded]
    assert not seen[0] & seen[1]
    labels = torch.cat([train.labels, test.labels]).bincount()
    assert np.array_equal(labels.numpy(), np.bincount(sklearn_digits().target))
    again = load_embedded_digits("test")
    assert torch.equal(again.images, test.images) and torch.equal(again.labels, test.labels)
    assert test.labels[:8].tolist() == FIRST_EMBEDDED  # on every platform and with every version


def centred_moments(x):
    """(N, 7): row and column of the centre of mass, then central moments that tell flips and transposing."""
    x = x.double() / x.double().sum(dim=(1, 2), keepdim=True)
    axis = torch.arange(x.shape[1], dtype=torch.float64)
    row, column = x.sum(dim=2) @ axis, x.sum(dim=1) @ axis
    r, c = axis[None, :, None] - row[:, None, None], axis[None, None, :] - column[:, None, None]
    weights = (r * c, r**3, c**3, r * r * c, r * c * c)
    return torch.stack([row, column, *((x * weight).sum(dim=(1, 2)) for weight in weights)], dim=1)


def test_the_embedded_digits_are_sklearns_the_right_way_up(embedded):
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    order = np.random.default_rng(0).permutation(1797)
    ours = centred_moments(torch.cat([d.images for d in embedded])[:, 0])
    theirs = centred_moments(torch.from_numpy(bunch.images[order]))
    assert np.array_equal(torch.cat([d.labels for d in embedded]).numpy(), bunch.target[order])
    for k in range(2, 7):
        assert torch.corrcoef(torch.stack([ours[:, k], theirs[:, k]]))[0, 1] > 0.9


def test_the_embedded_digits_look_like_mnist(embedded):
    """MNIST has mean 0.131, standard deviation 0.309, ink on 19 % of pixels, its centre of mass at (14, 14)."""
    images = embedded[0].images[:, 0]
    x = images.float() / 255
    assert 0.12 < x.mean() < 0.16 and 0.28 < x.std() < 0.34
    assert 0.17 < (x > 0).float().mean() < 0.22
    assert (images.amax(dim=(1, 2)) == 255).float().mean() > 0.99
    ends = ((x < 0.1) | (x > 0.9)).float().mean()
    assert ends > 0.85  # strokes are white and paper is black (MNIST: 0.90)
    centre = centred_moments(images)[:, :2]
    assert (centre.mean(dim=0) - 14).abs().max() < 0.05 and (centre - 14).abs().max() <= 0.75
    for inked in ((images > 0).any(dim=1), (images > 0).any(dim=2)):
        first, last = inked.float().argmax(dim=1), 27 - inked.flip(1).float().argmax(dim=1)
        assert (last - first + 1).max() <= 20 and first.min() >= 0
    assert ((images > 0).any(dim=2).sum(dim=1).float().mean()) > 19  # they fill the box of 20 rows


def nearest_neighbour(known, digits):
    """Share of digits whose nearest known image has the same label."""
    distances = torch.cdist(digits.images.flatten(1).float(), known.images.flatten(1).float())
    return (known.labels[distances.argmin(dim=1)] == digits.labels).float().mean().item()


@needs_mnist
def test_what_was_learnt_on_mnist_reads_the_embedded_digits(embedded, monkeypatch):
    monkeypatch.setenv("AIGC_DATA_DIR", str(REAL))
    monkeypatch.setattr(data, "SHA256", LIMITS[3])
    mnist = load_digits("test", n=4000, verbose=False)
    assert mnist.source == "MNIST"
    assert nearest_neighbour(mnist, embedded[1]) > 0.7  # 0.1 by chance


# ---------------------------------------------------------------- the order of the sources


def test_the_best_source_is_used_and_said(load, serve, cache, monkeypatch, tmp_path):
    (server,) = serve("good")
    fill(tmp_path / "data" / "MNIST" / "raw", PLAIN)
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; AIGC_DATA_DIR"
    assert server.hits == [] and not cache.exists()

    monkeypatch.delenv("AIGC_DATA_DIR")
    digits, line = load("test")
    assert_right(digits, "test")
    assert line == "40 test images from MNIST; downloaded"
    assert server.hits == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert sorted(path.name for path in cache.iterdir()) == server.hits  # and no temporary file

    server.hits.clear()
    digits, line = load("test")
    assert_right(digits, "test")
    assert line == "40 test images from MNIST; cache"
    assert server.hits == []

    monkeypatch.setenv("AIGC_OFFLINE", "1")
    assert load("test")[1] == "40 test images from MNIST; cache"
    digits, line = load("train")
    assert line == f"1,297 train images from {EMBEDDED}; embedded; download: AIGC_OFFLINE is set"
    assert digits.source == EMBEDDED and len(digits) == 1297
    assert server.hits == []


SWITCHED = {"1": True, "yes": True, "True": True, " ON ": True}
SWITCHED |= {"0": False, "": False, " ": False, "false": False, "No": False, "OFF": False}


@pytest.mark.parametrize("value", SWITCHED)
def test_aigc_offline(load, serve, monkeypatch, value):
    (server,) = serve("good")
    monkeypatch.setenv("AIGC_OFFLINE", value)
    assert load("test")[0].source == (EMBEDDED if SWITCHED[value] else "MNIST")
    assert bool(server.hits) is not SWITCHED[value]


@pytest.mark.parametrize("loader", [load_digits, load_text])
@pytest.mark.parametrize("value", ["of", "2", "ja", "-"])
def test_an_unknown_word_for_a_switch_is_refused_with_the_variables_name(monkeypatch, tmp_path, loader, value):
    """Wherever the data would come from: here they lie in the folder that the user named."""
    fill(tmp_path / "data" / "MNIST" / "raw", PLAIN)
    fill(tmp_path / "data" / "text", {data.TEXT_FILE: PLAY})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AIGC_OFFLINE", value)
    with pytest.raises(ValueError, match=rf"^AIGC_OFFLINE='{value}' is neither on \(1, .*\) nor off \(0, .*\)"):
        loader(verbose=False)


@pytest.mark.parametrize("default", [True, False])
def test_a_switch_that_is_not_set_has_its_default(monkeypatch, default):
    monkeypatch.delenv("AIGC_TEST", raising=False)
    assert read_switch("AIGC_TEST", default) is default
    monkeypatch.setenv("AIGC_TEST", "")
    assert read_switch("AIGC_TEST", default) is default
    monkeypatch.setenv("AIGC_TEST", "no" if default else "yes")
    assert read_switch("AIGC_TEST", default) is not default


@pytest.mark.parametrize("packed", [(), (IMAGES,), (IMAGES, LABELS)], ids=["plain", "mixed", "gz"])
@pytest.mark.parametrize("folder", ["plain", CHINESE])
def test_a_named_folder_may_hold_plain_or_packed_files(load, monkeypatch, tmp_path, packed, folder):
    files = {f"{name}.gz": PACKED[f"{name}.gz"] for name in packed}
    files |= {name: PLAIN[name] for name in (IMAGES, LABELS) if name not in packed}
    fill(tmp_path / folder / "MNIST" / "raw", files)
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / folder))
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; AIGC_DATA_DIR"


def test_n_asks_for_a_random_part_or_for_all_there_are(load, serve):
    serve("good")
    whole = load()[0]
    part, line = load(n=30, seed=2)
    assert line == "30 train images from MNIST; cache"
    wanted = whole.subset(30, 2)
    assert torch.equal(part.images, wanted.images) and torch.equal(part.labels, wanted.labels)
    assert_right(load(n=300)[0])
    assert_right(load(n=100_000)[0])


def test_silence_on_request(capfd):
    load_digits("test", verbose=False)
    assert capfd.readouterr() == ("", "")


def test_two_calls_share_no_memory(load, serve):
    serve("good")
    load()[0].images.zero_()
    assert_right(load()[0])


def test_the_cache_folder(monkeypatch, tmp_path):
    assert data.cache_dir() == tmp_path / "cache"
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("AIGC_CACHE_DIR", "~/mine")
    assert data.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("AIGC_CACHE_DIR")
    for platform, settings, wanted in [
        ("linux", {}, ".cache"),
        ("linux", {"XDG_CACHE_HOME": str(tmp_path / "x")}, "x"),
        ("darwin", {}, "Library/Caches"),
        ("win32", {}, "AppData/Local"),
        ("win32", {"LOCALAPPDATA": str(tmp_path / "l")}, "l"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", platform)
            for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
                patch.delenv(name, raising=False)
            for name, value in settings.items():
                patch.setenv(name, value)
            assert data.cache_dir() == tmp_path / wanted / "aigc_helpers"


def test_a_user_without_a_home_still_has_a_cache(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("AIGC_CACHE_DIR")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", nobody)
    monkeypatch.setattr(data.tempfile, "gettempdir", lambda: str(tmp_path))
    assert data.cache_dir().is_relative_to(tmp_path)


# ---------------------------------------------------------------- the real thing


@needs_mnist
def test_mnist_itself(load, monkeypatch):
    monkeypatch.setenv("AIGC_DATA_DIR", str(REAL))
    monkeypatch.setattr(data, "SHA256", LIMITS[3])
    train, line = load()
    assert line == "60,000 train images from MNIST; AIGC_DATA_DIR"
    assert train.images.shape == (60_000, 1, 28, 28) and train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels.bincount().tolist() == counts
    assert train.images.double().mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    test, line = load("test")
    assert line == "10,000 test images from MNIST; AIGC_DATA_DIR"
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4] and test.images.shape == (10_000, 1, 28, 28)
    for split, digits in (("train", train), ("test", test)):
        raw = digits.images.numpy().tobytes() + digits.labels.to(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(raw).hexdigest() == LIMITS[3][split]


@needs_mnist
def test_mnist_through_a_mirror_and_the_cache(load, serve, monkeypatch):
    monkeypatch.setattr(data, "SHA256", LIMITS[3])
    (server,) = serve("good")
    raw = REAL / "MNIST" / "raw"
    names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    if not all((raw / name).exists() for name in names):
        pytest.skip("MNIST is packed here: the mirror would serve it as it is")
    server.files = {f"{name}.gz": gzip.compress((raw / name).read_bytes(), 1) for name in names}
    assert load("test")[1] == "10,000 test images from MNIST; downloaded"
    digits, line = load("test")
    assert line == "10,000 test images from MNIST; cache"
    assert digits.labels[:5].tolist() == [7, 2, 1, 0, 4]


# ---------------------------------------------------------------- damaged files


def flipped(raw, place):
    return raw[:place] + bytes([raw[place] ^ 0x40]) + raw[place + 1 :]


def spoilt_folders():
    """(id, files, reason) of folders that were named by the user and are no good."""
    images, labels = ARRAYS["train"]
    good = {IMAGES: PLAIN[IMAGES], LABELS: PLAIN[LABELS]}
    damaged, wrong = f"{IMAGES} is damaged", "the train files are damaged"
    reshaped = idx(images.reshape(150, 56, 28)), idx(images.reshape(-1)), idx(images.reshape(300, 14, 56))
    moved = np.append(images.reshape(-1), labels)  # the same bytes in the same order, cut in another place
    yield "empty", None, "no MNIST/raw in it"
    yield "no files", {}, f"{IMAGES} is not there"
    yield "no labels", {IMAGES: good[IMAGES]}, f"{LABELS} is not there"
    for share in (0, 50, 99):
        cut = PLAIN[IMAGES][: len(PLAIN[IMAGES]) * share // 100]
        yield f"cut at {share} %", good | {IMAGES: cut}, damaged
    yield "one byte too many", good | {IMAGES: PLAIN[IMAGES] + b"\0"}, damaged
    yield "random bytes", good | {IMAGES: make_split(300, 9)[0].tobytes()}, damaged
    yield "no dimensions", good | {IMAGES: b"\0\0\x08\0" + images.tobytes()}, damaged
    yield "floats", good | {IMAGES: PLAIN[IMAGES][:2] + b"\x0d" + PLAIN[IMAGES][3:]}, damaged
    yield "a header that never ends", good | {IMAGES: b"\0\0\x08\xff" + bytes(40)}, damaged
    yield "255 dimensions", good | {IMAGES: b"\0\0\x08\xff" + bytes(4 * 255)}, damaged
    endless = struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1)
    yield "no images, but large ones", good | {IMAGES: endless}, damaged
    yield "no labels in it", {IMAGES: idx(images[:0]), LABELS: idx(labels[:0])}, damaged
    yield "pixels flipped", good | {IMAGES: flipped(PLAIN[IMAGES], 5000)}, f"{wrong} (wrong SHA-256)"
    yield "a label flipped", good | {LABELS: flipped(PLAIN[LABELS], 100)}, f"{wrong} (wrong SHA-256)"
    others = {"the other split": ARRAYS["test"], "other digits": make_split(300, 3)}
    for name, arrays in others.items():
        yield name, dict(zip(good, map(idx, arrays), strict=True)), f"{wrong} (wrong SHA-256)"
    for k, raw in enumerate(reshaped):
        yield f"right bytes, wrong shape {k}", good | {IMAGES: raw}, f"{wrong} (wrong shape)"
    shapes = {
        "labels among the images": (moved[:-1], moved[-1:]),
        "labels as images": (images, labels.reshape(300, 1, 1)),
        "files swapped": (labels, images),
        "500 labels": (images, np.append(labels, labels[:200])),
    }
    for name, arrays in shapes.items():
        yield name, dict(zip(good, map(idx, arrays), strict=True)), f"{wrong} (wrong shape)"
    packs = {"gz cut": PACKED[f"{IMAGES}.gz"][:-9], "no gz": PLAIN[IMAGES]}
    for name, raw in packs.items():
        yield name, {f"{IMAGES}.gz": raw, LABELS: good[LABELS]}, f"{IMAGES}.gz is damaged"


SPOILT = {name: (files, reason) for name, files, reason in spoilt_folders()}


@pytest.mark.parametrize("name", SPOILT)
def test_a_named_folder_that_is_no_good_is_said_and_not_used(load, serve, monkeypatch, tmp_path, name):
    files, reason = SPOILT[name]
    raw = tmp_path / "data" / "MNIST" / "raw"
    if files is not None:
        fill(raw, files)
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    serve("good")
    digits, line = load()
    assert_right(digits)
    assert line.startswith("300 train images from MNIST; downloaded; AIGC_DATA_DIR: ") and reason in line
    if files is not None:  # what the user put there is left alone
        assert {path.name: path.read_bytes() for path in raw.iterdir()} == files


HIDING = {  # a plain file that is no good, and what is said about it
    "empty": (b"", f"{IMAGES} is damaged"),
    "cut": (PLAIN[IMAGES][:5000], f"{IMAGES} is damaged"),
    "altered": (flipped(PLAIN[IMAGES], 5000), "the train files are damaged (wrong SHA-256)"),
    "a folder": (None, f"{IMAGES} cannot be read (Is a directory)"),
}


@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.parametrize("labels", ["plain", "packed", "both"])
def test_a_damaged_plain_file_does_not_hide_the_good_packed_one(load, monkeypatch, tmp_path, kind, labels):
    raw, reason = HIDING[kind]
    folder = tmp_path / "data" / "MNIST" / "raw"
    fill(folder, {f"{IMAGES}.gz": PACKED[f"{IMAGES}.gz"]})
    fill(folder, {LABELS: PLAIN[LABELS]} if labels != "packed" else {})
    fill(folder, {f"{LABELS}.gz": PACKED[f"{LABELS}.gz"]} if labels != "plain" else {})
    if raw is None:
        (folder / IMAGES).mkdir()
    else:
        fill(folder, {IMAGES: raw})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    digits, line = load()
    assert_right(digits)
    assert line == f"300 train images from MNIST; AIGC_DATA_DIR ({reason}; read instead: {IMAGES}.gz)"


def test_of_two_plain_files_that_hide_good_ones_both_are_passed_over(load, monkeypatch, tmp_path):
    fill(tmp_path / "data" / "MNIST" / "raw", PACKED | {IMAGES: b"", LABELS: b""})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    digits, line = load()
    assert_right(digits)
    assert line.endswith(f"AIGC_DATA_DIR ({IMAGES} is damaged; read instead: {IMAGES}.gz {LABELS}.gz)")


def test_where_both_files_are_damaged_the_first_is_named(load, monkeypatch, tmp_path):
    fill(tmp_path / "data" / "MNIST" / "raw", PLAIN | {IMAGES: b"", f"{IMAGES}.gz": b""})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    digits, line = load()
    assert digits.source == EMBEDDED and f"; AIGC_DATA_DIR: {IMAGES} is damaged; " in line


def test_a_damaged_packed_file_in_the_cache_does_not_hide_a_good_plain_one(load, serve, cache):
    (server,) = serve("good")
    fill(cache, PLAIN | {f"{IMAGES}.gz": b"", f"{LABELS}.gz": PACKED[f"{LABELS}.gz"]})
    digits, line = load()
    assert_right(digits)
    assert line.endswith(f"; cache ({IMAGES}.gz is damaged; read instead: {IMAGES})") and server.hits == []


def test_a_file_that_cannot_be_read_is_said(load, monkeypatch, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    fill(raw / IMAGES, {})  # a folder in a file's place
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    digits, line = load()
    assert digits.source == EMBEDDED
    assert re.search(rf"; AIGC_DATA_DIR: {IMAGES} cannot be read \([\w ]+\); download: AIGC_OFFLINE", line)


def spoilt_caches():
    """(id, packed file, its damaged bytes) of files in the cache."""
    for name in (f"{IMAGES}.gz", f"{LABELS}.gz"):
        for share in (0, 50, 99):
            yield f"{name} cut at {share} %", name, PACKED[name][: len(PACKED[name]) * share // 100]
        for place in (0, 2, len(PACKED[name]) // 2, len(PACKED[name]) - 6, len(PACKED[name]) - 1):
            yield f"{name} flipped at {place}", name, flipped(PACKED[name], place)
        plain = PLAIN[name.removesuffix(".gz")]
        yield f"{name} well packed but altered", name, gzip.compress(flipped(plain, len(plain) - 1))
        yield f"{name} a portal's page", name, b"<!DOCTYPE html><title>Sign in</title>"


CACHES = {key: (name, raw) for key, name, raw in spoilt_caches()}


@pytest.mark.parametrize("key", CACHES)
def test_a_damaged_cache_is_never_trusted_and_replaced(load, serve, cache, monkeypatch, key):
    name, raw = CACHES[key]
    fill(cache, PACKED | {name: raw})
    (server,) = serve("good")
    with monkeypatch.context() as patch:
        patch.setenv("AIGC_OFFLINE", "1")
        digits, line = load()
        assert digits.source == EMBEDDED and "; cache: " in line and "to be replaced; download: AIGC" in line
    digits, line = load()
    assert_right(digits)
    damage = r"[^/;]*damaged[^/;]*, to be replaced"
    assert re.fullmatch(rf"300 train images from MNIST; downloaded; cache: {damage}", line)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == PACKED
    server.hits.clear()
    assert load()[1] == "300 train images from MNIST; cache"
    assert server.hits == []


def test_a_random_flip_anywhere_in_the_cache_does_no_harm(serve, cache):
    """Whatever byte changes, the digits are right: either it did not matter, or the file was replaced."""
    serve("good")
    rng = np.random.default_rng(0)
    for name in rng.choice([f"{IMAGES}.gz", f"{LABELS}.gz"], 40):
        fill(cache, PACKED | {name: flipped(PACKED[name], rng.integers(len(PACKED[name])))})
        assert_right(load_digits(verbose=False))


def test_what_else_lies_in_the_cache_folder_does_not_matter(load, serve, cache):
    fill(cache, PACKED | {IMAGES: b"not ours", f"{IMAGES}.gz.1-2.part": b"left by a killed process"})
    (server,) = serve("good")
    assert_right(load()[0])
    assert server.hits == []


@pytest.mark.parametrize("name", [f"{IMAGES}.gz", f"{LABELS}.gz"])
def test_a_cache_with_one_file_missing_is_completed(load, serve, cache, name):
    fill(cache, {key: raw for key, raw in PACKED.items() if key != name})
    serve("good")
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; downloaded"
    assert load()[1] == "300 train images from MNIST; cache"


# ---------------------------------------------------------------- bad networks


BAD_ANSWERS = {
    "portal": f"{IMAGES}.gz is damaged",
    "other_data": "the train files are damaged (wrong SHA-256)",
    "missing": "HTTP status 404",
    "cut": f"{IMAGES}.gz is damaged",
    "not_http": "bad answer (BadStatusLine)",
    "endless": "too long an answer",
}


@pytest.mark.parametrize("mode", BAD_ANSWERS)
def test_a_bad_answer_is_refused_and_the_next_mirror_asked(load, serve, cache, monkeypatch, mode):
    monkeypatch.setattr(data, "MAX_BYTES", 1 << 22)
    serve(mode)
    digits, line = load()
    assert digits.source == EMBEDDED
    assert line == f"1,297 train images from {EMBEDDED}; embedded; download: {BAD_ANSWERS[mode]}"
    assert not cache.exists()  # nothing unverified is ever kept
    serve(mode, "good")
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; downloaded"


def test_all_mirrors_failing_gives_each_reason_once(load, serve):
    serve("missing", "portal", "missing")
    assert load()[1].endswith(f"; download: HTTP status 404 / {IMAGES}.gz is damaged")


def test_no_mirror_at_all(load):
    assert load()[1] == f"1,297 train images from {EMBEDDED}; embedded; download: no mirror is configured"


def test_nobody_listens(load, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(data, "MIRRORS", (f"http://127.0.0.1:{port}/",))
    assert load()[1].endswith("; embedded; download: no connection (ConnectionRefusedError)")


@pytest.mark.parametrize(
    ("url", "reason"), [("nonsense", "bad answer (ValueError)"), ("x://y/", "no connection (URLError)")]
)
def test_a_mirror_that_is_no_address(load, monkeypatch, url, reason):
    monkeypatch.setattr(data, "MIRRORS", (url,))
    assert load()[1].endswith(f"; embedded; download: {reason}")


def test_offline_sockets_blocked(load, monkeypatch):
    """As on a machine without a network: no name is found, no connection is made."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(data, "MIRRORS", LIMITS[2])
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    digits, line = load()
    assert digits.source == EMBEDDED
    assert line == f"1,297 train images from {EMBEDDED}; embedded; download: no connection (OSError)"
    assert [args[0] for args in asked] == [url.split("/")[2] for url in LIMITS[2]]


def test_an_untrusted_certificate_is_named():
    import ssl

    problem = urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))
    assert data._reason(problem) == "no connection (SSLCertVerificationError)"


@contextlib.contextmanager
def at_most(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.mark.parametrize("mode", ["silent", "drip_headers", "drip_body"])
def test_a_server_that_wastes_time_gets_only_its_share(load, serve, monkeypatch, mode):
    """None of the three is silent for longer than the time limit of a socket but the first."""
    monkeypatch.setattr(data, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(data, "DEADLINE_S", 1.0)
    (server,) = serve(mode)
    with at_most(0.6 * NEVER):
        digits, line = load()
    assert digits.source == EMBEDDED and line.endswith("; embedded; download: no answer in time")
    assert server.hits == [f"{IMAGES}.gz"]


def test_a_silent_mirror_leaves_time_for_the_next(load, serve, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT_S", 0.3)
    serve("silent", "good")
    with at_most(0.6 * NEVER):
        digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; downloaded"


def test_a_port_that_accepts_and_says_nothing(load, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody ever calls accept()
        monkeypatch.setattr(data, "MIRRORS", (f"http://127.0.0.1:{listener.getsockname()[1]}/",) * 2)
        with at_most(0.6 * NEVER):
            assert load()[1].endswith("; embedded; download: no answer in time")


def test_a_name_server_that_hangs(load, monkeypatch):
    """Looking up a name has no time limit of its own; the deadline of all mirrors together holds all the same."""
    over, asked = threading.Event(), []

    def hang(*args, **kwargs):
        asked.append(args)
        over.wait(NEVER)
        raise OSError("gone")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(data, "DEADLINE_S", 0.5)
    monkeypatch.setattr(data, "MIRRORS", LIMITS[2])
    with at_most(0.6 * NEVER):
        line = load()[1]
    over.set()
    assert line.endswith("; embedded; download: no answer in time")
    assert len(asked) == 1  # no time was left for the second mirror


def test_where_one_split_failed_the_other_is_not_tried(load, serve):
    """Nobody waits twice, and training and test digits come from one source; asking again tries again."""
    (server,) = serve("missing")
    assert load("train")[0].source == EMBEDDED
    server.mode = "good"
    server.hits.clear()
    digits, line = load("test")
    assert digits.source == EMBEDDED
    assert line.endswith("; download: not tried, as it failed for the other split")
    assert server.hits == []
    assert_right(load("train")[0])
    assert_right(load("test")[0], "test")


# ---------------------------------------------------------------- a cache that cannot be written


def refused(*args, **kwargs):
    raise PermissionError(13, "Permission denied", "somewhere")


@pytest.mark.parametrize("action", ["os.mkdir", "builtins.open", "os.replace"])
def test_a_read_only_cache_is_said_and_the_digits_are_kept_in_memory(load, serve, cache, monkeypatch, action):
    serve("good")
    if action != "os.mkdir":
        cache.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(action, refused)
        digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; downloaded (not cached: Permission denied)"
    assert not cache.exists() or not list(cache.iterdir())


def test_a_file_in_the_place_of_the_cache_folder(load, serve, cache):
    serve("good")
    for place in (cache, cache / "below"):
        cache.write_bytes(b"mine")
        os.environ["AIGC_CACHE_DIR"] = str(place)  # put back by the fixture that set it
        digits, line = load()
        assert_right(digits)
        assert re.fullmatch(r"300 train images from MNIST; downloaded \(not cached: [\w ]+\)", line)
        assert cache.read_bytes() == b"mine"


def test_a_cache_that_may_not_even_be_looked_into(load, serve, monkeypatch):
    serve("good")
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        patch.setattr(os, "mkdir", refused)
        digits = load_digits(verbose=False)
    assert_right(digits)


def test_a_file_is_whole_before_it_takes_its_place(serve, cache, monkeypatch):
    """Written beside its place under a name of its own, closed, and only then moved."""
    serve("good")
    moved, replace = [], os.replace

    def watched(source, target):
        source, target = pathlib.Path(source), pathlib.Path(target)
        assert source.parent == target.parent == cache and source.suffix == ".part"
        assert not target.exists() and source.read_bytes() == PACKED[target.name]
        moved.append((source.name, target.name))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    load_digits(verbose=False)
    for path in cache.iterdir():
        path.unlink()
    load_digits(verbose=False)
    assert [target for _, target in moved] == [f"{IMAGES}.gz", f"{LABELS}.gz"] * 2
    assert len({source for source, _ in moved}) == 4


def test_an_interrupt_while_writing_leaves_nothing_behind(serve, cache, monkeypatch):
    serve("good")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            load_digits(verbose=False)
    assert list(cache.iterdir()) == []
    assert_right(load_digits(verbose=False))


@pytest.mark.skipif(os.name != "posix", reason="symbolic links of POSIX")
def test_a_symbolic_link_is_written_through(tmp_path):
    """The link stays a link, wherever it points: to a file, to another link, to a file that is not there yet."""
    real, link, chain = tmp_path / "far" / "w", tmp_path / "link", tmp_path / "chain"
    real.parent.mkdir()
    link.symlink_to(real)
    chain.symlink_to("link")
    for path in (chain, link, real):
        _files.write_whole(path, str(path).encode())
        assert real.read_bytes() == str(path).encode()
        assert link.is_symlink() and chain.is_symlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["chain", "far", "link", "w"]


@pytest.mark.parametrize("action", ["builtins.open", "os.fsync", "os.replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch, action):
    _files.write_whole(tmp_path / "w", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(action, refused)
        with pytest.raises(PermissionError):
            _files.write_whole(tmp_path / "w", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert (tmp_path / "w").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [({}, ""), ({"least": 1}, " of at least 1"), ({"most": 2}, " of at most 2"), ({"least": 1, "most": 2}, " from 1 to 2")],
)
def test_a_whole_number_is_read_and_others_are_named(bounds, words):
    for value in (1, 2, np.int64(1), np.uint8(2), torch.tensor(1)):
        number = arguments.require_whole("f", "n", value, **bounds)
        assert type(number) is int and number == value
    wrong = [True, 1.0, "1", None, float("nan"), [1]]
    wrong += [0, -1] if "least" in bounds else []
    wrong += [3] if "most" in bounds else []
    for value in wrong:
        with pytest.raises(ValueError, match=rf"^f: n must be a whole number{words}, got {re.escape(repr(value))}$"):
            arguments.require_whole("f", "n", value, **bounds)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_shared_cache_can_be_read_by_others(serve, cache):
    serve("good")
    before = os.umask(0o022)
    try:
        load_digits(verbose=False)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o644}


# ---------------------------------------------------------------- other processes

WORKER = """
import contextlib, ctypes, io, json, os, signal, sys, time
import safetensors.torch
import torch
from aigc_helpers import data, weights

# nobody() may not enter the folder that holds the packages: whatever saving imports is imported now.
safetensors.torch.save({"a": torch.ones(1)})


def die_at(step):
    # Kill this process when it begins the step-th of the things that touch the network or the disk.
    left = [step]

    def hook(event, args):
        written = event == "open" and str(args[0]).endswith((".part", ".tmp"))
        if written or event in ("urllib.Request", "os.mkdir", "os.rename"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    import resource
    sys.addaudithook(hook)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # too large a file is deadly too, half way through its writing
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def nobody():
    # Give up the right to write everywhere, which root has.
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def small_disk():
    # Put a disk of 64 kB in the place of this folder, for this process alone.
    libc, new_namespace, private = ctypes.CDLL(None), 0x20000, 0x44000
    done = (libc.unshare(new_namespace), libc.mount(b"none", b"/", None, private, None),
            libc.mount(b"tmpfs", os.fsencode(os.getcwd()), b"tmpfs", 0, b"size=64k"))
    if any(done):
        print(json.dumps(["not permitted", ""]), flush=True)
        os._exit(0)
    os.chdir(os.getcwd())


def work(what):
    if what == "weights":
        try:
            weights.save("saved/w.safetensors", {"a": torch.arange(60_000)})
        except OSError as problem:
            return "not saved", problem.strerror
        return "saved", ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        found = data.load_text() if what == "text" else data.load_digits()
    if what == "text":
        raw = found.text.encode("ascii")
    else:
        raw = found.images.numpy().tobytes() + found.labels.byte().numpy().tobytes()
    return data.hashlib.sha256(raw).hexdigest(), out.getvalue()


at_first = dict(os.environ)
print("ready", flush=True)
for order in map(json.loads, sys.stdin):
    os.environ.update(at_first | order["env"])
    data.MIRRORS, data.SHA256 = tuple(order["mirrors"]), order["digests"]
    data.TEXT_MIRRORS, data.TEXT_SHA256 = [f"{url}input.txt" for url in data.MIRRORS], order["text_digest"]
    if order.get("fork"):
        child = os.fork()
        if child:
            print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
            continue
        os.chdir(order["folder"])
        if order["fork"] == "die":
            die_at(order["step"])
        else:
            {"nobody": nobody, "small disk": small_disk, "as it is": lambda: None}[order["fork"]]()
    if order.get("largest_file") is not None:
        import resource
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], before[1]))
    time.sleep(max(0.0, order.get("at", 0) - time.time()))
    answer = work(order.get("what", "digits"))
    if order.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(json.dumps(answer), flush=True)
    if order.get("fork"):
        os._exit(0)
os._exit(0)
"""


class Worker:
    """Another Python process that loads digits when told to."""

    def __init__(self, **settings):
        hidden = ("AIGC_DATA_DIR", "AIGC_OFFLINE")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "no_proxy": "*"} | settings
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", WORKER], env=env, **pipes)

    def line(self):
        line = self.process.stdout.readline().decode("ascii").strip()
        assert line, self.process.stderr.read().decode("utf-8", "replace")[-2000:]
        return line

    def tell(self, mirrors, cache=None, home=None, **order):
        env = {} if cache is None else {"AIGC_CACHE_DIR": str(cache)}
        env |= {} if home is None else {"AIGC_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": home}
        order |= {"mirrors": list(mirrors), "digests": DIGESTS, "text_digest": data.TEXT_SHA256, "env": env}
        self.process.stdin.write(json.dumps(order).encode("ascii") + b"\n")
        self.process.stdin.flush()

    def answer(self):
        digest, printed = json.loads(self.line())
        assert digest == DIGESTS["train"], printed
        assert re.fullmatch(r"\[data: [^\n]*\]\n", printed)
        return printed[len("[data: ") : -len("]\n")]

    def kill(self):
        self.process.kill()
        self.process.communicate()


C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two processes in the C locale, whose cache has a Chinese name unless they are told another."""
    place = tmp_path_factory.mktemp("workers") / CHINESE
    pair = [Worker(AIGC_CACHE_DIR=str(place), **C_LOCALE) for _ in range(2)]
    for worker in pair:
        assert worker.line() == "ready"
        worker.place = place
    yield pair
    for worker in pair:
        worker.kill()


def test_two_processes_at_once(workers, serve, tmp_path, load, monkeypatch):
    """The second starts from 0 to 19 ms after the first, into an empty cache or into one that is damaged."""
    (server,) = serve("good")
    for race in range(20):
        place = tmp_path / f"race {race}"
        if race % 2:
            fill(place, {name: raw[:-100] for name, raw in PACKED.items()})
        start = time.time() + 0.02
        for k, worker in enumerate(workers):
            worker.tell([server.url], place, at=start + k * race / 1000)
        for worker in workers:
            line = worker.answer()
            seen = r"(cache|downloaded)(; cache: .* damaged, to be replaced)?"
            assert re.fullmatch(f"300 train images from MNIST; {seen}", line)
            assert race % 2 or "damaged" not in line  # nobody ever sees half a file
        wanted = {f"{IMAGES}.gz", f"{LABELS}.gz"} | (set(PACKED) if race % 2 else set())
        assert {path.name for path in place.iterdir()} == wanted
        assert all((place / name).read_bytes() == PACKED[name] for name in (f"{IMAGES}.gz", f"{LABELS}.gz"))


@pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files needs POSIX")
def test_a_full_disk(workers, serve, tmp_path):
    """The limit is 10 kB, the images have 235 kB: the file cannot be written whole, so it is not written."""
    (server,) = serve("good")
    worker = workers[0]
    worker.tell([server.url], tmp_path / "disk", largest_file=10_000)
    assert worker.answer() == "300 train images from MNIST; downloaded (not cached: File too large)"
    assert list((tmp_path / "disk").iterdir()) == []
    worker.tell([server.url], tmp_path / "disk")
    assert worker.answer() == "300 train images from MNIST; downloaded"
    assert len(list((tmp_path / "disk").iterdir())) == 2


def test_killed_while_a_file_arrives_and_started_again(serve, tmp_path, load, monkeypatch):
    servers = serve("half_labels", "good")
    killed = Worker()
    killed.tell([servers[0].url], tmp_path / "cache")
    try:
        assert killed.line() == "ready"
        assert servers[0].half_way.wait(30)
    finally:
        killed.kill()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(data, "MIRRORS", (servers[1].url,))
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; downloaded"
    assert load()[1] == "300 train images from MNIST; cache"


DEADLY_STEPS = {  # (step, what a killed process leaves behind: None is "no folder", "part" a file not yet in its place)
    "digits": [
        (1, None),  # asking for the images
        (2, None),  # asking for the labels
        (3, None),  # making the folder
        (4, []),  # opening the images
        (5, ["part"]),  # moving the images
        (6, ["images"]),  # opening the labels
        (7, ["images", "part"]),  # moving the labels
    ],
    "text": [(1, None), (2, None), (3, []), (4, ["part"])],
    "weights": [(1, None), (2, []), (3, ["part"])],
}
NEVER_AT_A_STEP = 99
SIZES = {"digits": [0, 1, 10_000, len(PACKED[f"{IMAGES}.gz"]) - 1], "text": [1, 2000], "weights": [0, 50_000, 240_000]}
DEATHS = [(what, step, None, left) for what, steps in DEADLY_STEPS.items() for step, left in steps]
DEATHS += [(what, NEVER_AT_A_STEP, size, ["part"]) for what, sizes in SIZES.items() for size in sizes]
DEATH_NAMES = [f"{what} {f'step {step}' if size is None else f'byte {size}'}" for what, step, size, _ in DEATHS]
NAMES = {f"{IMAGES}.gz": "images", f"{LABELS}.gz": "labels", "tinyshakespeare.txt": "text", "w.safetensors": "weights"}


def left_in(folder):
    if not folder.exists():
        return None
    return sorted(NAMES.get(path.name, "part" if path.suffix in (".part", ".tmp") else "?") for path in folder.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process that uses the network")
@pytest.mark.parametrize(("what", "step", "size", "left"), DEATHS, ids=DEATH_NAMES)
def test_killed_at_any_step_the_next_run_succeeds(workers, serve, tmp_path, what, step, size, left):
    """While it asks, makes the folder, opens, moves; or, in the middle of the writing, after `size` bytes."""
    (server,) = serve("good")
    server.files = PACKED | {"input.txt": PLAY}
    folder = tmp_path / ("saved" if what == "weights" else "cache")
    order = {"what": what, "folder": str(tmp_path), "fork": "die", "step": step}
    workers[0].tell([server.url], folder, **order, **({} if size is None else {"largest_file": size}))
    assert int(workers[0].line()) == (signal.SIGKILL if size is None else signal.SIGXFSZ)
    assert left_in(folder) == left
    if size is not None:
        (part,) = folder.iterdir()
        assert part.stat().st_size == size
    for where in ("downloaded", "cache"):  # what lies there is neither used nor in the way
        workers[0].tell([server.url], folder, what=what, fork="as it is", folder=str(tmp_path))
        digest, printed = json.loads(workers[0].line())
        assert int(workers[0].line()) == 0
        if what == "weights":
            assert digest == "saved" and torch.equal(load_weights(folder / "w.safetensors")["a"], torch.arange(60_000))
        else:
            assert digest == (DIGESTS["train"] if what == "digits" else data.TEXT_SHA256)
            assert printed.endswith(f"; {where}]\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process that uses the network")
@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_while_weights_are_saved_the_old_file_is_whole(workers, tmp_path, step):
    save_weights(tmp_path / "saved" / "w.safetensors", {"a": torch.ones(3)})
    workers[0].tell([], what="weights", folder=str(tmp_path), fork="die", step=step)
    assert int(workers[0].line()) == signal.SIGKILL
    assert load_weights(tmp_path / "saved" / "w.safetensors")["a"].tolist() == [1, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_read_only_folders_of_another_user(workers, serve, tmp_path):
    """Neither the working folder nor the home, where the cache is, can be written: digits stay in memory, weights say so."""
    (server,) = serve("good")
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o555)
    for what in ("digits", "weights"):
        workers[0].tell([server.url], home=".", what=what, fork="nobody", folder=str(folder))
        first, words = json.loads(workers[0].line())
        assert int(workers[0].line()) == 0
        if what == "digits":
            assert first == DIGESTS["train"]
            assert words == "[data: 300 train images from MNIST; downloaded (not cached: Permission denied)]\n"
        else:
            assert (first, words) == ("not saved", "Permission denied")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small disk in a namespace of its own")
def test_a_disk_that_is_really_full(workers, serve, tmp_path):
    """The disk has 64 kB, the images 235 kB and the weights 480 kB."""
    (server,) = serve("good")
    for what in ("digits", "weights"):
        workers[0].tell([server.url], "cache", what=what, fork="small disk", folder=str(tmp_path))
        first, words = json.loads(workers[0].line())
        assert int(workers[0].line()) == 0
        if first == "not permitted":
            pytest.skip("a disk can be mounted only by root here; test_a_full_disk limits the size of files instead")
        if what == "digits":
            assert first == DIGESTS["train"]
            assert words == "[data: 300 train images from MNIST; downloaded (not cached: No space left on device)]\n"
        else:
            assert (first, words) == ("not saved", "No space left on device")


def test_a_chinese_path_in_the_c_locale(workers, serve):
    (server,) = serve("good")
    for where in ("downloaded", "cache"):
        workers[0].tell([server.url])
        assert workers[0].answer() == f"300 train images from MNIST; {where}"
    assert {path.name for path in workers[0].place.iterdir()} == {f"{IMAGES}.gz", f"{LABELS}.gz"}


def test_a_path_with_spaces_and_chinese_characters(load, serve, monkeypatch, tmp_path):
    serve("good")
    monkeypatch.setenv("AIGC_CACHE_DIR", str(tmp_path / CHINESE))
    assert load()[1] == "300 train images from MNIST; downloaded"
    digits, line = load()
    assert_right(digits)
    assert line == "300 train images from MNIST; cache" and line.isascii()


# ---------------------------------------------------------------- text


TOPICS = "Python's documentation topics (embedded)"


@pytest.fixture
def read(capsys, tmp_path):
    """load_text, with the one line that it prints: (text, line without its brackets)."""

    def reader():
        capsys.readouterr()
        text = load_text()
        printed = capsys.readouterr()
        found = re.fullmatch(r"\[data: ([^\n]*)\]\n", printed.out)
        assert printed.err == "" and found, printed
        assert str(tmp_path) not in found[1]
        return text, found[1]

    return reader


@pytest.fixture
def serve_text(serve, monkeypatch):
    """Mirrors of the text, of the modes given."""

    def start(*modes):
        servers = serve(*modes)
        for server in servers:
            server.files = {"input.txt": PLAY}
        monkeypatch.setattr(data, "TEXT_MIRRORS", tuple(f"{server.url}input.txt" for server in servers))
        return servers

    return start


def test_the_text_of_the_named_folder_is_used(read, tmp_path, monkeypatch):
    fill(tmp_path / CHINESE / "text", {"tinyshakespeare.txt": PLAY})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / CHINESE))
    text, line = read()
    assert (text.text, text.source) == (PLAY.decode(), "tiny Shakespeare")
    assert line == "2,440 characters from tiny Shakespeare; AIGC_DATA_DIR" and len(text) == 2440


@pytest.mark.parametrize("bad", [PLAY[:-1], PLAY + b"!", b"", b"<!DOCTYPE html>", PLAY.replace(b"\n", b"\r\n")])
def test_a_text_that_differs_by_a_byte_is_never_used(bad, read, tmp_path, monkeypatch):
    fill(tmp_path / "text", {"tinyshakespeare.txt": bad})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path))
    text, line = read()
    assert text.source == TOPICS
    assert "AIGC_DATA_DIR: the text is damaged (wrong SHA-256)" in line


@pytest.mark.parametrize("bad", [b"", PLAY[:-1], PLAY + b"!"])
def test_a_damaged_text_hides_neither_a_good_packed_one_nor_the_cache(bad, read, tmp_path, monkeypatch, cache):
    fill(tmp_path / "text", {"tinyshakespeare.txt": bad, "tinyshakespeare.txt.gz": gzip.compress(PLAY)})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path))
    text, line = read()
    assert text.text == PLAY.decode()
    said = "the text is damaged (wrong SHA-256); read instead: tinyshakespeare.txt.gz"
    assert line.endswith(f"; AIGC_DATA_DIR ({said})")
    fill(tmp_path / "text", {"tinyshakespeare.txt.gz": b"cut"})
    fill(cache, {"tinyshakespeare.txt": bad, "tinyshakespeare.txt.gz": gzip.compress(PLAY)})
    text, line = read()
    assert text.text == PLAY.decode()
    assert line.endswith(f"; cache ({said}); AIGC_DATA_DIR: the text is damaged (wrong SHA-256)")


def test_the_text_may_be_packed(read, tmp_path, monkeypatch):
    fill(tmp_path / "text", {"tinyshakespeare.txt.gz": gzip.compress(PLAY)})
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path))
    assert read()[1].endswith("; AIGC_DATA_DIR")
    fill(tmp_path / "text", {"tinyshakespeare.txt.gz": b"cut"})
    assert "; AIGC_DATA_DIR: tinyshakespeare.txt.gz is damaged" in read()[1]


def test_a_folder_without_the_text_is_said(read, tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path))
    assert "AIGC_DATA_DIR: no text/tinyshakespeare.txt in it" in read()[1]


def test_a_download_is_kept_and_read_again_without_a_network(read, serve_text, cache):
    (server,) = serve_text("good")
    text, line = read()
    assert (text.text, line.rpartition("; ")[2]) == (PLAY.decode(), "downloaded")
    assert (cache / "tinyshakespeare.txt").read_bytes() == PLAY
    server.mode = "missing"
    text, line = read()
    assert (text.text, line.rpartition("; ")[2]) == (PLAY.decode(), "cache")
    assert server.hits == ["input.txt"]


def test_a_damaged_text_in_the_cache_is_replaced(read, serve_text, cache):
    fill(cache, {"tinyshakespeare.txt": PLAY[:100]})
    serve_text("good")
    text, line = read()
    assert text.source == "tiny Shakespeare"
    assert line.endswith("downloaded; cache: the text is damaged (wrong SHA-256), to be replaced")
    assert (cache / "tinyshakespeare.txt").read_bytes() == PLAY


@pytest.mark.parametrize(
    ("mode", "why"),
    [("portal", "the text is damaged"), ("missing", "HTTP status 404"), ("cut", "the text is damaged"),
     ("not_http", "bad answer"), ("silent", "no answer in time"), ("drip_body", "no answer in time")],
)  # fmt: skip
def test_a_bad_mirror_is_passed_over_and_then_said(mode, why, read, serve_text, cache, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(data, "DEADLINE_S", 1.5)
    serve_text(mode, "good")
    if why != "no answer in time":  # which may have used up the time of the second, too
        assert read()[0].source == "tiny Shakespeare"
        (cache / "tinyshakespeare.txt").unlink()
    serve_text(mode)
    start = time.monotonic()
    text, line = read()
    assert text.source == TOPICS and f"download: {why}" in line
    assert time.monotonic() - start < 5
    assert not cache.exists() or not list(cache.iterdir())


def test_offline_means_that_no_mirror_is_asked_for_the_text(read, serve_text, monkeypatch):
    (server,) = serve_text("good")
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    text, line = read()
    assert (text.source, server.hits) == (TOPICS, [])
    assert line.endswith("; embedded; download: AIGC_OFFLINE is set")


def test_the_embedded_text_is_long_plain_and_the_same_each_time(read):
    text = read()[0].text
    assert text == read()[0].text
    assert len(text) > 300_000
    assert set(text) <= {"\n", *map(chr, range(32, 127))} and len(set(text)) > 80
    for words in ('The "assert" statement', 'The "while" statement is used for repeated execution'):
        assert words in text


def test_without_any_text_there_is_one_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(RuntimeError, match=r"^load_text: this Python has no documentation topics .*tinyshakespeare"):
        load_text(verbose=False)


@pytest.mark.skipif(not (REAL / "text").is_dir(), reason="no text at hand; AIGC_DATA_DIR may name its folder")
def test_the_real_text_has_the_digest_that_the_loader_wants(monkeypatch, read):
    monkeypatch.setattr(data, "TEXT_SHA256", REAL_TEXT_SHA256)
    monkeypatch.setenv("AIGC_DATA_DIR", str(REAL))
    text, _ = read()
    assert text.source == "tiny Shakespeare" and (len(text), len(set(text.text))) == (1_115_394, 65)
    assert text.text.startswith("First Citizen:\nBefore we proceed")
