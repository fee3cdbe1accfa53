"""Tiny decoders for the tests of this folder."""

from tests.data.conftest import llama_tokenizer  # noqa: F401
from tests.tiny_decoders import saved  # noqa: F401
