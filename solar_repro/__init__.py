"""An MLflow-tracked reproducibility suite for SOLAR 10.7B (arXiv 2312.15166)."""
