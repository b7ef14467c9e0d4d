"""Weights that formats are tested on: ordinary ones, and every kind that has ever broken a quantizer."""

import numpy as np

COLUMNS = 172
"""Not a multiple of any group size, so that the last group of each row is short."""


def ordinary(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * 0.02).astype(np.float32)


def kinds(rows=6, columns=COLUMNS):
    """[(name, float32 [rows, columns])]: every element finite and below 1e4."""
    normal = ordinary(rows, columns)
    made = {
        "normal": normal,
        "positive": np.abs(normal),
        "negative": -np.abs(normal),
        "shifted": normal + np.float32(0.05),
        "heavy tailed": np.random.default_rng(1).standard_t(2, (rows, columns)).astype(np.float32),
        "all zero": np.zeros((rows, columns), np.float32),
        "negative zero": np.full((rows, columns), -0.0, np.float32),
        "constant": np.full((rows, columns), 0.37, np.float32),
        "two values": np.where(normal > 0, np.float32(0.3), np.float32(-0.1)),
        "tiny": normal * np.float32(1e-7),
        "denormal": normal * np.float32(1e-37),
        "large": normal * np.float32(1e4),
    }
    made["zero rows"] = normal.copy()
    made["zero rows"][::2] = 0
    made["one outlier"] = normal.copy()
    made["one outlier"][1, 5] = 200.0  # ten thousand standard deviations
    made["mostly zero"] = np.where(np.random.default_rng(2).random((rows, columns)) < 0.02, normal, np.float32(0))
    return list(made.items())


def importances(shape, seed=3):
    """{name: importance or None}: of both shapes, with zeros, and of any magnitude."""
    rows, columns = shape
    rng = np.random.default_rng(seed)
    of_columns = np.exp(rng.standard_normal(columns) * 2).astype(np.float32)
    of_elements = np.exp(rng.standard_normal((rows, columns))).astype(np.float32)
    zeros = of_columns.copy()
    zeros[: columns // 2] = 0
    return {
        "none": None,
        "columns": of_columns,
        "elements": of_elements,
        "half zero": zeros,
        "all zero": np.zeros(columns, np.float32),
        "huge": of_columns * np.float32(1e30),
        "minute": of_columns * np.float32(1e-37),
    }
