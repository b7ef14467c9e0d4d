"""A model opened once, by the name that a user gives."""
