"""Other people's engines, run on what we write: each in its own process, each skipped visibly when absent."""
