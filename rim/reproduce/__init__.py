"""Targets of the paper, and the runner that makes them."""

from .running import TARGETS, Target, reproduce
