"""The verbs, whole: what the command line and the Python API call."""
