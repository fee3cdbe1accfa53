"""H6, the mean of the six leaderboard benchmarks (Sec. 4.2), through lm-eval."""
