"""Self-contained copies of the notebooks: the helpers travel inside the set-up cell.

A notebook uploaded by itself, to Colab or anywhere else, then runs without a clone.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
import mimetypes
import pathlib
import posixpath
import pprint
import re
import textwrap
import tomllib
import zipfile
from urllib.parse import quote, unquote

import nbformat

from .book import ROOT, NotebookError, code_cells, paths, read, text_of, write
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
    code, modules, (repository, ref) = _code(copy, path.name), _modules(root), published(root)
    archive = base64.b64encode(_zipped([*modules.values(), *_assets(code, modules, root)], root)).decode()
    cells[0].source = CELL.format(
        repository=repository,
        ref=ref,
        needed=pprint.pformat(_libraries(code, modules, root), width=100, sort_dicts=False),
        archive=textwrap.fill(archive, 120),
    )
    cells[0].metadata.update(FOLDED)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_neighbours(cell.source, path, root)
    return copy


# ---------------------------------------------------------------- what a notebook needs


def _code(nb, name):
    """The code of a notebook as plain Python, without the cell that installs the helpers."""
    from IPython.core.inputtransformer2 import TransformerManager

    cells = [cell for cell in code_cells(nb) if "colab" not in cell.metadata.get("tags", [])]
    source = "\n".join(TransformerManager().transform_cell(cell.source) for cell in cells)
    try:
        ast.parse(source)
    except SyntaxError as problem:
        line = (problem.text or "").strip()
        raise NotebookError(f"{name}: a code cell is not valid Python ({problem.msg}: `{line}`): mend it") from None
    return source


def _modules(root):
    """{dotted name: its file} of the helpers that a lesson may import: all but this authoring tool."""
    files = sorted((root / "aigc_helpers").rglob("*.py"))
    names = {file: file.relative_to(root).with_suffix("").as_posix().replace("/", ".") for file in files}
    names = {file: name.removesuffix(".__init__") for file, name in names.items()}
    return {name: file for file, name in names.items() if not name.startswith("aigc_helpers.notebooks")}


def _imported(source, modules, closed=()):
    """The dotted names of all that a source imports, itself or through the helpers' modules, `closed` ones excepted."""
    found, todo = set(), [("", source)]
    while todo:
        for name in set(_imports(*todo.pop())) - found:
            found.add(name)
            if name in modules and name not in closed:
                package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
                todo.append((package, modules[name].read_text(encoding="utf-8")))
    return found


def _imports(package, source):
    """The dotted names that a source inside `package` imports, with those of the packages around them."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _assets(code, modules, root):
    """The files of weights that some code may load, and their manifest.

    What the manifest says is made by a module is loaded through that module. Such a module may use another one to
    read its file, without loading the other's: hence a file goes with the code that imports its maker, and the walk
    along the imports ends there. A file without a maker goes with every notebook.
    """
    folder = root / "aigc_helpers" / "assets"
    if not folder.exists():
        return []
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    makers = {name: re.search(r"-m ([\w.]+)", entry["made_by"])[1] for name, entry in manifest.items()}
    imported = _imported(code, modules, closed=set(makers.values()))
    weights = [file for file in folder.glob("*.safetensors") if makers.get(file.name) in (None, *imported)]
    return [folder / "manifest.json", *weights]


def _libraries(code, modules, root):
    """{module: requirement} of the project's dependencies that some code imports, itself or through the helpers."""
    imported = _imported(code, modules)
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
