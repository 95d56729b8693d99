"""Self-contained notebooks: what is in the copies, the set-up cell by itself, and whole runs under Colab's versions.

The whole runs (marker `colab`) need Colab's packages: from the folder named by AIGC_COLAB, which
`python -m tests.colab_packages FOLDER` fills, or installed for the run.
"""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv

import nbclient
import nbformat
import pytest
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import tools
from tests import colab_packages
from tests.notebook_cells import texts_of
from tools import cli

ROOT = tools.ROOT
PATHS = tools.paths()
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
SITE = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})

def set_up(nb):
    """The source of the one cell tagged `colab`."""
    (cell,) = tools.code_cells(nb, "colab")
    return cell.source


# ---------------------------------------------------------------- the copies of the real notebooks


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A folder with what the command writes."""
    folder = tmp_path_factory.mktemp("colab") / "new" / "folder"
    assert cli.main(["colab", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", ["01_gan", "05b_dalle"])  # few helpers, and most of them
def test_a_copy_is_the_same_bytes_each_time(copies, tmp_path, name):
    env = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-m", "tools", "colab", name, "--out", str(tmp_path)]
    subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True)
    [again] = tmp_path.iterdir()
    assert again.read_bytes() == (copies / f"{name}.ipynb").read_bytes()


def test_every_notebook_has_a_copy(copies):
    assert [file.name for file in sorted(copies.iterdir())] == [path.name for path in PATHS]


@each_notebook
def test_a_copy_is_valid_and_differs_in_its_set_up_cell_and_links_only(copies, path):
    before, after = tools.read(path), tools.read(copies / path.name)
    nbformat.validate(after)
    assert len(after.cells) == len(before.cells)
    for old, new in zip(before.cells, after.cells, strict=True):
        assert {"cell_type", "id", "metadata"} <= new.keys() == old.keys()
        assert all(new[key] == old[key] for key in old if key not in ("source", "metadata"))
        tags = old.metadata.get("tags", [])
        assert new.metadata.get("tags", []) == tags
        if old.cell_type == "code" and "colab" not in tags:
            assert new == old
        elif old.cell_type == "markdown":
            assert re.sub(r"\]\([^)]*\)", "]()", new.source) == re.sub(r"\]\([^)]*\)", "]()", old.source)
    assert "colab.research.google.com/github/" in after.cells[0].source


@each_notebook
def test_no_link_of_a_copy_needs_a_clone(copies, path):
    cells = tools.read(copies / path.name).cells
    text = re.sub(r"```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$]+\$", "", "\n".join(c.source for c in cells if c.cell_type == "markdown"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"""\b(?:src|href)=["']([^"']+)""", text)
    assert targets
    assert [target[:60] for target in targets if not re.match(r"https://|data:image/|#", target)] == []


# ---------------------------------------------------------------- the set-up cell by itself

# In a bare process (-I -S) the path holds the standard library, and what is added below; a .pth file in an added
# folder is not read, which is how an editable install of the helpers would be found.
BARE = """
import contextlib, importlib, json, os, subprocess, sys
cell, site, wanted, status = json.loads(sys.stdin.read())
calls = []
def run(command, **_):
    calls.append(command[1:])
    return subprocess.CompletedProcess(command, status)
subprocess.run = run
with contextlib.suppress(ModuleNotFoundError):
    import aigc_helpers
    sys.exit("the helpers are here already")
sys.path += site
space, error, path = {}, "", None
for _ in range(2):
    try:
        exec(cell, space)
        module = importlib.import_module(wanted)
        assert path in (None, sys.path), "a second run changes nothing"
        path = list(sys.path)
    except ImportError as problem:
        error = str(problem)
folder = os.path.dirname(os.path.dirname(sys.modules["aigc_helpers"].__file__)) if path else ""
files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if not name.endswith(".pyc")]
files = {os.path.relpath(file, folder).replace(os.sep, "/"): open(file, "rb").read().hex() for file in files}
if wanted == "aigc_helpers.metrics":
    module.load_features()
print(json.dumps([calls, error, folder, files]))
"""


def in_a_bare_process(cell, site=(), wanted="aigc_helpers", status=1):
    """(pip's arguments, error, folder on the path, {file: bytes}) after the cell ran twice where there are no helpers.

    pip is not called: it is taken to end with `status`.
    """
    asked = json.dumps([cell, list(site), wanted, status])
    command = [sys.executable, "-I", "-S", "-c", BARE]
    done = subprocess.run(command, input=asked, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    calls, error, folder, files = json.loads(done.stdout)
    return calls, error, folder, {name: bytes.fromhex(data) for name, data in files.items()}


@each_notebook
def test_the_set_up_cell_brings_the_helpers_and_leaves_the_network_alone(copies, path):
    calls, error, folder, files = in_a_bare_process(set_up(tools.read(copies / path.name)), SITE)
    assert (calls, error) == ([], "")
    for name, data in files.items():
        assert (ROOT / name).read_bytes() == data, name
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "aigc_helpers").rglob("*.py")}
    carried = {name for name in files if name.endswith(".py")}
    assert carried == modules
    assert not os.path.exists(folder), "the folder ends with the process"


