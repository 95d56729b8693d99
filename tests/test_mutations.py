"""Seeded faults: each one, put into a copy of the project, must turn the suite red.

`python -m pytest tests/test_mutations.py -s` also prints the table: fault | where | caught by.

A fault is a textual change of a helper or of one of the notebook's code cells. For a notebook the exported module is made
anew from the changed cell, so that a mere comparison of bytes cannot be what catches it. The copy is then tested by one
catcher: a test of the suite or "page", the notebook's own checks. A server process imports PyTorch once and forks for
each copy; copies import the project afresh, from their own folder.
"""

import ast
import builtins
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = "notebooks/01_gan.ipynb"
COPIED = ("aigc_helpers", "tests", "notebooks", "pyproject.toml", "conftest.py")
TIME_LIMIT, WORKERS = 90, 2

pytestmark = [
    pytest.mark.mutation,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the copies are tested in forked processes"),
]


class Fault(NamedTuple):
    name: str
    where: str  # a file of the project; for a notebook, one of its code cells
    old: str
    new: str
    catcher: str  # a pytest node, or "page": the notebook's own checks


def page(name, old, new, catcher="page"):
    return Fault(name, NOTEBOOK, old, new, catcher)


CHECKS, METRICS, DATA, TRAINING = (f"tests/test_{name}.py" for name in ("checks", "metrics", "data", "training"))
FAULTS_PY, PANELS = "tests/test_notebook_faults.py", "tests/test_panels.py"

