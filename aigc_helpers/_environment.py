"""Reading the environment variables that switch something on or off: all of them in one way."""

from __future__ import annotations

import os

ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


def read_switch(name, default=False) -> bool:
    """Whether the environment variable `name` is on; `default` where it is not set, or empty.

    1, true, yes and on switch on; 0, false, no and off switch off; capitals do not matter.
    Raises ValueError, which names the variable, for another word.
    """
    text = os.environ.get(name, "")
    word = text.strip().lower()
    if not word:
        return default
    if word in ON or word in OFF:
        return word in ON
    words = f"neither on ({', '.join(ON)}) nor off ({', '.join(OFF)})"
    raise ValueError(f"{name}={text!r} is {words}: change or unset it")
