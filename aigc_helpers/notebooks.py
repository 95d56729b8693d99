"""The authoring tool of the notebooks.

    python -m aigc_helpers.notebooks run [NAME ...] [--slowest N]   execute in place, then strip
    python -m aigc_helpers.notebooks export [--check]               cells tagged `export` -> aigc_helpers/models/
    python -m aigc_helpers.notebooks strip [--check]                remove what must not be committed
    python -m aigc_helpers.notebooks lint                           the rules of the house
    python -m aigc_helpers.notebooks stamp OWNER/REPO[@REF]         badges and install cells for a published project
    python -m aigc_helpers.notebooks --check                        export, strip and lint, changing nothing

Cell tags: `export` (written to the package), `setup` (needed by exercises and panels), `panel`, `colab` (the install
cell), `exercise` (a blank to fill), `mark` (the cell that marks it), `solution` (Markdown that folds its solution).
"""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

import nbformat

ROOT = pathlib.Path(__file__).parent.parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
MAX_BYTES, MAX_CELL_LINES, MAX_MEDIAN_LINES, MAX_IGNORED = 2_000_000, 40, 10, 0.10
MAX_CELLS, MAX_WORDS = 75, 6_000


class NotebookError(Exception):
    """Something is wrong with a notebook; the message says where, what, and what to do."""


# ---------------------------------------------------------------- reading and writing


def paths(root=ROOT, names=()):
    """The numbered notebooks, all or those whose file name starts with one of `names`."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]*.ipynb"))
    unknown = [name for name in names if not any(path.name.startswith(name) for path in found)]
    if unknown:
        raise NotebookError(f"no notebook starts with {unknown[0]!r}; there are: {', '.join(p.stem for p in found)}")
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def read(path):
    """A notebook as nbformat's NotebookNode, version 4."""
    return nbformat.read(path, as_version=4)


def _text(nb):
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def _write(path, text):
    """Write whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def code_cells(nb, *tags):
    """The code cells that are not empty; with tags, those that carry any of them."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    return [cell for cell in cells if not tags or set(tags) & set(cell.metadata.get("tags", []))]


def subset(nb, tags):
    """A copy with only the code cells that carry any of `tags`."""
    copy = nbformat.from_dict(nb)
    copy.cells = [nbformat.from_dict(cell) for cell in code_cells(nb, *tags)]
    return copy


def exercises(nb):
    """(answer cell, mark cell, source of the folded solution) of each exercise, in order."""
    answers, marks = code_cells(nb, "exercise"), code_cells(nb, "mark")
    folded = [cell for cell in nb.cells if "solution" in cell.metadata.get("tags", [])]
    if not len(answers) == len(marks) == len(folded):
        raise NotebookError(f"{len(answers)} exercises, {len(marks)} marks, {len(folded)} solutions: they must pair up")
    sources = [re.search(r"<details>.*?```python\n(.*?)```.*?</details>", cell.source, re.DOTALL) for cell in folded]
    if not all(sources):
        raise NotebookError("a cell tagged `solution` must fold a ```python block in <details>")
    return list(zip(answers, marks, [source.group(1) for source in sources], strict=True))


def with_solutions(nb):
    """A copy in which every exercise's answer cell holds its solution."""
    copy = nbformat.from_dict(nb)
    for answer, _, solution in exercises(copy):
        answer.source = solution
    return copy


# ---------------------------------------------------------------- export


def module_name(nb, path):
    """Where a notebook's exported cells go: its metadata `aigc.module`, or its name without the number."""
    return nb.metadata.get("aigc", {}).get("module") or path.stem.split("_", 1)[1]


def exported_source(nb, path):
    """The text of the generated module; None if nothing is exported. Raises NotebookError."""
    cells, names = code_cells(nb, "export"), {}
    if not cells:
        return None
    for cell in cells:
        for node in ast.parse(cell.source).body:
            _check_exportable(node, cell, path, names)
    head = f'"""Generated from notebooks/{path.name}: edit it there, then run `python -m aigc_helpers.notebooks export`."""\n\n'
    imports = [cell.source.strip() for cell in cells if _only_imports(cell)]
    rest = [cell.source.strip() for cell in cells if not _only_imports(cell)]
    return head + "\n".join(imports) + "\n\n\n" + "\n\n\n".join(rest) + "\n"