FAULTS = [
    # ---- the notebook: theory
    page("D* = q/(p+q)", "D_star = p / (p + q) ", "D_star = q / (p + q) "),
    page("JSD without the factor 2", "-math.log(4) + 2 * jsd", "-math.log(4) + jsd"),
    page("JSD without the half", "jsd = (kl(p, m) + kl(q, m)) / 2", "jsd = kl(p, m) + kl(q, m)"),
    page("-log 2 for -log 4", "value(p / (p + q)), -math.log(4)", "value(p / (p + q)), -math.log(2)"),
    page("V with the wrong sign of log(1 - D)", "D.clamp_min(1e-300).log() + q *", "D.clamp_min(1e-300).log() - q *"),
    page("eq. (4): sign", "grad(-F.softplus(logits).sum(), logits)", "grad(F.softplus(logits).sum(), logits)"),
    page("eq. (5): softplus sign", "grad(F.softplus(-logits).sum(), logits)", "grad(F.softplus(logits).sum(), logits)"),
    page("race: the fakes called real", "F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()",
         "F.softplus(critic(real)).mean() + F.softplus(-critic(fake.detach())).mean()"),
    page('"at once" reads the new value', "            x, y = x - eta * y, y + eta * x\n",
         "            x = x - eta * y; y = y + eta * x\n"),
    page('"in turn" reads the old value', "            x = x - eta * y\n            y = y + eta * x\n",
         "            x, y = x - eta * y, y + eta * x\n"),
    page("look ahead with only one eye", "y + eta * x_ahead", "y + eta * x"),
    # ---- the notebook: losses, penalties, moves
    page("D loss: softplus sign", "F.softplus(-real_logits).mean() + F.softplus(fake_logits)",
         "F.softplus(-real_logits).mean() + F.softplus(-fake_logits)"),
    page("D loss: real and fake swapped", "F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()",
         "F.softplus(-fake_logits).mean() + F.softplus(real_logits).mean()"),
    page("minimax G loss: sign", "return -F.softplus(fake_logits).mean()", "return F.softplus(fake_logits).mean()"),
    page("non-saturating G loss: softplus sign", "return F.softplus(-fake_logits).mean()", "return F.softplus(fake_logits).mean()"),
    page("hinge: sign of the margin", "F.relu(1 + fake_logits)", "F.relu(1 - fake_logits)"),
    page("least squares D: target 0 for 1", "0.5 * (real_logits - 1).square()", "0.5 * real_logits.square()"),
    page("least squares G: target 0 for 1", "return 0.5 * (fake_logits - 1).square()", "return 0.5 * fake_logits.square()"),
    page("Wasserstein D: sign", "fake_logits.mean() - real_logits.mean()", "real_logits.mean() - fake_logits.mean()"),
    page("gradient penalty without the -1", "fake.detach()) - 1).square().mean()", "fake.detach())).square().mean()"),
    page("slope without the square root", "grad.flatten(1).norm(dim=1)", "grad.flatten(1).square().sum(dim=1)"),
    page("R1 without the half", "0.5 * slope(D, real)", "slope(D, real)"),
    page("slope that is no function of D's parameters", "create_graph=True", "create_graph=False",
         f"{FAULTS_PY}::test_penalties_reach_the_parameters"),
    page("penalty left out of the Wasserstein objective", "total = total + penalty * gradient_penalty(D, real, fake, generator)",
         "total = total", f"{FAULTS_PY}::test_penalties_reach_the_parameters"),
    page("missing detach in the objective", "    fake = fake.detach()  ", "    fake = fake  ",
         f"{FAULTS_PY}::test_each_move_applies_its_own_gradient_only"),
    page("Duel: D's zero_grad missing", "self.d_opt.zero_grad(); d_loss", "d_loss",
         f"{FAULTS_PY}::test_each_move_applies_its_own_gradient_only"),
    page("Duel: G's zero_grad missing", "self.g_opt.zero_grad(); g_loss", "g_loss",
         f"{FAULTS_PY}::test_each_move_applies_its_own_gradient_only"),
    page("Duel: D's move steps G", "d_loss.backward(); self.d_opt.step()", "d_loss.backward(); self.g_opt.step()"),
    page("rewind off by one", "self.tape = self.tape[: moment + 1]", "self.tape = self.tape[: moment + 2]",
         f"{PANELS}::test_arena_steps_runs_and_rewinds_to_the_same_numbers"),
    page("the listing's labels swapped", "criterion(real_scores, torch.ones_like(real_scores)) + criterion(fake_scores, torch.zeros_like(fake_scores))",
         "criterion(real_scores, torch.zeros_like(real_scores)) + criterion(fake_scores, torch.ones_like(fake_scores))",
         f"{FAULTS_PY}::test_digit_loops_train_the_right_way"),
    page("digit GAN: G trained to be found out", "g_loss = generator_loss(D(fake), LOSS)", "g_loss = -generator_loss(D(fake), LOSS)",
         f"{FAULTS_PY}::test_digit_loops_train_the_right_way"),
    # ---- the notebook: exercises
    page("solution 1: k on the wrong density", "    check(f\"k = {k}: the maximiser", "    p, q = q, p\n        check(f\"k = {k}: the maximiser"),
    page("mark 1 knows only k = 1", "for k in (1, 2, 5):", "for k in (1,):", f"{FAULTS_PY}::test_marks_refuse_the_published_bugs"),
    page("mark 2 forgets the hopeless fake", "    check(\"a hopeless fake still", "    0 and check(\"a hopeless fake still",
         f"{FAULTS_PY}::test_marks_refuse_the_published_bugs"),
    page("mark 3 lets negative labels pass", "bool((fake >= 0).all() and", "bool(", f"{FAULTS_PY}::test_marks_refuse_the_published_bugs"),
    page("mark 4 at the wrong end", "push.argmin().item()", "push.argmax().item()"),
    page("mark 5 asks only that something moves",
         '    check("the discriminator after three rounds", got[1], want[1], rtol=1e-4, atol=1e-6)\n'
         '    check("the generator after three rounds", got[0], want[0], rtol=1e-4, atol=1e-6)\n', "",
         f"{FAULTS_PY}::test_mark_5_refuses_the_listing_of_the_exercise"),
    page("mark 5: its own answer lets gradients pile up", "            opt.zero_grad()\n            loss().backward()",
         "            loss().backward()"),
    # ---- the helpers
    Fault("check() passes when all entries differ", "aigc_helpers/checks.py", "if not (excess > 0).any():", "if not (excess <= 0).any():", CHECKS),
    Fault("check() lets NaN pass", "aigc_helpers/checks.py", "np.where(np.isnan(excess), np.inf, excess)", "np.where(np.isnan(excess), -1.0, excess)", CHECKS),
    Fault("check_below inverted", "aigc_helpers/checks.py", "lambda g, b: g < b", "lambda g, b: g > b", CHECKS),
    Fault("check_above not strict", "aigc_helpers/checks.py", "lambda g, b: g > b", "lambda g, b: g >= b", CHECKS),
    Fault("exercise() ignores a mark that says no", "aigc_helpers/checks.py", "passed = result is None or bool(result)", "passed = True", CHECKS),
    Fault("FID of the real set with itself", "aigc_helpers/metrics.py", "metric.update(fake.double(), real=False)", "metric.update(real.double(), real=False)", METRICS),
    Fault("recall and precision swapped", "aigc_helpers/metrics.py", "return precision.item(), recall.item()", "return recall.item(), precision.item()", METRICS),
    Fault("radius to the (k-1)-th neighbour", "aigc_helpers/metrics.py", "kthvalue(k + 1, dim=1)", "kthvalue(k, dim=1)", METRICS),
    Fault("class_entropy not normalised", "aigc_helpers/metrics.py", " / math.log(len(p))", "", METRICS),
    Fault("coverage of the fakes, not of the reals", "aigc_helpers/metrics.py", ".any(dim=1).float().mean().item()", ".any(dim=0).float().mean().item()", METRICS),
    Fault("floor measured on the reference itself", "aigc_helpers/metrics.py", "self._measure(held_out[:n])", "self._measure(reference[:n])", METRICS),
    Fault("energy distance without the 2", "aigc_helpers/metrics.py", "(2 * between -", "(between -", METRICS),
    Fault("mode covered by its whole share only", "aigc_helpers/metrics.py", "hits >= 0.1 * len(x)", "hits >= 1.0 * len(x)", METRICS),
    Fault("to_signed divides by 255", "aigc_helpers/data.py", "x.float() / 127.5 - 1", "x.float() / 255 - 1", DATA),
    Fault("ring of 8 closed after 7", "aigc_helpers/data.py", "torch.arange(8) * (2 * math.pi / 8)", "torch.arange(8) * (2 * math.pi / 7)", DATA),
    Fault("test split inside the training split", "aigc_helpers/data.py", "else order[NUM_EMBEDDED_TRAIN:]", "else order[:500]", DATA),
    Fault("damaged data accepted", "aigc_helpers/data.py", "if digest != SHA256[split]:", "if not digest:", DATA),
    Fault("steps stops one short", "aigc_helpers/training.py", "range(start + 1, num_steps + 1)", "range(start + 1, num_steps)",
          f"{TRAINING}::test_an_epoch_visits_every_item_once_and_the_next_in_another_order"),
    Fault("steps skips an epoch's last batch", "aigc_helpers/training.py", "len(tensors[0]) // batch_size", "max(1, len(tensors[0]) // batch_size - 1)",
          f"{TRAINING}::test_an_epoch_visits_every_item_once_and_the_next_in_another_order"),
    Fault("an interrupted run repeats a batch", "aigc_helpers/training.py", "yield step, batches[step]", "yield step, batches[max(1, step - (start > 0))]",
          f"{TRAINING}::test_interrupted_at_random_and_continued_equals_uninterrupted"),
    Fault("EMA: decay swapped", "aigc_helpers/training.py", "get_ema_multi_avg_fn(decay)(", "get_ema_multi_avg_fn(1 - decay)(",
          f"{TRAINING}::test_ema_follows_the_formula_by_hand"),
    Fault("History does not notice NaN", "aigc_helpers/training.py", "if not math.isfinite(value):", "if math.isinf(value):",
          f"{TRAINING}::test_history_stops_at_a_loss_that_is_not_finite"),
    Fault("budget divides", "aigc_helpers/training.py", "round(n * factor)", "round(n / factor)", f"{TRAINING}::test_budget"),
    Fault("a panel hides an exception", "aigc_helpers/panels.py", 'state = "error" if self.error else "ok"', 'state = "ok"',
          f"{PANELS}::test_an_exception_is_shown_in_the_status_line_and_is_gone_after_the_next_good_draw"),
    Fault("the storyboard leaves the controls moved", "aigc_helpers/panels.py", "        self.put(**start)\n", "",
          f"{PANELS}::test_storyboard_leaves_the_controls_as_they_were_and_holds_a_picture_a_frame"),
]  # fmt: skip


