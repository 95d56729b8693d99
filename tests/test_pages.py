"""Which cells of a page run without its training: those that read nothing that a training cell makes or changes."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.pages import cheap_cells, names

CELLS = {
    "a = b": ({"b"}, {"a"}),
    "a = 1\nb = a": (set(), {"a", "b"}),
    "net = net.eval()": ({"net"}, {"net"}),
    "n += 1": ({"n"}, {"n"}),
    "for k in ks:\n    total[k] = k": ({"ks", "total"}, {"k"}),
    "squares = [n * w for n in ns]": ({"ns", "w"}, {"squares"}),
    "def f(x):\n    y = x + c\n    return g(y)\nc = 1": ({"g"}, {"f", "c"}),
    "class Net(Base):\n    width = W\n    def forward(self, x):\n        return F.relu(x)": ({"Base", "W", "F"}, {"Net"}),
    "import torch.nn as nn\nimport os.path": (set(), {"nn", "os"}),
    "with history as h:\n    h.log(loss)": ({"history", "loss"}, {"h"}),
    "twice = lambda x: x * two": ({"two"}, {"twice"}),
}


@pytest.mark.parametrize("source", CELLS)
def test_names(source):
    assert names(source) == CELLS[source]


def run_all(*cells):
    """The numbers of the cells that were run, each given as (source, tags)."""
    book = new_notebook(cells=[new_markdown_cell("# A page")])
    book.cells += [new_code_cell(source, metadata={"tags": list(tags)}) for source, *tags in cells]
    ran = []
    for index, _, run in cheap_cells(book):
        run()
        ran.append(index)
    return ran


def test_what_reads_from_training_is_left_out_and_so_is_what_reads_from_that():
    ran = run_all(
        ("%pip install it", "colab"),
        ("x = 1", "setup", "export"),
        ("trained = x + 1", "train"),
        ("score = trained + 1",),
        ("print(score)",),
        ("print(x)",),
        ("answer = ...", "exercise"),
        ("print(answer)",),
        ("trained = 3",),
        ("print(trained)",),
    )
    assert ran == [2, 6, 9, 10]


def test_what_training_changes_in_place_is_left_out_but_no_constant():
    ran = run_all(
        ("import torch\nnet = torch.nn.Linear(1, 1)\nrows = []\nSIZES = [1]\nx = torch.ones(1, 1)", "setup"),
        ("rows.append(net(SIZES[0] * x))", "train"),
        ("net(x)",),
        ("len(rows)",),
        ("SIZES, x",),
    )
    assert ran == [1, 5]
