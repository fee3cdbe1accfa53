"""Reading what others wrote, and showing what was written, without harm: bounds, redaction, escapes."""