def test_a_copy_carries_the_weights_that_its_chapter_loads_and_no_others(copies):
    def weights(path):
        files = in_a_bare_process(set_up(tools.read(copies / path.name)), SITE)[3]
        assert "aigc_helpers/assets/manifest.json" in files
        return {pathlib.Path(name).name for name in files if name.endswith(".safetensors")}

    scored = {path.stem for path in PATHS if "DigitJudge" in path.read_text(encoding="utf-8")}
    with_features = {path.stem for path in PATHS if "digit_features.safetensors" in weights(path)}
    assert {"01_gan", "02_vae", "04_diffusion"} <= scored <= with_features
    assert weights(ROOT / "notebooks" / "03_gpt.ipynb") == {"gpt.safetensors"}
    assert weights(ROOT / "notebooks" / "01_gan.ipynb") == {"gan.safetensors", "digit_features.safetensors"}


def test_the_carried_weights_load(copies):
    calls, error, _, files = in_a_bare_process(set_up(tools.read(copies / "01_gan.ipynb")), SITE, "aigc_helpers.metrics")
    assert (calls, error) == ([], "") and "aigc_helpers/metrics.py" in files


def test_missing_libraries_are_asked_of_pip_and_a_failure_is_one_message(copies):
    needs = {}
    for stem in ("01_gan", "03b_gpt_beyond"):
        calls, error, folder, _ = in_a_bare_process(set_up(tools.read(copies / f"{stem}.ipynb")))
        assert calls[0] == calls[1] and calls[0][:4] == ["-m", "pip", "install", "-q"]
        needs[stem] = calls[0][4:]
        assert error == f"pip could not install {', '.join(needs[stem])}: connect, then run this cell again"
        assert folder == ""
    assert {"torch>=2.10", "scikit-learn", "Pillow", "ipywidgets>=7.7.1,<9", "torchmetrics"} <= set(needs["01_gan"])
    assert "tokenizers" in needs["03b_gpt_beyond"] and "tokenizers" not in needs["01_gan"]


# ---------------------------------------------------------------- the command, on tiny projects

PYPROJECT = """[project]
dependencies = ["numpy>=1.2", "scikit-learn", "tqdm"]

[tool.aigc]
repository = "someone/project"
ref = "v1"
"""
HELPERS = {
    "__init__.py": "",
    "makes.py": "import numpy\nfrom aigc_helpers import reads\n",
    "reads.py": "import tqdm\n\nFILE = 'two.safetensors'\n",
    "uses.py": "def f():\n    from .makes import x\n\n    return 'one'\n",
    "weights.py": "NAMES = ('one', 'two', 'three')\n",  # names every file, and loads what it is asked for
    "models/__init__.py": "from ..uses import f\n",
    "models/deep.py": "import sklearn.datasets\n",
    "panels/__init__.py": "",
    "panels/deep.py": "FIRST = 'three'\n",
    "assets/one.safetensors": "1",
    "assets/two.safetensors": "2",
    "assets/three.safetensors": "3",
    "assets/manifest.json": '{"one.safetensors": {}, "two.safetensors": {}, "three.safetensors": {}}',
}


def book(*cells):
    return new_notebook(cells=[new_code_cell("%pip install it", metadata={"tags": ["colab"]}), *cells])


@pytest.fixture
def project(tmp_path):
    """A function that writes a project with one notebook, of the given cells, and makes the copy of that."""
    root = tmp_path / "project"
    for name, text in HELPERS.items():
        (root / "aigc_helpers" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "aigc_helpers" / name).write_text(text, encoding="utf-8")
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "notebooks" / "images").mkdir(parents=True)
    (root / "notebooks" / "images" / "plot 1.png").write_bytes(b"picture")
    (root / "README.md").write_text("", encoding="utf-8")
    nbformat.write(book(), root / "notebooks" / "02_other.ipynb")

    def copied(*cells, nb=None):
        nbformat.write(nb or book(*cells), root / "notebooks" / "01_tiny.ipynb")
        assert cli.main(["colab", "01"], root) == 0
        return tools.read(root / "dist" / "colab" / "01_tiny.ipynb")

    copied.root = root
    return copied


