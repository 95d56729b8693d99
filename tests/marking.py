"""Put answers to the marks of a notebook's exercises.

A mark tagged `open` trains what the learner has built, for half a minute: those are tested among the long tests.
"""

import tools
from tests.notebook_cells import NOTEBOOKS, run_cell, run_cells, tags_of


def run_exercises(path, only_open=False):
    """Every mark must call the blank answer unattempted and the folded solution correct.

    only_open: the marks tagged `open`, in place of all others. Returns the number of exercises tried. Raises
    AssertionError with what a mark said instead.
    """
    book = tools.read(path)
    tried = 0
    space = {"__name__": "__main__"}
    for cell in tools.code_cells(book, "setup", "export"):
        run_cell(cell.source, space, path.name)
    for number, (answer, mark, solution) in enumerate(tools.exercises(book), start=1):
        if ("open" in tags_of(mark)) != only_open:
            continue
        tried += 1
        for source, verdict in ((answer.source, "not attempted yet"), (solution, "correct")):
            run_cell(source, space, f"answer {number}")
            printed, _ = run_cell(mark.source, space, f"mark {number}")
            if not printed.endswith(f": {verdict}\n"):
                raise AssertionError(f"mark {number} said {printed!r} instead of {verdict!r}")
    return tried


def assert_marked(name, answers, only_open=False):
    """Right answers to exercises of notebooks/`name` are called correct, wrong ones are not yet.

    answers: number of an exercise -> (source of a right answer, sources of wrong ones, ...), for every exercise.
    only_open: the marks tagged `open`, in place of all others.
    """
    exercises = tools.exercises(tools.read(NOTEBOOKS / name))
    space = run_cells(name, ("setup", "export"))
    assert len(exercises) == len(answers), f"{len(answers)} answers to {len(exercises)} exercises"
    for number, (answer, mark, _) in enumerate(exercises, start=1):
        if ("open" in tags_of(mark)) != only_open:
            continue
        run_cell(answer.source, space, f"{name}, answer")  # it may hold what every answer uses
        right, *wrong = answers[number]
        cases = [(right, "correct")]
        cases += [(source, "not yet - ") for source in wrong]
        for source, verdict in cases:
            run_cell(source, space, f"answer {number}")
            printed, _ = run_cell(mark.source, space, f"mark {number}")
            assert printed.startswith(f"Exercise {number}: {verdict}"), (source, printed)


def run_marks(name, space):
    """Run the mark cells of notebooks/`name` in `space`, which holds its set-up, with blank answers."""
    for answer, mark, _ in tools.exercises(tools.read(NOTEBOOKS / name)):
        run_cell(answer.source, space, f"{name}, answer")
        run_cell(mark.source, space, f"{name}, mark")
