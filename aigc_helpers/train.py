"""Train 03b's GPT or 04's U-Net from a command line, on one process or on many.

    python -m aigc_helpers.train --model diffusion --steps 300 --out runs/digits
    python -m torch.distributed.run --standalone --nproc-per-node=2 \\
        -m aigc_helpers.train --model gpt --strategy fsdp --steps 300 --out runs/play

The second is the same run, spread over two processes; with `--nnodes` over many machines. A GPU for
each process is used where there is one. The folder `--out` keeps run.json (the settings), metrics.csv,
the newest two checkpoints (step_000100, ...) and, at the end, model.safetensors. The same command
again goes on after the newest checkpoint.

Models, losses, the training step and what a checkpoint holds come from the pages
(`aigc_helpers.models`): this module reads options and data, and keeps the books.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import warnings

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from aigc_helpers import weights
from aigc_helpers._files import write_whole
from aigc_helpers.data import load_digits, load_text
from aigc_helpers.models import scaling
from aigc_helpers.models.diffusion import update_ema
from aigc_helpers.models.gpt import Characters
from aigc_helpers.ranks import RankError, connect
from aigc_helpers.training import DIVERGED_ABOVE, pick_device, seed_everything

KEPT = 2  # checkpoints
# What must be the same in every part of a run.
SAME = ("model", "steps", "batch_size", "seed", "size", "blocks", "context", "tokens", "vocab", "float32")
COLUMNS = "step,loss,seconds,items_per_second"


class Stop(Exception):
    """The run cannot go on; the message says why, and what to do."""


def main(arguments=None) -> int:
    """Run the command; returns its exit status. What went wrong is one message on stderr."""
    options = _parse(arguments)
    joined = False
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a run in one process is meant
    try:
        if not dist.is_initialized():  # a page may have a group already
            joined = connect(seconds=options.wait, limit=options.timeout)
        _train(options)
    except (Stop, RankError, ValueError) as problem:
        return _say_why(problem)
    except (RuntimeError, OSError) as problem:
        if isinstance(problem, OSError):
            return _say_why(f"{problem.strerror or problem}: {problem.filename or options.out}")
        if dist.is_initialized() and dist.get_world_size() > 1:
            return _say_why(f"{_brief(problem)}\nAnother rank may have ended: {_go_on(options.out)}")
        raise
    finally:
        if joined:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m aigc_helpers.train", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", choices=("gpt", "diffusion"), required=True, help="03b's GPT, or 04's U-Net")
    add("--out", type=pathlib.Path, required=True, help="the folder of the run")
    add("--steps", type=_whole, default=300, help="of the whole run (default: 300)")
    add("--batch-size", type=_whole, default=32, help="items in a step, of all ranks together (default: 32)")
    add("--strategy", choices=scaling.STRATEGIES, default="ddp", help="a copy on each rank (the default), or parts")
    add("--size", type=_whole, help="width of the GPT (default: 128), channels of the U-Net (default: 24)")
    add("--blocks", type=_whole, default=4, help="of the GPT (default: 4)")
    add("--context", type=_whole, default=128, help="tokens that the GPT reads at once (default: 128)")
    add("--tokens", type=pathlib.Path, help="token numbers, a .npy file that is read piece by piece")
    add("--vocab", type=_whole, help="how many different tokens that file may hold")
    add("--seed", type=int, default=0)
    add("--save-every", type=_whole, default=100, help="steps between two checkpoints (default: 100)")
    add("--stop-after", type=_whole, help="leave after this step, with a checkpoint")
    add("--float32", action="store_true", help="no bfloat16, where the hardware has it")
    add("--tensorboard", action="store_true", help="write the metrics for TensorBoard too")
    add("--wait", type=float, default=25, help="seconds to wait for the other ranks at the start (default: 25)")
    add("--timeout", type=float, default=300, help="seconds that a rank waits in a collective (default: 300)")
    add("--kill-at", type=_whole, help="to practise: the last rank ends itself, unsaved, after this step")
    options = parser.parse_args(arguments)
    if (options.tokens is None) != (options.vocab is None):
        parser.error("--tokens and --vocab go together")
    if options.model != "gpt" and options.tokens is not None:
        parser.error("--tokens is for --model gpt")
    return options


def _whole(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {text}")
    return number


def _say_why(problem):
    """One message: by the rank that has met it, so that a launcher's log shows whose it is."""
    rank, world_size = scaling.rank_and_size()
    who = f"rank {rank}: " if world_size > 1 else ""
    print(f"{who}{problem}", file=sys.stderr, flush=True)
    return 1


