"""Tiny models for the tests of this folder."""

from tests.tiny_benchmarks import model  # noqa: F401
from tests.tiny_decoders import saved  # noqa: F401