PNG = "data:image/png;base64," + base64.b64encode(b"picture").decode()
OTHER = "https://colab.research.google.com/github/someone/project/blob/v1/notebooks/02_other.ipynb"
README = "https://github.com/someone/project/blob/v1/README.md"
LINKS = {
    "[next](02_other.ipynb) and [a part](02_other.ipynb#Part-2)": f"[next]({OTHER}) and [a part]({OTHER}#Part-2)",
    '[it](../README.md#top "title")': f'[it]({README}#top "title")',
    "[a `name`](../README.md), $x[1](y)$": f"[a `name`]({README}), $x[1](y)$",
    "![A plot](images/plot%201.png)": f"![A plot]({PNG})",
    "[![A plot](images/plot%201.png)](02_other.ipynb)": f"[![A plot]({PNG})]({OTHER})",
    '<img alt="a" src="images/plot 1.png"/>': f'<img alt="a" src="{PNG}"/>',
    "[the picture](images/plot%201.png)": "[the picture](https://github.com/someone/project/blob/v1/notebooks/images/plot%201.png)",
    '<a href="02_other.ipynb">next</a>': f'<a href="{OTHER}">next</a>',
}
KEPT = ["[x](https://a.org/02_other.ipynb)", "[x](#part)", "`[x](02_other.ipynb)`", "```python\n[x](02_other.ipynb)\n```",
        "$$[x](02_other.ipynb)$$", "[x](mailto:a@b.org)"]  # fmt: skip


@pytest.mark.parametrize("source", [*LINKS, *KEPT])
def test_links_lead_to_the_published_project_and_pictures_are_inside(project, source):
    assert project(new_markdown_cell(source)).cells[1].source == LINKS.get(source, source)


@pytest.mark.parametrize(
    ("source", "libraries", "weights"),
    [
        ("x = 1", [], []),
        ("import aigc_helpers.reads", ["tqdm"], ["two"]),
        ("%matplotlib inline\nfrom aigc_helpers.uses import f", ["numpy>=1.2", "tqdm"], ["one", "two"]),
        ("if x:\n    from aigc_helpers.models import deep", ["numpy>=1.2", "scikit-learn", "tqdm"], ["one", "two"]),
        ("from aigc_helpers import weights\nx = 'three'", [], ["three"]),
        ("from aigc_helpers import panels", [], []),
        ("from aigc_helpers import panels\nif x:\n    panels.deep.arena()", [], ["three"]),
    ],
)
def test_what_a_notebook_imports_decides_what_it_carries(project, source, libraries, weights):
    calls, error, _, files = in_a_bare_process(set_up(project(new_code_cell(source))), status=0)
    assert (calls[0][4:] if calls else []) == libraries and error == ""
    assert sorted(pathlib.Path(name).stem for name in files if name.endswith(".safetensors")) == weights


def test_a_project_without_weights_or_dependencies_has_copies_too(project):
    for file in (project.root / "aigc_helpers" / "assets").iterdir():
        file.unlink()
    (project.root / "aigc_helpers" / "assets").rmdir()
    (project.root / "pyproject.toml").write_text(PYPROJECT.partition("\n\n")[2], encoding="utf-8")
    files = in_a_bare_process(set_up(project(new_code_cell("import aigc_helpers.makes"))))[3]
    assert sorted(files) == sorted(f"aigc_helpers/{name}" for name in HELPERS if name.endswith(".py"))


