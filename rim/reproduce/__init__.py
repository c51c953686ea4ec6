"""Targets of the paper, and the runner that makes them."""

from .command import reproduce
from .registry import TARGETS, Target
