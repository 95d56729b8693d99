"""What each room of the project may import. The map is in CONTRIBUTING.md; this is its test.

Only imports of the project's own modules count, those inside functions too. What may be imported is
not what is: a room that needs less than it may is as it should be.
"""

import ast
import importlib.util
import tomllib

import pytest

import tools

ROOT = tools.ROOT
# Without imports of the project's own, but for one another; any room may import them.
SMALL = {"_environment", "_files", "arguments"}

# room -> the rooms that it may import. A chapter's panels are the room `panels.chapter`.
MAY_IMPORT = {
    "arguments": set(),
    "_environment": {"arguments"},
    "_files": {"arguments"},
    "checks": SMALL,
    "data": SMALL,
    "glyphs": SMALL,
    "memory": SMALL,
    "plotting": SMALL | {"glyphs"},
    "training": SMALL | {"plotting"},
    "weights": SMALL,
    "ranks": SMALL,
    "train": SMALL | {"data", "models", "ranks", "training", "weights"},
    "metrics": SMALL | {"data", "weights"},
    "scenes": SMALL | {"data"},
    "tasks": SMALL,
    "scene_judge": SMALL | {"data", "metrics", "scenes", "weights"},
    # made from the pages; later ones import them
    "models": SMALL | {"data", "metrics", "scene_judge", "scenes", "tasks", "training"},
    "panels": {"panels.core", "panels.chapter"},
    "panels.core": SMALL | {"plotting"},
    "panels.pad": SMALL,
    "panels.chapter": SMALL
    | {"data", "metrics", "models", "panels.core", "panels.pad", "plotting", "scene_judge", "scenes", "tasks"}
    | {"training", "weights"},
}

# What a room may import inside a function, when it is called: the other way about would be a circle.
MAY_IMPORT_LATE = {"weights": {"models"}}


def find_room(name):
    """The room of a module, by its dotted name below aigc_helpers."""
    parts = name.split(".")
    if parts[0] == "panels" and len(parts) > 1:
        return f"panels.{parts[1]}" if parts[1] in ("core", "pad") else "panels.chapter"
    return parts[0]


def find_imports(name, is_package, source, late=True):
    """The dotted names that a module imports; with late=False, those outside functions alone."""
    package = name if is_package else name.rpartition(".")[0]
    nodes = list(ast.walk(ast.parse(source)))
    if not late:
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        inside = {id(below) for function in functions for below in ast.walk(function)}
        nodes = [node for node in nodes if id(node) not in inside]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def list_modules(folder):
    """{dotted name: its file} of the Python files of a folder of the project."""
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def list_imports(name, file, late=True):
    source = file.read_text(encoding="utf-8")
    return set(find_imports(name, file.name == "__init__.py", source, late))


HELPERS = list_modules("aigc_helpers")


def find_breaches(name, imported, late=frozenset()):
    """The imports of the helper module `name` that its room may not have; `late` ones stand in functions."""
    room = find_room(name.removeprefix("aigc_helpers."))
    may = MAY_IMPORT[room] | {room}
    for other in sorted(imported):
        top, _, below = other.partition(".")
        if top in ("tools", "tests", "conftest"):
            yield other
        elif top == "aigc_helpers" and below and find_room(below) not in may:
            if other not in late or find_room(below) not in MAY_IMPORT_LATE.get(room, ()):
                yield other


@pytest.mark.parametrize("name", [name for name in HELPERS if name != "aigc_helpers"])
def test_a_helper_imports_what_its_room_may(name):
    room = find_room(name.removeprefix("aigc_helpers."))
    assert room in MAY_IMPORT, f"{name} is in no room of the map: add it here and in CONTRIBUTING.md"
    imported = list_imports(name, HELPERS[name])
    late = imported - list_imports(name, HELPERS[name], late=False)
    assert list(find_breaches(name, imported, late)) == []


