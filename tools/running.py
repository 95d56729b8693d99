"""Execute notebooks in fresh kernels, and say how long they took and how much memory they needed."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import NamedTuple

import nbformat

from .book import ROOT, NotebookError, paths, read, text_of, write
from .fingerprints import fingerprint
from .stripping import stripped


class Executed(NamedTuple):
    """A notebook that ran: itself, its wall time, the seconds of each cell by its number, and peak memory in bytes."""

    nb: nbformat.NotebookNode
    seconds: float
    cells: dict[int, float]
    memory: int


def run(names=(), root=ROOT, slowest=0):
    """Execute notebooks in place, strip them, and print seconds, peak memory and the slowest cells of each.

    A full run on real data (AIGC_BUDGET=1, AIGC_DATA_DIR set) leaves a record in the notebook's metadata, another
    takes it away: see `fingerprints`.
    A notebook that fails is left as it was on disk, and its error raised as NotebookError.
    """
    budget = os.environ.get("AIGC_BUDGET", "1")
    in_full = float(budget) == 1 and bool(os.environ.get("AIGC_DATA_DIR"))
    for path in paths(root, names):
        nb = read(path)
        of = fingerprint(nb, path, root)  # of what is run, not of what is there when it ends
        done = execute(nb, path)
        about = done.nb.metadata.setdefault("aigc", {})
        about.pop("full_run", None)
        if in_full:
            about["full_run"] = {"of": of, "seconds": round(done.seconds)}
        if not about:
            del done.nb.metadata["aigc"]
        write(path, text_of(stripped(done.nb)))
        memory = f"{done.memory / 1e9:.2f} GB"
        print(f"{path.name}: {done.seconds:.0f} s, peak memory {memory}, AIGC_BUDGET={budget}", flush=True)
        for number, took in sorted(done.cells.items(), key=lambda item: -item[1])[:slowest]:
            line = done.nb.cells[number].source.strip().splitlines()[0]
            print(f"  {took:6.1f} s  cell {number}: {line[:70]}", flush=True)


def execute(nb, path, timeout=1800):
    """Run all cells of a copy of nb in a fresh kernel of this very Python, in the folder of the file `path`.

    timeout: seconds a cell may take. Returns Executed. Raises NotebookError if a cell fails.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    started, seconds, memory = {}, {}, _PeakMemory()

    def finished(cell, cell_index, execute_reply):
        seconds[cell_index] = time.perf_counter() - started[cell_index]

    client = NotebookClient(
        _unrun(nb),
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: started.update({cell_index: time.perf_counter()}),
        on_cell_executed=finished,
    )
    _use_this_python(client)
    began = time.perf_counter()
    try:
        with memory:
            client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(problem)).strip()
        raise NotebookError(f"{path.name} failed, and the file is left as it was:\n{plain}") from None
    return Executed(client.nb, time.perf_counter() - began, seconds, memory.peak)


def _unrun(nb):
    copy = nbformat.from_dict(nb)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copy


def _use_this_python(client):
    """Pass by a `python3` kernel of another Python that the user may have installed."""
    from jupyter_client.kernelspec import KernelSpecManager

    client.create_kernel_manager()
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])


class _PeakMemory:
    """While it is entered, sample the resident memory of this process's children: the kernel and what it starts."""

    def __init__(self, interval=0.2):
        self.peak, self._interval, self._stop = 0, interval, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _sample(self):
        import psutil  # comes with ipykernel

        while not self._stop.wait(self._interval):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self.peak = max(self.peak, total)
