"""Tiny benchmarks and models for the tests of this folder."""

from tests.tiny_benchmarks import mirror, model  # noqa: F401