def test_no_chapters_panels_import_anothers():
    for name, file in HELPERS.items():
        if find_room(name.removeprefix("aigc_helpers.")) == "panels.chapter":
            others = {other for other in list_imports(name, file) if other.startswith("aigc_helpers.panels.")}
            shared = ("aigc_helpers.panels.core", "aigc_helpers.panels.pad")
            assert {other for other in others if not other.startswith(shared)} <= {name}


def test_the_map_has_no_room_that_is_not_there_and_no_circle():
    rooms = {find_room(name.removeprefix("aigc_helpers.")) for name in HELPERS if name != "aigc_helpers"}
    assert rooms == set(MAY_IMPORT)
    left = {room: set(may) - {room} for room, may in MAY_IMPORT.items()}
    while left:
        leaves = [room for room, may in left.items() if not may & set(left)]
        assert leaves, f"a circle: {left}"
        for room in leaves:
            del left[room]


def test_tools_import_no_tests_and_tests_no_other_test():
    for name, file in list_modules("tools").items():
        assert not any(other.split(".")[0] == "tests" for other in list_imports(name, file)), name
    for name, file in list_modules("tests").items():
        own = {other for other in list_imports(name, file) if other.startswith("tests.")}
        tests = {other for other in own if any(part.startswith("test_") for part in other.split(".")[1:])}
        assert tests == set(), f"{name} imports a test: move what both need to a module of its own"


def test_all_of_the_package_is_installed_and_nothing_else():
    """`pip install` of the published project, on Colab say, brings every module and every asset."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {file.parent for file in (ROOT / "aigc_helpers").rglob("*.py")}
    folders.add(ROOT / "aigc_helpers" / "assets")
    packages = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert set(setup["packages"]) == packages
    assets = ROOT / "aigc_helpers" / "assets"
    patterns = setup["package-data"]["aigc_helpers.assets"]
    found = {file for pattern in patterns for file in assets.glob(pattern)}
    assert found == {file for file in assets.rglob("*") if file.is_file() and file.suffix != ".pyc"}


@pytest.mark.parametrize("path", tools.paths(), ids=lambda path: path.stem)
def test_a_page_imports_public_helpers_only(path):
    for cell in tools.code_cells(tools.read(path)):
        for other in find_imports("page", False, tools.as_python(cell.source)):
            parts = other.split(".")
            assert parts[0] not in ("tools", "tests"), cell.source
            if parts[0] == "aigc_helpers":
                assert not any(part.startswith("_") for part in parts), cell.source
                assert parts[1:2] != ["glyphs"], cell.source


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("aigc_helpers.checks", "tools.book"),
        ("aigc_helpers.checks", "aigc_helpers.plotting"),
        ("aigc_helpers.panels.core", "aigc_helpers.panels.gan"),
        ("aigc_helpers.models.gan", "aigc_helpers.panels"),
        ("aigc_helpers.data", "aigc_helpers.weights.load"),
        ("aigc_helpers.weights", "aigc_helpers.models.gan"),
    ],
)
def test_a_wrong_import_is_found(name, imported):
    assert list(find_breaches(name, {imported, "torch", "aigc_helpers"})) == [imported]


def test_an_import_in_a_function_may_be_late():
    source = "import a\nclass A:\n    def f(self):\n        import b\n"
    assert set(find_imports("x", False, source)) == {"a", "b"}
    assert set(find_imports("x", False, source, late=False)) == {"a"}
    late = {"aigc_helpers.models.gan"}
    assert list(find_breaches("aigc_helpers.weights", late, late)) == []
    assert list(find_breaches("aigc_helpers.data", late, late)) == list(late)


def test_every_way_to_import_is_seen():
    source = "def f():\n    from . import plotting\n    import tools\n    from ..x import y\nimport a.b as c\n"
    assert set(find_imports("aigc_helpers.panels.gan", False, source)) == {
        "aigc_helpers.panels.plotting",
        "tools",
        "aigc_helpers.x.y",
        "a.b",
    }
