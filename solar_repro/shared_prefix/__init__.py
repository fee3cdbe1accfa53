"""Causal models run so that what several texts begin with is computed once."""
