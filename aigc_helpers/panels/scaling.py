"""The panels and pictures of 07_scaling."""

from __future__ import annotations