# ---------------------------------------------------------------- a copy with a fault


def copy_project(target):
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".pytest_cache", "benchmarks")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target / name, **({"ignore": skip} if (ROOT / name).is_dir() else {}))


def put_fault(fault, root):
    """Change the one place where the old text stands. Fails if it stands nowhere, or in several places."""
    path = root / fault.where
    if path.suffix != ".ipynb":
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"{fault.name}: {fault.old!r} stands {text.count(fault.old)} times in {fault.where}"
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        return
    nb = nbformat.read(path, as_version=4)
    found = [cell for cell in nb.cells if cell.cell_type == "code" and fault.old in cell.source]
    count = sum(cell.source.count(fault.old) for cell in found)
    assert count == 1, f"{fault.name}: {fault.old!r} stands {count} times in the code of {fault.where}"
    found[0].source = found[0].source.replace(fault.old, fault.new)
    nbformat.write(nb, path)


# ---------------------------------------------------------------- the catcher "page": the notebook's own checks


class NotAsStored(AssertionError):
    pass


def run_page(path):
    """Run, without a kernel, the cells that need no training on digits; compare what they print as strict nbval does.

    Afterwards every exercise's mark must call its folded solution correct. Returns the number of ticks seen.
    """
    from aigc_helpers.notebooks import exercises, read

    nb, space, ticks = read(path), {"__name__": "__main__"}, 0
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or "colab" in tags(cell) or not is_cheap(nb, index, space):
            continue
        printed, displayed = run_cell(cell.source, space, f"{path.name}, cell {index}")
        stored = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        if sanitized(printed) != sanitized(stored):
            raise NotAsStored(f"cell {index} printed {printed!r}, stored {stored!r}")
        texts = [o.data.get("text/plain") for o in cell.outputs if o.output_type == "display_data"]
        if displayed != texts:
            raise NotAsStored(f"cell {index} displayed {displayed}, stored {texts}")
        ticks += printed.count("✓")
    for number, (_, mark, solution) in enumerate(exercises(nb), start=1):
        run_cell(solution, space, f"solution {number}")
        printed, _ = run_cell(mark.source, space, f"mark {number}")
        if not printed.endswith(": correct\n"):
            raise NotAsStored(f"solution {number}: {printed!r}")
    return ticks


