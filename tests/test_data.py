"""The loader under every fault that we could think of, against loopback servers; and the toys."""

import contextlib
import gzip
import hashlib
import http.server
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

import numpy as np
import pytest
import torch

from aigc_helpers import data

ROOT = pathlib.Path(__file__).parent.parent
RNG = np.random.default_rng(0)
ARRAYS = {
    split: (RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8), RNG.integers(0, 10, n, dtype=np.uint8))
    for split, n in (("train", 60), ("test", 20))
}


def idx(array):
    """An array of bytes in the IDX format."""
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def packed():
    """File name -> gzip bytes of the synthetic data set."""
    return {
        f"{name}.gz": gzip.compress(idx(array))
        for split, names in data.FILES.items()
        for name, array in zip(names, ARRAYS[split], strict=True)
    }


DIGESTS = {split: hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest() for split, (a, b) in ARRAYS.items()}


@contextlib.contextmanager
def server(answer):
    """A loopback HTTP server; answer(handler, file name) writes the response. Yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):
                answer(self, self.path.rsplit("/", 1)[-1])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
    finally:
        httpd.shutdown()


def send(handler, body, status=200):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def good(handler, name):
    send(handler, packed()[name])


@pytest.fixture(autouse=True)
def synthetic(monkeypatch, tmp_path):
    """No folder, no mirror, an empty cache, the synthetic digests; each test adds what it needs."""
    for name in ("AIGC_DATA_DIR", "AIGC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIGC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "MIRRORS", ())
    monkeypatch.setattr(data, "SHA256", DIGESTS)
    monkeypatch.setattr(data, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(data, "DEADLINE_S", 1.5)


def is_synthetic(digits, split="train"):
    return digits.source == data.MNIST and np.array_equal(digits.images[:, 0].numpy(), ARRAYS[split][0])


def raw_folder(tmp_path, gz=False):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, body in packed().items():
        (raw / name).write_bytes(body) if gz else (raw / name[:-3]).write_bytes(gzip.decompress(body))
    return raw


def fill_cache(tmp_path):
    (tmp_path / "cache").mkdir(exist_ok=True)
    for name, body in packed().items():
        (tmp_path / "cache" / name).write_bytes(body)
    return tmp_path / "cache"


# ---------------------------------------------------------------- where the data come from


@pytest.mark.parametrize("gz", [False, True])
def test_data_folder_comes_first(monkeypatch, tmp_path, capsys, gz):
    monkeypatch.setenv("AIGC_DATA_DIR", str(raw_folder(tmp_path, gz).parent.parent))
    digits = data.load_digits("train")
    assert is_synthetic(digits)
    assert digits.images.shape == (60, 1, 28, 28) and digits.images.dtype == torch.uint8
    assert digits.labels.dtype == torch.int64 and np.array_equal(digits.labels.numpy(), ARRAYS["train"][1])
    assert capsys.readouterr().out == "[data: 60 train images from MNIST; AIGC_DATA_DIR]\n"


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing", "labels"])
def test_a_damaged_data_folder_is_named_and_passed_over(monkeypatch, tmp_path, capsys, harm):
    raw = raw_folder(tmp_path)
    monkeypatch.setenv("AIGC_DATA_DIR", str(raw.parent.parent))
    file = raw / data.FILES["train"][1 if harm == "labels" else 0]
    body = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    else:
        body[-1] ^= 1
        file.write_bytes({"flip": body, "labels": body, "cut": body[:-100], "empty": b""}[harm])
    digits = data.load_digits("train")
    line = capsys.readouterr().out
    assert digits.source == data.EMBEDDED
    assert "AIGC_DATA_DIR: " in line and ("damaged" in line or "is not there" in line)


def test_download_fills_the_cache_and_the_cache_serves_next_time(monkeypatch, tmp_path, capsys):
    with server(good) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        assert is_synthetic(data.load_digits("train"))
    assert "; downloaded]" in capsys.readouterr().out
    assert is_synthetic(data.load_digits("train")), "the server is gone: this is the cache"
    assert "; cache]" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(f"{n}.gz" for n in data.FILES["train"])


def test_a_bad_mirror_is_followed_by_a_good_one(monkeypatch):
    def portal(handler, name):
        send(handler, b"<html>please log in</html>")

    def missing(handler, name):
        send(handler, b"", 404)

    with server(portal) as first, server(missing) as second, server(good) as third:
        monkeypatch.setattr(data, "MIRRORS", (first, second, "http://127.0.0.1:1/", third))
        assert is_synthetic(data.load_digits("test"), "test")


@pytest.mark.parametrize("body", [b"<html>log in</html>", gzip.compress(b"<html></html>"), gzip.compress(idx(RNG.integers(0, 9, (60, 28, 28), dtype=np.uint8))), b""])
def test_what_is_not_mnist_is_never_cached(monkeypatch, tmp_path, body, capsys):
    with server(lambda handler, name: send(handler, body)) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        assert data.load_digits("train").source == data.EMBEDDED
    assert "damaged" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


@pytest.mark.parametrize("harm", [lambda b: b[:0], lambda b: b[: len(b) // 2], lambda b: b[: int(len(b) * 0.99)], lambda b: b[:-9] + bytes([b[-9] ^ 255]) + b[-8:]])
def test_a_damaged_cache_is_replaced(monkeypatch, tmp_path, capsys, harm):
    cache = fill_cache(tmp_path)
    file = cache / f"{data.FILES['train'][0]}.gz"
    file.write_bytes(harm(file.read_bytes()))
    with server(good) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        assert is_synthetic(data.load_digits("train"))
    assert "cache: " in capsys.readouterr().out
    assert is_synthetic(data.load_digits("train")) and "; cache]" in capsys.readouterr().out


# ---------------------------------------------------------------- servers and networks that do not help


def test_offline(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(data, "MIRRORS", ("http://127.0.0.1:9/",))
    assert data.load_digits("train").source == data.EMBEDDED
    assert capsys.readouterr().out == "[data: 1,297 train images from scikit-learn digits (embedded); embedded; download: no network]\n"


def test_aigc_offline_asks_nobody(monkeypatch, capsys):
    asked = []
    with server(lambda handler, name: asked.append(name)) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        monkeypatch.setenv("AIGC_OFFLINE", "1")
        assert data.load_digits("test").source == data.EMBEDDED
    assert not asked and "AIGC_OFFLINE is set" in capsys.readouterr().out


def test_a_silent_server_does_not_hang(monkeypatch, capsys):
    with server(lambda handler, name: time.sleep(5)) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        start = time.monotonic()
        assert data.load_digits("train").source == data.EMBEDDED
        assert time.monotonic() - start < 3
    assert "no answer in time" in capsys.readouterr().out


def test_a_dripping_server_meets_the_deadline(monkeypatch, capsys):
    def drip(handler, name):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.1)

    with server(drip) as url:
        monkeypatch.setattr(data, "MIRRORS", (url, url))
        start = time.monotonic()
        assert data.load_digits("train").source == data.EMBEDDED
        assert 1.4 < time.monotonic() - start < 4
    assert "no answer in time" in capsys.readouterr().out


def test_an_answer_that_is_not_http(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def babble():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    peer.sendall(b"garbage\r\n\r\n")
                    peer.close()

        threading.Thread(target=babble, daemon=True).start()
        monkeypatch.setattr(data, "MIRRORS", (f"http://127.0.0.1:{listener.getsockname()[1]}/",))
        assert data.load_digits("train").source == data.EMBEDDED


# ---------------------------------------------------------------- disks that do not help


def test_an_unwritable_cache_keeps_the_data_in_memory(monkeypatch, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where a folder should be", encoding="utf-8")
    with server(good) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        assert is_synthetic(data.load_digits("train"))
    assert "downloaded (not cached: " in capsys.readouterr().out


def test_a_failed_replace_leaves_no_part_behind(monkeypatch, tmp_path, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with server(good) as url:
        monkeypatch.setattr(data, "MIRRORS", (url,))
        assert is_synthetic(data.load_digits("train"))
    assert "not cached: No space left on device" in capsys.readouterr().out
    assert list((tmp_path / "cache").iterdir()) == []


PREAMBLE = """
import sys; sys.path.insert(0, {root!r})
from aigc_helpers import data
data.MIRRORS, data.SHA256 = ({url!r},), {digests!r}
"""


def in_process(code, url, cache, **env):
    script = PREAMBLE.format(root=str(ROOT), url=url, digests=DIGESTS) + code
    env = {**os.environ, "AIGC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


LOAD = "d = data.load_digits('train'); print(d.source)"


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_full_disk(tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    with server(good) as url:
        out, err = in_process(limit + LOAD, url, tmp_path / "c").communicate(timeout=60)
    assert b"MNIST; downloaded (not cached: " in out and out.endswith(b"MNIST\n"), err
    assert list((tmp_path / "c").iterdir()) == []


def test_two_loaders_at_once(tmp_path):
    def slowly(handler, name):
        time.sleep(RNG.uniform(0, 0.1))
        good(handler, name)

    with server(slowly) as url:
        for trial in range(2):
            both = [in_process(f"import time; time.sleep({0.02 * k})\n" + LOAD, url, tmp_path / f"c{trial}") for k in range(3)]
            for process in both:
                out, err = process.communicate(timeout=60)
                assert out.endswith(b"MNIST\n"), err
            assert len(list((tmp_path / f"c{trial}").iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_while_downloading(tmp_path):
    halfway = threading.Event()

    def half(handler, name):
        body = packed()[name]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        halfway.set()
        time.sleep(5)

    with server(half) as url:
        process = in_process(LOAD, url, tmp_path / "c")
        assert halfway.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with server(good) as url:
        out, err = in_process(LOAD, url, tmp_path / "c").communicate(timeout=60)
    assert out.endswith(b"MNIST\n"), err


def test_spaces_chinese_and_a_poor_locale(tmp_path):
    with server(good) as url:
        poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for _ in range(2):
            out, err = in_process(LOAD, url, tmp_path / "带 空格" / "缓存", **poor).communicate(timeout=60)
            assert out.endswith(b"MNIST\n"), err
    assert b"; cache]" in out


# ---------------------------------------------------------------- arguments, messages, small things


def test_one_line_without_a_path(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AIGC_DATA_DIR", str(tmp_path / "nothing"))
    data.load_digits("train")
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and re.fullmatch(r"\[data: .*\]\n", line) and str(tmp_path) not in line
    data.load_digits("train", verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [{"split": "valid"}, {"n": 0}, {"n": 1.5}, {"n": -3}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="load_digits: "):
        data.load_digits(**arguments)


def test_n_draws_a_seeded_subset():
    a, b, c = (data.load_digits("train", n=50, seed=seed, verbose=False) for seed in (0, 0, 1))
    assert len(a) == 50 and torch.equal(a.images, b.images) and not torch.equal(a.images, c.images)
    assert len(data.load_digits("train", n=10**6, verbose=False)) == 1297
    with pytest.raises(ValueError, match="asked for 51 images"):
        a.subset(51)


def test_pixel_ranges():
    x = torch.tensor([0, 255], dtype=torch.uint8)
    assert data.to_signed(x).tolist() == [-1.0, 1.0] and data.to_unit(x).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("platform", "env", "ending"), [
    ("win32", {"LOCALAPPDATA": "L"}, ("L", "aigc_helpers")), ("darwin", {}, ("Caches", "aigc_helpers")),
    ("linux", {"XDG_CACHE_HOME": "X"}, ("X", "aigc_helpers")), ("linux", {"XDG_CACHE_HOME": ""}, (".cache", "aigc_helpers")),
])  # fmt: skip
def test_cache_folder_by_platform(monkeypatch, platform, env, ending):
    monkeypatch.delenv("AIGC_CACHE_DIR")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(data.sys, "platform", platform)
    assert data.cache_dir().parts[-2:] == ending


def test_the_real_mnist_has_the_digest(monkeypatch):
    monkeypatch.undo()
    folder = os.environ.get("AIGC_DATA_DIR") or ROOT.parent / "shared" / "data"
    if not (pathlib.Path(folder) / "MNIST" / "raw").exists():
        pytest.skip("no MNIST here")
    monkeypatch.setenv("AIGC_DATA_DIR", str(folder))
    for split, n, first in (("train", 60_000, 5), ("test", 10_000, 7)):
        digits = data.load_digits(split, verbose=False)
        assert digits.source == data.MNIST and len(digits) == n and digits.labels[0] == first


# ---------------------------------------------------------------- the embedded digits


def test_embedded_digits_look_like_mnist():
    train, test = data.load_embedded_digits("train"), data.load_embedded_digits("test")
    assert train.images.shape == (1297, 1, 28, 28) and len(test) == 500 and train.images.dtype == torch.uint8
    for part in (train, test):
        assert set(part.labels.tolist()) == set(range(10))
        mass = part.images.float().mean(dim=(0, 1))
        mass /= mass.sum()
        axis = torch.arange(28.0)
        assert abs(mass.sum(0) @ axis - 13.5) < 0.5 and abs(mass.sum(1) @ axis - 13.5) < 0.5
        assert part.images[:, :, 0].max() == 0, "black paper at the border"
    seen = {x.numpy().tobytes() for x in train.images}
    assert sum(x.numpy().tobytes() in seen for x in test.images) <= 2, "the splits are disjoint (but for look-alikes)"
    assert torch.equal(train.images, data.load_embedded_digits("train").images)


# ---------------------------------------------------------------- toys


@pytest.mark.parametrize("name", data.TOYS_2D)
def test_toys_are_seeded_and_fit_the_square(name):
    a = data.toy_2d(name, 4000, 3)
    assert a.shape == (4000, 2) and a.dtype == torch.float32 and a.abs().max() <= 2.2 and a.std() > 0.4
    assert torch.equal(a, data.toy_2d(name, 4000, torch.Generator().manual_seed(3)))
    assert not torch.equal(a, data.toy_2d(name, 4000, 4))


@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_ring_and_grid_sit_on_their_modes(name, modes):
    centres, sigma = data.toy_modes(name)
    distance, nearest = torch.cdist(data.toy_2d(name, 8000, 0), centres).min(dim=1)
    assert centres.shape == (modes, 2) and len(nearest.unique()) == modes
    assert abs(distance.square().mean() / (2 * sigma**2) - 1) < 0.1


def test_ring_and_grid_geometry():
    assert torch.allclose(data.toy_modes("ring")[0].norm(dim=1), torch.tensor(1.6))
    assert sorted(set(data.toy_modes("grid")[0][:, 0].tolist())) == pytest.approx([-1.6, -0.8, 0, 0.8, 1.6])


def test_checkerboard_uses_the_dark_squares_only():
    cells = (data.toy_2d("checkerboard", 8000, 0) + 2).floor().long()
    assert ((cells.sum(dim=1) % 2) == 0).all() and len(cells.unique(dim=0)) == 8


def test_spirals_and_moons():
    roll = data.toy_2d("swiss_roll", 4000, 0)
    assert (roll.norm(dim=1) > 0.5).all(), "one arm that starts off the centre"
    spiral = data.toy_2d("spiral", 4000, 0)
    assert abs(spiral.mean(dim=0)).max() < 0.1, "two arms, symmetric"
    moons = data.toy_2d("moons", 4000, 0)
    assert moons[:, 0].std() > 1.5 * moons[:, 1].std()


def test_toy_errors():
    with pytest.raises(ValueError, match="unknown toy 'rings'; choose one of ring, grid"):
        data.toy_2d("rings", 10)
    with pytest.raises(ValueError, match="n must be at least 1"):
        data.toy_2d("ring", 0)
    with pytest.raises(ValueError, match="only 'ring' and 'grid'"):
        data.toy_modes("moons")
