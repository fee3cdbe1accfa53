"""Stages of the paper: each a plain function from input folders to one output folder."""
