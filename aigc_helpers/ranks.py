"""A few processes on this machine that compute together: the ranks of `torch.distributed`, for a page.

    team = Ranks(2)                        # starts two Python processes; they stay until they are closed
    found = team.run(function, x, y)       # function(x, y) on each; what rank 0 returned, what rank 1 returned
    team.close()

The processes are plain children (nothing is forked), so that this works alike in Jupyter, in Colab, on
Windows and on macOS. They find each other through a file, not a port, and talk over the loopback
interface: no network is needed, and no name is looked up. A function may be defined on the page: it is
sent as it is now. Whatever a rank does, `run` ends within its time limit, and no process is left
running: not after an error, not after the stop button, not after the kernel has been killed.

Training in earnest is started otherwise (`python -m torch.distributed.run`): see `aigc_helpers.train`.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import pathlib
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from typing import NamedTuple

import cloudpickle
import torch
import torch.distributed as dist

from aigc_helpers._files import write_whole
from aigc_helpers.arguments import require_number, require_whole

START_SECONDS = 120  # until all ranks have imported PyTorch and found each other, on a slow machine
PATIENCE = 2.0  # seconds for the other ranks to say what they know, when one has failed
ANSWER = 10.0  # seconds for a rank to say where it is, when the time of a call is over
POLL = 0.01
RECORDED = 200  # collectives that PyTorch's flight recorder keeps


class RankError(RuntimeError):
    """A rank failed, ended, or did not come back in time; the message says which and where.

    collectives: of a hang, the names of those that each rank had begun; otherwise an empty list.
    """

    def __init__(self, message, collectives=()):
        super().__init__(message)
        self.collectives = list(collectives)


def find_loopback():
    """The name of the loopback interface (lo, lo0, ...), or None where it cannot be told."""
    try:
        names = [name for _, name in socket.if_nameindex()]
    except (OSError, AttributeError):
        return None
    return next((name for name in names if name.lower().startswith("lo")), None)


def make_environment(threads=1):
    """Environment variables for a child of this process that uses `torch.distributed` on this machine."""
    require_whole("make_environment", "threads", threads, least=1)
    found = dict(os.environ)
    folders = [folder for folder in sys.path if folder]
    found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(_package_folder()), *folders]))
    found["PYTHONSAFEPATH"] = "1"  # `-m` would look in the working folder first
    found["OMP_NUM_THREADS"] = str(threads)
    found["PYTHONIOENCODING"] = "utf-8"
    found["TORCH_FR_BUFFER_SIZE"] = str(RECORDED)
    loopback = find_loopback()
    if loopback is not None:
        found["GLOO_SOCKET_IFNAME"] = loopback
    if sys.platform == "win32":
        found["USE_LIBUV"] = "0"  # PyTorch is built without it there
    return found


def _package_folder():
    return pathlib.Path(__file__).resolve().parents[1]


def require_gloo():
    """Refuse a PyTorch that cannot connect processes on a CPU. Raises RuntimeError."""
    if not dist.is_available() or not dist.is_gloo_available():
        raise RuntimeError(
            "this PyTorch has no gloo, which connects processes on CPUs: install the usual package "
            "(`python -m pip install torch`); what needs one process only works without it"
        )


# ---------------------------------------------------------------- a command on several processes


class Finished(NamedTuple):
    """How a command ended: its exit status (0 is good), and all that it has printed."""

    status: int
    output: str


def launch(module, /, *arguments, world_size=1, seconds=300) -> Finished:
    """Run `python -m module arguments` on this machine's CPU and wait for its end.

    With more than one rank, by `torch.distributed.run`. Raises RankError after `seconds`; nothing of it is
    left running then.
    """
    require_whole("launch", "world_size", world_size, least=1, most=64)
    require_number("launch", "seconds", seconds, above=0)
    command = [sys.executable, "-m"]
    if world_size > 1:
        require_gloo()
        # The address is given, so that the launcher need not ask who this machine is.
        command += ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={world_size}", "-m"]
    command += [module, *map(str, arguments)]
    environment = make_environment() | {"CUDA_VISIBLE_DEVICES": "", "AIGC_DEVICE": "cpu"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=environment, encoding="utf-8", errors="replace", **pipes)
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException as problem:
        process.terminate()  # the launcher ends its ranks
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        process.stdout.close()
        if isinstance(problem, subprocess.TimeoutExpired):
            raise RankError(f"{module} is not done after {seconds:g} s; it is ended") from None
        raise
    return Finished(process.returncode, output)


# ---------------------------------------------------------------- joining a launcher's group


def connect(seconds=25, limit=300) -> bool:
    """Join the process group that a launcher's variables describe: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

    Without them, or with a single rank, nothing is joined. seconds: how long to wait for the others;
    limit: how long a collective may take. With a GPU for each rank of the machine they talk by NCCL,
    otherwise by gloo. Returns whether a group was joined. Raises RankError, with one message.
    """
    require_number("connect", "seconds", seconds, above=0)
    require_number("connect", "limit", limit, above=0)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RankError(f"WORLD_SIZE is set, but {' and '.join(missing)} is not: start with torch.distributed.run")
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= on_this_machine
    backend = "nccl" if has_gpus and dist.is_available() and dist.is_nccl_available() else "gloo"
    if backend == "gloo":
        require_gloo()
    limit = datetime.timedelta(seconds=limit)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # the launcher keeps the store
        threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
        dist.init_process_group(backend, timeout=limit)
        return True
    store = _open_store(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], seconds)
    rank = int(os.environ["RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    return True


def _is_known(host, port, seconds):
    """Whether a name server knows the host; one that says nothing is given up."""
    found = queue.SimpleQueue()

    def look():
        with contextlib.suppress(OSError, UnicodeError):
            found.put(socket.getaddrinfo(host, port))

    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(seconds)
    return not found.empty()


def _follow_parent(parent):
    """End this process when its launcher is gone, which can no longer end it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _open_store(host, port, seconds):
    """The store at which ranks meet: rank 0 opens it, the others look for it. Raises RankError."""
    rank = int(os.environ["RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    try:
        port = require_whole("connect", "MASTER_PORT", int(port), least=1, most=65535)
    except ValueError:
        raise RankError(f"MASTER_PORT={port!r}: a port is a number from 1 to 65535") from None
    if not _is_known(host, port, seconds):
        message = f"MASTER_ADDR={host!r}: no machine of this name is known here"
        raise RankError(f"{message}; give the address of rank 0, or 127.0.0.1 on one machine")
    wait = datetime.timedelta(seconds=seconds)
    use_libuv = sys.platform != "win32"
    try:
        return dist.TCPStore(host, port, world_size, rank == 0, wait, use_libuv=use_libuv)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise RankError(f"MASTER_PORT={port}: another program uses this port; choose another") from None
        there = f"{host}:{port}"
        whom = f"not all of the {world_size} ranks came to" if rank == 0 else "nobody answered at"
        raise RankError(f"rank {rank}: {whom} {there} within {seconds:g} s; is every rank started?") from None


# ---------------------------------------------------------------- the parent's side


class Ranks:
    """`world_size` processes of this machine's CPU, each a rank of one process group (gloo).

    threads: of each process. The processes are started at once and in the background; the first `run`
    waits for them. After an error they are gone, and the next `run` starts new ones.
    collectives: the names of the collectives that each rank began in the last `run`, by PyTorch's flight
    recorder (the newest 200).
    Raises RuntimeError without gloo, ValueError for numbers that make no sense.
    """

    def __init__(self, world_size=2, threads=1):
        self.world_size = require_whole("Ranks", "world_size", world_size, least=1, most=64)
        self.threads = require_whole("Ranks", "threads", threads, least=1)
        self.collectives = [[]] * self.world_size
        require_gloo()
        self._start()

    def _start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ranks-"))
        self.processes = []
        self.count = 0  # of the calls so far; what a rank says before the first is its answer number 0
        self._end = weakref.finalize(self, _end, self.processes, self.folder)
        environment = make_environment(self.threads) | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "aigc_helpers.ranks", str(self.folder), str(self.world_size)]
        try:
            for rank in range(self.world_size):
                with open(self.folder / f"{rank}.log", "wb") as log:
                    process = subprocess.Popen(
                        [*command, str(rank)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
                    )
                self.processes.append(process)
        except BaseException:
            self.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether all of the processes are there."""
        return self._end.alive and all(process.poll() is None for process in self.processes)

    def run(self, function, /, *args, seconds=60, **kwargs) -> list:
        """What function(*args, **kwargs) returns on rank 0, 1, ...; what it prints is shown, a line at a time.

        Raises RankError, and ends all ranks, if one of them fails, ends, or takes longer than `seconds`.
        """
        require_number("run", "seconds", seconds, above=0)
        if not callable(function):
            raise ValueError(f"run: needs a function, got {function!r}")
        payload = cloudpickle.dumps((function, args, kwargs))
        if not self._end.alive:
            self._start()
        try:
            if self.count == 0:
                self._collect(START_SECONDS)
            self.count += 1
            for process in self.processes:
                with contextlib.suppress(OSError):  # it has ended: `_collect` says so
                    pickle.dump((self.count, seconds, payload), process.stdin)
                    process.stdin.flush()
            answers = self._collect(seconds + ANSWER)
        except BaseException:
            self.close()
            raise
        self.collectives = [answer["collectives"] for answer in answers]
        for rank, answer in enumerate(answers):
            for line in answer["printed"].splitlines():
                print(f"rank {rank} | {line}")
        return [answer["value"] for answer in answers]

    def _collect(self, seconds):
        """The answers of all ranks to the latest call, as they are written into the folder. Raises RankError."""
        answers = {}
        deadline = time.monotonic() + seconds
        while len(answers) < self.world_size and time.monotonic() < deadline:
            ended = [rank for rank, process in enumerate(self.processes) if process.poll() is not None]
            missing = [rank for rank in range(self.world_size) if rank not in answers]
            arrived = [rank for rank in missing if (self.folder / f"{rank}-{self.count}").exists()]
            for rank in arrived:
                answers[rank] = pickle.loads((self.folder / f"{rank}-{self.count}").read_bytes())
                os.unlink(self.folder / f"{rank}-{self.count}")
            failed = [rank for rank in answers if answers[rank]["kind"] != "done"]
            if failed or set(ended) - set(answers):
                deadline = min(deadline, time.monotonic() + PATIENCE)  # for the others, who may know more
            if not arrived:
                time.sleep(POLL)
        if len(answers) < self.world_size or any(answer["kind"] != "done" for answer in answers.values()):
            raise self._explain(answers, seconds)
        return [answers[rank] for rank in range(self.world_size)]

    def _explain(self, answers, seconds):
        """Who is to blame, as a RankError of at most three lines for two ranks."""
        for rank, process in enumerate(self.processes):
            if rank not in answers and process.poll() is not None:
                how = _exit(process.returncode) + self._last_words(rank)
                return RankError(f"rank {rank} {how}; all ranks are ended")
        errors = {rank: answer for rank, answer in answers.items() if answer["kind"] == "error"}
        # A rank whose partner has failed fails too, in the collective: it is not the one to look at.
        own = {rank: answer for rank, answer in errors.items() if not answer["is_partner"]} or errors
        if own:
            rank = min(own)
            return RankError(f"rank {rank}: {own[rank]['text']}; all ranks are ended")
        waiting = [answers.get(rank, {}) for rank in range(self.world_size)]
        lines = [f"rank {rank} {_describe(answer)}" for rank, answer in enumerate(waiting)]
        limit = next((answer["seconds"] for answer in waiting if "seconds" in answer), seconds)
        message = "\n".join([f"not done after {limit:g} s; all ranks are ended", *lines])
        return RankError(message, [answer.get("collectives", []) for answer in waiting])

    def _last_words(self, rank):
        with contextlib.suppress(OSError):
            lines = (self.folder / f"{rank}.log").read_text(encoding="utf-8", errors="replace").split("\n")
            lines = [line.strip() for line in lines if line.strip()]
            return f", its last words: {lines[-1][:200]}" if lines else ""
        return ""

    def close(self):
        """End the processes."""
        self._end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"Ranks({self.world_size}, {'running' if self.is_running else 'ended'})"


def _end(processes, folder):
    """End processes at once, and wait until they are gone."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
    shutil.rmtree(folder, ignore_errors=True)


def _describe(answer):
    """Where a rank is that has answered, or not."""
    text = answer.get("text", "has returned" if answer else "does not answer")
    begun = answer.get("collectives")
    return f"{text}; collectives begun: {', '.join(begun)}" if begun else text


def _exit(code):
    """How a process ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by the signal {signal.Signals(-code).name}"
    return f"ended with the exit code {code}"


# ---------------------------------------------------------------- the child's side


def _main(folder, world_size, rank):
    """What a child runs: connect, then answer one call after another, until the parent hangs up or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stop button is for the parent, which ends its ranks
    calls = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    try:
        store = dist.FileStore(str(folder / "store"), world_size)
        limit = datetime.timedelta(seconds=3600)  # the parent is less patient
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
        _answer(folder, rank, 0, {"kind": "done"})
    except Exception as error:
        text = f"cannot connect to the other ranks ({_one_line(error)})"
        _answer(folder, rank, 0, {"kind": "error", "text": text, "is_partner": False})
    while True:
        number, seconds, payload = calls.get()
        _answer(folder, rank, number, _call(folder, rank, number, seconds, payload))


def _listen(calls):
    """Hand on what the parent sends. When nothing can come any more the process ends, whatever it is doing."""
    with contextlib.suppress(Exception):
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    os._exit(0)


def _answer(folder, rank, number, answer):
    write_whole(folder / f"{rank}-{number}", cloudpickle.dumps(answer))


def _call(folder, rank, number, seconds, payload):
    """The answer to one call. A second thread speaks up when the time is over."""
    main = threading.get_ident()
    begun = len(_read_recorder())

    def say_where():
        collectives = _read_recorder()[begun:]
        where = {"text": _describe_place(main), "collectives": collectives, "seconds": seconds}
        _answer(folder, rank, number, {"kind": "stuck", **where})

    timer = threading.Timer(seconds, say_where)
    timer.daemon = True
    timer.start()
    printed = io.StringIO()
    try:
        function, args, kwargs = pickle.loads(payload)
        with contextlib.redirect_stdout(printed):
            value = function(*args, **kwargs)
        cloudpickle.dumps(value)  # what cannot be sent fails here
    except BaseException as error:
        text = _one_line(error) + _place(error)
        return {"kind": "error", "text": text, "is_partner": _is_partner(error)}
    finally:
        timer.cancel()
    collectives = _read_recorder()[begun:]
    return {"kind": "done", "value": value, "printed": printed.getvalue(), "collectives": collectives}


def _is_partner(error):
    """Whether an error says that the connection to another rank broke."""
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or "Connection closed" in str(error))


def _one_line(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _place(error):
    """Where the error arose, as a line of the innermost function that is the page's or the project's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    return f" (line {frames[-1].lineno} of {frames[-1].name})" if frames else ""


def _is_own(file):
    package = str(_package_folder() / "aigc_helpers")
    inside_this = os.path.realpath(file) == os.path.realpath(__file__)
    installed = "site-packages" in file or "dist-packages" in file or file.startswith("<frozen")
    standard = file.startswith(os.path.dirname(os.__file__))
    return file.startswith(package) and not inside_this or not (inside_this or installed or standard)


# ---------------------------------------------------------------- where a rank waits


def _describe_place(thread):
    """Where the thread is, in words."""
    stack = traceback.extract_stack(sys._current_frames()[thread])
    own = [index for index, frame in enumerate(stack) if _is_own(frame.filename)]
    if not own:
        return "is still at work"
    frame = stack[own[-1]]
    inside = [below.name for below in stack[own[-1] + 1 :] if below.name != "wrapper"]
    waits = f"waits in {inside[0]}, " if inside else "is at work in "
    return f"{waits}line {frame.lineno} of {frame.name}"


def _read_recorder():
    """The names of the collectives so far, by PyTorch's flight recorder; empty where it has none.

    It keeps the newest ones; those that it has forgotten are "".
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return []
    entries = json.loads(dump()).get("entries", [])
    forgotten = entries[0]["record_id"] if entries else 0
    return [""] * forgotten + [entry["profiling_name"].removeprefix("gloo:") for entry in entries]


if __name__ == "__main__":
    _main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