def _only_imports(cell):
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body)


def _check_exportable(node, cell, path, names):
    """Imports, upper-case constants, and whole definitions; each name once."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        found = [node.name]
    elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets):
        found = [t.id for t in node.targets]
    else:
        line = cell.source.splitlines()[node.lineno - 1].strip()
        raise NotebookError(
            f"{path.name}: an exported cell may hold only imports, UPPER-CASE constants and whole def/class "
            f"statements, not `{line}`: move that line to a cell of its own"
        )
    for name in found:
        if name in names:
            raise NotebookError(f"{path.name}: `{name}` is exported twice: rename one, or remove a tag")
        names[name] = cell


def export(root=ROOT, check=False):
    """Write (or, with check, compare) the generated modules; returns the findings."""
    findings, wanted = [], {"__init__.py"}
    for path in paths(root):
        nb = read(path)
        source = exported_source(nb, path)
        if source is None:
            continue
        target = root / "aigc_helpers" / "models" / f"{module_name(nb, path)}.py"
        wanted.add(target.name)
        findings += _hidden_globals(source, path)
        if not check:
            _write(target, source)
        elif not target.exists() or target.read_text(encoding="utf-8") != source:
            findings.append(f"{target.name} differs from {path.name}: run `python -m aigc_helpers.notebooks export`")
    for stray in sorted(p.name for p in (root / "aigc_helpers" / "models").glob("*.py") if p.name not in wanted):
        findings.append(f"aigc_helpers/models/{stray} comes from no notebook: delete it")
    return findings


def _hidden_globals(source, path):
    """Names that an exported cell uses but does not define, found by ruff."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "F", "--isolated", "--output-format", "concise", "-"]
    done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8")
    if done.returncode in (0, 1):
        return [f"{path.name}, exported cells: {line}" for line in done.stdout.splitlines() if line.startswith("-:")]
    compile(source, path.name, "exec")  # ruff is not installed: syntax only
    return []


# ---------------------------------------------------------------- strip


def stripped(nb):
    """A copy without live widget views and without what changes from machine to machine."""
    nb = nbformat.from_dict(nb)
    nb.metadata = {k: v for k, v in nb.metadata.items() if k == "aigc"}
    nb.metadata |= {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    for cell in nb.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter", "cellView")}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if "execution_count" in output:
                output.execution_count = cell.execution_count
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if "data" not in o or o.data]
    return nbformat.from_dict(nb)


def strip(root=ROOT, check=False):
    """Strip (or, with check, report) every notebook; returns the findings."""
    findings = []
    for path in paths(root):
        before = path.read_text(encoding="utf-8")
        after = _text(stripped(nbformat.reads(before, as_version=4)))
        if before != after:
            if check:
                findings.append(f"{path.name} is not stripped: run `python -m aigc_helpers.notebooks strip`")
            else:
                _write(path, after)
    return findings


# ---------------------------------------------------------------- lint


def lint(root=ROOT):
    """The rules of the house, each finding on one line: notebook, cell, what, what to do."""
    findings = []
    for path in paths(root):
        nb = read(path)
        for rule in (_lint_size, _lint_order, _lint_cells, _lint_outputs, _lint_links):
            findings += [f"{path.name}{place}: {what}" for place, what in rule(nb, path, root)]
    return findings


def _place(nb, cell):
    return f", cell {nb.cells.index(cell)} ({cell.source.strip().splitlines()[0][:50]!r})"


def _lint_size(nb, path, root):
    cells = code_cells(nb)
    lines = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in cells]
    words = sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown")
    ignored = len(code_cells(nb, "nbval-ignore-output"))
    limits = [
        (path.stat().st_size, MAX_BYTES, "bytes: draw fewer or smaller pictures"),
        (len(cells), MAX_CELLS, "code cells: move some to a companion notebook"),
        (words, MAX_WORDS, "words: cut, or move some to a companion notebook"),
        (statistics.median(lines or [0]), MAX_MEDIAN_LINES, "lines in the median code cell: split cells"),
        (ignored, MAX_IGNORED * len(cells), "cells whose output is not compared: make their output stable"),
    ]
    return [("", f"{value} {what} (at most {most:g})") for value, most, what in limits if value > most]


