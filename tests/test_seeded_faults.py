"""Each seeded fault of the chapters and helpers turns the suite red; each catcher is green without it.

`python -m pytest tests/test_seeded_faults.py -n 0 -s` also prints the table: fault | where | caught by. With
`-k WORDS`, those faults alone whose names match.
"""

import json
import os
import re

import pytest

from tests import seeded_faults, time_limit
from tests.seeded_faults import ROOT, caught_by, chapters

can_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the copies are tested in forked processes"
)

FAULTS = seeded_faults.all_faults()
CATCHERS = sorted({fault.catcher for fault in FAULTS})
LEAST = {
    "page": 8,
    "exercises": 3,
}  # checks and exercises that must have been run for green to mean anything


def name_of(fault):
    place = os.path.splitext(os.path.basename(fault.where))[0]
    return re.sub(r"\W+", "-", f"{place} {fault.name}").strip("-")


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """name -> result of the selected faults and, under its own name, of each catcher on a copy without a fault."""
    mine = [
        item
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    chosen = [item.callspec.params for item in mine]
    faults = [params["fault"] for params in chosen if "fault" in params]
    catchers = {params["catcher"] for params in chosen if "catcher" in params} | {
        fault.catcher for fault in faults
    }
    folder = tmp_path_factory.mktemp("copies")
    found = seeded_faults.run_faults(faults, catchers, folder, time_limit.seconds_left())
    yield found
    print("\n\n" + seeded_faults.table(faults, found))


@can_fork
@pytest.mark.mutation
@pytest.mark.parametrize(
    "catcher", CATCHERS, ids=[re.sub(r"[^\w:.-]+", "-", catcher) for catcher in CATCHERS]
)
def test_the_catcher_is_green_without_a_fault(results, catcher):
    result = results[catcher]
    assert result["rc"] == 0, result["log"][-3000:]
    own = catcher.partition(": ")[2]
    if own:
        assert int(re.search(r"counted: (\d+)", result["log"])[1]) >= LEAST[own]


@can_fork
@pytest.mark.mutation
@pytest.mark.parametrize("fault", FAULTS, ids=map(name_of, FAULTS))
def test_the_fault_is_caught(results, fault):
    if fault.name not in results:
        pytest.skip(time_limit.OVER)
    result = results[fault.name]
    assert result["rc"] == 1, f"{fault.name}: {caught_by(result)}\n{result['log'][-3000:]}"
    assert results[fault.catcher]["rc"] == 0, f"{fault.catcher} is red without the fault too"


def test_every_fault_has_its_own_name_and_every_chapter_has_faults():
    names = [fault.name for fault in FAULTS]
    assert sorted(names) == sorted(set(names))
    assert {fault.where for fault in FAULTS} >= {f"notebooks/{notebook}" for notebook in chapters()}


@pytest.mark.parametrize(
    "file, words", [("README.md", "puts (\\d+) faults"), ("CONTRIBUTING.md", "so the (\\d+) of them")]
)
def test_the_number_of_faults_that_is_told_is_theirs(file, words):
    told = re.findall(words, (ROOT / file).read_text(encoding="utf-8"))
    assert [int(number) for number in told] == [len(FAULTS)]


def without_outputs(path):
    """The text of a file; of a notebook without what it printed, which is most of it and takes long to parse."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    nb = json.loads(text)
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    return json.dumps(nb)


def test_every_fault_has_its_place(tmp_path):
    """Quick, and run with the plain tests: a page that was changed takes its faults along."""
    originals = {where: without_outputs(ROOT / where) for where in {fault.where for fault in FAULTS}}
    misplaced = []
    for fault in FAULTS:
        target = tmp_path / fault.where
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(originals[fault.where], encoding="utf-8")
        try:
            seeded_faults.put_fault(fault, tmp_path)
        except AssertionError as problem:
            misplaced.append(f"{fault.name}: {problem}")
    assert misplaced == []
