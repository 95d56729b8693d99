"""Faults of the surroundings that fit no other file, and the register of all in CONTRIBUTING.md.

A fault is survived if the result is right, or if there is one message of at most three lines that says what happened
and what to do; never silence, never half a minute of waiting, nothing left broken.
"""

import ast
import contextlib
import io
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest
import torch
import traitlets

import tools
from aigc_helpers import checks, data, metrics, panels, plotting, training, weights
from tests.notebook_cells import run_cell, run_cells, sanitized
from tests.pages import cheap_cells

ROOT = pathlib.Path(__file__).parent.parent
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------- the register


def register():
    """[(number, fault, what happens, test)] from the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 4 and all(row) for row in rows), "a number, a fault, what happens and a test"
    return [(int(number), *rest) for number, *rest in rows]


REGISTER = register()


def test_the_register_numbers_its_faults():
    assert [number for number, *_ in REGISTER] == list(range(1, len(REGISTER) + 1))


@pytest.mark.parametrize("where", [where for *_, where in REGISTER], ids=[str(number) for number, *_ in REGISTER])
def test_the_tests_that_the_register_names_exist(where):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", where)
    assert named or "not on this machine" in where
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
    for path in re.findall(r"`([\w./-]+/[\w.-]+)`", where):
        assert (ROOT / path).exists(), path


# ---------------------------------------------------------------- 10: wrong values


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Embedded digits; nothing is written but below a temporary folder; nothing is displayed."""
    monkeypatch.delenv("AIGC_DATA_DIR", raising=False)
    for name, value in {"AIGC_OFFLINE": "1", "AIGC_PROGRESS": "0", "AIGC_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)


def first_step(**change):
    return next(training.steps(**({"data": torch.ones(10), "num_steps": 3, "batch_size": 2} | change)))


# What a reader is likely to get wrong, and the words that the message must hold.
WRONG_CALLS = {
    "a split that does not exist": (lambda: data.load_digits("valid"), "load_digits: split.*'valid'"),
    "a toy by a wrong name": (lambda: data.toy_2d("rings", 100), "toy_2d: unknown toy 'rings'"),
    "no steps at all": (lambda: first_step(num_steps=0), "num_steps"),
    "half a batch": (lambda: first_step(batch_size=1.5), "batch_size"),
    "a loss for each image": (lambda: training.History().log(D=torch.ones(3)), "'D'"),
    "two shapes compared": (lambda: checks.check("eq. (1)", [1.0, 2.0], 1.0), "eq. \\(1\\): got shape"),
    "a model by a wrong name": (lambda: weights.load_model("gans"), "gans.*gan"),
    "weights that are not there": (lambda: weights.load("mine.safetensors"), "mine.safetensors"),
    "pictures in no columns": (lambda: plotting.image_grid(torch.zeros(6, 1, 28, 28), 0), "ncols"),
    "a picture without words": (lambda: plotting.show(plotting.figure(1, 1)[0], ""), "describe the figure"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_argument_gets_one_message_that_names_it(offline, name):
    call, words = WRONG_CALLS[name]
    with pytest.raises((ValueError, checks.CheckFailed, FileNotFoundError), match=words) as caught:
        call()
    assert str(caught.value).count("\n") <= 2


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_samples_of_a_generator_that_diverged_never_score_well(value):
    real = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    fake = torch.full((20, 3), value)
    calls = {
        "frechet_distance": lambda: metrics.frechet_distance(real, fake),
        "precision_recall": lambda: metrics.precision_recall(real, fake),
        "coverage": lambda: metrics.coverage(real, fake),
        "energy_distance": lambda: metrics.energy_distance(real, fake),
        "mode_count": lambda: metrics.mode_count(fake, real[:4], 0.1, real),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}.*has the generator diverged"):
            call()


NOTEBOOKS = tools.paths()


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def first_panels(request, tmp_path_factory):
    """The panels of a notebook's first panel cell, with which the reader plays before anything is trained."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.delenv("AIGC_DATA_DIR", raising=False)
        patch.setenv("AIGC_OFFLINE", "1")
        patch.setenv("AIGC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("IPython.display.display", lambda *_, **__: None)
        space = run_cells(request.param.name, ("setup", "export"))
        for cell in tools.code_cells(tools.read(request.param), "panel"):
            run_cell(cell.source, space, request.param.name)
            if any(isinstance(value, panels.Panel) for value in space.values()):
                break
        yield [panel for panel in space.values() if isinstance(panel, panels.Panel)]


def test_a_wrong_value_of_a_control_is_refused_or_drawn_or_said_and_then_forgotten(first_panels):
    assert first_panels
    for panel in first_panels:
        for name, control in panel.controls.items():
            good = control.value
            for value in (NAN, INF, -1e30, 0, -1, 10**18, "a", "\x00", None, []):
                with contextlib.suppress(traitlets.TraitError):  # the widget itself says what it wants
                    control.value = value
                if panel.error is not None:
                    assert 'data-state="error"' in panel.status.value and str(panel.error).count("\n") <= 2
                    assert panel.last_ms < 5000
            panel.set(**{name: good})
            assert panel.error is None and 'data-state="ok"' in panel.status.value, f"{panel.title}, {name}: {panel.error}"


# ---------------------------------------------------------------- 12: cells run twice


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_each_cell_that_trains_nothing_says_the_same_twice(offline, path):
    """Set-up, theory and its checks, in order and each cell two times: whatever a cell changed, it says the same again.

    What is measured may differ, as it may between two machines: a time does, and so does the last digit of a sum that
    threads share out.
    """
    ticks = 0
    for _, cell, run in cheap_cells(tools.read(path)):
        (once, drawn), (again, drawn_again) = run(), run()
        assert (sanitized(once), drawn) == (sanitized(again), drawn_again), cell.source
        ticks += again.count("✓")
    assert ticks >= 8


# ---------------------------------------------------------------- in processes of their own


OFFLINE = {"AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1", "AIGC_PROGRESS": "0", "PYTHONUTF8": "1", "AIGC_DATA_DIR": ""}


def start(script, cache, *arguments, **settings):
    """Start a Python process, offline and on one thread unless `settings` say otherwise; it gets `arguments` as JSON."""
    env = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1", "AIGC_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)} | settings
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    command = [sys.executable, "-c", script, json.dumps([str(ROOT), *arguments])]
    return subprocess.Popen(command, env=env, cwd=cache, **pipes)


def answer(process):
    """The last line that it printed, which is JSON."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell = InteractiveShell.instance()


def cell(source):
    # What the reader sees: the error's name, its message, and what is written under it.
    with capture_output() as seen:
        result = shell.run_cell(source)
    error = result.error_before_exec or result.error_in_exec
    return type(error).__name__ if error else "", str(error or ""), seen.stderr.strip()


def well(source):
    name, message, _ = cell(source)
    assert not name, f"{name}: {message} in {source}"
"""

# ---------------------------------------------------------------- 11: cells out of order

ALONE = SHELL + """
import builtins
import tools
from tests.pages import names

found = []
for path in tools.paths(names=json.loads(sys.argv[1])[1:]):
    book = tools.read(path)
    shell.reset(new_session=False)
    for each in tools.code_cells(book, "setup", "export"):
        well(each.source)
    shell.user_ns.update({name: 2 for name in shell.user_ns if name.endswith("_STEPS")})
    kept = dict(shell.user_ns)
    for each in tools.code_cells(book):
        if {"setup", "export", "colab"} & set(each.metadata.get("tags", [])):
            continue
        missing = names(each.source)[0] - set(kept) - set(dir(builtins))
        if missing:
            found.append([path.name, each.source.splitlines()[0], *cell(each.source)])
            shell.user_ns.clear()
            shell.user_ns.update(kept)
print(json.dumps(found))
"""


@pytest.mark.notebook
@pytest.mark.exhaustive
@pytest.mark.parametrize("chapter", [path.name for path in NOTEBOOKS])
def test_each_cell_alone_after_the_set_up_runs_or_says_which_cell_comes_first(chapter, tmp_path):
    """Each cell that reads a name which the set-up does not make, in a shell where only the set-up has run."""
    found = answer(start(ALONE, tmp_path, chapter))
    assert {name for name, *_ in found} == {chapter}
    hints = 0
    for name, line, error, message, advice in found:
        place = f"{name}, {line!r} alone: {error}: {message}"
        if not error:  # it only defines a function that would need the name
            continue
        assert error == "NameError", place
        wanted = re.fullmatch(r"name '(\w+)' is not defined", message)[1]
        assert advice == checks.advice(NameError(message, name=wanted)) and wanted in advice, place
        hints += 1
    assert hints > 0.9 * len(found)


# ---------------------------------------------------------------- 19 and 20: other processors, no GPU

PAGES = """
import hashlib, json, pathlib, sys
import torch
from aigc_helpers.data import toy_2d
from aigc_helpers.training import pick_device, steps
from tests.pages import run_page

root, chapters, threads = json.loads(sys.argv[1])
pages = []
for number in threads:
    torch.set_num_threads(number)
    for chapter in chapters:
        pages.append(run_page(pathlib.Path(root, "notebooks", chapter)))
order = [x.tolist() for _, x in steps(torch.arange(1000), 20, 100, seed=3)]
squares = ((toy_2d("checkerboard", 1000, 4).floor() + 2).long() % 4).tolist()
digest = hashlib.sha256(json.dumps([order, squares]).encode()).hexdigest()
print(json.dumps([pages, digest, str(pick_device()), torch.backends.cpu.get_cpu_capability()]))
"""

NO_AVX = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}


@pytest.mark.exhaustive
@pytest.mark.notebook
def test_check_lines_are_the_same_for_any_number_of_threads_without_avx_and_with_the_gpu_hidden(tmp_path):
    """Each page's stored lines come out again, word for word, in all of these; and so do the random integers."""
    runs = {
        "threads": start(PAGES, tmp_path, ["03_gpt.ipynb"], [1, 2, 8], CUDA_VISIBLE_DEVICES="", OMP_WAIT_POLICY="PASSIVE"),
        "no AVX": start(PAGES, tmp_path, ["02_vae.ipynb", "03_gpt.ipynb"], [1], **NO_AVX),
    }
    found = {name: answer(run) for name, run in runs.items()}
    ticks, digests, devices, capabilities = zip(*found.values(), strict=True)
    assert len(ticks[0]) == 3 and len(ticks[1]) == 2 and min(ticks[0] + ticks[1]) >= 25
    assert len(set(digests)) == 1, "another order of the data"
    assert devices[0] == "cpu"
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert capabilities[1] == "DEFAULT", "the test without AVX has AVX"


# ---------------------------------------------------------------- 21: no memory left

MEMORY = SHELL + """
import resource

well("import torch; from aigc_helpers.checks import check; from aigc_helpers.training import History, steps; history = History()")
loop = '''
for step, x in steps(torch.ones(8, 2), 4, 2, history=history):
    much = torch.ones(SIZE if step == 3 else 1)
    history.log(loss=x.mean())
'''
well("SIZE = 1; check('ones', 1, 1)")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), used + (1 << 28)))
well("SIZE = 1 << 30")
failed = cell(loop)
well("SIZE = 1 << 10; done = history.step")
again = cell(loop)
print(json.dumps([failed, again, shell.user_ns["done"], shell.user_ns["history"].step]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on memory needs Linux")
def test_too_large_a_batch_gets_one_message_and_a_smaller_one_goes_on(tmp_path):
    """As under `ulimit -v`, with 256 MB to spare and 4 GB asked for in the third step."""
    failed, again, done, total = answer(start(MEMORY, tmp_path))
    error, message, advice = failed
    assert error == "RuntimeError" and "can't allocate memory: you tried to allocate 4294967296 bytes" in message
    assert "Make the batch or the model smaller" in advice and len(f"{message}\n{advice}".splitlines()) <= 3
    assert again[0] == "" and (done, total) == (2, 4)
