"""Whether a model was trained on a benchmark: the neighbour test of Table 9, Min-K %."""
