"""A random sample of faults in the helpers: what share do the helpers' own tests notice? By hand:

    python tests/benchmarks/mutation_sample.py [--mutants 60] [--seed 0] [data metrics ...]

Each mutant is one small change (another operator, a number one larger, a condition turned over, a
call left out) at a place drawn at random from the syntax trees of the modules. It is put into a copy
of the project, and the tests of its module (but for those in a kernel) are run until the first
fails. Unlike the table of seeded faults, whose entries each name the test that catches them, nobody
has chosen these. Some survivors are no faults: they change a time limit, a width in pixels, or
nothing at all.
"""

import argparse
import ast
import copy
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODULES = ("data", "metrics", "training", "checks", "weights", "plotting")
FOLDERS = ("aigc_helpers", "tests", "tools", "notebooks")
FILES = ("conftest.py", "pyproject.toml", "README.md")
TIME_LIMIT = 300  # seconds for one mutant: a loop that never ends is noticed too
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


def mutate(node):
    """Change a node in place; False where there is nothing to change."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        node.ops[0] = OTHER[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OTHER:
        node.op = OTHER[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        node.value = ast.Constant(None)
    else:
        return False
    return True


def places(tree):
    """Numbers, in the order of ast.walk, of the nodes that can be changed."""
    hints = {
        id(part)
        for node in ast.walk(tree)
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if hint is not None
        for part in ast.walk(hint)
    }
    nodes = enumerate(ast.walk(copy.deepcopy(tree)))
    original = list(ast.walk(tree))
    return [k for k, node in nodes if id(original[k]) not in hints and mutate(node)]


def apply(tree, place):
    """(the mutated source, line, before, after)."""
    mutant = copy.deepcopy(tree)
    node = list(ast.walk(mutant))[place]
    before = ast.unparse(node).splitlines()[0]
    mutate(node)
    return ast.unparse(mutant), node.lineno, before, ast.unparse(node).splitlines()[0]


def passes(folder, module):
    """Whether the tests of a module pass in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-o", "addopts=", "-m", "not notebook"]
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    test = f"tests/test_{module}.py"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run([*command, test], cwd=folder, env=env, timeout=TIME_LIMIT, **pipes)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sources = {m: (ROOT / f"aigc_helpers/{m}.py").read_text("utf-8") for m in options.modules}
    trees = {module: ast.parse(source) for module, source in sources.items()}
    everywhere = [(module, place) for module in trees for place in places(trees[module])]
    sample = random.Random(options.seed).sample(everywhere, min(options.mutants, len(everywhere)))
    print(f"{len(sample)} of {len(everywhere)} places, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, folder / name)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        sound = {module for module in trees if passes(folder, module)}
        for module in sorted(set(trees) - sound):
            print(f"{module}: its tests fail without any change; left out", flush=True)
        tried = [(module, place) for module, place in sample if module in sound]
        survivors = 0
        for module, place in sorted(tried):
            source, line, before, after = apply(trees[module], place)
            file = folder / f"aigc_helpers/{module}.py"
            file.write_text(source, "utf-8")
            survived = passes(folder, module)
            file.write_text(sources[module], "utf-8")
            survivors += survived
            word = "SURVIVED" if survived else "noticed"
            print(f"{word:8} {module}.py:{line}: {before}  ->  {after}", flush=True)
    print(f"noticed: {len(tried) - survivors} of {len(tried)}")


if __name__ == "__main__":
    main()
