"""Colab's own versions of what a notebook runs in, installed into a folder of their own.

    python -m tests.colab_packages FOLDER

What else these packages need is in any environment of the project.
"""

import subprocess
import sys

VERSIONS = {"ipywidgets": "7.7.1", "ipykernel": "6.17.1", "IPython": "7.34.0"}  # with Python 3.13
OF_THEIR_TIME = (
    "jupyter_client==7.4.9",
    "traitlets==5.7.1",
    "backcall",
    "decorator",
    "entrypoints",
    "ipython_genutils",
    "nest_asyncio",
    "pickleshare",
)


def install(folder):
    """Install Colab's packages into a folder; returns pip's exit status."""
    packages = [f"{name}=={version}" for name, version in VERSIONS.items()]
    options = ["-q", "--retries", "1", "--no-deps", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, *packages, *OF_THEIR_TIME]
    return subprocess.run(command, timeout=300).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(install(sys.argv[1]))
