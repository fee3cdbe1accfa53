"""Stages of the paper: each a plain function from input folders to one output folder."""

NOTES = "solar"
"""Subfolder of every result with what belongs to the run: metrics, data reports, pictures."""
