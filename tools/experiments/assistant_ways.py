"""Other ways of the fine-tuning in `assistant_start`: plays replayed, and the question counted, too.

As "from plays" in `assistant_start`: 200 steps from `assistant_base`, three seeds, the same chats, scores
and optimisers. "Plays replayed" adds the next-token loss of 4 windows of 128 characters of the old text to
each step, so it reads more. "The question counted, too" counts all tokens of a chat but the first in the loss.
"""

from __future__ import annotations

from .assistant_start import run_ways

WAYS = {
    "from plays, which are replayed": {"plays": True},
    "from plays, the question counted, too": {"whole": True},
}


def run(progress):
    return run_ways(progress, WAYS)
