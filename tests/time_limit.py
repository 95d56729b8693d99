"""The minutes that a run of the long tests may take (`--minutes`): what has not begun by then is skipped, and said.

A machine of CI may be three times slower than another. Without a limit its hour ends in the middle of a test, and
nothing is known; with it the tests that were run count, and the others take their turn another day.
"""

import math
import time

OVER = "not begun when the minutes of --minutes were over"

_end = math.inf


def start(minutes):
    """Count from now; None: no limit."""
    global _end
    _end = math.inf if minutes is None else time.monotonic() + 60 * minutes


def seconds_left():
    """Seconds, below 0 when the time is over, infinite without a limit."""
    return _end - time.monotonic()


def turned(items, day, parts):
    """The items from another place on each day, and behind them those before it: another part is cut off."""
    first = day % parts * len(items) // parts
    return items[first:] + items[:first]
