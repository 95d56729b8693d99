"""Faults around a notebook: run twice, a strange environment, a learning rate of a million, outputs cleared or changed.

Each ends in a right result or in one clear message. Only the cells that need no training on digits are run in kernels:
the set-up, the panels (on an untrained digit generator) and the exercises.
"""

import copy
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import nbclient
import nbformat
import pytest
import torch
from notebook_cells import NOTEBOOKS, run_cells

from aigc_helpers import notebooks
from aigc_helpers.training import TrainingDiverged

NAME = "01_gan.ipynb"
ROOT = NOTEBOOKS.parent
LOAD = "load_digits("  # what tells a cell that has no tag from all others
LISTING, LISTING_LOOP = "criterion = nn.BCELoss()\ng_optimizer", "for i, (real_imgs, _) in enumerate(real_data_loader)"
NETWORKS, OPTIMIZERS, LOOP = "G = ConvGenerator(Z_DIM)", "ema = EMA(G", "in steps(digits, DIGIT_STEPS"
LOOK = "artist = copy.deepcopy(ema.model)"
STAND_IN = "artist, critic = ConvGenerator(Z_DIM).eval(), ConvDiscriminator().eval()"


@pytest.fixture(scope="module")
def book():
    return notebooks.read(NOTEBOOKS / NAME)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a kernel gets: this checkout, the embedded digits, no network, one thread."""
    env = {k: v for k, v in os.environ.items() if k not in ("AIGC_DATA_DIR", "PYTEST_ADDOPTS", "MPLBACKEND")}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1",
                  "AIGC_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}  # fmt: skip


def find(book, text):
    """The one code cell that holds `text`."""
    found = [cell for cell in book.cells if cell.cell_type == "code" and text in cell.source]
    assert len(found) == 1, f"{len(found)} cells hold {text!r}: change the text in this file"
    return found[0]


def reduced(book):
    """The cells tagged setup, export, panel, exercise and mark, and the one that loads the digits."""
    marked = nbformat.from_dict(book)
    find(marked, LOAD).metadata["tags"] = ["setup"]
    small = notebooks.subset(marked, ("setup", "export", "panel", "exercise", "mark"))
    small.metadata = {k: v for k, v in book.metadata.items() if k == "kernelspec"}
    after = 1 + max(k for k, cell in enumerate(small.cells) if "class ConvDiscriminator" in cell.source)
    small.cells.insert(after, nbformat.v4.new_code_cell(STAND_IN))
    return small


def text_of(cells):
    """What strict nbval compares of each cell: the text of its streams and of its displays."""
    return [(cell.source[:50], stream_text(cell), [plain(o) for o in cell.outputs if "data" in o]) for cell in cells]


def stream_text(cell):
    parts = [f"{o.name}: {o.text}" if o.name == "stderr" else o.text for o in cell.outputs if o.output_type == "stream"]
    return re.sub(r"\[data: .*\]", "[data]", "".join(parts))


def plain(output):
    return output.output_type, output.data.get("text/plain")


# ---------------------------------------------------------------- in real kernels, two at a time


def run_in_order(order):
    """Every cell twice, one way or the other, in one kernel: the executed cells, and what is stored for them."""

    def job(small, env, folder):
        pairs = small.cells * 2 if order == "whole" else [cell for cell in small.cells for _ in range(2)]
        wanted, double = text_of(pairs), nbformat.from_dict(small)
        double.cells = [copy.deepcopy(cell) for cell in pairs]
        for cell in double.cells:
            cell.outputs = []
        place = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(double, timeout=300, kernel_name="python3", resources=place).execute(env=env)
        return double.cells, wanted

    return job


def run_strictly(settings, name="plain"):
    """The suite's own nbval command in strange surroundings: its exit status and report."""

    def job(small, env, folder):
        place = folder / name
        place.mkdir()
        nbformat.write(small, place / "reduced.ipynb")
        return strict_nbval(place, env | settings, "reduced.ipynb")

    return job


C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SURROUNDINGS = {
    "a backend that needs a screen": run_strictly({"MPLBACKEND": "TkAgg"}),
    "the C locale": run_strictly(C_LOCALE),
    "a path with spaces and Chinese characters": run_strictly({}, "a folder of 生成模型"),
}
ORDERS = {"the whole notebook twice": run_in_order("whole"), "each cell twice": run_in_order("cell")}


@pytest.fixture(scope="module")
def ran(request, book, environment, tmp_path_factory):
    """A function that waits for a job and returns its result. All jobs that were selected start at the first use."""
    mine = [item for item in request.session.items if item.path == pathlib.Path(__file__) and hasattr(item, "callspec")]
    wanted = {item.callspec.params.get("job") for item in mine}
    with ThreadPoolExecutor(2) as pool:
        started = {
            name: pool.submit(job, reduced(book), environment, tmp_path_factory.mktemp("job"))
            for name, job in (ORDERS | SURROUNDINGS).items()
            if name in wanted
        }
        yield lambda name: started[name].result()


