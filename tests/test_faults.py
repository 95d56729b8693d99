"""Faults of the surroundings that fit no other file, and the register of all 26 in CONTRIBUTING.md.

A fault is survived if the result is right, or if there is one message of at most three lines that says what happened
and what to do; never silence, never half a minute of waiting, nothing left broken.
"""

import ast
import contextlib
import io
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
import warnings

import pytest
import torch
import traitlets
from matplotlib import rcParams
from notebook_cells import run_cells
from test_mutations import is_cheap, run_cell

from aigc_helpers import checks, data, metrics, notebooks, panels, plotting, training

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------- the register


def register():
    """[(number, fault, what happens, test)] from the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert all(len(row) == 4 and all(row) for row in rows), "each row needs a number, a fault, what happens and a test"
    return [(int(number), *rest) for number, *rest in rows]


def test_all_26_faults_are_in_the_register_once():
    assert [number for number, *_ in register()] == list(range(1, 27))


@pytest.mark.parametrize("number", range(1, 27))
def test_the_tests_that_the_register_names_exist(number):
    [where] = [test for k, _, _, test in register() if k == number]
    named = re.findall(r"`(tests/\w+\.py)::(\w+)", where)
    assert named or "not on this machine" in where
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"
    for path in re.findall(r"`([\w./-]+/[\w.-]+)`", where):
        assert (ROOT / path).exists(), path


# ---------------------------------------------------------------- 10: wrong values


WRONG = [NAN, INF, 0, -1, -0.5, 10**18, 1e30, "a", None, [], torch.tensor(NAN)]
SHORT = dict(data=torch.ones(10), num_steps=3, batch_size=2)
MODEL = torch.nn.Linear(2, 2)


def first_step(**change):
    return next(training.steps(**(SHORT | change)))


# What is called with each wrong value, and the words one of which must be in the message.
ARGUMENTS = {
    "to_signed": (data.to_signed, "to_signed"),
    "to_unit": (data.to_unit, "to_unit"),
    "load_digits split": (lambda v: data.load_digits(v), "load_digits: split"),
    "load_digits n": (lambda v: data.load_digits("test", n=v, verbose=False), "load_digits: n"),
    "load_digits seed": (lambda v: data.load_digits("test", n=5, seed=v, verbose=False), "load_digits: the seed"),
    "load_embedded_digits": (data.load_embedded_digits, "load_embedded_digits: split"),
    "toy_modes": (data.toy_modes, "toy_modes"),
    "toy_2d name": (lambda v: data.toy_2d(v, 5), "toy_2d: unknown toy"),
    "toy_2d n": (lambda v: data.toy_2d("ring", v), "toy_2d: n|DefaultCPUAllocator"),
    "toy_2d generator": (lambda v: data.toy_2d("ring", 5, v), "toy_2d: the seed"),
    "seed_everything": (training.seed_everything, "seed must be"),
    "autocast": (training.autocast, "device must be"),
    "budget": (training.budget, "n must be"),
    "steps data": (lambda v: first_step(data=v), "data must be"),
    "steps num_steps": (lambda v: first_step(num_steps=v), "num_steps must be"),
    "steps batch_size": (lambda v: first_step(batch_size=v), "batch_size"),
    "steps seed": (lambda v: first_step(seed=v), "seed must be"),
    "steps history": (lambda v: first_step(history=v), "history must be"),
    "steps device": (lambda v: first_step(device=v), "device must be|NVIDIA|CUDA|accelerator"),
    "History.log": (lambda v: training.History().log(D=v), "'D'"),
    "EMA model": (training.EMA, "EMA needs a model"),
    "EMA decay": (lambda v: training.EMA(MODEL, v), "decay must lie"),
    "save": (lambda v: training.save("weights", v), "save: needs a module or its state dict"),
    "load": (training.load, "weights file|path|PathLike"),
    "check got": (lambda v: checks.check("eq", v, 1.0), "eq: got"),
    "check want": (lambda v: checks.check("eq", 1.0, v), "want"),
    "check rtol": (lambda v: checks.check("eq", 1.0, 1.0, rtol=v), "tolerances must be"),
    "check atol": (lambda v: checks.check("eq", 1.0, 1.0, atol=v), "tolerances must be"),
    "check_true": (lambda v: checks.check_true("eq", v), "eq: the condition must be"),
    "check_below got": (lambda v: checks.check_below("eq", v, 1.0), "eq: got"),
    "check_below bound": (lambda v: checks.check_below("eq", 0.0, v), "eq: got|bound"),
    "check_above got": (lambda v: checks.check_above("eq", v, 1.0), "eq: got"),
    "exercise answer": (lambda v: checks.exercise("E", v, lambda x: checks.check("x", x, 7)), "nothing is raised"),
    "exercise mark": (lambda v: checks.exercise("E", 7, v), "mark must be a function"),
    "frechet_distance": (lambda v: metrics.frechet_distance(torch.eye(3), v), "frechet_distance needs"),
    "precision_recall k": (lambda v: metrics.precision_recall(torch.eye(9), torch.eye(9), v), "k must be"),
    "coverage k": (lambda v: metrics.coverage(torch.eye(9), torch.eye(9), v), "k must be"),
    "class_entropy": (metrics.class_entropy, "class_entropy: needs"),
    "class_entropy count": (lambda v: metrics.class_entropy([v, 1]), "class_entropy: needs"),
    "mode_count sigma": (lambda v: metrics.mode_count(torch.eye(2), torch.eye(2), v, torch.eye(2)), "sigma must be"),
    "figure width": (lambda v: plotting.figure(v, 2), "figure: width"),
    "figure height": (lambda v: plotting.figure(3, v), "figure: height"),
    "to_png scale": (lambda v: plotting.to_png(plotting.figure(1, 1)[0], v), "to_png: scale"),
    "show alt": (lambda v: plotting.show(plotting.figure(1, 1)[0], v), "describe the figure"),
    "show_text text": (lambda v: plotting.show_text(v, "words"), "text must be"),
    "show_text alt": (lambda v: plotting.show_text("words", v), "say in a sentence"),
    "image_grid": (plotting.image_grid, "images must be"),
    "image_grid ncols": (lambda v: plotting.image_grid(torch.zeros(6, 1, 28, 28), v), "ncols must be"),
}  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Embedded digits; nothing is written but below a temporary folder; nothing is displayed."""
    monkeypatch.delenv("AIGC_DATA_DIR", raising=False)
    for name, value in {"AIGC_OFFLINE": "1", "AIGC_PROGRESS": "0", "AIGC_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)


def outcome(call, value):
    """("returned", what) or (name of the exception, its message), within a second or two and with nothing else disturbed."""
    settings, random, began = dict(rcParams), torch.get_rng_state(), time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            result = "returned", call(value)
    except Exception as error:
        result = type(error).__name__, str(error)
        assert result[1].strip(), f"{result[0]} without a word"
        assert result[1].count("\n") <= 2, result[1]
        assert len(result[1]) < 600, result[1]
    assert time.perf_counter() - began < 5
    assert dict(rcParams) == settings
    if call is not training.seed_everything:
        torch.set_rng_state(random)
    return result


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_wrong_argument_gets_one_message_that_names_it(offline, name):
    call, words = ARGUMENTS[name]
    refused = 0
    for value in WRONG:
        kind, said = outcome(call, value)
        if kind != "returned":
            refused += 1
            assert re.search(words, said), f"{value!r}: {kind}: {said}"
            assert kind in ("ValueError", "TypeError", "CheckFailed", "TrainingDiverged", "RuntimeError", "FileNotFoundError",
                            "AssertionError"), f"{value!r}: {kind}: {said}"  # fmt: skip
    assert refused >= (0 if name == "exercise answer" else 3), "these values are wrong, and hardly one was refused"


def filled(value):
    return torch.full((20, 3), value)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_samples_of_a_generator_that_diverged_never_score_well(value):
    real = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="has the generator diverged"):
        metrics.frechet_distance(real, filled(value))
    assert metrics.precision_recall(real, filled(value)) == (0, 0) and metrics.coverage(real, filled(value)) == 0
    assert not math.isfinite(metrics.energy_distance(real, filled(value)))
    count = metrics.mode_count(filled(value), real[:4], 0.1, real)
    assert (count.covered.value, count.quality.value) == (0, 0)


