"""A scale says how big everything is: one YAML file, with its types here."""
