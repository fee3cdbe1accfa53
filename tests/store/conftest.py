"""Tiny decoders for the tests of this folder."""

from tests.tiny_decoders import saved  # noqa: F401
