"""A tiny model for the tests of this folder."""

from tests.tiny_benchmarks import model  # noqa: F401