SERIES = {
    "curves": lambda v: plotting.curves({"a": [v, 1.0, 2.0]}),
    "curves, log": lambda v: plotting.curves({"a": [v, 1.0, 2.0]}, logy=True),
    "curves, smooth": lambda v: plotting.curves({"a": [1.0, 2.0, 3.0]}, smooth_weight=v),
    "histogram": lambda v: plotting.histogram({"a": [v, 1, 2]}),
    "score_table": lambda v: plotting.score_table({"a": {"FID": v}}),
    "image_grid": lambda v: plotting.image_grid(torch.full((6, 28 * 28), v) if isinstance(v, float) else v),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_wrong_number_in_a_picture_is_drawn_or_refused_in_a_line(name):
    for value in WRONG:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an axis that cannot show infinity says so
            kind, made = outcome(SERIES[name], value)
            if kind == "returned":
                outcome(plotting.to_png, made)


NOTEBOOKS = notebooks.paths()


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def first_panels(request, tmp_path_factory):
    """The panels of a notebook's first panel cell, with which the reader plays before anything is trained."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.delenv("AIGC_DATA_DIR", raising=False)
        patch.setenv("AIGC_OFFLINE", "1")
        patch.setenv("AIGC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("IPython.display.display", lambda *_, **__: None)
        space = run_cells(request.param.name, ("setup", "export"))
        panel_cells = notebooks.code_cells(notebooks.read(request.param), "panel")
        first = next(cell for cell in panel_cells if "setup" not in cell.metadata.tags)
        exec(compile(first.source, request.param.name, "exec"), space)
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
    """Set-up, theory and its checks, in order and each cell two times: whatever a cell changed, it says the same again."""
    nb, space, ticks = notebooks.read(path), {"__name__": "__main__"}, 0
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and is_cheap(nb, index, space):
            once, again = (run_cell(cell.source, space, f"{path.name}, cell {index}") for _ in range(2))
            assert once == again, cell.source
            ticks += again[0].count("✓")
    assert ticks >= 8


# ---------------------------------------------------------------- in processes of their own


OFFLINE = {"AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1", "AIGC_PROGRESS": "0", "PYTHONUTF8": "1", "AIGC_DATA_DIR": ""}


def start(script, cache, *arguments, **settings):
    """Start a Python process, offline and on one thread unless `settings` say otherwise; it gets `arguments` as JSON."""
    paths = os.pathsep.join([str(ROOT), str(TESTS)])
    env = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1", "AIGC_CACHE_DIR": str(cache), "PYTHONPATH": paths} | settings
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
from aigc_helpers import notebooks
from test_mutations import names_needed

found = []
for path in notebooks.paths():
    book = notebooks.read(path)
    shell.reset(new_session=False)
    for each in notebooks.code_cells(book, "setup", "export"):
        well(each.source)
    shell.user_ns.update({name: 2 for name in shell.user_ns if name.endswith("_STEPS")})
    kept = dict(shell.user_ns)
    for each in notebooks.code_cells(book):
        if {"setup", "export", "colab"} & set(each.metadata.get("tags", [])):
            continue
        missing = names_needed(each.source) - set(kept) - set(dir(builtins))
        if missing:
            found.append([path.name, each.source.splitlines()[0], *cell(each.source)])
            shell.user_ns.clear()
            shell.user_ns.update(kept)
print(json.dumps(found))
"""


@pytest.mark.notebook
def test_each_cell_alone_after_the_set_up_runs_or_says_which_cell_comes_first(tmp_path):
    """Each cell that reads a name which the set-up does not make, in a shell where only the set-up has run."""
    found = answer(start(ALONE, tmp_path))
    assert {name for name, *_ in found} == {path.name for path in NOTEBOOKS}
    hints = 0
    for name, line, error, message, advice in found:
        place = f"{name}, {line!r} alone: {error}: {message}"
        if not error:  # it only defines a function that would need the name
            continue
        assert error == "NameError", place
        wanted = re.fullmatch(r"name '(\w+)' is not defined", message)[1]
        assert advice == checks.advice(NameError(message, name=wanted)) and wanted in advice, place
        hints += 1
    assert hints > 0.9 * len(found) and hints > 15 * len(NOTEBOOKS)


# ---------------------------------------------------------------- 19 and 20: other processors, no GPU

PAGES = """
import hashlib, json, pathlib, sys
import torch
from aigc_helpers.data import toy_2d
from aigc_helpers.training import pick_device, steps
from test_mutations import run_page

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


# ---------------------------------------------------------------- 25: packages that are not there

GONE = SHELL + """
import importlib.machinery, importlib.metadata

GONE = json.loads(sys.argv[1])[1]
find_module, find_package = importlib.machinery.PathFinder.find_spec, importlib.metadata.Distribution.from_name


def no_module(name, path=None, target=None):
    return None if name.partition(".")[0] in GONE else find_module(name, path, target)


def no_package(name):
    if name.lower() in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return find_package(name)


importlib.machinery.PathFinder.find_spec = no_module
importlib.metadata.Distribution.from_name = no_package
well('''
import torch
from aigc_helpers import metrics, panels, plotting
from aigc_helpers.checks import check, exercise
from aigc_helpers.data import load_digits, load_text
from aigc_helpers.training import EMA, History, budget, load, save, steps
digits, text, history = load_digits(), load_text(), History()
for step, (x, y) in steps(digits, 20, 64, history=history):
    history.log(loss=x.float().mean())
plotting.show(history.plot(), "A curve.")
check("one", 1, 1)
assert history.step == 20
''')
scores = '''
judge = metrics.DigitJudge(digits.images[:300], digits.images[300:600])
plotting.show(plotting.score_table({"real": judge.score(digits.images[600:900]).row()}), "A table.")
'''
print(json.dumps([cell(source) for source in (scores, 'panels.slider("x", 0.0, 1.0, 0.5)', "import torchvision")]))
"""


@pytest.mark.notebook
def test_without_optional_packages_the_rest_works_and_one_line_names_the_missing_one(tmp_path):
    """Data, loops, curves and checks need none of them. (torchmetrics loads transformers, which cannot do without tqdm.)"""
    runs = [start(GONE, tmp_path, gone) for gone in (["ipywidgets", "torchvision"], ["tqdm"])]
    (score, slider, other), (no_bar, *_) = map(answer, runs)
    assert score[0] == "", score
    for (error, message, advice), package in ((slider, "ipywidgets"), (other, "torchvision"), (no_bar, "tqdm")):
        assert (error, message) == ("ModuleNotFoundError", f"No module named '{package}'")
        assert advice == f"Advice: if requirements.txt names '{package}', run `%pip install {package}` and restart the kernel."
