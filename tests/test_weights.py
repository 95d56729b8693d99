"""Weights on disk and back; the models in assets/: whole, small, near to what they were packed from."""

import hashlib
import json
import os
import pickle
import random
import shutil
import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tools
from aigc_helpers import _files, tasks, weights
from aigc_helpers.weights import (
    BUILDERS,
    load,
    load_model,
    pack,
    read_asset,
    save,
    unpack,
    write_asset,
)
from tools import assets as making


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A copy of the shipped assets that may be spoilt."""
    copy = shutil.copytree(weights.ASSETS, tmp_path / "assets")
    monkeypatch.setattr(weights, "ASSETS", copy)
    monkeypatch.setattr(making, "ASSETS", copy)
    return copy


def make_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    )


# ---------------------------------------------------------------- your own weights


def test_weights_go_to_disk_and_back(tmp_path):
    import safetensors

    model = make_model()
    path = tmp_path / "\u5e26 \u7a7a\u683c" / "weights.safetensors"
    assert save(path, model, made_by="a test", path="any name will do") is None
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"made_by": "a test", "path": "any name will do"}
    other = make_model()
    for weight in other.parameters():
        torch.nn.init.ones_(weight)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path, other, sha256=digest.upper()) is other
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype
    assert load(str(path)).keys() == model.state_dict().keys()
    assert os.listdir(path.parent) == ["weights.safetensors"]


def test_tied_and_strided_weights(tmp_path):
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    channels_last = weight.to(memory_format=torch.channels_last)
    state = {"a": weight, "b": weight, "c": channels_last, "d": weight[..., 1]}
    save(tmp_path / "w", state)
    loaded = load(tmp_path / "w")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[k], state[k]) for k in state)


@pytest.mark.parametrize("state, metadata", [({"a": 3}, {}), ({"a": torch.ones(1)}, {"a": 3})])
def test_save_wants_tensors_and_strings(tmp_path, state, metadata):
    with pytest.raises(ValueError, match="weights must be tensors, metadata strings; not so: 'a'"):
        save(tmp_path / "w", state, **metadata)
    with pytest.raises(ValueError, match="save: needs a module or its state dict, got 3"):
        save(tmp_path / "w", 3)
    assert os.listdir(tmp_path) == []


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "home"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(elsewhere)
    model = make_model()
    save("~/deep/w.safetensors", model)
    assert (home / "deep" / "w.safetensors").exists() and os.listdir(elsewhere) == []
    assert load("~/deep/w.safetensors", model) is model


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("broken", [False, True])
def test_a_symbolic_link_is_written_through_and_stays(tmp_path, broken):
    real = tmp_path / "disk" / "real"
    real.parent.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    if not broken:
        save(real, {"a": torch.zeros(2)})
    save(link, {"a": torch.ones(2)})
    assert link.is_symlink() and not real.is_symlink()
    assert torch.equal(load(real)["a"], torch.ones(2))


def compiled(model):
    return torch.compile(model, backend="eager")


def partly_compiled():
    model = make_model()
    model[3] = compiled(model[3])
    return model


@pytest.mark.parametrize("make", [lambda: compiled(make_model()), partly_compiled], ids=["whole", "a part"])
def test_the_weights_of_a_compiled_model_have_plain_names(tmp_path, make):
    path = tmp_path / "w"
    source = make()
    assert any("_orig_mod." in name for name in source.state_dict())
    with torch.no_grad():
        source.get_parameter(next(iter(dict(source.named_parameters())))).fill_(7.0)
    wanted = [value.clone() for value in source.state_dict().values()]
    for what in (source, source.state_dict()):  # the module, or its state dict
        save(path, what)
        assert set(load(path)) == set(make_model().state_dict())
        for target in (make_model(), make()):  # into a plain and into a compiled model
            got = load(path, target).state_dict().values()
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    with pytest.raises(ValueError, match="does not fit the model: 3.bias is missing"):
        state = make_model().state_dict()
        del state["3.bias"]
        save(path, state)
        load(path, make())


def test_a_name_with_and_without_the_prefix_is_one_message(tmp_path):
    both = {"a": torch.ones(1), "_orig_mod.a": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"_orig_mod\.a stands there with and without"):
        save(tmp_path / "w", both)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w"
    save(path, {"a": torch.ones(3)})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(_files.os, name, full_disk)
            with pytest.raises(OSError, match="No space"):
                save(path, {"a": torch.zeros(3)})
    assert os.listdir(tmp_path) == ["w"] and torch.equal(load(path)["a"], torch.ones(3))


class Payload:
    def __reduce__(self):
        return exec, ("import os; os.environ['AIGC_TEST_PAYLOAD'] = 'ran'",)


def test_damaged_files_are_refused_with_one_clear_message(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    save(path, make_model())
    content = path.read_bytes()
    draw = random.Random(0)
    damaged = [b"", b"<html>Log in first</html>", pickle.dumps(Payload()), draw.randbytes(5000)]
    damaged += [content[: draw.randrange(len(content))] for _ in range(20)]
    damaged += [draw.randbytes(16) + content[16:], content + b"x"]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"w\.safetensors is damaged, or not a safetensors file"):
            load(path)
    assert "AIGC_TEST_PAYLOAD" not in os.environ


def test_one_flipped_bit_is_refused_if_the_digest_is_known(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, make_model())
    content = bytearray(path.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    path.write_bytes(content)
    load(path)  # well-formed: nothing else can notice
    with pytest.raises(ValueError, match=r"w\.safetensors: its SHA-256 is not the expected one"):
        load(path, sha256=digest)


def test_weights_that_do_not_fit_leave_the_model_alone(tmp_path):
    path = tmp_path / "w"
    model = make_model()
    before = [value.clone() for value in model.state_dict().values()]
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    cases = {
        r"0\.bias is missing": {k: v for k, v in state.items() if k != "0.bias"},
        r"extra is unknown to the model": state | {"extra": torch.ones(1)},
        r"3\.bias has shape \(5,\) instead of \(2,\)": state | {"3.bias": torch.zeros(5)},
        r"\(and 7 more\)": {"extra": torch.ones(1)},
    }
    for message, wrong in cases.items():
        save(path, wrong)
        with pytest.raises(ValueError, match=f"w does not fit the model: .*{message}"):
            load(path, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


# ---------------------------------------------------------------- the trained models


def test_the_manifest_is_right_and_every_file_is_below_a_megabyte():
    manifest = json.loads((weights.ASSETS / "manifest.json").read_text(encoding="utf-8"))
    files = [path for path in weights.ASSETS.rglob("*") if path.suffix in (".safetensors", ".json")]
    names = {path.relative_to(weights.ASSETS).as_posix() for path in files}
    assert set(manifest) == names - {"manifest.json"}
    for file, entry in manifest.items():
        raw = (weights.ASSETS / file).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(raw).hexdigest(), len(raw)), file
        assert len(raw) <= 1_000_000, file
        assert entry["made_by"].startswith("python -m tools "), file


IMAGES = torch.zeros(2, 3, 32, 32)
LATENTS = torch.zeros(2, 4, 8, 8)
TIMES = torch.tensor([0.1, 0.9])
TOKENS = torch.tensor([[1, 2, 9] + [0] * 9, [0] * 12])
WORDS = (torch.zeros(2, 13, 128), torch.ones(2, 13, dtype=torch.bool))
OF_SCENES = {
    "scene_clip": (lambda model: model.embed_images(IMAGES) * model.embed_text(TOKENS), (2, 64)),
    "scene_autoencoder": (lambda model: model.decode(model.encode(IMAGES)), (2, 3, 32, 32)),
    "caption_dit": (lambda model: model(LATENTS, TIMES, *WORDS), (2, 4, 8, 8)),
    "scene_vq": (lambda model: model.decode(model.encode(IMAGES)), (2, 3, 32, 32)),
    "scene_gpt": (lambda model: model(torch.zeros(2, 20, dtype=torch.int64)), (2, 20, 28 + 256)),
    "vector_prior": (lambda model: model(torch.zeros(2, 64), TIMES, torch.zeros(2, 64)), (2, 64)),
    "vector_decoder": (lambda model: model(LATENTS, TIMES, torch.zeros(2, 64)), (2, 4, 8, 8)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_is_ready_to_draw(name):
    model = load_model(name)
    if name in ("gpt", "masked"):
        model, characters = model
        out = model(characters.encode("ROMEO:")[None])
        assert out.shape == (1, 6, len(characters))
    elif name == "diffusion":
        out = model(torch.randn(2, 1, 28, 28), torch.tensor([0.003, 0.7]), torch.tensor([0, 10]))
        assert out.shape == (2, 1, 28, 28)
    elif name.startswith("assistant"):
        assert (out := model(torch.tensor([tasks.encode_chat("7+5 ends in?")]))).shape == (1, 14, 99)
    elif name in OF_SCENES:
        call, wanted = OF_SCENES[name]
        out = call(model)
        assert out.shape == wanted
    else:
        out = model(torch.randn(2, {"gan": 64, "vae": 32, "vae_map": 2}[name]))
        assert out.shape == ((2, 1, 28, 28) if name == "gan" else (2, 784))
    assert torch.isfinite(out).all()
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_the_gpt_has_learned_english_of_a_kind():
    model, characters = load_model("gpt")
    p = model(characters.encode("First Citize")[None])[0, -1].softmax(0)
    assert characters.alphabet[p.argmax()] == "n" and p.max() > 0.4


def test_another_name_is_one_message():
    names = "gan, vae, vae_map, gpt, masked, assistant_base, assistant, assistant_rewarded, diffusion"
    with pytest.raises(ValueError, match=f"unknown model 'bert'; choose one of {names}"):
        load_model("bert")


def test_a_tampered_file_is_refused_and_the_command_named(assets):
    raw = bytearray((assets / "gan.safetensors").read_bytes())
    raw[-1] ^= 1
    (assets / "gan.safetensors").write_bytes(raw)
    remedy = "gan.safetensors is damaged: reinstall, or run `python -m tools assets gan`"
    with pytest.raises(ValueError, match=remedy):
        load_model("gan")


def test_a_file_that_is_not_there_is_one_message(assets):
    (assets / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match="vae.safetensors is not in aigc_helpers/assets: reinstall, or run"):
        load_model("vae")
    with pytest.raises(ValueError, match="other.safetensors is not in"):
        read_asset("other.safetensors")


def test_loading_leaves_the_global_generators_alone():
    before = torch.random.get_rng_state()
    load_model("gpt")
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------- eight bits


def test_eight_bits_lose_half_a_step_at_most(assets):
    torch.manual_seed(0)
    state = {
        "matrix": torch.randn(5, 7) * 3,
        "kernel": torch.randn(4, 2, 3, 3),
        "bias": torch.randn(6),
        "zero": torch.zeros(2, 2),
        "count": torch.tensor(7),
    }
    write_asset("test.safetensors", pack(state), "python -m tools assets test", source="MNIST")
    back, about = read_asset("test.safetensors")
    assert about == {"source": "MNIST"} and set(back) == set(state)
    for name in ("matrix", "kernel"):
        step = state[name].flatten(1).abs().amax(dim=1) / 127
        error = (back[name] - state[name]).flatten(1).abs().amax(dim=1)
        assert (error <= 0.5 * step + 1e-6).all() and error.max() > 0, name
    torch.testing.assert_close(back["bias"], state["bias"], rtol=1e-3, atol=1e-4)
    assert back["count"] == 7 and back["zero"].eq(0).all()
    assert all(value.dtype == torch.float32 for name, value in back.items() if name != "count")


shapes = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)
floats = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
names = st.text(string.ascii_letters + ".:_", min_size=1, max_size=8).filter(
    lambda name: not name.endswith(":scale")
)


@st.composite
def tensors(draw):
    """A tensor of any shape up to four dimensions: floating, at some magnitude, or whole numbers."""
    shape = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        return torch.randint(-1000, 1000, shape, generator=generator)
    magnitude = 10.0 ** draw(st.integers(-6, 4))
    values = torch.randn(shape, generator=generator).clamp(-5, 5) * magnitude
    if draw(st.booleans()):
        values = values * (torch.rand(shape, generator=generator) > 0.5)
    return values.to(draw(floats)) if magnitude <= 1e3 else values


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, tensors(), max_size=5))
def test_what_is_packed_comes_back(state):
    small = pack(state)
    back = unpack(small)
    assert list(back) == list(state)
    for name, weight in state.items():
        got = back[name]
        assert got.shape == weight.shape
        if not weight.is_floating_point():
            assert torch.equal(got, weight)
            continue
        assert got.dtype == torch.float32
        wanted = weight.float()
        if weight.ndim < 2:
            assert torch.equal(got, weight.half().float())
            continue
        rows = wanted.flatten(1)
        largest = rows.abs().amax(dim=1, keepdim=True)
        error = (got.flatten(1) - rows).abs()
        assert (error <= largest / 127 * 0.5001 + 1e-12).all()
        assert (got.flatten(1)[rows == 0] == 0).all()
        # The largest of each row keeps its place and, but for rounding, its value.
        assert (got.flatten(1).abs().amax(dim=1, keepdim=True) - largest).abs().le(1e-5 * largest + 1e-12).all()
    again = pack(back)  # a second time nothing is lost
    once_more = unpack(again)
    assert all(torch.allclose(once_more[name], back[name], rtol=1e-5, atol=1e-12) for name in back)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, tensors(), max_size=5))
def test_what_is_saved_comes_back(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("saved") / "w"
    save(path, state)
    back = load(path)
    assert set(back) == set(state)
    for name, weight in state.items():
        assert back[name].dtype == weight.dtype and torch.equal(back[name], weight)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_what_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match="pack: bias has values that are not finite or do not fit into 16 bits"):
        pack({"matrix": torch.eye(2), "bias": torch.tensor([1.0, value])})


# ---------------------------------------------------------------- making them: python -m tools assets


def test_every_model_has_its_cell_and_its_notebook_says_what_is_kept():
    tagged = making.find_tagged()
    assert set(tagged) | set(making.LONGER) == set(BUILDERS) and not set(tagged) & set(making.LONGER)
    for name, path in tagged.items():
        kept = tools.read(path).metadata.aigc.assets[name]
        assert {"model", "source"} <= set(kept)


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - set(making.LONGER)))
def test_the_notebook_is_run_to_the_end_of_its_training_and_then_keeps_the_model(name, monkeypatch):
    ran = []
    monkeypatch.setattr(making, "execute", lambda nb, path: ran.append((nb, path)))
    path = making.find_tagged()[name]
    assert making.make(name, path) == (weights.ASSETS / f"{name}.safetensors").stat().st_size
    [(nb, where)] = ran
    assert where == path
    assert f"asset:{name}" in nb.cells[-2].metadata.tags
    assert nb.cells[-1].source.startswith(f"from tools.assets import keep\n\nkeep({name!r}, ")
    assert "model=" in nb.cells[-1].source and "source=" in nb.cells[-1].source


def test_embedded_data_are_refused(assets):
    before = (assets / "gan.safetensors").read_bytes()
    with pytest.raises(ValueError, match="gan is to be trained on the real data, not on .*: set AIGC_DATA_DIR"):
        making.keep("gan", load_model("gan"), source="scikit-learn digits (embedded)")
    assert (assets / "gan.safetensors").read_bytes() == before


def test_wrong_names_and_missing_metadata_are_one_message(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook

    with pytest.raises(tools.NotebookError, match="unknown model 'bert'; choose from gan, vae_map, vae, gpt"):
        making.assets(["bert"])
    (tmp_path / "notebooks").mkdir()
    cell = new_code_cell("net = 1", metadata={"tags": ["asset:net"]})
    for name in ("01_a.ipynb", "02_b.ipynb"):
        tools.write(tmp_path / "notebooks" / name, tools.text_of(new_notebook(cells=[cell])))
    with pytest.raises(tools.NotebookError, match="02_b.ipynb and 01_a.ipynb both have a cell"):
        making.find_tagged(tmp_path)
    (tmp_path / "notebooks" / "02_b.ipynb").unlink()
    with pytest.raises(tools.NotebookError, match="01_a.ipynb: a cell is tagged `asset:net`, but"):
        making.assets(["net"], tmp_path)


def test_a_kept_model_comes_back_from_a_kernel(assets, tmp_path, monkeypatch):
    """`make` in earnest, in a real kernel, on a notebook of three cells."""
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("PYTHONPATH", str(tools.ROOT))
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "01_a.ipynb"
    cells = [
        new_code_cell(f"import pathlib\nfrom aigc_helpers import weights\nweights.ASSETS = pathlib.Path({str(assets)!r})"),
        new_code_cell("import torch\nnet = torch.nn.Linear(3, 2)\nsource = 'MNIST'", metadata={"tags": ["asset:net"]}),
        new_code_cell("1 / 0"),
    ]
    nb = new_notebook(cells=cells, metadata={"aigc": {"assets": {"net": {"model": "net", "source": "source"}}}})
    tools.write(path, tools.text_of(nb))
    assert making.make("net", path) == (assets / "net.safetensors").stat().st_size
    state, about = read_asset("net.safetensors")
    assert about == {"source": "MNIST"} and state["weight"].shape == (2, 3)
