"""Training data (Table 1): hub or mirror, canonical rows, templates, filters, tokens."""
