"""Processes that compute together: what a team returns, and how it ends, whatever a rank does."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from aigc_helpers import ranks
from aigc_helpers.ranks import RankError, Ranks, connect, find_loopback, launch, make_environment

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and parents as POSIX has them")


@pytest.fixture(scope="module")
def team():
    """Two ranks; a test that breaks them gets new ones by its next call."""
    with Ranks(2) as found:
        yield found
    assert not found.is_running


def total(x, times=1):
    x = torch.tensor([float(x + dist.get_rank())])
    for _ in range(times):
        dist.all_reduce(x)
    return x.item()


# ---------------------------------------------------------------- what comes back


def test_each_rank_answers_in_its_place(team, capsys):
    assert team.run(dist.get_rank) == [0, 1]
    assert team.run(total, 1, times=2) == [6.0, 6.0]
    team.run(print, "a\nb")
    assert capsys.readouterr().out == "rank 0 | a\nrank 0 | b\nrank 1 | a\nrank 1 | b\n"


def test_a_function_of_the_page_is_sent_as_it_is_now(team):
    """One that no module holds, and what it calls."""
    for number in (1, 2):
        space = {"__name__": "__main__"}
        exec(f"def inner():\n    return {number}\n\ndef outer():\n    return inner()", space)
        assert team.run(space["outer"]) == [number, number]


def test_the_collectives_of_a_call_are_known(team):
    team.run(total, 1, times=3)
    assert team.collectives == [["all_reduce"] * 3] * 2
    team.run(total, 1, times=2 * ranks.RECORDED)  # more than the recorder keeps
    assert len(team.collectives[0]) == 2 * ranks.RECORDED
    assert team.collectives[0][-ranks.RECORDED :] == ["all_reduce"] * ranks.RECORDED
    team.run(dist.get_rank)
    assert team.collectives == [[], []]


def test_a_rank_has_one_thread_and_no_gpu(team):
    assert team.run(torch.get_num_threads) == [1, 1]
    assert team.run(torch.cuda.is_available) == [False, False]


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, None, 1000])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="world_size must be a whole number from 1 to 64"):
        Ranks(wrong)
    with pytest.raises(ValueError, match="world_size must be a whole number"):
        launch("nothing", world_size=wrong)


def test_a_call_that_makes_no_sense(team):
    with pytest.raises(ValueError, match="run: needs a function, got 3"):
        team.run(3)
    with pytest.raises(ValueError, match="seconds must be a finite number above 0"):
        team.run(total, 1, seconds=0)
    assert team.run(dist.get_rank) == [0, 1]


# ---------------------------------------------------------------- how it ends


def fail_on_rank_1():
    if dist.get_rank() == 1:
        raise ValueError("a slip")
    dist.all_reduce(torch.ones(1))


def kill_rank_0():
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def skip_a_collective():
    dist.all_reduce(torch.ones(1))
    if dist.get_rank() == 0:
        dist.broadcast(torch.ones(1), src=1)
        dist.all_reduce(torch.ones(1))
    else:
        time.sleep(600)


def expect_the_end(team, function, seconds=20):
    """The message of a run that must fail, within half a minute, and with nothing left."""
    team.run(dist.get_rank)  # so that the start does not count
    processes = list(team.processes)
    began = time.monotonic()
    with pytest.raises(RankError) as caught:
        team.run(function, seconds=seconds)
    assert time.monotonic() - began < 30
    assert all(process.poll() is not None for process in processes) and not team.is_running
    return caught.value


def test_an_error_of_one_rank_ends_all_and_is_the_one_that_is_told(team):
    message = str(expect_the_end(team, fail_on_rank_1))
    line = fail_on_rank_1.__code__.co_firstlineno + 2
    assert message == f"rank 1: ValueError: a slip (line {line} of fail_on_rank_1); all ranks are ended"


def leave_and_fail_on_rank_1():
    if dist.get_rank() == 1:
        dist.destroy_process_group()  # rank 0 fails first, for want of a partner
        time.sleep(0.5)
        raise ValueError("a slip")
    dist.all_reduce(torch.ones(1))


def test_the_rank_that_lost_its_partner_is_not_blamed(team):
    assert str(expect_the_end(team, leave_and_fail_on_rank_1)).startswith("rank 1: ValueError: a slip (line ")


@posix
def test_a_killed_rank_ends_the_other_with_one_message(team):
    assert str(expect_the_end(team, kill_rank_0)) == "rank 0 was ended by the signal SIGKILL; all ranks are ended"


def test_a_hang_is_found_and_says_where_each_rank_is(team):
    failure = expect_the_end(team, skip_a_collective, seconds=2)
    first, rank0, rank1 = str(failure).split("\n")
    line = skip_a_collective.__code__.co_firstlineno
    assert first == "not done after 2 s; all ranks are ended"
    assert rank0 == f"rank 0 waits in broadcast, line {line + 3} of skip_a_collective; collectives begun: all_reduce, broadcast"
    assert rank1 == f"rank 1 is at work in line {line + 6} of skip_a_collective; collectives begun: all_reduce"
    assert failure.collectives == [["all_reduce", "broadcast"], ["all_reduce"]]


def test_the_stop_button_ends_all_ranks(team, monkeypatch):
    team.run(dist.get_rank)
    processes = list(team.processes)

    def press(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks.time, "sleep", press)
    with pytest.raises(KeyboardInterrupt):
        team.run(time.sleep, 600)
    assert all(process.poll() is not None for process in processes)


@posix
def test_when_the_parent_is_killed_its_ranks_end_even_in_a_collective(tmp_path):
    program = (
        "import os, signal, threading, time, torch, torch.distributed as dist\n"
        "from aigc_helpers.ranks import Ranks\n"
        "def hang():\n    if dist.get_rank() == 0:\n        dist.barrier()\n    time.sleep(600)\n"
        "team = Ranks(2)\nteam.run(dist.get_rank)\n"
        "print(*[process.pid for process in team.processes], flush=True)\n"
        "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        "team.run(hang)\n"
    )
    environment = make_environment()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2 and done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while any(is_there(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_there(pid) for pid in pids)


def is_there(pid):
    """Whether a process runs; one that waits to be buried does not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status != "Z"
    except OSError:
        if pathlib.Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_team_that_nobody_keeps_is_ended():
    team = Ranks(1)
    (process,) = team.processes
    folder = team.folder
    del team
    assert process.poll() is not None and not folder.exists()