def tags(cell):
    return cell.metadata.get("tags", [])


def is_cheap(nb, index, space):
    """Whether a code cell is run: it belongs to the set-up, or to sections 1 to 5 and trains nothing but single numbers."""
    cell = nb.cells[index]
    if {"setup", "export", "exercise", "mark"} & set(tags(cell)):
        return True
    headings = re.findall(r"(?m)^## (\d+)", "\n".join(c.source for c in nb.cells[:index] if c.cell_type == "markdown"))
    if "panel" in tags(cell) or "_STEPS" in cell.source or not headings or int(headings[-1]) > 5:
        return False
    return all(name in space or hasattr(builtins, name) for name in names_needed(cell.source))


def names_needed(source):
    """The names that a cell reads and does not make itself."""
    read, made = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return read - made


def run_cell(source, space, name):
    """Execute a cell; returns what it printed and the plain texts that it displayed."""
    import IPython.display

    displayed, before = [], IPython.display.display
    IPython.display.display = lambda data, **_: displayed.append(data["text/plain"])
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, name, "exec"), space)
    finally:
        IPython.display.display = before
    return out.getvalue(), displayed


def sanitized(text):
    return re.sub(r"\[data: .*\]", "[data]", text)


# ---------------------------------------------------------------- the server: imports PyTorch once, forks for each copy


def serve(jobs):
    """Run (name, folder, catchers) in forked processes, two at a time; returns name -> {rc, log, seconds}."""
    import ipywidgets  # noqa: F401
    import IPython.display  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch  # noqa: F401
    import torchmetrics.image.fid  # noqa: F401
    import tqdm  # noqa: F401

    assert not any(name.startswith("aigc_helpers") for name in sys.modules), "each copy imports its own"
    waiting, running, results = list(jobs), {}, {}
    while waiting or running:
        while waiting and len(running) < WORKERS:
            name, folder, catchers = waiting.pop(0)
            running[start(folder, catchers)] = name, folder, time.monotonic()
        time.sleep(0.02)
        for pid, (name, folder, began) in list(running.items()):
            seconds = time.monotonic() - began
            if seconds > TIME_LIMIT:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[pid]
                log = pathlib.Path(folder, "log.txt").read_text(encoding="utf-8", errors="replace")
                results[name] = {"rc": os.waitstatus_to_exitcode(status), "log": log, "seconds": seconds}
    return results


