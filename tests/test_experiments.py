"""Stored experiments: run by the tools, read by pages, and what is stored comes out again."""

import json
import shutil
import types

import pytest

import tools
from aigc_helpers import weights
from aigc_helpers.weights import read_experiment
from tools import cli, experimenting
from tools.experiments import fid_floor

ROWS = {"a": {"FID": 1.23456789, "kind": "real", "n": 3}, "b": {"FID": 2.0}}


@pytest.fixture
def assets(tmp_path, monkeypatch):
    copy = shutil.copytree(weights.ASSETS, tmp_path / "assets")
    monkeypatch.setattr(weights, "ASSETS", copy)
    monkeypatch.delenv("AIGC_BUDGET", raising=False)
    return copy


@pytest.fixture
def toy(assets, monkeypatch):
    """An experiment that takes no time; its `rows` may be set."""

    def run(progress):
        progress("half way")
        return module.rows

    module = types.SimpleNamespace(__doc__="A toy.\n\nHeld equal:\nall.\n", SEEDS=(4, 5), run=run, rows=ROWS)
    monkeypatch.setattr(experimenting, "list_experiments", lambda: {"toy": "A toy."})
    monkeypatch.setattr(experimenting, "_module", lambda name: module)
    return module


def test_what_is_measured_is_stored_and_read_back_with_where_it_comes_from(toy, assets, capsys):
    assert cli.main(["experiment", "toy"]) == 0
    assert capsys.readouterr().out.startswith("toy: half way\ntoy: ")
    rows, provenance = read_experiment("toy")
    assert rows == {"a": {"FID": 1.23457, "kind": "real", "n": 3}, "b": {"FID": 2.0}}
    assert provenance.startswith("Measured by `python -m tools experiment toy` on ")
    assert ", PyTorch " in provenance and provenance.endswith(", 2 seeds.") and "\n" not in provenance
    record = json.loads((assets / "experiments" / "toy.json").read_text(encoding="utf-8"))
    assert record["about"] == "A toy. Held equal: all." and record["seeds"] == [4, 5]
    entry = json.loads((assets / "manifest.json").read_text(encoding="utf-8"))["experiments/toy.json"]
    assert entry["made_by"] == "python -m tools experiment toy"


@pytest.mark.parametrize(
    "rows", [None, {}, {"a": {}}, {"a": {"x": float("nan")}}, {"a": {"x": None}}, {"a": [1]}]
)
def test_a_table_that_is_none_is_refused(toy, rows):
    toy.rows = rows
    with pytest.raises(tools.NotebookError, match="experiment toy: "):
        experimenting.experiment("toy")


def test_it_is_run_in_full_or_not_at_all(toy, monkeypatch):
    monkeypatch.setenv("AIGC_BUDGET", "0.1")
    with pytest.raises(tools.NotebookError, match="unset AIGC_BUDGET"):
        experimenting.experiment("toy")


def test_an_unknown_one_is_one_message_and_no_name_lists_them(capsys):
    assert cli.main(["experiment", "nothing"]) == 1
    assert "there is no 'nothing'; there are: " in capsys.readouterr().out
    assert cli.main(["experiment"]) == 0
    assert "fid_floor: How large the FID" in capsys.readouterr().out


def test_a_changed_file_and_a_missing_one_are_refused(assets):
    path = assets / "experiments" / "fid_floor.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.1", "0.2"), encoding="utf-8")
    with pytest.raises(ValueError, match="damaged: reinstall, or run `python -m tools experiment fid_floor`"):
        read_experiment("fid_floor")
    with pytest.raises(ValueError, match="experiments/other.json is not in .* `python -m tools experiment other`"):
        read_experiment("other")


def test_embedded_digits_are_refused(monkeypatch):
    monkeypatch.setattr(experimenting, "load_digits", lambda split: types.SimpleNamespace(source="embedded"))
    with pytest.raises(tools.NotebookError, match="needs the real digits"):
        experimenting.load_real_digits("test")


def test_every_experiment_says_what_it_compares_and_every_table_has_its_experiment():
    known = experimenting.list_experiments()
    stored = {path.stem for path in (weights.ASSETS / "experiments").glob("*.json")}
    assert "fid_floor" in stored and stored <= set(known)
    for name in stored:
        rows, provenance = read_experiment(name)
        assert rows and f"experiment {name}`" in provenance
        assert list(experimenting._module(name).SEEDS)


def test_the_floor_of_the_fid_falls_with_the_number_of_images(monkeypatch):
    rows = read_experiment("fid_floor").rows
    means = [row["mean"] for row in rows.values()]
    assert list(rows) == [f"n = {n}" for n in fid_floor.SIZES] and means == sorted(means, reverse=True)
    # The experiment itself, smaller, on the embedded digits.
    from aigc_helpers.data import load_embedded_digits

    monkeypatch.setattr(fid_floor, "load_real_digits", load_embedded_digits)
    monkeypatch.setattr(fid_floor, "SIZES", (100, 200))
    monkeypatch.setattr(fid_floor, "SEEDS", (0, 1))
    said = []
    small = fid_floor.run(said.append)
    assert small["n = 100"]["mean"] > small["n = 200"]["smallest"] > 0 and len(said) == 2


def test_the_first_experiment_makes_its_folder_and_the_next_run_replaces_its_file(toy, assets):
    shutil.rmtree(assets / "experiments")
    file = assets / "experiments" / "toy.json"
    assert experimenting.experiment("toy") == file.stat().st_size
    toy.rows = {"生成": {"FID": 3.0}}
    assert experimenting.experiment("toy") == file.stat().st_size
    assert read_experiment("toy").rows == toy.rows
    assert file.read_text(encoding="utf-8").endswith("}\n") and "生成" in file.read_text(encoding="utf-8")


def test_the_spread_of_seeds_is_their_mean_lowest_highest_and_standard_deviation():
    row = experimenting.spread("loss", [1.0, 2.0, 6.0], 2)
    assert row == {"loss": "3.00", "lowest": "1.00", "highest": "6.00", "standard deviation": "2.65"}
