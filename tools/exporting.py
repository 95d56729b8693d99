"""Cells tagged `export` become the modules of aigc_helpers/models/, byte for byte the same each time."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys

from .book import ROOT, NotebookError, code_cells, paths, read, write

COMMAND = "python -m tools export"


def export(root=ROOT, check=False):
    """Write the generated modules (with check: compare them); returns the findings, one line each.

    A module with a hidden notebook global in it is reported and not written.
    """
    findings, made = [], {}
    for path in paths(root):
        nb = read(path)
        source = exported_source(nb, path.name)
        if source is None:
            continue
        name = module_name(nb, path)
        if name in made:
            raise NotebookError(f"{made[name]} and {path.name} both export to {name}.py: set metadata `aigc.module`")
        made[name] = path.name
        target = root / "aigc_helpers" / "models" / f"{name}.py"
        hidden = hidden_globals(source, path.name)
        findings += hidden
        if check and (not target.exists() or target.read_bytes() != source.encode()):
            findings.append(f"{target.name} differs from {path.name}: run `{COMMAND}`")
        elif not check and not hidden:
            write(target, source)
    return findings + _strays(root / "aigc_helpers" / "models", {"__init__", *made})


def _strays(folder, wanted):
    found = sorted(path.name for path in folder.glob("*.py") if path.stem not in wanted)
    return [f"aigc_helpers/models/{name} comes from no notebook: delete it" for name in found]


def module_name(nb, path):
    """Where a notebook's exported cells go: its metadata `aigc.module`, or its name after the number."""
    name = nb.metadata.get("aigc", {}).get("module") or path.stem.partition("_")[2]
    if not name.isidentifier():
        raise NotebookError(f"{path.name}: {name!r} cannot name a module: rename the notebook, or set `aigc.module`")
    return name


def exported_source(nb, name):
    """The text of the module that the notebook file `name` generates; None if it exports nothing.

    Cells of imports come first, then the others in their order. Raises NotebookError for what cannot be exported.
    """
    cells = [(cell.source.strip(), _parse(cell.source, name)) for cell in code_cells(nb, "export")]
    if not cells:
        return None
    _refuse_duplicates([one for source, body in cells for node in body for one in _names(node, source, name)], name)
    imports = [source for source, body in cells if _only_imports(body)]
    rest = [source for source, body in cells if not _only_imports(body)]
    head = f'"""Generated from notebooks/{name}: edit it there, then run `{COMMAND}`."""'
    parts = [head + "\n\n" + "\n".join(imports) if imports else head, *rest]
    return "\n\n\n".join(parts) + "\n"


def _parse(source, name):
    try:
        return ast.parse(source).body
    except SyntaxError as problem:
        raise NotebookError(
            f"{name}: an exported cell is not plain Python ({problem.msg}: `{(problem.text or '').strip()}`): "
            "mend it, or move magics to a cell of their own"
        ) from None


def _only_imports(body):
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _names(node, source, name):
    """What a top-level statement defines. Raises NotebookError unless it may be exported."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    targets = [item for target in targets for item in getattr(target, "elts", [target])]
    constant = all(isinstance(target, ast.Name) and target.id.isupper() for target in targets)
    if constant and isinstance(node, ast.Assign | ast.AnnAssign):
        return [target.id for target in targets]
    line = source.splitlines()[node.lineno - 1].strip()
    raise NotebookError(
        f"{name}: an exported cell may hold only imports, UPPER-CASE constants and whole def/class statements, "
        f"not `{line}`: move that line to a cell of its own"
    )


def _refuse_duplicates(names, notebook):
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NotebookError(f"{notebook}: `{twice[0]}` is exported twice: rename one, or remove a tag")


def hidden_globals(source, name):
    """Names that the exported cells of notebook `name` use and do not define, found by ruff where it is installed."""
    if importlib.util.find_spec("ruff") is None:
        compile(source, name, "exec")
        return []
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "--ignore-noqa",
               "--target-version", "py311", "--output-format", "concise", "--quiet", "-"]  # fmt: skip
    done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise NotebookError(f"ruff failed on the exported cells of {name}: {done.stderr.strip()[:300]}")
    lines = source.splitlines()
    return [_hidden(line, lines, name) for line in done.stdout.splitlines() if line.startswith("-:")]


def _hidden(line, lines, name):
    number, _, what = line.removeprefix("-:").split(":", 2)
    place = f"{name}, exported cells, `{lines[int(number) - 1].strip()}`"
    return f"{place}: {what.replace('[*] ', '').strip()}: mend it, or define the name in an exported cell"
