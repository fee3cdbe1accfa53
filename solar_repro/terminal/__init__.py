"""What a person at a terminal sees and does: progress, the live display, Ctrl-C."""
