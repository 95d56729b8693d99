"""The panels of 05_text_to_image (a stand-in until they are written)."""

from __future__ import annotations

from aigc_helpers import plotting
from aigc_helpers.panels.core import Panel, slider


def diagram():
    fig, _ = plotting.canvas(1.0)
    return fig


def _stand_in(*_):
    def draw(x):
        fig, _ = plotting.canvas(1.0)
        return fig, "to come"

    return Panel("to come", draw, controls={"x": slider("x", 0.0, 1.0, 0.0)}, frames=[("0", {})], alt="to come")


caption = word_and_patch = guidance = edit = latent = _stand_in
