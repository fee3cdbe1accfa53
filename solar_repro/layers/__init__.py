"""Decoder layers and attention of our own, where they are faster than those of transformers."""
