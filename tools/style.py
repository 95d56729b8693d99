"""How code is written on a page, and in which words: rules from which a page may be excepted.

`tools/exceptions.json` lists, for each rule, the notebooks and files that do not keep it yet. The
list can only shrink: what is listed and keeps the rule is a finding too.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter

from .book import as_python, write

MAX_COLUMNS = 100
MAX_CELL_LINES = 30  # of a code cell, outside class definitions
MAX_LINES_ABOVE_PANEL = 12  # of code, above the first panel
LIST = "tools/exceptions.json"


# ---------------------------------------------------------------- the list of exceptions


def check_style(pages, root, shrink=False):
    """Findings, one line each: every breach that is not excepted, every exception without need.

    With shrink, exceptions that are not needed are taken off the list instead.
    """
    listed = _read_list(root)
    breaches = {rule: {} for rule in (*PAGE_RULES, "words")}
    for page in pages:
        for rule, find in PAGE_RULES.items():
            breaches[rule][page.path.name] = list(find(page))
        breaches["words"][page.path.name] = list(_page_words(page))
    for file in _sources(root):
        name = file.relative_to(root).as_posix()
        breaches["words"][name] = list(_file_words(file))
    findings, needed = [], {}
    for rule, names in listed.items():
        needed[rule] = [name for name in names if breaches.get(rule, {}).get(name)]
        for name in set(names) - set(needed[rule]):
            findings += [] if shrink else [_not_needed(rule, name, breaches)]
    for rule, by_name in breaches.items():
        for name, found in by_name.items():
            if name not in listed.get(rule, ()):
                findings += [f"{name}{place}: {what}" for place, what in found]
    if shrink:
        _write_list(root, {rule: names for rule, names in needed.items() if names})
    return findings


def _not_needed(rule, name, breaches):
    if rule not in breaches:
        return f"{LIST}: there is no rule {rule!r}: the rules are {', '.join(breaches)}"
    if name not in breaches[rule]:
        return f"{LIST}: {rule}: there is no {name}: take it off the list"
    remedy = "take it off the list (`python -m tools lint --shrink`)"
    return f"{LIST}: {rule}: {name} keeps the rule: {remedy}"


def _read_list(root):
    path = root / LIST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_list(root, listed):
    if (root / LIST).exists():
        ordered = {rule: sorted(names) for rule, names in sorted(listed.items())}
        write(root / LIST, json.dumps(ordered, indent=1) + "\n")


# ---------------------------------------------------------------- one statement a line


def find_packed_lines(page):
    """More than one statement on a line: `a; b`, `if a: b`."""
    for place, cell in page.cells("code"):
        starts = Counter(node.lineno for node in _nodes(cell) if isinstance(node, ast.stmt))
        line = next((line for line, count in sorted(starts.items()) if count > 1), None)
        if line:
            yield place, f"{_quote(cell, line)} holds several statements: give each a line"


def find_packed_tuples(page):
    """`a, b = f(x), g(y)`: unrelated values at once. Swaps, names and constants may be."""
    for place, cell in page.cells("code"):
        for node in _nodes(cell):
            if isinstance(node, ast.Assign) and any(
                _packs(target, node.value) for target in node.targets
            ):
                line = _quote(cell, node.lineno)
                yield place, f"{line} assigns unrelated values at once: give each a line"
                break


def _packs(target, value):
    both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
    if not both or len(target.elts) < 2:
        return False
    plain = (ast.Constant, ast.Name)
    computed = [item for item in value.elts if not isinstance(_without_sign(item), plain)]
    same = Counter(map(ast.unparse, target.elts)) == Counter(map(ast.unparse, value.elts))  # a swap
    return len(computed) > 1 and not same


def _without_sign(node):
    return node.operand if isinstance(node, ast.UnaryOp) else node


def find_named_lambdas(page):
    for place, cell in page.cells("code"):
        for node in _nodes(cell):
            named = isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr)
            value = node.value if named else None
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            if any(isinstance(item, ast.Lambda) for item in values):
                yield place, f"{_quote(cell, node.lineno)} gives a lambda a name: write a def"
                break


def find_lint_marks(page):
    for place, cell in page.cells("code"):
        for token in _tokens(cell):
            comment = token.string if token.type == tokenize.COMMENT else ""
            mark = re.search(r"#\s*(fmt: ?\w+|noqa)", comment)
            if mark:
                yield place, f"holds the mark `{mark[0]}`: write the line so that it needs none"
                break


def find_wide_lines(page):
    for place, cell in page.cells("code"):
        widest = max(map(len, cell.source.splitlines()))
        if widest > MAX_COLUMNS:
            yield place, f"has a line of {widest} columns (at most {MAX_COLUMNS}): break it"


def find_long_cells(page):
    for place, cell in page.cells("code"):
        lines = {number for number, line in enumerate(cell.source.splitlines(), 1) if line.strip()}
        for node in _nodes(cell):
            if isinstance(node, ast.ClassDef):
                first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
                lines -= set(range(first, node.end_lineno + 1))
        if len(lines) > MAX_CELL_LINES:
            most = MAX_CELL_LINES
            yield place, f"has {len(lines)} lines outside classes (at most {most}): split it"


def find_first_panel(page):
    """The first panel: where it stands, and what stands around it."""
    above = 0
    for number, cell in enumerate(page.nb.cells):
        if cell.cell_type != "code":
            continue
        if "panel" not in cell.metadata.get("tags", []):
            above += len(_code_lines(cell))
            continue
        place = f", cell {number}"
        if above > MAX_LINES_ABOVE_PANEL:
            most = f"(at most {MAX_LINES_ABOVE_PANEL})"
            yield place, f"{above} lines of code stand above the first panel {most}: move it up"
        if "**Predict" not in _markdown(page, number - 1):
            yield place, "no Markdown with **Predict stands directly above the first panel: add it"
        if "<details" not in _markdown(page, number + 1):
            yield place, "no Markdown with <details> stands directly below the first panel: add it"
        return


def _markdown(page, number):
    if not 0 <= number < len(page.nb.cells) or page.nb.cells[number].cell_type != "markdown":
        return ""
    return page.nb.cells[number].source


def _code_lines(cell):
    lines = [line.strip() for line in cell.source.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def find_bare_ticks(page):
    """Checks whose lines show no numbers: `check` says what it expected and what it measured."""
    for place, cell in page.cells("code"):
        for output in cell.outputs:
            text = "".join(output.get("text", "")) if output.output_type == "stream" else ""
            for line in re.findall(r"(?m)^✓.*$", text):
                if not re.search(r": expected .+, measured .+$", line):
                    start = line[:40]
                    yield place, f"stored {start!r}, which shows no measured value: run it again"
                    break


def _nodes(cell):
    try:
        return list(ast.walk(ast.parse(as_python(cell.source))))
    except SyntaxError:
        return []  # reported by the rule for outputs


def _tokens(cell):
    try:
        return list(tokenize.generate_tokens(io.StringIO(as_python(cell.source)).readline))
    except (tokenize.TokenError, SyntaxError):
        return []


def _quote(cell, line):
    return f"`{as_python(cell.source).splitlines()[line - 1].strip()[:60]}`"


# ---------------------------------------------------------------- the field's words


# part of a name -> the field's word. A name is cut at `_` and at capitals: `toTheRoad` has `road`.
WORDS = {
    "looks": "num_evals, sampling steps",
    "guess": "prediction, denoised estimate",
    "guesses": "predictions",
    "guesser": "denoiser",
    "road": "trajectory",
    "roads": "trajectories",
    "fog": "noise",
    "goal": "objective",
    "goals": "objectives",
    "dice": "categorical distribution, generator",
    "trunk": "backbone",
    "perceptron": "MLP",
    "rung": "variant",
    "rungs": "variants",
    "ladder": "ablation",
    "school": "fine-tuning",
    "pupil": "model",
    "pupils": "models",
    "lesson": "training set",
    "lessons": "training set",
    "examine": "evaluate",
    "thief": "memoriser",
    "loot": "copies",
    "youth": "state",
    "easel": "state",
    "ward": "state",
    "critic": "discriminator",
    "hopeless": "diverged",
    "chunks": "n-grams",
    "counted": "n-gram",
}
# The same, but only in names of models and panels: elsewhere these words have their ordinary sense.
MODEL_WORDS = {
    "verdict": "binary head",
}
# Whole names, of classes.
WHOLE = {"Path": "NoiseSchedule", "Chunks": "NgramEmbedding", "Trunk": "Backbone"}


def _page_words(page):
    for place, cell in page.cells("code"):
        if "export" in cell.metadata.get("tags", []):
            for name, word in _private_names(_nodes(cell), WORDS | MODEL_WORDS):
                yield place, f"names `{name}`: the field's word is {word}"


def _file_words(file):
    words = WORDS | MODEL_WORDS if file.parent.name == "panels" and file.stem != "core" else WORDS
    for name, word in _private_names(ast.walk(ast.parse(file.read_text(encoding="utf-8"))), words):
        yield "", f"names `{name}`: the field's word is {word}"


def _private_names(nodes, words):
    """(name, the field's word) of what the nodes give a name that is one of `words`, each once."""
    names = dict.fromkeys(name for node in nodes for name in _named(node))
    for name in names:
        parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        found = [words[part.lower()] for part in parts if part.lower() in words]
        if name in WHOLE or found:
            yield name, WHOLE.get(name) or found[0]


def _named(node):
    """The names that a node gives to something."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr]
    return []


def _sources(root):
    """The Python files that are looked at: the package without its generated part, the tools."""
    files = [*(root / "aigc_helpers").rglob("*.py"), *(root / "tools").rglob("*.py")]
    return [file for file in sorted(files) if file.parent != root / "aigc_helpers" / "models"]


PAGE_RULES = {
    "one statement a line": find_packed_lines,
    "no packed tuples": find_packed_tuples,
    "no named lambdas": find_named_lambdas,
    "no lint marks": find_lint_marks,
    "columns": find_wide_lines,
    "cell lines": find_long_cells,
    "first panel": find_first_panel,
    "ticks show numbers": find_bare_ticks,
}
