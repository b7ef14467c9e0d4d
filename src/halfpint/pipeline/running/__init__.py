"""Running a model: text generation and the benchmark of speed."""
