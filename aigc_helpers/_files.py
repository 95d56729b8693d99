"""Writing a file whole, for the modules that keep something on disk."""

from __future__ import annotations

import contextlib
import os
import secrets


def write_whole(path, content: bytes) -> None:
    """Write a file so that no reader ever finds a part of it: the old file, or the new one.

    A symbolic link is followed: its target is written and the link stays. The folder must exist.
    Whatever goes wrong, nothing is left beside the file. Raises OSError.
    """
    target = os.path.realpath(path)
    beside = f"{target}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
