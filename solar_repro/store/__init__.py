"""Results on disk: whole or not there, locked, verified, and with a record of what made them."""
