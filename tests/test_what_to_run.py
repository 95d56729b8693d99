"""CI's choice of long tests: nothing that a change touched is left out, and the rest takes turns."""

import datetime
import os
import subprocess
import types

import pytest

from tests import seeded_faults, what_to_run
from tests.seeded_faults import chapters


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that commits files to a repository, a number of hours ago; it returns the commit."""
    monkeypatch.delenv("AIGC_BASE", raising=False)

    def git(*arguments, hours=0):
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
        dates = {f"GIT_{who}_DATE": then.isoformat() for who in ("AUTHOR", "COMMITTER")}
        who = ["-c", "user.name=a", "-c", "user.email=a@b.org", "-c", "init.defaultBranch=main"]
        env = os.environ | dates | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(*names, hours):
        for name in names:
            path = tmp_path / name
            path.write_text((path.read_text() if path.exists() else "") + "line\n")
        git("add", "-A")
        git("commit", "-q", "-m", "a change", hours=hours)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    commit.root = tmp_path
    commit.git = git
    return commit


def test_what_changed_in_the_last_hours_counts_and_what_is_not_committed_too(project):
    project("old.py", "both.py", hours=100)
    project("both.py", hours=4)
    project("new ü.py", hours=1)
    (project.root / "old.py").write_text("not committed")
    (project.root / "unknown.py").write_text("not added")
    assert what_to_run.changed_files(project.root) == {"both.py", "new ü.py", "old.py", "unknown.py"}


def test_a_branch_that_is_merged_today_counts_whatever_the_dates_of_its_commits(project):
    project("old.py", hours=200)
    project.git("checkout", "-q", "-b", "branch")
    project("of_the_branch.py", hours=150)
    project.git("checkout", "-q", "main")
    project("main.py", hours=100)
    project.git("merge", "-q", "--no-ff", "-m", "merge", "branch", hours=1)
    assert what_to_run.changed_files(project.root) == {"of_the_branch.py"}


def test_a_base_may_be_items(project, monkeypatch):
    base = project("old.py", hours=200)
    project("later.py", hours=150)
    monkeypatch.setenv("AIGC_BASE", base)
    assert what_to_run.changed_files(project.root) == {"later.py"}
    monkeypatch.setenv("AIGC_BASE", "0" * 40)
    with pytest.raises(ValueError, match="AIGC_BASE='0000.* is no commit"):
        what_to_run.changed_files(project.root)


def test_without_a_base_everything_counts(project, tmp_path_factory):
    project("young.py", hours=4)
    assert what_to_run.changed_files(project.root) is None
    assert what_to_run.changed_files(tmp_path_factory.mktemp("no repository")) is None
    project("younger.py", hours=1)
    shallow = tmp_path_factory.mktemp("shallow")
    project.git("clone", "-q", "--depth", "1", project.root.as_uri(), str(shallow))
    assert what_to_run.changed_files(shallow) is None


def test_what_was_touched_is_run_and_the_rest_takes_turns():
    subjects = {f"{k:02d}": {f"{k}.py", "all.py"} for k in range(10)}
    assert what_to_run.chosen(subjects, None, day=0) == set(subjects)
    assert what_to_run.chosen(subjects, {"all.py"}, day=3) == set(subjects)
    days = [what_to_run.chosen(subjects, {"3.py", "other.py"}, day) for day in range(what_to_run.PARTS)]
    assert all("03" in names and len(names) <= 4 for names in days)
    assert set().union(*days) == set(subjects)


@pytest.mark.parametrize("notebook", chapters())
def test_a_notebook_stands_on_its_page_and_on_what_it_imports(notebook):
    files = what_to_run.files_of(notebook)
    assert {f"notebooks/{notebook}", "aigc_helpers/checks.py", "aigc_helpers/panels/core.py"} <= files
    assert not any(file.startswith(("tools/", "tests/")) for file in files)
    assert all((what_to_run.ROOT / file).exists() for file in files)


def item(nodeid, **params):
    """As much of a pytest item as is looked at."""
    made = Item(nodeid=nodeid, path=what_to_run.ROOT / nodeid.partition("::")[0])
    if params:
        made.callspec = types.SimpleNamespace(params=params)
    return made


class Item(types.SimpleNamespace):
    __hash__ = object.__hash__


def test_a_full_run_is_due_unless_there_is_a_record_of_one(monkeypatch):
    notebooks = list(chapters())
    items = [item(f"notebooks/{name}::Cell 0") for name in notebooks]
    fresh = set(notebooks)
    monkeypatch.setattr(what_to_run, "_was_run_in_full", lambda name: name in fresh)

    def run(changed, day=0):
        return {each.path.name for each in what_to_run.select(items, changed, day)}

    assert run(None) == set(notebooks)
    days = [run({"aigc_helpers/panels/core.py"}, day) for day in range(what_to_run.PARTS)]
    assert set().union(*days) == set(notebooks)
    assert all(len(names) <= -(-len(notebooks) // what_to_run.PARTS) for names in days)
    fresh.discard(notebooks[1])
    assert all(notebooks[1] in run(set(), day) for day in range(what_to_run.PARTS))


def test_each_kind_of_test_takes_its_own_turns_and_others_are_always_run(monkeypatch):
    monkeypatch.setattr(what_to_run, "_was_run_in_full", lambda name: name not in stale)
    notebooks = list(chapters())
    stale = set(notebooks)
    faults = seeded_faults.all_faults()[:8]
    items = [item(f"notebooks/{name}::Cell {k}") for name in notebooks for k in range(3)]
    items += [item(f"tests/test_browser.py::test_it[{name}]", opened=name) for name in notebooks]
    folder = what_to_run.ROOT / "notebooks"
    items += [item(f"tests/test_rerun.py::test_it[{name}]", path=folder / name) for name in notebooks]
    items += [item(f"tests/test_seeded_faults.py::test_it[{fault.name}]", fault=fault) for fault in faults]
    items += [item("tests/test_data.py::test_always"), item("tests/test_data.py::test_too[3]", n=3)]

    def run(changed, day=0):
        return [each.nodeid for each in what_to_run.select(items, changed, day)]

    everything = [each.nodeid for each in items]
    assert run(None) == run({"pyproject.toml", faults[0].where, *(fault.where for fault in faults)}) == everything
    for name in notebooks:
        stale = {name}
        found = run({f"notebooks/{name}"})
        assert {f"notebooks/{name}::Cell {k}" for k in range(3)} <= set(found)
        assert f"tests/test_browser.py::test_it[{name}]" in found
        assert len(found) < len(everything)
    stale = set()
    days = [set(run(set(), day)) for day in range(what_to_run.PARTS)]
    assert set().union(*days) == set(everything)
    assert set.intersection(*days) == {"tests/test_data.py::test_always", "tests/test_data.py::test_too[3]"}