TAGGED = {"tags": ["colab"]}
REFUSED = {
    "no notebook starts with '99'": ({}, ["colab", "99"]),
    "the copies would overwrite the notebooks": ({}, ["colab", "--out", "{root}/notebooks/images/.."]),
    r"cannot write to .*README.md \(": ({}, ["colab", "--out", "{root}/README.md"]),
    "01_tiny.ipynb: 2 cells are tagged `colab`": ({"nb": book(new_code_cell("x", metadata=TAGGED))}, ["colab"]),
    "01_tiny.ipynb: 0 cells are tagged `colab`": ({"nb": new_notebook(cells=[new_code_cell("x")])}, ["colab"]),
    "01_tiny.ipynb: a code cell is not valid Python .*`def f": ({"nb": book(new_code_cell("def f(:"))}, ["colab"]),
    "01_tiny.ipynb: the link images/no.png leads": ({"nb": book(new_markdown_cell("![x](images/no.png)"))}, ["colab"]),
    "01_tiny.ipynb: the link ../../x leads": ({"nb": book(new_markdown_cell("[x](../../x)"))}, ["colab"]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_done_is_one_message(project, capsys, message):
    content, arguments = REFUSED[message]
    nbformat.write(content.get("nb", book()), project.root / "notebooks" / "01_tiny.ipynb")
    (project.root.parent / "x").write_text("outside", encoding="utf-8")
    before = (project.root / "notebooks" / "01_tiny.ipynb").read_bytes()
    status = cli.main([argument.format(root=project.root) for argument in arguments], project.root)
    told = capsys.readouterr().out
    assert status == 1 and len(told.splitlines()) == 1 and re.search(message, told), told
    assert (project.root / "notebooks" / "01_tiny.ipynb").read_bytes() == before
    assert not (project.root / "dist").exists()


# ---------------------------------------------------------------- whole, under Colab's versions


@pytest.fixture(scope="module")
def package_folder(tmp_path_factory):
    """A folder with Colab's packages, from AIGC_COLAB or installed for this run."""
    if sys.version_info >= (3, 14):
        pytest.skip("Colab has Python 3.13, and its IPython 7.34 is not made for a newer one")
    if os.environ.get("AIGC_COLAB"):
        return pathlib.Path(os.environ["AIGC_COLAB"])
    folder = tmp_path_factory.mktemp("packages")
    if colab_packages.install(folder):
        message = "Colab's packages could not be installed (no network?)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return folder


@pytest.fixture(scope="module")
def colab_python(package_folder, tmp_path_factory):
    """A Python with Colab's packages, then those of this environment, without the helpers: its executable."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, symlinks=os.name != "nt")
    base = {"base": str(folder), "platbase": str(folder)}
    site = pathlib.Path(sysconfig.get_path("purelib", "venv", base))
    # A .pth file in a folder that a .pth file adds is not read: an editable install of the helpers stays unseen.
    (site / "colab.pth").write_text("\n".join([str(package_folder), *SITE]) + "\n", encoding="utf-8")
    return pathlib.Path(sysconfig.get_path("scripts", "venv", base), "python.exe" if os.name == "nt" else "python")


@pytest.fixture(scope="module")
def colab_environment(tmp_path_factory):
    """The embedded data, no network, an empty cache, and nothing that leads to this checkout."""
    env = {key: value for key, value in os.environ.items() if key not in ("AIGC_DATA_DIR", "PYTHONPATH", "MPLBACKEND")}
    folders = {key: str(tmp_path_factory.mktemp("empty")) for key in ("AIGC_CACHE_DIR", "IPYTHONDIR")}
    return env | folders | {"AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1"}


def run_on_colab(nb, python, env, folder):
    """Execute nb in a kernel of that Python, in an empty folder; returns it."""
    kernels, place = folder / "kernels", folder / "empty"
    (kernels / "colab").mkdir(parents=True)
    place.mkdir()
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Colab", "language": "python"}
    (kernels / "colab" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    client = nbclient.NotebookClient(nb, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(place)}})
    client.create_kernel_manager()
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(kernels)])
    return client.execute(env=env)


VERSIONS = """
import importlib.metadata, importlib.util, json, IPython, ipykernel, ipywidgets, torch
assert importlib.util.find_spec("aigc_helpers") is None, "the helpers of this checkout can be seen"
print(json.dumps({module.__name__: module.__version__ for module in (ipywidgets, ipykernel, IPython)}), end="")
"""


@pytest.mark.notebook
@pytest.mark.colab
def test_the_environment_has_colab_s_versions_and_no_helpers(colab_python, colab_environment, tmp_path):
    done = run_on_colab(new_notebook(cells=[new_code_cell(VERSIONS)]), colab_python, colab_environment, tmp_path)
    assert [json.loads(output.text) for output in done.cells[0].outputs] == [colab_packages.VERSIONS]


@pytest.mark.notebook
@pytest.mark.colab
@each_notebook
def test_a_self_contained_notebook_runs_clean_on_colab(path, copies, colab_python, colab_environment, tmp_path):
    nb = tools.read(copies / path.name)
    wanted = texts_of(tools.code_cells(tools.read(path)))
    done = run_on_colab(nb, colab_python, colab_environment, tmp_path)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    for (start, *stored), (_, *fresh) in zip(wanted, texts_of(tools.code_cells(done)), strict=True):
        assert fresh == stored, start


# ---------------------------------------------------------------- the workflow on GitHub


@pytest.fixture(scope="module")
def workflow():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


def test_the_workflow_may_only_read_and_its_actions_cannot_change(workflow):
    text, parsed = workflow
    assert parsed["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in parsed["jobs"].values())
    used = [step["uses"] for job in parsed["jobs"].values() for step in job["steps"] if "uses" in step]
    assert {name.split("@")[0] for name in used} == {"actions/checkout", "actions/setup-python"}
    for name in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name), f"{name} is not pinned to a commit"
        assert re.search(rf"{name} # v\d+\.\d+\.\d+\n", text), f"{name} has no version beside it"