def strict_nbval(folder, env, *names):
    """Exit status and report of the suite's own nbval command on notebooks in `folder`."""
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", folder / "sanitize.cfg")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    options = "-q -p no:cacheprovider --nbval --nbval-current-env --nbval-sanitize-with=sanitize.cfg".split()
    command = [sys.executable, "-m", "pytest", *options, "--nbval-cell-timeout=300", *names]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=500)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("job", ORDERS)
def test_run_twice_in_one_kernel(ran, book, job):
    cells, wanted = ran(job)
    assert text_of(cells) == wanted
    assert sum("not attempted yet" in printed for _, printed, _ in wanted) == 2 * len(notebooks.exercises(book))


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("job", SURROUNDINGS)
def test_strange_surroundings(ran, book, job):
    status, report = ran(job)
    assert status == 0, report[-3000:]
    assert f"{len(reduced(book).cells)} passed" in report


# A chapter whose panels need its trained models is run whole, at the suite's budget: nothing is left out of it.
WHOLE = ["02_vae.ipynb"]


def code_of(name):
    whole = notebooks.read(NOTEBOOKS / name)
    whole.cells = [cell for cell in whole.cells if cell.cell_type == "code"]
    return whole


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("name", WHOLE)
def test_a_trained_chapter_twice_in_one_kernel(name, environment, tmp_path):
    """Names left over from the first round change nothing in the second: every check passes again, and says the same."""
    whole = code_of(name)
    done, wanted = run_in_order("whole")(whole, environment | {"OMP_NUM_THREADS": "2"}, tmp_path)
    assert len(done) == 2 * len(whole.cells)
    for cell, (start, streams, _) in zip(done, wanted, strict=True):
        assert stream_text(cell) == streams, start


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("name", WHOLE)
def test_a_trained_chapter_in_strange_surroundings(name, environment, tmp_path):
    """All three at once: a backend without its screen, the C locale, a path with spaces and Chinese characters."""
    settings = C_LOCALE | {"MPLBACKEND": "TkAgg", "OMP_NUM_THREADS": "2"}
    job = run_strictly(settings, "a folder of 生成模型")
    whole = code_of(name)
    status, report = job(whole, environment, tmp_path)
    assert status == 0, report[-3000:]
    assert f"{len(whole.cells)} passed" in report


def test_the_c_locale_is_one(environment):
    code = "import locale; print(locale.getpreferredencoding(False))"
    done = subprocess.run([sys.executable, "-c", code], env=environment | C_LOCALE, capture_output=True, text=True)
    assert done.stdout.strip() in ("ANSI_X3.4-1968", "US-ASCII", "646"), "the test of the C locale tests nothing"


@pytest.mark.notebook
def test_offline_the_notebook_says_where_its_digits_come_from(book, environment, tmp_path):
    start = notebooks.subset(book, ("setup",))
    start.cells.append(copy.deepcopy(find(book, LOAD)))
    cells, _ = run_in_order("whole")(start, environment, tmp_path)
    outputs = [cell.outputs for cell in cells if LOAD in cell.source]
    assert len(outputs) == 2
    for output in outputs:
        assert [o.get("name") for o in output] == ["stdout"]
        for line, count in zip(output[0].text.splitlines(), ("1,297 train", "500 test"), strict=True):
            source = "scikit-learn digits (embedded); embedded; download: AIGC_OFFLINE is set"
            assert line == f"[data: {count} images from {source}]"


# ---------------------------------------------------------------- the training loops, in this process


