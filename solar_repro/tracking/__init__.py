"""Everything that is written to an MLflow tracking server or read from it."""
