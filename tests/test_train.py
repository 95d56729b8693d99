"""The training command: what it keeps, what it refuses, and that a run cut in two is the same run."""

import argparse
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from aigc_helpers import train
from aigc_helpers.models import scaling
from aigc_helpers.ranks import Ranks, launch, make_environment
from aigc_helpers.train import find_checkpoints, main
from aigc_helpers.weights import load

ROOT = pathlib.Path(__file__).resolve().parents[1]
GPT = "--model gpt --size 16 --context 16 --batch-size 4 --float32 --steps 6 --save-every 2".split()
DIGITS = "--model diffusion --size 8 --batch-size 4 --steps 6 --save-every 2".split()


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """As if no launcher had started this process, and no network were there."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIGC_OFFLINE", "1")
    monkeypatch.delenv("AIGC_DATA_DIR", raising=False)
    monkeypatch.setenv("AIGC_DEVICE", "cpu")


@pytest.fixture(scope="module")
def team():
    with pytest.MonkeyPatch.context() as patch:  # it is made before no_launcher; both must read the same data
        patch.delenv("AIGC_DATA_DIR", raising=False)
        patch.setenv("AIGC_OFFLINE", "1")
        with Ranks(2) as found:
            yield found


def weights_of(folder):
    return load(folder / "model.safetensors")


def losses_of(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,loss,seconds,items_per_second"
    return [(int(line.split(",")[0]), float(line.split(",")[1])) for line in lines[1:]]


def assert_same_run(a, b):
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert losses_of(a) == losses_of(b)


# ---------------------------------------------------------------- one process


@pytest.mark.parametrize("recipe", [GPT, DIGITS], ids=["gpt", "diffusion"])
def test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit(recipe, tmp_path, capsys):
    assert main([*recipe, "--out", str(tmp_path / "whole")]) == 0
    assert [step for step, _ in losses_of(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert main([*recipe, "--out", str(tmp_path / "cut"), "--stop-after", "3"]) == 0
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    capsys.readouterr()
    assert main([*recipe, "--out", str(tmp_path / "cut")]) == 0
    assert "on 1 rank: steps 4 to 6" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def main_with_dropout(arguments):
    """The command, for a model of ones own that draws from the global generator in its forward pass."""

    class WithDropout(scaling.TextTask):
        def make_model(self):
            model = super().make_model()
            model.norm = torch.nn.Sequential(model.norm, torch.nn.Dropout(0.3))
            return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "TextTask", WithDropout)
        return main(arguments)


def test_a_model_with_dropout_resumes_bit_for_bit(tmp_path):
    assert main_with_dropout([*GPT, "--out", str(tmp_path / "whole")]) == 0
    assert main_with_dropout([*GPT, "--out", str(tmp_path / "cut"), "--stop-after", "3"]) == 0
    torch.rand(7)  # whatever else has drawn in between
    assert main_with_dropout([*GPT, "--out", str(tmp_path / "cut")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert main([*GPT, "--out", str(tmp_path / "none")]) == 0
    assert losses_of(tmp_path / "none") != losses_of(tmp_path / "whole")


def test_the_lines_of_steps_that_were_lost_are_dropped(tmp_path):
    """A run that was killed has written metrics of steps that no checkpoint has, the last perhaps in part."""
    assert main([*GPT, "--out", str(tmp_path / "whole")]) == 0
    assert main([*GPT, "--out", str(tmp_path / "cut"), "--stop-after", "3"]) == 0
    with open(tmp_path / "cut" / "metrics.csv", "a") as file:
        file.write("4,9.9,1.0,1.0\n5,9.")
    assert main([*GPT, "--out", str(tmp_path / "cut")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_is_done_stays_as_it_is(tmp_path, capsys):
    assert main([*GPT, "--out", str(tmp_path)]) == 0
    losses = losses_of(tmp_path)
    weights = weights_of(tmp_path)
    capsys.readouterr()
    assert main([*GPT, "--out", str(tmp_path)]) == 0
    assert "gpt on 1 rank: step 6 is done already" in capsys.readouterr().out
    assert losses_of(tmp_path) == losses and len(losses) == 6
    assert all(weights_of(tmp_path)[name].equal(weights[name]) for name in weights)


def test_the_newest_two_checkpoints_are_kept_and_what_was_begun_is_cleared(tmp_path):
    (tmp_path / "step_000003.part").mkdir(parents=True)
    assert main([*GPT, "--out", str(tmp_path)]) == 0
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["step_000004", "step_000006"]
    assert not list(tmp_path.glob("*.part"))


def test_the_run_learns(tmp_path):
    recipe = "--model gpt --size 32 --context 32 --steps 40 --save-every 100".split()
    assert main([*recipe, "--out", str(tmp_path)]) == 0
    losses = [loss for _, loss in losses_of(tmp_path)]
    assert losses[-1] < losses[0] - 0.5


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, capsys):
    """The size of files is limited, as no disk can be filled here; the words are those of the system."""
    resource = pytest.importorskip("resource")
    assert main([*GPT, "--out", str(tmp_path / "whole")]) == 0
    assert main([*GPT, "--out", str(tmp_path / "full"), "--stop-after", "2"]) == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    capsys.readouterr()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        status = main([*GPT, "--out", str(tmp_path / "full")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    message = capsys.readouterr().err.strip()
    assert status == 1 and len(message.split("\n")) == 1, message
    assert message.startswith("step 4 cannot be saved (") and message.endswith("the same command goes on after step 2")
    assert [folder.name for folder in (tmp_path / "full").glob("step_*")] == ["step_000002"]
    assert main([*GPT, "--out", str(tmp_path / "full")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_a_checkpoint_is_saved_again_over_one_of_the_same_name(tmp_path):
    model = torch.nn.Linear(3, 2)
    opt = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "half-way"
    for value in (1.0, 2.0):  # as when its cell is run twice
        torch.nn.init.constant_(model.weight, value)
        scaling.save_checkpoint(folder, model, [opt])
    (tmp_path / "half-way.old").mkdir()  # what a kill between the two renames may leave
    (tmp_path / "half-way.old" / "rest").write_text("")
    torch.nn.init.constant_(model.weight, 3.0)
    scaling.save_checkpoint(folder, model, [opt])
    torch.nn.init.constant_(model.weight, 0.0)
    scaling.load_checkpoint(folder, model, [opt])
    assert (model.weight == 3.0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["half-way"]


def test_ended_while_it_saves_the_checkpoint_before_is_the_newest(tmp_path, monkeypatch):
    save = dcp.save

    def cut(state, checkpoint_id, **settings):
        save(state, checkpoint_id=checkpoint_id, **settings)
        if "000004" in str(checkpoint_id):
            raise KeyboardInterrupt

    monkeypatch.setattr(scaling.dcp, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        main([*GPT, "--out", str(tmp_path)])
    assert train.find_newest(tmp_path).name == "step_000002"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps", "7"], "belongs to a run with --steps 6, not 7: take another --out"),
        (["--batch-size", "8"], "belongs to a run with --batch-size 4, not 8"),
        (["--seed", "1"], "belongs to a run with --seed 0, not 1"),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, capsys, change, message):
    assert main([*GPT, "--out", str(tmp_path), "--stop-after", "1"]) == 0
    assert main([*GPT, "--out", str(tmp_path), *change]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--steps", "0"], ["--steps", "many"], ["--model", "gan"], ["--tokens", "x.npy"], ["--kill-at", "-1"]]
)
def test_an_option_that_makes_no_sense_is_refused(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main([*GPT, "--out", str(tmp_path), *wrong])
    assert ended.value.code == 2 and "error" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        train._whole("0")


def test_tokens_of_ones_own(tmp_path, capsys):
    scaling.write_tokens(tmp_path / "own.npy", torch.arange(2000) % 50, vocab=50)
    own = ["--tokens", str(tmp_path / "own.npy"), "--vocab", "50"]
    assert main([*GPT, *own, "--out", str(tmp_path / "run")]) == 0
    assert weights_of(tmp_path / "run")["token.weight"].shape == (50, 16)
    np.save(tmp_path / "own.npy", np.ones((3, 3)))
    assert main([*GPT, *own, "--out", str(tmp_path / "other")]) == 1
    assert "needs whole numbers (M,), got float64 (3, 3)" in capsys.readouterr().err
    (tmp_path / "own.npy").write_bytes(b"no tokens")
    assert main([*GPT, *own, "--out", str(tmp_path / "third")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_gets_one_message(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main([*GPT, "--out", str(tmp_path / "file" / "run")]) == 1
    message = capsys.readouterr().err.strip()
    assert "Not a directory" in message and len(message.split("\n")) == 1


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "training_step", lambda *_: float("nan"))
    assert main([*GPT, "--out", str(tmp_path)]) == 1
    assert "the loss is nan at step 1: the training has diverged" in capsys.readouterr().err


def test_without_tensorboard_the_run_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*GPT, "--out", str(tmp_path), "--tensorboard"]) == 0
    assert "it is not installed" in capsys.readouterr().out


# ---------------------------------------------------------------- two ranks


def test_two_ranks_are_one_process_and_the_strategies_are_one_training(team, tmp_path):
    """In float32 and for few steps: the losses differ by rounding alone."""
    assert main([*GPT, "--out", str(tmp_path / "one")]) == 0
    one = np.array(losses_of(tmp_path / "one"))
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path / strategy
        assert team.run(main, [*GPT, "--strategy", strategy, "--out", str(folder)]) == [0, 0]
        assert np.allclose(np.array(losses_of(folder)), one, rtol=1e-3, atol=0)
        assert weights_of(folder).keys() == weights_of(tmp_path / "one").keys()


@pytest.mark.parametrize(
    ("recipe", "strategy"),
    [
        pytest.param(GPT, "fsdp", id="gpt-fsdp"),
        pytest.param(DIGITS, "fsdp", id="diffusion-fsdp"),
        pytest.param(GPT, "ddp", id="gpt-ddp", marks=pytest.mark.exhaustive),
        pytest.param(DIGITS, "ddp", id="diffusion-ddp", marks=pytest.mark.exhaustive),  # as the page has it
    ],
)
def test_two_ranks_resume_bit_for_bit(team, tmp_path, recipe, strategy):
    recipe = [*recipe, "--strategy", strategy]
    assert team.run(main, [*recipe, "--out", str(tmp_path / "whole")]) == [0, 0]
    assert team.run(main, [*recipe, "--out", str(tmp_path / "cut"), "--stop-after", "3"]) == [0, 0]
    assert team.run(main, [*recipe, "--out", str(tmp_path / "cut")]) == [0, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_goes_on_with_another_number_of_ranks_and_another_strategy(team, tmp_path):
    assert main([*GPT, "--out", str(tmp_path / "one")]) == 0
    first = [*GPT, "--strategy", "fsdp", "--stop-after", "2", "--out", str(tmp_path / "moved")]
    assert team.run(main, first) == [0, 0]
    assert main([*GPT, "--out", str(tmp_path / "moved"), "--stop-after", "4"]) == 0
    assert team.run(main, [*GPT, "--strategy", "ddp", "--out", str(tmp_path / "moved")]) == [0, 0]
    assert np.allclose(losses_of(tmp_path / "moved"), losses_of(tmp_path / "one"), rtol=1e-3, atol=0)


def test_a_batch_that_is_not_equal_shares_is_refused(team, tmp_path):
    odd = ["--batch-size", "3", "--out", str(tmp_path)]
    assert team.run(main, [*GPT, *odd]) == [1, 1]
    assert not tmp_path.joinpath("run.json").exists()


# ---------------------------------------------------------------- the page's functions on two ranks


def test_every_item_is_read_once_an_epoch_and_every_window_has_its_targets():
    for epoch in (0, 1):
        batches = [scaling.batch_of_step(3 * epoch + step, 26, 8) for step in (1, 2, 3)]
        assert len(torch.cat(batches).unique()) == 24  # two of 26 are left over
    assert not scaling.batch_of_step(1, 24, 24).equal(scaling.batch_of_step(2, 24, 24))
    task = scaling.TextTask(np.arange(100), vocab=100, context=8)
    assert task.num_items == 12
    assert task.windows(torch.tensor([0, 11])).tolist() == [list(range(9)), list(range(88, 97))]


def draw_in_step(step):
    return torch.rand(1, generator=scaling.random_of_step(step)).item()


def test_each_rank_draws_its_own_noise_in_each_step(team):
    drawn = [value for step in (1, 2) for value in team.run(draw_in_step, step)]
    assert len(set(drawn)) == 4
    assert team.run(draw_in_step, 1) == drawn[:2]


def drop_in_step(step):
    scaling.seed_step(step)
    return torch.nn.functional.dropout(torch.ones(64)).tolist()


def test_dropout_has_its_own_seed_on_each_rank_in_each_step(team):
    dropped = [values for step in (1, 2) for values in team.run(drop_in_step, step)]
    assert len({tuple(values) for values in dropped}) == 4
    assert team.run(drop_in_step, 1) == dropped[:2]


def test_two_ranks_with_dropout_resume_bit_for_bit(team, tmp_path):
    assert team.run(main_with_dropout, [*GPT, "--out", str(tmp_path / "whole")]) == [0, 0]
    assert team.run(main_with_dropout, [*GPT, "--out", str(tmp_path / "cut"), "--stop-after", "3"]) == [0, 0]
    assert team.run(main_with_dropout, [*GPT, "--out", str(tmp_path / "cut")]) == [0, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_fsdp_clips_by_the_norm_of_all_and_no_sync_sends_once(team):
    batch = torch.randint(64, (8, 17), generator=scaling.seeded(1))
    whole = scaling.gradient_of(scaling.make_tiny_gpt(), batch)
    for norm, own in team.run(scaling.clip_by_fsdp, batch):
        assert norm == pytest.approx(whole.norm().item(), rel=1e-4)
        assert own < 0.95 * norm
    for keep_home, sent in ((False, 2), (True, 1)):
        for gradient in team.run(scaling.accumulate_by_ddp, batch, keep_home):
            assert torch.allclose(gradient, whole, rtol=0, atol=1e-6)
        assert [names.count("all_reduce") for names in team.collectives] == [sent, sent]


def test_the_clinics_numbers_tell_ill_from_well(team):
    assert team.run(scaling.count_items, 60, 16, forgot=True) == [8, 8]
    assert team.run(scaling.count_items, 60, 16) == [16, 16]
    for drop_last in (False, True):
        naive, cured = team.run(scaling.score, 11, drop_last)[0]
        assert cured == 5 and abs(naive - 5) > 0.05
    lesson = torch.randint(64, (1, 8, 17), generator=scaling.seeded(5)).repeat(3, 1, 1)
    assert team.run(scaling.train_from_seeds, lesson)[1][2] > 0.1
    assert team.run(scaling.train_from_seeds, lesson, cure=True)[1][2] == 0


# ---------------------------------------------------------------- the launcher


@pytest.mark.exhaustive
@pytest.mark.skipif(not pathlib.Path("/proc/self/environ").exists(), reason="looks for a rank in /proc")
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_rank_killed_from_outside_ends_the_run_which_goes_on_bit_for_bit(tmp_path, restarts):
    """By torch.distributed.run; the one rank that is left ends within half a minute, and says how to go on.

    With a restart the launcher itself gives the same command again. Its own store would tell a rank that has been
    started again where the dead one was (pytorch #135712): each start gets a store of its own, as the page says.
    """
    recipe = [*GPT, "--steps", "200", "--save-every", "50"]
    assert launch("aigc_helpers.train", *recipe, "--out", tmp_path / "whole", world_size=2).status == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--max-restarts={restarts}", "--nproc-per-node=2", "-m", "aigc_helpers.train"]
    command += [*recipe, "--out", str(tmp_path / "cut")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = make_environment() | {"AIGC_DEVICE": "cpu"}
    if restarts:
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    process = subprocess.Popen(command, env=environment, **pipes)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut").glob("step_0000?0")) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim = [pid for pid in list_children(process.pid) if environment_of(pid).get("RANK") == "1"]
    os.kill(victim[0], signal.SIGKILL)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert f" {victim[0]}\n" in output  # the run has said whom to look for
    if restarts:
        assert process.returncode == 0
    else:
        assert time.monotonic() - began < 30 and process.returncode != 0
        assert "exitcode  : -9" in output
        assert launch("aigc_helpers.train", *recipe, "--out", tmp_path / "cut", world_size=2).status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def list_children(pid):
    psutil = pytest.importorskip("psutil")
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def environment_of(pid):
    return dict(
        word.split("=", 1) for word in pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word
    )


def test_the_settings_of_a_run_are_kept(tmp_path):
    assert main([*GPT, "--out", str(tmp_path), "--stop-after", "1"]) == 0
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept["model"] == "gpt" and kept["steps"] == 6 and kept["float32"] is True


# ---------------------------------------------------------------- what the page says


def test_the_commands_of_the_page_have_options_that_there_are():
    """Both parsers take them: the launcher's own options before the module, ours behind it."""
    from torch.distributed.run import get_args_parser

    book = json.loads((ROOT / "notebooks" / "07_scaling.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown"]
    blocks = [block for cell in cells for block in re.findall(r"```bash\n(.*?)```", cell, re.DOTALL)]
    commands = []
    for block in blocks:
        block = block.replace("\\\n", " ")
        short = re.search(r'^train\(\) \{\n(.*) "\$@"\n\}\n', block, re.MULTILINE)
        if short:
            block = block.replace(short[0], "").replace("train --out", f"{short[1]} --out")
        lines = [line for line in block.split("\n") if "aigc_helpers.train" in line]
        commands += [line.partition("#")[0].rstrip(" &") for line in lines]
    assert len(commands) >= 5
    for command in commands:
        launcher, _, ours = command.partition("-m torch.distributed.run")[2].partition("-m aigc_helpers.train")
        known = get_args_parser().parse_args([*shlex.split(launcher.replace("$", "")), "-m", "aigc_helpers.train"])
        assert known.nproc_per_node.isdigit() and known.training_script == "aigc_helpers.train"
        assert train._parse(shlex.split(ours)).steps > 0


@pytest.mark.exhaustive
def test_the_program_that_the_page_shows_in_one_piece_trains_and_goes_on(tmp_path, monkeypatch):
    cells = json.loads((ROOT / "notebooks" / "07_scaling.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if cell["id"] == "d5-min"]
    _, program = re.findall(r"```python\n(.*?)```", "".join(cell["source"]), re.DOTALL)  # before, and after
    (tmp_path / "train_min.py").write_text(program.replace("STEPS = 100", "STEPS = 60"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    losses = []
    for first in (1, 51):  # in the second epoch of 31 steps
        done = launch("train_min", world_size=2)
        assert done.status == 0, done.output[-2000:]
        lines = [line.split() for line in done.output.splitlines() if re.fullmatch(r"\d+ \d+\.\d+", line)]
        assert [int(step) for step, _ in lines] == list(range(first, 61))
        losses.append([loss for _, loss in lines])
    assert losses[1] == losses[0][50:]  # with dropout, and in the middle of an epoch
    assert sorted(path.name for path in (tmp_path / "runs" / "min").iterdir()) == ["model.pt", "step_000050"]
    assert set(torch.load(tmp_path / "runs" / "min" / "model.pt")) == {"0.weight", "0.bias", "3.weight", "3.bias"}
