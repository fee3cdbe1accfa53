"""What others wrote is read, and what is written is shown, without harm: bounds, redaction, escapes."""