def start(folder, catchers):
    pid = os.fork()
    if pid:
        return pid
    code = 70  # something is wrong with this file: neither red nor green
    try:
        os.setsid()
        out = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.chdir(folder)
        sys.path[:0] = [folder]
        os.environ["PYTHONPATH"] = folder
        code = examine(pathlib.Path(folder), catchers)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def examine(folder, catchers):
    """Export, then run the catchers. 0: all is well, 1: they found something; anything else is a mistake of ours."""
    import aigc_helpers.notebooks

    assert aigc_helpers.notebooks.ROOT == folder, aigc_helpers.notebooks.ROOT
    findings = aigc_helpers.notebooks.export()
    assert not findings, findings
    if "page" in catchers:
        try:
            print("ticks:", run_page(folder / NOTEBOOK))
        except Exception as problem:
            print(f"CAUGHT {type(problem).__name__}: {problem}")
            return 1
    nodes = [catcher for catcher in catchers if catcher != "page"]
    if not nodes:
        return 0
    return int(pytest.main(["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-o", "addopts=", "--no-header", *nodes]))


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """name -> result, for the faults that were selected; all of them are examined at once."""
    selected = [item.callspec.params for item in request.session.items if item.path.name == pathlib.Path(__file__).name and hasattr(item, "callspec")]
    base, jobs, misplaced = tmp_path_factory.mktemp("copies"), [], {}
    for number, params in enumerate(selected):
        folder = base / f"{number:02d}"
        folder.mkdir()
        if "fault" in params:
            name, catchers = params["fault"].name, [params["fault"].catcher]
        else:
            name, catchers = f"control: {params['catcher']}", [params["catcher"]]
        copy_project(folder)
        if "fault" in params:
            try:
                put_fault(params["fault"], folder)
            except AssertionError as problem:
                misplaced[name] = {"rc": None, "log": str(problem), "seconds": 0.0}
                continue
        jobs.append((name, str(folder), catchers))
    (base / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    drop = ("PYTEST_ADDOPTS", "AIGC_DATA_DIR", "PYTEST_CURRENT_TEST", "MPLBACKEND")
    env = {k: v for k, v in os.environ.items() if k not in drop}
    env |= {"OMP_NUM_THREADS": "1", "AIGC_OFFLINE": "1", "AIGC_CACHE_DIR": str(base / "cache"), "AIGC_BUDGET": "0.1",
            "AIGC_PROGRESS": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}  # fmt: skip
    began = time.monotonic()
    with open(base / "server.txt", "w", encoding="utf-8") as log:
        done = subprocess.run([sys.executable, __file__, str(base)], env=env, cwd=base, stdout=log, stderr=log)
    assert done.returncode == 0, (base / "server.txt").read_text(encoding="utf-8")
    found = json.loads((base / "results.json").read_text(encoding="utf-8")) | misplaced
    yield found
    print(f"\n\n{len(selected)} copies in {time.monotonic() - began:.0f} s\n\n| fault | where | caught by | s |\n|---|---|---|---|")
    for fault in FAULTS:
        if fault.name in found:
            print(f"| {fault.name} | {fault.where} | {caught_by(found[fault.name])} | {found[fault.name]['seconds']:.1f} |")


def caught_by(result):
    if result["rc"] != 1:
        return {0: "NOTHING: it survives", None: "misplaced"}.get(result["rc"], f"an error of the test (exit {result['rc']})")
    found = re.search(r"(?m)^(?:FAILED|ERROR|CAUGHT) (.*)", result["log"])
    return found.group(1)[:120].replace("|", "/") if found else "?"


@pytest.mark.parametrize("catcher", sorted({fault.catcher for fault in FAULTS}))
def test_the_catcher_is_green_without_a_fault(results, catcher):
    result = results[f"control: {catcher}"]
    assert result["rc"] == 0, result["log"][-3000:]
    if catcher == "page":
        assert int(re.search(r"ticks: (\d+)", result["log"])[1]) >= 25, "too few checks were run for this to mean anything"


@pytest.mark.parametrize("fault", FAULTS, ids=[re.sub(r"\W+", "-", fault.name).strip("-") for fault in FAULTS])
def test_the_fault_is_caught(results, fault):
    result = results[fault.name]
    assert result["rc"] == 1, f"{fault.name}: {caught_by(result)}\n{result['log'][-3000:]}"


def test_there_are_enough_faults():
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 18
    assert {fault.where for fault in FAULTS} >= {NOTEBOOK, "aigc_helpers/checks.py", "aigc_helpers/metrics.py", "aigc_helpers/training.py"}


if __name__ == "__main__":
    base = pathlib.Path(sys.argv[1])
    found = serve(json.loads((base / "jobs.json").read_text(encoding="utf-8")))
    (base / "results.json").write_text(json.dumps(found), encoding="utf-8")
