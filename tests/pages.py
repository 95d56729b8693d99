"""Which cells of a notebook stand on which: its own checks without a kernel, and what its panels need.

The cheap cells are all but those that train; what they print is compared.

Which cells train is said by their tag `train`. A cell that reads what a training cell makes or changes is left out
too, and so is what reads from that.
"""

import ast
import builtins
import symtable
from functools import partial

import torch

import tools
from aigc_helpers.training import History
from tests.notebook_cells import run_cell, sanitized, tags_of

NEVER = {"train", "exercise", "mark", "panel"}


class NotAsStored(AssertionError):
    pass


def run_page(path):
    """Run the cheap cells of a notebook; compare what they print as strict nbval does. Returns the number of ✓ seen."""
    ticks = 0
    for index, cell, run in cheap_cells(tools.read(path)):
        printed, displayed = run()
        stored = "".join(
            o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"
        )
        if sanitized(printed) != sanitized(stored):
            raise NotAsStored(f"cell {index} printed {printed!r}, stored {stored!r}")
        texts = [o.data.get("text/plain") for o in cell.outputs if o.output_type == "display_data"]
        if displayed != texts:
            raise NotAsStored(f"cell {index} displayed {displayed}, stored {texts}")
        ticks += printed.count("✓")
    return ticks


def cheap_cells(book):
    """Yield (index, cell, run) of the cells that need no training; run() executes the cell as run_cell does.

    It must be called before the next cell is asked for, which may need what it makes.
    """
    space, unknown = {"__name__": "__main__"}, set()
    for index, cell in enumerate(book.cells):
        if cell.cell_type != "code" or not cell.source.strip() or "colab" in tags_of(cell):
            continue
        needed, made = names(cell.source)
        always = tags_of(cell) & {"setup", "export"} and "train" not in tags_of(cell)
        missing = {name for name in needed if name not in space and not hasattr(builtins, name)}
        if always or not (tags_of(cell) & NEVER or missing or needed & unknown):
            yield index, cell, partial(run_cell, cell.source, space, f"cell {index}")
            unknown -= made
        else:
            unknown |= made
            if "train" in tags_of(cell) or not tags_of(cell):
                unknown |= {name for name in needed if can_change(name, space.get(name))}


def cells_for_panels(book):
    """The cells that show panels, and those that make or train what they read, in the order of the page.

    A cell that uses an answer of the learner's is among them with the unanswered exercise: it must live with that.
    """
    cells = [cell for cell in tools.code_cells(book) if not tags_of(cell) & {"colab", "mark"}]
    reads, makes = {}, {}
    for cell in cells:
        reads[cell.id], makes[cell.id] = names(cell.source)
    kept = {cell.id for cell in cells if tags_of(cell) & {"panel", "setup", "export"}}
    count = 0
    while count != (count := len(kept)):
        wanted = set().union(*(reads[key] for key in kept))
        kept |= {key for key in makes if makes[key] & wanted}
        trained = {name for cell in cells if cell.id in kept and not tags_of(cell) for name in makes[cell.id]}
        kept |= {cell.id for cell in cells if "train" in tags_of(cell) and reads[cell.id] & trained & wanted}
    return [cell for cell in cells if cell.id in kept]


def can_change(name, value):
    """Whether a cell that is left out may have changed an object: a network, an optimiser, a record; no constant."""
    if name.isupper() or isinstance(value, type):
        return False
    changing = (torch.nn.Module, torch.optim.Optimizer, History, list, dict)
    return isinstance(value, changing) or type(value).__module__ == "__main__"


def names(source):
    """(the names that a cell reads and does not make first, the names that it makes)."""
    needed, later, made = set(), set(), set()
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "a statement", "exec")
        makes = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        read = _read_at_once(table)
        if isinstance(statement, ast.AugAssign):
            read |= makes
        elif not isinstance(statement, ast.Assign):  # a loop reads its own variable, after it was made
            read -= makes
        needed |= read - made
        later |= _read_when_called(table)
        made |= makes
    return needed | (later - made), made


COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}


def _read_at_once(table):
    """Global names that a statement reads when it is run: not those in the functions that it defines."""
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and symbol.is_global()}
    for inner in table.get_children():
        if inner.get_name() in COMPREHENSIONS or inner.get_type() == "class":
            found |= _read_at_once(inner)
    return found


def _read_when_called(table):
    """Global names that are read in the functions that a statement defines, lambdas included."""
    found = set()
    for inner in table.get_children():
        if inner.get_type() == "function" and inner.get_name() not in COMPREHENSIONS:
            found |= _read_at_once(inner)
        found |= _read_when_called(inner)
    return found
