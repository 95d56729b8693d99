"""Self-contained copies of the notebooks: the helpers travel inside the set-up cell.

A notebook uploaded by itself, to Colab or anywhere else, then runs without a clone.
"""

from __future__ import annotations

import ast
import base64
import functools
import importlib.util
import io
import json
import mimetypes
import pathlib
import posixpath
import pprint
import re
import tomllib
import zipfile
from urllib.parse import quote, unquote

import nbformat

from .book import ROOT, NotebookError, code_cells, own_cells, paths, read, text_of, write
from .linting import LINK, without_code
from .stamping import colab_address, published

MODULES = {"scikit-learn": "sklearn", "Pillow": "PIL"}  # what is not imported by the name that it is installed by
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab and JupyterLab show such a cell on request
TAG = re.compile(r"""<(img|a)\b[^>]*?\b(?:src|href)\s*=\s*["']([^"']+)""")

CELL = '''\
#@title Set-up: the helpers of these notebooks, carried in this cell
# The long text below is `aigc_helpers`, the small package that comes with these notebooks, as a zip archive in base64.
# This cell unpacks it for as long as the kernel lives, and installs those of the libraries it uses that are missing.
# To read it: https://github.com/{repository}/tree/{ref}/aigc_helpers
# or, in a cell of your own below this one: `from aigc_helpers import data`, then `data??`.
import atexit
import base64
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile


def set_up_helpers(needed, archive):
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing and subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing]).returncode:
        raise ImportError("pip could not install " + ", ".join(missing) + ": connect, then run this cell again")
    importlib.invalidate_caches()
    if "aigc_helpers" not in sys.modules:
        folder = tempfile.mkdtemp(prefix="aigc_helpers-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        zipfile.ZipFile(io.BytesIO(base64.b64decode(archive))).extractall(folder)
        sys.path.insert(0, folder)


set_up_helpers({needed}, """
{archive}
""")'''


def colab(names=(), root=ROOT, out=None):
    """Write self-contained copies of notebooks to the folder `out` (dist/colab by default), and print their sizes.

    Raises NotebookError for a notebook that cannot be made self-contained, and for a folder that cannot be used.
    """
    chosen, out = paths(root, names), pathlib.Path(out or root / "dist" / "colab")
    if out.resolve() == (root / "notebooks").resolve():
        raise NotebookError("colab: the copies would overwrite the notebooks: name another folder")
    texts = {path: text_of(self_contained(read(path), path, root)) for path in chosen}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write(out / path.name, text)
            print(f"{path.name}: {len(text.encode()) / 1e6:.1f} MB")
    except OSError as problem:
        raise NotebookError(f"colab: cannot write to {out} ({problem.strerror}): name another folder") from None


def self_contained(nb, path, root=ROOT):
    """A copy of a notebook that carries what it needs of the helpers, and whose links and pictures need no clone.

    path: the notebook's file. Outputs, ids and tags stay; the cell tagged `colab` is written anew.
    """
    copy = nbformat.from_dict(nb)
    cells = code_cells(copy, "colab")
    if len(cells) != 1:
        raise NotebookError(f"{path.name}: {len(cells)} cells are tagged `colab`: it must be one, for the helpers")
    code, modules, (repository, ref) = code_of(copy, path.name), list_modules(root), published(root)
    archive = base64.b64encode(_zipped([*modules.values(), *list_assets(code, modules, root)], root)).decode()
    cells[0].source = CELL.format(
        repository=repository,
        ref=ref,
        needed=pprint.pformat(_libraries(code, modules, root), width=100, sort_dicts=False),
        archive="\n".join(archive[start : start + 120] for start in range(0, len(archive), 120)),
    )
    cells[0].metadata.update(FOLDED)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_neighbours(cell.source, path, root)
    return copy


# ---------------------------------------------------------------- what a notebook needs


def code_of(nb, name):
    """The code of a notebook as plain Python, without the cell that installs the helpers."""
    from IPython.core.inputtransformer2 import TransformerManager

    source = "\n".join(TransformerManager().transform_cell(cell.source) for cell in own_cells(nb))
    try:
        ast.parse(source)
    except SyntaxError as problem:
        line = (problem.text or "").strip()
        raise NotebookError(f"{name}: a code cell is not valid Python ({problem.msg}: `{line}`): mend it") from None
    return source