def _lint_order(nb, path, root):
    counts = [cell.execution_count for cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield "", "the cells were not run once, in order, in a fresh kernel: `python -m aigc_helpers.notebooks run`"
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "", "no python3 kernelspec: `python -m aigc_helpers.notebooks strip`"
    if "widgets" in nb.metadata:
        yield "", "holds metadata.widgets, which GitHub cannot show: `python -m aigc_helpers.notebooks strip`"


ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|tmp|Users|mnt|content)/\w|[A-Z]:\\\\?Users")


def _lint_cells(nb, path, root):
    for cell in code_cells(nb):
        place, source = _place(nb, cell), cell.source
        if len(source.splitlines()) > MAX_CELL_LINES:
            yield place, f"{len(source.splitlines())} lines (at most {MAX_CELL_LINES}): split it"
        if "nbval-skip" in cell.metadata.get("tags", []) or re.search(r"#\s*(NBVAL_SKIP|PYTEST_VALIDATE_IGNORE)", source):
            yield place, "is skipped by nbval: every cell must run"
        if source.rstrip().endswith(";"):
            yield place, "ends in `;`, which nbval cannot compare: remove it"
        if ABSOLUTE.search(source):
            yield place, "holds an absolute path: use one relative to the notebook"
        if re.search(r"[\u3000-\u9fff\uff00-\uffef]", source):
            yield place, "holds Chinese characters: keep them in Markdown, since plots may lack the font"


def _lint_outputs(nb, path, root):
    for cell in code_cells(nb):
        place = _place(nb, cell)
        text = "".join(o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs)
        mimes = {mime for o in cell.outputs for mime in o.get("data", {})}
        html = "".join(str(o.get("data", {}).get("text/html", "")) for o in cell.outputs)
        checks, speaks = _spoken(cell.source)
        if (checks or speaks) and not cell.outputs:
            yield place, "has no stored output: `python -m aigc_helpers.notebooks run`"
        elif text.count("✓") < checks:
            yield place, f"{checks} checks, but {text.count('✓')} stored lines with a tick: run it again"
        if any(o.output_type == "error" for o in cell.outputs):
            yield place, "stored an error: mend it and run again"
        if any(o.get("name") == "stderr" for o in cell.outputs):
            yield place, "wrote to stderr: find the warning's cause"
        if WIDGET_VIEW in mimes:
            yield place, "stored a live widget: `python -m aigc_helpers.notebooks strip`"
        if "application/javascript" in mimes or re.search(r"<(script|iframe)", html, re.IGNORECASE):
            yield place, "stored active content, which readers must trust first: remove it"
        if re.search(r"0x[0-9a-f]{6,}", text):
            yield place, "stored a memory address, which changes from run to run: do not print that object"
        if ABSOLUTE.search(text):
            yield place, "stored an absolute path: do not print it"


def _spoken(source):
    """How many checks a cell makes at its top level, and whether it prints, shows or trains there."""
    source = re.sub(r"(?m)^(\s*)%.*$", r"\1pass", source)  # magics are not Python
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        inside = ast.walk(node) if not isinstance(node, ast.For | ast.If | ast.While) else [node]
        for call in (n for n in inside if isinstance(n, ast.Call)):
            names.append(call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""))
    checks = sum(name in ("check", "check_true", "check_below", "check_above") for name in names)
    return checks, any(name in ("print", "show", "display", "exercise") for name in names)


def _lint_links(nb, path, root):
    repository, ref = published(root)
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    if nb.cells[0].cell_type != "markdown" or badge(path, repository, ref) not in nb.cells[0].source:
        yield "", f"the first cell lacks the Colab badge of {repository}@{ref}: `... notebooks stamp {repository}@{ref}`"
    if f"git+https://github.com/{repository}@{ref}" not in "".join(c.source for c in code_cells(nb, "colab")):
        yield "", f"no cell tagged `colab` installs {repository}@{ref}: `... notebooks stamp {repository}@{ref}`"
    if text.count("<details>") != text.count("</details>"):
        yield "", "a <details> is not closed"
    for alt, target in re.findall(r"(!?\[[^\]\n]*\])\(([^)\s]+)\)", text):
        if alt == "![]":
            yield "", f"the image {target} has no alt text"
        if not re.match(r"https?:|#|mailto:", target) and not (path.parent / target.split("#")[0]).exists():
            yield "", f"the link {target} leads nowhere"
    for number in re.findall(r"arXiv[: ]+([^\s,;)|]+)", text):
        if not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", number.rstrip(".")):
            yield "", f"{number!r} is not an arXiv number"


