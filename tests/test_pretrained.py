"""The weights in assets/: whole, small, near to what they were packed from, and made by the chapters' own cells."""

import hashlib
import json
import shutil

import pytest
import torch

from aigc_helpers import notebooks, pretrained
from aigc_helpers.pretrained import MAKERS, load_model, packed, read_asset, write_asset


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A copy of the shipped assets that may be spoilt."""
    copy = shutil.copytree(pretrained.ASSETS, tmp_path / "assets")
    monkeypatch.setattr(pretrained, "ASSETS", copy)
    return copy


def test_the_manifest_is_right_and_every_file_is_below_a_megabyte():
    manifest = json.loads((pretrained.ASSETS / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest) == {path.name for path in pretrained.ASSETS.glob("*.safetensors")}
    assert {f"{name}.safetensors" for name in MAKERS} < set(manifest)
    for file, entry in manifest.items():
        raw = (pretrained.ASSETS / file).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(raw).hexdigest(), len(raw)), file
        assert len(raw) <= 1_000_000, file
        assert entry["made_by"].startswith("python -m aigc_helpers."), file


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_is_ready_to_draw(name):
    model = load_model(name)
    if name == "gpt":
        model, characters = model
        out = model(characters.encode("ROMEO:")[None])
        assert out.shape == (1, 6, len(characters))
    elif name == "diffusion":
        out = model(torch.randn(2, 1, 28, 28), torch.tensor([3, 700]), torch.tensor([0, 10]))
        assert out.shape == (2, 1, 28, 28)
    else:
        out = model(torch.randn(2, {"gan": 64, "vae": 32}[name]))
        assert out.shape == {"gan": (2, 1, 28, 28), "vae": (2, 784)}[name]
    assert torch.isfinite(out).all()
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_the_gpt_has_learned_english_of_a_kind():
    model, characters = load_model("gpt")
    p = model(characters.encode("First Citize")[None])[0, -1].softmax(0)
    assert characters.alphabet[p.argmax()] == "n" and p.max() > 0.4


def test_another_name_is_one_message():
    with pytest.raises(ValueError, match="unknown model 'bert'; choose one of gan, vae, gpt, diffusion"):
        load_model("bert")
    with pytest.raises(SystemExit, match="unknown model 'bert'"):
        pretrained.main(["bert"])


def test_a_tampered_file_is_refused_and_the_command_named(assets):
    raw = bytearray((assets / "gan.safetensors").read_bytes())
    raw[-1] ^= 1
    (assets / "gan.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match="gan.safetensors is damaged: reinstall, or run `python -m aigc_helpers.pretrained gan`"):
        load_model("gan")


def test_eight_bits_lose_half_a_step_at_most(assets):
    torch.manual_seed(0)
    weights = {"matrix": torch.randn(5, 7) * 3, "kernel": torch.randn(4, 2, 3, 3), "bias": torch.randn(6),
               "zero": torch.zeros(2, 2), "count": torch.tensor(7)}  # fmt: skip
    write_asset("test.safetensors", packed(weights), "python -m aigc_helpers.pretrained test", source="MNIST")
    back, about = read_asset("test.safetensors")
    assert about == {"source": "MNIST"} and set(back) == set(weights)
    for name in ("matrix", "kernel"):
        step = weights[name].flatten(1).abs().amax(dim=1) / 127
        error = (back[name] - weights[name]).flatten(1).abs().amax(dim=1)
        assert (error <= 0.5 * step + 1e-6).all() and error.max() > 0, name
    torch.testing.assert_close(back["bias"], weights["bias"], rtol=1e-3, atol=1e-4)
    assert back["count"] == 7 and back["zero"].eq(0).all()
    assert all(value.dtype == torch.float32 for name, value in back.items() if name != "count")


def test_embedded_data_are_refused(assets):
    before = (assets / "gan.safetensors").read_bytes()
    with pytest.raises(ValueError, match="gan is to be trained on the real data, not on .*: set AIGC_DATA_DIR"):
        pretrained.keep("gan", load_model("gan"), source="scikit-learn digits (embedded)")
    assert (assets / "gan.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", MAKERS)
def test_the_notebook_is_run_to_the_end_of_its_training_and_then_keeps_the_model(name, monkeypatch):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda nb, path: ran.append((nb, path)))
    assert pretrained.make(name) == (pretrained.ASSETS / f"{name}.safetensors").stat().st_size
    (nb, path), (stem, loop, kept) = ran[0], MAKERS[name]
    assert path.stem == stem and loop in nb.cells[-2].source
    assert nb.cells[-1].source == f"from aigc_helpers import pretrained\npretrained.keep({name!r}, {kept})"


def test_a_loop_that_is_not_found_is_one_message(monkeypatch):
    monkeypatch.setitem(MAKERS, "gan", ("01_gan", "for x in nowhere", "gan"))
    with pytest.raises(notebooks.NotebookError, match="01_gan.ipynb: 0 cells hold `for x in nowhere`: mend MAKERS"):
        pretrained.make("gan")


def test_a_file_that_is_not_there_is_one_message(assets):
    (assets / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match="vae.safetensors is not in aigc_helpers/assets: reinstall, or run"):
        load_model("vae")
    with pytest.raises(ValueError, match="other.safetensors is not in"):
        read_asset("other.safetensors")


def test_loading_moves_nobodys_dice():
    before = torch.random.get_rng_state()
    load_model("gpt")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_what_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match="packed: bias has values that are not finite or do not fit into 16 bits"):
        packed({"matrix": torch.eye(2), "bias": torch.tensor([1.0, value])})