def _brief(problem):
    text = " ".join(str(problem).split())
    return text.partition("]")[2].strip()[:150] if text.startswith("[/") else text[:200]


def _go_on(out):
    newest = find_newest(out)
    if newest is None:
        return "the same command starts again from the beginning"
    return f"the same command goes on after step {step_of(newest)}"


# ---------------------------------------------------------------- the run


def _train(options):
    rank, world_size = scaling.rank_and_size()
    if options.batch_size % world_size:
        raise Stop(f"--batch-size {options.batch_size} is not {world_size} equal shares: choose a multiple")
    device = _pick_device()
    _open_folder(options)
    task = _first_rank_first(lambda: make_task(options))
    seed_everything(options.seed)
    model = task.make_model().to(device)
    average = scaling.copy_of(model) if task.averaged else None
    engine = model
    if world_size > 1:
        engine = scaling.spread(model, options.strategy, device)
        if average is not None and options.strategy == "fsdp":
            scaling.spread(average, options.strategy, device)
    opts = task.make_optimizers(model)
    task.set_rates(opts, 1, options.steps)  # so that a checkpoint finds all that it has kept
    first = 1
    newest = find_newest(options.out)
    if newest is not None:
        scaling.load_checkpoint(newest, model, opts, average)
        first = step_of(newest) + 1
    metrics = Metrics(options.out, first, options.tensorboard) if rank == 0 else None
    last = min(options.steps, options.stop_after or options.steps)
    _say_what_follows(options, first, last)
    for step in range(first, last + 1):
        task.set_rates(opts, step, options.steps)
        chosen = scaling.batch_of_step(step, task.num_items, options.batch_size, options.seed)
        random = scaling.random_of_step(step, options.seed)
        scaling.seed_step(step, options.seed)  # from which a model's dropout draws
        loss = scaling.training_step(engine, opts, task.loss, scaling.my_rows(chosen), random, device)
        if average is not None:
            update_ema(average, model, 1 - 5 / max(10, options.steps))
        if not abs(loss) < DIVERGED_ABOVE:
            raise Stop(f"the loss is {loss} at step {step}: the training has diverged")
        if metrics is not None:
            metrics.add(step, loss, options.batch_size)
        if step == options.kill_at and rank == world_size - 1:
            _end_at_once()
        if step % options.save_every == 0 or step == last:
            _save(options.out, step, model, opts, average)
            _say(f"saved after step {step}")
    if last == options.steps:
        _finish(options, model if average is None else average)


def _say_what_follows(options, first, last):
    _, world_size = scaling.rank_and_size()
    ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
    if first > last:
        _say(f"{options.model} on {ranks}: step {first - 1} is done already")
    else:
        _say(f"{options.model} on {ranks}: steps {first} to {last}")
    if "TORCHELASTIC_RUN_ID" in os.environ and world_size > 1:  # whom to look for, or to kill
        pids = [None] * world_size
        dist.all_gather_object(pids, os.getpid())
        _say(f"process ids of the ranks: {' '.join(map(str, pids))}")


def _pick_device():
    """A GPU for each rank of this machine, or the CPU for all of them."""
    _, world_size = scaling.rank_and_size()
    if world_size == 1:
        return pick_device()
    if dist.get_backend() != "nccl":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _first_rank_first(function):
    """function() on rank 0, and then on the others: it may download or write what they find."""
    rank, _ = scaling.rank_and_size()
    found = function() if rank == 0 else None
    scaling.wait_for_all()
    return found if rank == 0 else function()


def _say(text):
    if scaling.rank_and_size()[0] == 0:
        print(text, flush=True)


def make_task(options):
    """The page's task (model, optimisers, loss) on the data that the options name."""
    verbose = scaling.rank_and_size()[0] == 0
    if options.model == "diffusion":
        digits = load_digits("train", verbose=verbose)
        return scaling.DigitTask(digits.images, digits.labels, c=options.size or 24, float32=options.float32)
    path = options.tokens
    vocab = options.vocab
    if path is None:
        path = options.out / "tokens.npy"
        vocab = _write_text_tokens(path, verbose)
    tokens = map_tokens(path)
    width = options.size or 128
    return scaling.TextTask(tokens, vocab, options.context, width, options.blocks, options.float32)


