"""What the AIGC teaching notebooks share: data, training loops, checks, metrics, plots and panels.

Import the part that you need, as the notebooks do: `from aigc_helpers.data import load_digits`.
Nothing heavy is imported here.
"""

__version__ = "0.1.0"
