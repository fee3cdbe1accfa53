"""Variants and a scale become steps, each with the key of its result and its cost."""
