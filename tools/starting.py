"""Start a chapter: its notebook, its panels, its tests, its row in the README's table."""

from __future__ import annotations

import re

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from .book import ROOT, NotebookError, paths, text_of, write
from .exporting import exported_source
from .running import run
from .stamping import badge, published
from .stripping import stripped

TEMPLATE = ROOT / "tools" / "template"


def new(stem, root=ROOT):
    """Make a chapter `NN_name` from the template, and run it; it passes lint and tests as it is.

    Raises NotebookError for another form of name, and if a file of the chapter is there already.
    """
    match = re.fullmatch(r"(\d\d[a-z]?)_([a-z][a-z0-9_]*)", stem)
    if not match:
        raise NotebookError(
            f"new: expected a name such as 05_flow or 05b_flow_beyond, got {stem!r}"
        )
    number, module = match.groups()
    path = root / "notebooks" / f"{stem}.ipynb"
    files = {
        "panels.txt": root / "aigc_helpers" / "panels" / f"{module}.py",
        "tests.txt": root / "tests" / "chapters" / f"test_{module}.py",
    }
    generated = root / "aigc_helpers" / "models" / f"{module}.py"
    there = [file for file in (path, generated, *files.values()) if file.exists()]
    there += [other for other in paths(root) if other.stem.partition("_")[0] == number]
    if there:
        raise NotebookError(
            f"new: {there[0].relative_to(root).as_posix()} is there already: take another name"
        )
    repository, ref = published(root)
    words = {
        "BADGE": badge(path, repository, ref),
        "REPOSITORY": repository,
        "REF": ref,
        "STEM": stem,
        "NUMBER": number,
        "MODULE": module,
        "TITLE": module.replace("_", " ").capitalize(),
    }
    readme = _with_row(root / "README.md", stem, words)
    cells = list(_cells(_fill("page.txt", words)))
    nb = new_notebook(cells=cells, metadata={"aigc": {"module": module}})
    for cell in nb.cells:
        del cell["id"]  # stripped makes one from place and content
    write(path, text_of(stripped(nb)))
    for template, file in files.items():
        write(file, _fill(template, words))
    write(root / "README.md", readme)
    write(generated, exported_source(nb, path.name))
    run([stem], root)


def _fill(template, words):
    text = (TEMPLATE / template).read_text(encoding="utf-8")
    for name, word in words.items():
        text = text.replace(f"@{name}@", word)
    return text


def _cells(text):
    """The cells of a page: each begins with a line `%% code|markdown TAG ...`."""
    for part in re.split(r"(?m)^%% ", text)[1:]:
        head, _, source = part.partition("\n")
        kind, *tags = head.split()
        make = new_code_cell if kind == "code" else new_markdown_cell
        yield make(source.strip("\n"), metadata={"tags": tags} if tags else {})


def _with_row(path, stem, words):
    """The README's text with a row for the chapter in its table, in the order of the chapters."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = next((k for k, line in enumerate(lines) if re.match(r"\| *chapter *\|", line)), None)
    if head is None:
        raise NotebookError("new: README.md has no table whose first column is `chapter`: mend it")
    number, title = words["NUMBER"], words["TITLE"]
    row = [f"[{number} · {title}](notebooks/{stem}.ipynb)"] + ["…"] * (lines[head].count("|") - 2)
    place = head + 2
    while place < len(lines) and lines[place].startswith("|"):
        linked = re.search(r"\(notebooks/([\w.]+)\.ipynb\)", lines[place])
        if linked and linked[1] > stem:
            break
        place += 1
    lines.insert(place, f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