@pytest.fixture(scope="module")
def digits_space(tmp_path_factory):
    """The names of the set-up cells and the embedded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AIGC_DATA_DIR", raising=False)
        patch.setenv("AIGC_OFFLINE", "1")
        patch.setenv("AIGC_DEVICE", "cpu")
        patch.setenv("AIGC_PROGRESS", "0")
        patch.setenv("AIGC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        space = run_cells(NAME, ("setup", "export"))
        judge, space["DigitJudge"] = space["DigitJudge"], lambda *_: None  # no scores are needed here
        exec(find(notebooks.read(NOTEBOOKS / NAME), LOAD).source, space)
        yield space | {"DigitJudge": judge}


@pytest.mark.parametrize("loss", ["non-saturating", "least squares", "wasserstein-gp"])
def test_a_learning_rate_of_a_million_stops_with_one_message(book, digits_space, loss):
    space = dict(digits_space, LR=1e6, DIGIT_STEPS=8, LOSS=loss)
    for text in (NETWORKS, OPTIMIZERS):
        exec(find(book, text).source, space)
    message = r"(?s)^the loss '[DG]' is \S+ at step \d+: the training has diverged.*smaller learning rate"
    with pytest.raises(TrainingDiverged, match=message):
        exec(find(book, LOOP).source, space)


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.parametrize("player", ["D", "G"])
@pytest.mark.parametrize("loop", ["the listing", "the digit GAN"])
def test_digit_loops_train_the_right_way(book, digits_space, loop, player):
    """With the other player held still, each player's steps raise what it plays for."""
    space = dict(digits_space, LISTING_STEPS=15, DIGIT_STEPS=15)
    listing = loop == "the listing"
    for text in (LISTING,) if listing else (NETWORKS, OPTIMIZERS):
        exec(find(book, text).source, space)
    G, D, images = space["G"], space["D"], space["digits"].images[:64]
    real = space["to_unit"](images).flatten(1) if listing else space["to_signed"](images)
    z = torch.randn(64, 64, generator=torch.Generator().manual_seed(7))
    still = ("g" if player == "D" else "d") + ("_optimizer" if listing else "_opt")
    space[still].step = lambda *_: None

    @torch.no_grad()
    def aim():
        fake = D(G(z)).mean().item()
        return D(real).mean().item() - fake if player == "D" else fake

    before = aim()
    exec(find(book, LISTING_LOOP if listing else LOOP).source, space)
    assert aim() > before


def stop_at(history, step):
    """Press the stop button when this step is logged."""
    log = history.log

    def log_and_stop(**losses):
        log(**losses)
        if history.step == step:
            signal.raise_signal(signal.SIGINT)

    history.log = log_and_stop


def test_training_goes_on_after_a_stop_and_a_look(book, digits_space):
    """Stop the digit GAN, run the next cell, run the training cell again: the weights of a run without a stop."""
    weights = []
    for stop in (None, 3):
        space = dict(digits_space, DIGIT_STEPS=6, judge=types.SimpleNamespace(n=80))
        for text in (NETWORKS, OPTIMIZERS):
            exec(find(book, text).source, space)
        if stop:
            stop_at(space["history"], stop)
            exec(find(book, LOOP).source, space)
            assert space["history"].step == stop
            exec(find(book, LOOK).source, space)
        exec(find(book, LOOP).source, space)
        assert space["history"].step == 6
        trained = (space["G"], space["D"], space["ema"].model)
        weights.append(torch.cat([p.detach().flatten() for net in trained for p in net.parameters()]))
    assert torch.equal(*weights)


# ---------------------------------------------------------------- what the checks on the page cannot see


@pytest.fixture(scope="module")
def gan():
    """The exported names, as the page defines them, with the exercises' marks."""
    return run_cells(NAME, ("setup", "export", "exercise", "mark"))


@pytest.mark.parametrize("loss", ["non-saturating", "wasserstein-gp"])
def test_each_move_applies_its_own_gradient_only(gan, loss):
    for player, other in ("DG", "GD"):
        duel = gan["Duel"](loss=loss, optimizers=("sgd", "sgd"))
        for _ in range(2):  # leave gradients behind, of both
            duel.g_move()
            duel.d_move()
        getattr(duel, other).zero_grad(set_to_none=player == "D")
        twin, state = copy.deepcopy(duel), duel.random.get_state()
        twin.random = torch.Generator()
        twin.random.set_state(state)
        getattr(duel, f"{player.lower()}_move")()
        if player == "D":
            assert all(p.grad is None for p in duel.G.parameters()), "the critic's loss must not reach the generator"
            real = twin.real[torch.randint(len(twin.real), (128,), generator=twin.random)]
            fake = twin.sample(128).detach()
            wanted = gan["discriminator_objective"](twin.D, real, fake, loss, 1.0, 0.0, twin.random)
        else:
            wanted = gan["generator_loss"](twin.D(twin.sample(128)), loss)
        wanted = torch.autograd.grad(wanted, list(getattr(twin, player).parameters()), allow_unused=True)
        for p, grad in zip(getattr(duel, player).parameters(), wanted, strict=True):
            assert grad is None or torch.allclose(p.grad, grad, rtol=1e-4, atol=1e-6)


def test_penalties_reach_the_parameters(gan):
    torch.manual_seed(0)
    D, real, fake = gan["ToyDiscriminator"](), torch.randn(32, 2), torch.randn(32, 2) + 1
    objective, loss = gan["discriminator_objective"], gan["discriminator_loss"](D(real), D(fake), "wasserstein-gp")

    def random():
        return torch.Generator().manual_seed(1)

    with_penalty = objective(D, real, fake, "wasserstein-gp", penalty=10.0, generator=random())
    torch.testing.assert_close(with_penalty, loss + 10 * gan["gradient_penalty"](D, real, fake, random()))
    assert with_penalty > loss
    with_r1 = objective(D, real, fake, r1=3.0)
    torch.testing.assert_close(with_r1, objective(D, real, fake) + 3 * gan["r1_penalty"](D, real))
    for penalty in (gan["gradient_penalty"](D, real, fake), gan["r1_penalty"](D, real)):
        D.zero_grad()
        penalty.backward()
        assert all(p.grad.abs().sum() > 0 for name, p in D.named_parameters() if "weight" in name)


