"""Cards, tables and JSON objects, made from the records of results and from nothing else."""