# ---------------------------------------------------------------- publishing


def published(root=ROOT):
    """(OWNER/REPO, ref) from pyproject.toml, the one place that says them."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["aigc"]
    return table["repository"], table["ref"]


def badge(path, repository, ref):
    """The "Open in Colab" badge of a notebook."""
    url = f"https://colab.research.google.com/github/{repository}/blob/{ref}/notebooks/{path.name}"
    return (
        f'<a href="{url}" target="_parent"><img src="https://colab.research.google.com/assets/colab-badge.svg" '
        f'alt="Open In Colab"/></a>'
    )


def stamp(target, root=ROOT):
    """Write OWNER/REPO[@REF] into pyproject.toml, the README, and every badge and install cell."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", target):
        raise NotebookError(f"stamp: expected OWNER/REPO or OWNER/REPO@REF, got {target!r}")
    repository, _, ref = target.partition("@")
    old, old_ref = published(root)
    ref = ref or old_ref

    def renew(text):
        text = text.replace(f"/github/{old}/blob/{old_ref}/", f"/github/{repository}/blob/{ref}/")
        return text.replace(f"github.com/{old}@{old_ref}", f"github.com/{repository}@{ref}").replace(
            f"github.com/{old}", f"github.com/{repository}"
        )

    for path in [*paths(root), root / "README.md"]:
        if path.exists():
            _write(path, renew(path.read_text(encoding="utf-8")))
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    text = text.replace(f'repository = "{old}"', f'repository = "{repository}"').replace(f'ref = "{old_ref}"', f'ref = "{ref}"')
    _write(project, text)


# ---------------------------------------------------------------- run


def run(names=(), root=ROOT, slowest=0):
    """Execute notebooks in place in fresh kernels, strip them, and print how long they took.

    A notebook that fails is left as it was on disk; its error is raised as NotebookError.
    """
    for path in paths(root, names):
        nb, seconds = _execute(read(path), path)
        _write(path, _text(stripped(nb)))
        print(f"{path.name}: {sum(seconds.values()):.0f} s")
        for cell, took in sorted(seconds.items(), key=lambda item: -item[1])[:slowest]:
            print(f"  {took:6.1f} s  cell {cell}: {nb.cells[cell].source.splitlines()[0][:70]}")


def _execute(nb, path):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    seconds, started = {}, {}
    client = NotebookClient(
        nb,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: started.update({cell_index: time.perf_counter()}),
        on_cell_executed=lambda cell, cell_index, execute_reply: seconds.update(
            {cell_index: time.perf_counter() - started[cell_index]}
        ),
    )
    try:
        client.execute()
    except CellExecutionError as problem:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(problem))
        raise NotebookError(f"{path.name} failed and is left as it was:\n{plain}") from None
    return nb, seconds


# ---------------------------------------------------------------- the command line


def main(arguments=None):
    """Returns the exit status: 0, or 1 with the findings printed."""
    parser = argparse.ArgumentParser(prog="python -m aigc_helpers.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="export, strip and lint, changing nothing")
    commands = parser.add_subparsers(dest="command")
    for name in ("export", "strip"):
        commands.add_parser(name).add_argument("--check", action="store_true")
    commands.add_parser("lint")
    commands.add_parser("stamp").add_argument("target", metavar="OWNER/REPO[@REF]")
    runner = commands.add_parser("run")
    runner.add_argument("names", nargs="*")
    runner.add_argument("--slowest", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        findings = _dispatch(options, parser)
    except NotebookError as problem:
        findings = [str(problem)]
    print("\n".join(findings) if findings else "ok")
    return 1 if findings else 0


def _dispatch(options, parser):
    if options.command == "export":
        return export(check=options.check)
    if options.command == "strip":
        return strip(check=options.check)
    if options.command == "lint":
        return lint()
    if options.command == "stamp":
        return stamp(options.target) or []
    if options.command == "run":
        return run(options.names, slowest=options.slowest) or []
    if options.check:
        return export(check=True) + strip(check=True) + lint()
    parser.print_help()
    return []


if __name__ == "__main__":
    sys.exit(main())
