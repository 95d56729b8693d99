"""Experiments that outlast a page's minutes: `python -m tools experiment NAME` runs one module.

A module says in its docstring what is compared and what is held equal. It has

    SEEDS = (0, 1, 2)                  # what the repetitions differ in
    def run(progress): ...             # the work; progress("seed 1 of 3") says how far it is

and `run` returns the table that a page shows: row's name -> {column: a number or a string}.
"""
