"""H6 through lm-eval, and the contamination tests of Table 9."""