def test_a_rank_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(ranks, "make_environment", lambda threads: os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    monkeypatch.chdir("/")
    team = Ranks(1)
    command = team.processes[0].args
    if "site-packages" in str(pathlib.Path(ranks.__file__)) or can_import_without_a_path():
        team.close()
        pytest.skip("the helpers are installed here")
    with pytest.raises(RankError, match="rank 0 ended with the exit code 1, its last words: .*aigc_helpers"):
        team.run(dist.get_rank)
    assert command[1:3] == ["-m", "aigc_helpers.ranks"]


def can_import_without_a_path():
    environment = os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('aigc_helpers') is None)"]
    return subprocess.run(command, env=environment, cwd="/").returncode == 0


def test_without_gloo_there_is_one_message(monkeypatch):
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    with pytest.raises(RuntimeError, match="this PyTorch has no gloo.*install the usual package"):
        Ranks(2)
    set_variables(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="this PyTorch has no gloo"):
        connect()


# ---------------------------------------------------------------- a launcher's group


def set_variables(monkeypatch, rank=0, host="127.0.0.1", port=29500):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": host, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def test_a_single_process_joins_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert connect() is False
    set_variables(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert connect() is False and not dist.is_initialized()


def test_a_variable_that_is_missing_is_named(monkeypatch):
    set_variables(monkeypatch)
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(RankError, match="WORLD_SIZE is set, but MASTER_PORT is not"):
        connect()


@pytest.mark.parametrize("problem", ["unknown", "silent"])
def test_a_host_name_that_does_not_resolve_gets_one_message(monkeypatch, problem):
    def look(*_):
        if problem == "silent":
            time.sleep(5)
        raise socket.gaierror(-2, "Name or service not known")

    set_variables(monkeypatch, rank=1, host="no-such-host")
    monkeypatch.setattr(ranks.socket, "getaddrinfo", look)
    began = time.monotonic()
    with pytest.raises(RankError, match="MASTER_ADDR='no-such-host': no machine of this name is known here") as caught:
        connect(seconds=0.5)
    assert time.monotonic() - began < 3 and len(str(caught.value).split("\n")) == 1


def test_a_port_in_use_gets_one_message(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        set_variables(monkeypatch, port=port)
        with pytest.raises(RankError, match=f"MASTER_PORT={port}: another program uses this port; choose another"):
            connect(seconds=2)


@pytest.mark.parametrize("port", ["many", "0", "65536", "80.5"])
def test_a_port_that_is_none(monkeypatch, port):
    set_variables(monkeypatch, port=port)
    with pytest.raises(RankError, match=f"MASTER_PORT='{port}': a port is a number from 1 to 65535"):
        connect(seconds=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_alone_gives_up_in_time(monkeypatch, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_variables(monkeypatch, rank=rank, port=port)
    began = time.monotonic()
    with pytest.raises(RankError, match="within 1 s; is every rank started"):
        connect(seconds=1)
    assert time.monotonic() - began < 15


def test_the_loopback_is_found_by_its_name(monkeypatch):
    assert find_loopback() is None or find_loopback().lower().startswith("lo")
    monkeypatch.setattr(ranks.socket, "if_nameindex", lambda: [(2, "eth0"), (1, "lo0")])
    assert make_environment()["GLOO_SOCKET_IFNAME"] == "lo0"
    monkeypatch.setattr(ranks.socket, "if_nameindex", lambda: [(2, "eth0")])
    assert find_loopback() is None


# ---------------------------------------------------------------- a command


def test_a_command_comes_back_with_its_status_and_its_words():
    done = launch("calendar", "2026", "2")
    assert done.status == 0 and "February 2026" in done.output
    assert launch("calendar", "never").status != 0


def test_a_command_that_takes_too_long_is_ended():
    began = time.monotonic()
    with pytest.raises(RankError, match="timeit is not done after 1 s; it is ended"):
        launch("timeit", "-n", "1", "-r", "1", "import time; time.sleep(600)", seconds=1)
    assert time.monotonic() - began < 15