def _write_text_tokens(path, verbose):
    """The default text as a file of token numbers; returns the size of its alphabet."""
    text = load_text(verbose=verbose).text
    characters = Characters(text)
    if not path.exists():
        scaling.write_tokens(path, characters.encode(text), len(characters))
    return len(characters)


def map_tokens(path):
    """The token numbers (M,) in a .npy file, without reading them: a piece is read when it is asked for."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise Stop(f"--tokens {path}: cannot be read ({problem}); write it with `write_tokens`") from None
    if tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise Stop(f"--tokens {path}: needs whole numbers (M,), got {tokens.dtype} {tokens.shape}")
    return tokens


# ---------------------------------------------------------------- the folder of a run


def _open_folder(options):
    """Make the folder, and refuse one that belongs to another run."""
    wanted = {name: getattr(options, name) for name in SAME}
    wanted["tokens"] = None if options.tokens is None else str(options.tokens)
    file = options.out / "run.json"
    if scaling.rank_and_size()[0] == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_whole(file, (json.dumps(wanted, indent=1) + "\n").encode())
        for rest in options.out.glob("step_*.part"):  # of a run that was ended while it saved
            shutil.rmtree(rest, ignore_errors=True)
    scaling.wait_for_all()
    kept = json.loads(file.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if kept.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise Stop(f"{options.out} belongs to a run with {flag} {kept.get(name)}, not {value}: take another --out")


def step_of(folder):
    """The step after which a checkpoint was made."""
    return int(folder.name.removeprefix("step_"))


def find_checkpoints(out):
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in pathlib.Path(out).glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=step_of)


def find_newest(out):
    """The newest complete checkpoint, or None."""
    found = find_checkpoints(out)
    return found[-1] if found else None


def _save(out, step, model, opts, average):
    """A checkpoint; the newest two are kept. Raises Stop if it cannot be written: the older ones are whole."""
    folder = out / f"step_{step:06d}"
    try:
        scaling.save_checkpoint(folder, model, opts, average)
    except (CheckpointException, OSError) as problem:
        causes = getattr(problem, "failures", {0: (problem, None)}).values()
        why = next(" ".join(str(cause[0] if isinstance(cause, tuple) else cause).split()) for cause in causes)
        if scaling.rank_and_size()[0] == 0:
            shutil.rmtree(f"{folder}.part", ignore_errors=True)
        raise Stop(f"step {step} cannot be saved ({why[:150]}); {_go_on(out)}") from None
    if scaling.rank_and_size()[0] == 0:
        for old in find_checkpoints(out)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _finish(options, model):
    whole = scaling.whole_weights(model)
    if scaling.rank_and_size()[0] == 0:
        weights.save(options.out / "model.safetensors", whole)
    _say(f"done: {options.out.name}/model.safetensors")


def _end_at_once():
    """What a power cut does: no goodbye, nothing saved."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)


class Metrics:
    """metrics.csv: a line a step. What lies beyond the checkpoint is dropped when a run goes on."""

    def __init__(self, out, first, tensorboard):
        self.path = out / "metrics.csv"
        lines = self.path.read_text(encoding="utf-8").splitlines()[1:] if self.path.exists() else []
        kept = [line for line in lines if line.count(",") == 3 and int(line.partition(",")[0]) < first]
        write_whole(self.path, ("\n".join([COLUMNS, *kept]) + "\n").encode())
        self.began = time.perf_counter()
        self.board = _open_board(out) if tensorboard else None

    def add(self, step, loss, num_items):
        now = time.perf_counter()
        seconds = now - self.began
        self.began = now
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{step},{loss!r},{seconds:.4f},{num_items / seconds:.1f}\n")
        if self.board is not None:
            self.board.add_scalar("loss", loss, step)
            self.board.add_scalar("items per second", num_items / seconds, step)
            self.board.flush()


def _open_board(out):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _say("--tensorboard: it is not installed (`python -m pip install tensorboard`); metrics.csv is written")
        return None
    return SummaryWriter(out)


if __name__ == "__main__":
    sys.exit(main())
