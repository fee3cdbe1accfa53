"""The embedded world: a small closed world written as a mirror of the hub."""
