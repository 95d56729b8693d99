"""The rules of the house. Each finding is one line: notebook, cell and its first line, what is wrong, what to do."""

from __future__ import annotations

import ast
import io
import pathlib
import re
import tokenize
from typing import NamedTuple
from urllib.parse import unquote

import nbformat

from .book import ROOT, NotebookError, as_python, asset_tags, code_cells, exercises, paths, read
from .glossary import check_guide, cited
from .stamping import badge, published
from .stripping import WIDGET_VIEW
from .style import check_style

MAX_BYTES = 2_000_000
MAX_IGNORED = 0.10  # the share of cells that nbval may pass over
SPEAKERS = ("print", "show", "show_table", "display", "exercise")  # what surely leaves an output behind
RUN = "run `python -m tools run`"
STRIP = "run `python -m tools strip`"

ABSOLUTE = re.compile(r"(?<![\w.:/~+-])/(?:home|root|work|tmp|Users|mnt|content)/\w|\b[A-Za-z]:[\\/]+Users\b")
ADDRESS = re.compile(r"(?<!\w)0x[0-9a-fA-F]{6,}")
LEFT_OVER = re.compile(r"\w+\(\n +\(|<All keys matched")  # what torch's methods return: a network, its missing keys
ACTIVE = re.compile(r"<\s*(script|iframe|object|embed)\b", re.IGNORECASE)
CHINESE = re.compile(r"[\u3000-\u9fff\uf900-\ufaff\uff00-\uffef]")
LINK = re.compile(r"(!?)\[((?:[^\[\]\n]|!?\[[^\]\n]*\]\([^)\n]*\))*)\]\(\s*<?([^)\s>]+)[^)\n]*\)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL | re.MULTILINE)
ARXIV_NEW = r"(07(0[4-9]|1[0-2])|(0[89]|1[0-4])(0[1-9]|1[0-2]))\.\d{4}|(1[5-9]|[2-9]\d)(0[1-9]|1[0-2])\.\d{5}"
ARXIV = re.compile(rf"({ARXIV_NEW}|[a-z-]+(\.[A-Z]{{2}})?/\d{{7}})(v\d+)?")


class Page(NamedTuple):
    """One notebook under the lint."""

    nb: nbformat.NotebookNode
    path: pathlib.Path
    root: pathlib.Path

    def cells(self, kind):
        """(place to name in a finding, cell) of each cell of a kind that is not empty; cells count from 0."""
        for number, cell in enumerate(self.nb.cells):
            if cell.cell_type == kind and cell.source.strip():
                yield f", cell {number} ({cell.source.strip().splitlines()[0][:50]!r})", cell


def lint(root=ROOT, shrink=False):
    """Every breach of the rules in every notebook, and in their guide; returns the findings, one line each.

    shrink: take exceptions from the rules of style that are not needed any more off their list.
    """
    known = paths(root)
    findings = [
        f"notebooks/{path.relative_to(root / 'notebooks').as_posix()}: has no number, so the tool passes it by: "
        "name it NN_name.ipynb, or move it out of notebooks/"
        for path in sorted((root / "notebooks").rglob("*.ipynb"))
        if path not in known and ".ipynb_checkpoints" not in path.parts
    ]
    pages = [Page(read(path), path, root) for path in known]
    for page in pages:
        findings += [f"{page.path.name}{place}: {what}" for rule in RULES for place, what in rule(page)]
    findings += [f"README.md: {what}" for what in _chapter_table(root, known)]
    findings += check_style(pages, root, shrink)
    return findings + [f"notebooks/README.md{place}: {what}" for place, what in _guide(root, pages)]


def _chapter_table(root, known):
    """Breaches in the README's table of chapters, the one list of them, if it has such a table."""
    path = root / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    table = re.search(r"(?m)^\| *chapter *\|.*(?:\n\|.*)*", text)
    if not table:
        return
    listed = re.findall(r"(?m)^\| *\[[^\]]*\]\(notebooks/([\w.]+\.ipynb)\)", table[0])
    for path in known:
        if path.name not in listed:
            yield f"no row of the table of chapters leads to notebooks/{path.name}: add one"
    for name in listed:
        if name not in [path.name for path in known]:
            yield f"a row of the table of chapters leads to notebooks/{name}, which is not there: mend it"
    if sorted(listed) != listed:
        yield "the rows of the table of chapters are not in the order of the chapters: sort them"


def _guide(root, pages):
    """Breaches in the guide to the series, with its glossary and references, if the project has one."""
    path = root / "notebooks" / "README.md"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        yield from (("", what) for what in _links(without_code(text), path))
        yield from check_guide(text, {page.path.name: page.nb for page in pages})


# ---------------------------------------------------------------- the notebook as a whole


def _size(page):
    cells = code_cells(page.nb)
    size = page.path.stat().st_size
    ignored = sum(map(_ignored, cells))
    if size > MAX_BYTES:
        yield "", f"{size:,} bytes: draw fewer or smaller pictures (at most {MAX_BYTES:,})"
    if ignored > MAX_IGNORED * len(cells):
        most = round(MAX_IGNORED * len(cells))
        yield "", f"{ignored} cells that nbval does not compare: make outputs stable (at most {most})"


def _ignored(cell):
    return "nbval-ignore-output" in cell.metadata.get("tags", []) or "NBVAL_IGNORE_OUTPUT" in _nbval_comments(cell)


def _nbval_comments(cell):
    """The comments that nbval obeys, as it reads them: a line of their own."""
    return {line.strip().lstrip("#").strip() for line in cell.source.splitlines() if line.strip().startswith("#")}


def _form(page):
    counts = [cell.execution_count for cell in code_cells(page.nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield "", f"the code cells were not run once, in order, in a fresh kernel: {RUN}"
    if page.nb.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "", f"no python3 kernelspec: {STRIP}"
    if "widgets" in page.nb.metadata:
        yield "", f"holds metadata.widgets, which GitHub cannot show: {STRIP}"
    try:
        nbformat.validate(page.nb)
    except nbformat.ValidationError as problem:
        yield "", f"is not a valid notebook ({str(problem).splitlines()[0][:100]}): open and save it in JupyterLab"
    try:
        exercises(page.nb)
    except NotebookError as problem:
        yield "", str(problem)


def _assets(page):
    """The models that are kept in aigc_helpers/assets/: tags `asset:NAME`, and what the metadata say of them."""
    kept = page.nb.metadata.get("aigc", {}).get("assets", {})
    tagged, made = set(), set()
    for place, cell in page.cells("code"):
        made |= _names_made(cell.source)
        for name in asset_tags(cell):
            tagged.add(name)
            if not {"model", "source"} <= set(kept.get(name, ())):
                yield place, f"is tagged `asset:{name}`: say what is kept, in metadata `aigc.assets.{name}`"
            for key, expression in kept.get(name, {}).items():
                missing = sorted(_names_read(expression) - made)
                if missing:
                    yield place, f"`{missing[0]}`, in metadata `aigc.assets.{name}.{key}`, is not made by then"
    for name in sorted(set(kept) - tagged):
        yield "", f"metadata `aigc.assets.{name}` names a model, but no cell is tagged `asset:{name}`"


def _names_made(source):
    try:
        nodes = list(ast.walk(ast.parse(as_python(source))))
    except SyntaxError:
        return set()  # reported by _outputs
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _names_read(expression):
    nodes = ast.walk(ast.parse(expression, mode="eval"))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


# ---------------------------------------------------------------- code cells


def _sources(page):
    for number, cell in enumerate(page.nb.cells):
        if cell.cell_type == "code" and not cell.source.strip():
            yield f", cell {number}", "is empty: delete it"
    for place, cell in page.cells("code"):
        tags = cell.metadata.get("tags", [])
        if "nbval-skip" in tags or "NBVAL_SKIP" in _nbval_comments(cell):
            yield place, "is skipped by nbval: every cell must run"
        if _is_silenced(cell.source):
            yield place, "ends in `;`, which nbval cannot compare: remove it"
        if ABSOLUTE.search(cell.source):
            yield place, "holds an absolute path: use one relative to the notebook"
        if CHINESE.search(cell.source):
            yield place, "holds Chinese characters: keep them in Markdown, since plots may lack the font"


def _is_silenced(source):
    """Whether the last token, comments aside, is a semicolon."""
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(as_python(source)).readline) if t.type not in blank]
    except (tokenize.TokenError, SyntaxError):
        return False  # reported by _outputs
    return bool(tokens) and tokens[-1].string == ";"


# ---------------------------------------------------------------- stored outputs


def _outputs(page):
    for place, cell in page.cells("code"):
        try:
            checks, speaks = _spoken(cell.source)
        except SyntaxError as problem:
            yield place, f"is not valid Python ({problem.msg}): mend it"
            continue
        ticks = sum(len(re.findall(r"(?m)^✓", text)) for output in cell.outputs for text in _texts(output))
        if speaks and not cell.outputs:
            yield place, f"has no stored output: {RUN}"
        elif ticks < checks:
            yield place, f"makes {checks} checks, but {ticks} stored lines begin with a tick: {RUN}"
        for output in cell.outputs:
            yield from ((place, what) for what in _output(output))


def _output(output):
    mimes, text = output.get("data", {}), "\n".join(_texts(output))
    if output.output_type == "error":
        yield "stored an error: mend the cell and run again"
    if output.get("name") == "stderr":
        yield "wrote to stderr: find the cause of the warning"
    if WIDGET_VIEW in mimes:
        yield f"stored a live widget: {STRIP}"
    if any("javascript" in mime for mime in mimes) or ACTIVE.search(text):
        yield "stored active content, which readers would have to trust first: remove it"
    if ADDRESS.search(text):
        yield "stored a memory address, which changes from run to run: do not print that object"
    if ABSOLUTE.search(text):
        yield "stored an absolute path: do not print it"
    if output.output_type == "execute_result" and LEFT_OVER.match(mimes.get("text/plain", "")):
        yield "stored what its last line returned, for nobody: give it a name (`net = net.eval()`), or print it"


def _texts(output):
    """What an output stored as text, without pictures inside HTML."""
    texts = [value for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
    texts.append(output.get("text", ""))
    return [re.sub(r"data:[\w/+.;-]+;base64,[\w+/=\s]+", "", "".join(text)) for text in texts]


def _spoken(source):
    """(number of checks, whether it must say something) of what a cell surely calls when it runs."""
    nodes = [node for top in ast.parse(as_python(source)).body for node in _surely(top)]
    names = [_name(node.func) for node in nodes if isinstance(node, ast.Call)]
    checks = sum(name == "check" or name.startswith("check_") for name in names)
    return checks, checks > 0 or any(name in SPEAKERS for name in names)


def _surely(node):
    """The node and those inside it that run whenever it runs; a loop is taken to run at least once."""
    unsure = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.If | ast.While | ast.Try
    yield node
    if not isinstance(node, unsure):
        for child in ast.iter_child_nodes(node):
            yield from _surely(child)


def _name(function):
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# ---------------------------------------------------------------- Markdown


def _prose(page):
    for place, cell in page.cells("markdown"):
        source, plain = cell.source, without_code(cell.source)
        if len(re.findall(r"<details\b", plain)) != plain.count("</details>"):
            yield place, "opens and closes <details> not equally often in this cell: balance them"
        if ACTIVE.search(plain):
            yield place, "holds active content, which notebooks may not run: remove it"
        if ABSOLUTE.search(source):
            yield place, "holds an absolute path: use one relative to the notebook"
        for number in cited(plain):
            if not ARXIV.fullmatch(number):
                yield place, f"{number!r} is not an arXiv number: look it up"
        yield from ((place, what) for what in _links(plain, page.path))


def without_code(source):
    """Markdown in which code and formulas, whose brackets are not links, are blanks of the same length."""
    return CODE.sub(lambda code: " " * len(code[0]), source)


def _links(text, path):
    """What is wrong with the links and images of a file's text."""
    for bang, alt, target in LINK.findall(text):
        if bang and not alt.strip():
            yield f"the image {target} has no alt text: say what it shows"
        yield from _links(alt, path)  # an image that is itself a link
        yield from _dead(target, path)
    for tag in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r"""\balt\s*=\s*["'][^"']*\w""", tag):
            yield f"{tag[:60]} has no alt text: say what it shows"
        for target in re.findall(r"""\bsrc\s*=\s*["']([^"']+)""", tag):
            yield from _dead(target, path)


def _dead(target, path):
    if re.match(r"[a-z]+:", target):
        return
    file, _, fragment = unquote(target).partition("#")
    there = path.parent / file if file else path
    if file.startswith("/") or not there.exists():
        yield f"the link {target} leads to no file: mend it"
    elif fragment not in ("", "top") and there.suffix in (".ipynb", ".md") and fragment not in _anchors(there):
        yield f"the link {target} leads to no heading of {there.name}: mend it"


def _anchors(path):
    """The #fragments of a file's headings: of a notebook as JupyterLab makes them, of Markdown as GitHub does."""
    notebook = path.suffix == ".ipynb"
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"] if notebook else []
    text = "\n".join(cells) if notebook else path.read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^#{1,6} +(.*?) *#*$", re.sub(r"(?ms)^ *```.*?^ *```", "", text))
    shown = [re.sub(r"[*`]|\]\([^)]*\)|\[", "", heading) for heading in headings]
    if notebook:
        return {heading.replace(" ", "-") for heading in shown}
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in shown}


# ---------------------------------------------------------------- where it is published


def _badges(page):
    repository, ref = published(page.root)
    advice = f"run `python -m tools stamp {repository}@{ref}`, or add it"
    first = page.nb.cells[0].source if page.nb.cells else ""
    if badge(page.path, repository, ref) not in first:
        yield "", f"the first cell lacks the Colab badge of {repository}@{ref} for this notebook: {advice}"
    text = "\n".join(cell.source for cell in page.nb.cells)
    for other in set(re.findall(r"colab\.research\.google\.com/github/([\w./-]+)/notebooks/", text)):
        if other != f"{repository}/blob/{ref}":
            yield "", f"a badge opens {other}, not {repository}/blob/{ref}: {advice}"
    if not any(_installs(cell.source, repository, ref) for cell in code_cells(page.nb, "colab")):
        yield "", f"no cell tagged `colab` installs {repository}@{ref}: {advice}"


def _installs(source, repository, ref):
    return re.search(rf"git\+https://github\.com/{re.escape(repository)}(\.git)?@{re.escape(ref)}(?![\w./-])", source)


RULES = (_size, _form, _assets, _sources, _outputs, _prose, _badges)