def list_modules(root):
    """{dotted name: its file} of the helpers."""
    files = sorted((root / "aigc_helpers").rglob("*.py"))
    names = [file.relative_to(root).with_suffix("").as_posix().replace("/", ".") for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def reach(source, modules):
    """What a source reaches: (the dotted names that it imports, {helper module: its source}).

    The imports of the helpers that it imports count too, and those of theirs.
    """
    imported, reached = set(), {}
    todo = [("", source)]
    while todo:
        for name in _imports(*todo.pop()) - imported:
            imported.add(name)
            if name in modules:
                package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
                reached[name] = modules[name].read_text(encoding="utf-8")
                todo.append((package, reached[name]))
    return imported, reached


@functools.cache  # ten notebooks reach the same helpers
def _imports(package, source):
    """The dotted names that a source inside `package` imports, with those of the packages around them.

    `panels.gan` counts as an import of `aigc_helpers.panels.gan`, for a chapter's panels are loaded
    at their first use.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{name}" for name in names]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "panels":
            names = [f"aigc_helpers.panels.{node.attr}"]
        for name in names:
            parts = name.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return frozenset(found)


def list_assets(code, modules, root):
    """The files of `assets/` that some code may load, and their manifest.

    A file may be loaded where its name stands as a string, with or without its ending, in the code or
    in a helper that it reaches: `load_model("gan")`, `read_asset("digit_features.safetensors")`. The
    module `weights`, which names every model and may import each, does not count. What is named by chance travels
    in vain, which costs a few hundred kB; what is loaded is never left behind, as long as its name is
    written out somewhere.
    """
    folder = root / "aigc_helpers" / "assets"
    if not folder.exists():
        return []
    others = {name: file for name, file in modules.items() if name != "aigc_helpers.weights"}
    _, reached = reach(code, others)
    sources = [code, *reached.values()]
    named = set().union(*map(_strings, sources))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [name for name in manifest if {name, pathlib.PurePosixPath(name).stem} & named]
    return [folder / "manifest.json", *(folder / name for name in files)]


@functools.cache
def _strings(source):
    """The string constants of a source."""
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _libraries(code, modules, root):
    """{module: requirement} of the project's dependencies that some code imports, itself or through the helpers."""
    imported, _ = reach(code, modules)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    names = {need: re.match(r"[\w.-]+", need)[0] for need in project.get("dependencies", [])}
    needs = {MODULES.get(name, name): need for need, name in names.items()}
    return {module: need for module, need in needs.items() if module in imported}


def _zipped(files, root):
    """A zip archive of files under `root`, the same bytes each time and on every system."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file.relative_to(root).as_posix())  # dated 1980
            entry.create_system = 3  # as on Unix
            target.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return archive.getvalue()


# ---------------------------------------------------------------- links and pictures


def _without_neighbours(source, path, root):
    """Markdown whose relative links lead to the published project, and whose pictures are inside it."""
    for start, end, is_image in sorted(_targets(source), reverse=True):
        target = source[start:end]
        if not re.match(r"[a-z]+:|[#/]", target):
            source = source[:start] + _address(target, is_image, path, root) + source[end:]
    return source


def _targets(source):
    """(start, end, whether it is a picture) of the target of each link, where it is not code or a formula."""
    prose = without_code(source)
    yield from _linked(prose)
    yield from ((*tag.span(2), tag[1] == "img") for tag in TAG.finditer(prose))


def _linked(prose, offset=0):
    for link in LINK.finditer(prose):
        start, end = link.span(3)
        yield start + offset, end + offset, bool(link[1])
        yield from _linked(link[2], offset + link.start(2))  # a picture that is itself a link


def _address(target, is_image, path, root):
    """Where a target that is relative to the notebook file `path` is found without a clone."""
    file, hash_sign, fragment = target.partition("#")
    place = posixpath.normpath(posixpath.join("notebooks", unquote(file)))
    if place.startswith("..") or not (root / place).exists():
        raise NotebookError(f"{path.name}: the link {target} leads to no file of this project: mend it")
    if is_image:
        data = base64.b64encode((root / place).read_bytes()).decode()
        return f"data:{mimetypes.guess_type(place)[0]};base64,{data}"
    repository, ref = published(root)
    if root / place in paths(root):
        return colab_address(pathlib.Path(place).name, repository, ref) + hash_sign + fragment
    return f"https://github.com/{repository}/blob/{ref}/{quote(place)}{hash_sign}{fragment}"
