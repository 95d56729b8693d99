"""The measure of how quickly a panel answers: fair to a slow machine, hard on a slow panel."""

import time
import types

import pytest

from tests import panel_checks
from tests.panel_checks import answers_within


class FakePanel(types.SimpleNamespace):
    """Works for `ms` milliseconds of its thread at each move."""

    def set(self, **values):
        self.values.update(values)
        self.moves += 1
        end = time.thread_time() + self.ms / 1000
        while time.thread_time() < end:
            pass


def fake(ms):
    return FakePanel(ms=ms, moves=0, values={"x": 0})


def test_a_quick_panel_is_moved_once_and_not_compared(monkeypatch):
    monkeypatch.setattr(panel_checks, "_standard_work", None)
    panel = fake(5)
    assert answers_within(panel, 50, x=3)
    assert panel.moves == 1 and panel.values == {"x": 3}


@pytest.mark.parametrize("slower, within", [(1, False), (1.5, False), (4, True)])
def test_the_limit_grows_with_the_machine_and_only_with_it(monkeypatch, slower, within):
    standard = panel_checks.STANDARD_MS / 10  # a tenth of everything, so that the test is quick
    monkeypatch.setattr(panel_checks, "STANDARD_MS", standard)
    monkeypatch.setattr(panel_checks, "_standard_work", lambda: FakePanel.set(fake(slower * standard)))
    assert answers_within(fake(20), 10, tries=2, x=1) is within


def test_a_machine_that_is_quicker_than_the_usual_one_tightens_nothing(monkeypatch):
    monkeypatch.setattr(panel_checks, "_standard_work", lambda: None)
    assert panel_checks.slowness() == 1


def test_the_standard_work_can_be_done():
    panel_checks._standard_work()
