"""The paper as data: its models, data sets and benchmarks."""