def labels(real, fake):
    """Labels around `real` and `fake`, with a uniform noise of that sign: (centre, sign) each."""
    return lambda n: tuple(centre + sign * 0.1 * torch.rand(n) for centre, sign in (real, fake))


PUBLISHED_BUGS = {  # what is wrong: (mark, answer)
    "1: the number of fakes forgotten": ("mark_1", lambda p, q, k: p / (p + q)),
    "1: k on the wrong density": ("mark_1", lambda p, q, k: k * p / (k * p + q)),
    "2: the logarithm of a number near zero": ("mark_2", lambda r, f: -torch.sigmoid(f - r).log().mean()),
    "2: real and fake swapped": ("mark_2", lambda r, f: torch.nn.functional.softplus(f - r).mean()),
    "3: both signs wrong, as in the book": ("mark_3", labels((1, 1), (0, -1))),
    "3: the sign of the real labels": ("mark_3", labels((1, 1), (0, 0))),
    "3: the sign of the fake labels": ("mark_3", labels((1, -1), (0, -1))),
    "3: no noise on the real labels": ("mark_3", labels((1, 0), (0, 0))),
    "3: noise on the fake labels too": ("mark_3", labels((1, -1), (0, 1))),
    "4: the wrong end": ("mark_4", 1),
    "5: nothing moves": ("mark_5", lambda *_: None),
}


@pytest.mark.parametrize("bug", PUBLISHED_BUGS)
def test_marks_refuse_the_published_bugs(gan, capsys, bug):
    mark, answer = PUBLISHED_BUGS[bug]
    gan["exercise"]("Exercise", answer, gan[mark])
    assert capsys.readouterr().out.startswith("Exercise: not ")


def play_exercise_5(book, gan, number):
    """Mark the buggy listing of exercise 5 (0) or its solution (1), both as the page prints them."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    space = dict(gan)
    exec(re.findall(r"```python\n(def one_round.*?)```", text, re.DOTALL)[number], space)
    gan["exercise"]("Exercise 5", space["one_round"], gan["mark_5"])


def test_mark_5_refuses_the_listing_of_the_exercise(book, gan, capsys):
    play_exercise_5(book, gan, 0)
    assert capsys.readouterr().out.startswith("Exercise 5: not ")
    play_exercise_5(book, gan, 1)
    assert capsys.readouterr().out == "Exercise 5: correct\n"


def test_mark_5_says_why_it_refuses(book, gan, capsys):
    play_exercise_5(book, gan, 0)
    assert "not yet - the discriminator after three rounds" in capsys.readouterr().out


# ---------------------------------------------------------------- stored outputs


def test_cleared_outputs_are_a_finding_of_lint(book, tmp_path):
    def about_outputs():
        about = re.compile("no stored output|with a tick|not run once")
        return [line for line in notebooks.lint(tmp_path) if about.search(line)]

    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(NOTEBOOKS / NAME, tmp_path / "notebooks")
    assert about_outputs() == []
    cleared = nbformat.from_dict(book)
    for cell in notebooks.code_cells(cleared):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(cleared, tmp_path / "notebooks" / NAME)
    found = about_outputs()
    speaking = sum(bool(cell.outputs) for cell in notebooks.code_cells(book))
    assert len(found) > speaking / 2 and any("notebooks run" in line for line in found)
    one = nbformat.from_dict(book)
    find(one, "eq. (4): minimax gradient").outputs = []
    nbformat.write(one, tmp_path / "notebooks" / NAME)
    assert len(about_outputs()) == 1


@pytest.mark.notebook
def test_a_stored_number_changed_by_hand_fails_strict_nbval(book, environment, tmp_path):
    good = nbformat.from_dict(book)
    cell = find(good, "eq. (4): minimax gradient")
    good.cells = [find(good, "import torch.nn.functional as F"), find(good, "from aigc_helpers.checks import"), cell]
    good.metadata = {k: v for k, v in book.metadata.items() if k == "kernelspec"}
    nbformat.write(good, tmp_path / "good.ipynb")
    assert cell.outputs[0].text.count("['-0.018'") == 1
    cell.outputs[0].text = cell.outputs[0].text.replace("['-0.018'", "['-0.019'")
    nbformat.write(good, tmp_path / "changed.ipynb")
    status, report = strict_nbval(tmp_path, environment, "good.ipynb", "changed.ipynb")
    assert status == 1 and "1 failed, 5 passed" in report, report[-3000:]
    assert "0.019" in report and "changed.ipynb" in report
