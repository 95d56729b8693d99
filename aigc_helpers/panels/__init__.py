"""The panels of the chapters: one module a chapter, one function a panel.

    from aigc_helpers import panels

    arena_panel = panels.gan.arena()
    arena_panel.show()

A function takes what the page has trained, if it needs anything, and returns a `Panel` (see `core`). The chapters'
modules are loaded at first use: `panels.gan` does not wait for the diffusion model of `panels.diffusion`.
"""

from __future__ import annotations

import importlib
import pkgutil

from aigc_helpers.panels.core import (
    Panel,
    choice,
    frozen,
    log_slider,
    slider,
    switch,
    text_box,
)

__all__ = ["Panel", "choice", "frozen", "log_slider", "slider", "switch", "text_box"]

_CHAPTERS = tuple(sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"core"}))


def __getattr__(name):
    if name in _CHAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"panels: there is no {name!r}; there are: {', '.join(_CHAPTERS)}")


def __dir__():
    return [*__all__, *_CHAPTERS]
