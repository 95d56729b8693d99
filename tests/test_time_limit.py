"""CI's limit on the minutes of its long tests: what begins late is skipped and counted, all else is run."""

import re
import subprocess
import sys

import pytest

from tests import seeded_faults, time_limit
from tests.seeded_faults import ROOT, chapters


@pytest.fixture(autouse=True)
def no_limit_afterwards():
    yield
    time_limit.start(None)


def test_the_time_runs_from_the_start_and_without_a_limit_it_never_ends():
    time_limit.start(None)
    assert time_limit.seconds_left() == float("inf")
    time_limit.start(2)
    assert 119 < time_limit.seconds_left() <= 120
    time_limit.start(-1)
    assert time_limit.seconds_left() < 0


def test_each_day_begins_at_another_part_and_leaves_nothing_out():
    items = list("abcdefgh")
    days = [time_limit.turned(items, day, 4) for day in range(4)]
    assert [day[0] for day in days] == list("aceg")
    assert all(sorted(day) == items for day in days)
    assert days[1] == list("cdefghab")


@pytest.mark.exhaustive
def test_late_tests_of_one_notebook_are_skipped_and_counted_and_others_are_run():
    """In a process of its own: the tests of one page's exercises, all of them late, beside those of this file."""
    chosen = ["tests/test_what_to_run.py", "-k", "stands_on or takes_turns"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *chosen]
    for minutes, expected in ((["--minutes", "-1"], f"{len(chapters())} tests were not begun"), ([], "passed")):
        done = subprocess.run(command + minutes, cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
        assert ("skipped" in done.stdout) is bool(minutes)
        assert re.search("1 passed" if minutes else f"{1 + len(chapters())} passed", done.stdout)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seconds, left", [(float("inf"), True), (-1.0, False)])
def test_faults_that_begin_late_are_left_out_and_their_catchers_are_not(tmp_path, seconds, left):
    fault = next(fault for fault in seeded_faults.all_faults() if fault.name == "check_above not strict")
    found = seeded_faults.run_faults([fault], {fault.catcher}, tmp_path, seconds)
    assert found[fault.catcher]["rc"] == 0, found[fault.catcher]["log"]
    assert (fault.name in found) is left
    assert re.search("caught: 1 of 1" if left else "caught: 0 of 0", seeded_faults.table([fault], found))
