"""Steps are found or made: in this process, side by side, or launched over several GPUs."""
