"""What is written to an MLflow tracking server and read from it."""
