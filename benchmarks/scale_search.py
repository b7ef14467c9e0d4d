"""How far the searched scales of integer formats are from the best of a thousand, and what negative scales are worth.

Run: python benchmarks/scale_search.py [--groups 96]
Prints, for each width and group size, the excess of the weighted squared error over that of the best of 1000 scales a
group (of both signs; under every likely zero point for the asymmetric kind), in percent: the mean over kinds of
weights, and the worst kind.
"""

import argparse

import numpy as np

from halfpint import formats, kernels
from halfpint.formats.affine import Affine

DENSE = 1000
LOWEST = {2: 0.1, 3: 0.15, 4: 0.25, 5: 0.4, 6: 0.6, 7: 0.8, 8: 0.9}
"""Where the dense grid begins, as a part of the full range, by bits."""


def weights(columns, groups):
    rng = np.random.default_rng(5)
    shape = (groups, columns)
    outlier = rng.standard_normal(shape)
    outlier[:, 0] *= 20
    kinds = {
        "gaussian": rng.standard_normal(shape),
        "laplace": rng.laplace(size=shape),
        "student 5": rng.standard_t(5, shape),
        "outlier": outlier,
        "shifted": rng.standard_normal(shape) + 1.5,
    }
    return {name: (0.02 * weight).astype(np.float32) for name, weight in kinds.items()}


def error(weight, importance, scale, zero, fmt):
    scale = scale.astype(np.float16).astype(np.float32)[:, None]
    levels = np.clip(np.rint(weight / scale), fmt.lowest - zero, fmt.highest - zero)
    return (importance * (weight - scale * levels) ** 2).sum(axis=1, dtype=np.float64)


def dense(weight, importance, fmt, signs):
    low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    span = np.maximum(high, -low) / -fmt.lowest if fmt.symmetric else (high - low) / fmt.highest
    best = np.full(len(weight), np.inf)
    offsets = (0,) if fmt.symmetric else range(-3, 4)
    for part in np.geomspace(LOWEST[fmt.bits], 2.1 if fmt.bits == 2 else 1.4, DENSE // len(signs) // len(offsets)):
        for sign in signs:
            for offset in offsets:
                centre = 0 if fmt.symmetric else np.clip(np.rint(-low / span) + offset, 0, fmt.highest)[:, None]
                best = np.minimum(best, error(weight, importance, np.float32(part * sign) * span, centre, fmt))
    return best.sum()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--groups", type=int, default=96)
    count = arguments.parse_args().groups
    print("format             excess over the best of 1000, %   error saved by negative scales, %")
    for symmetric in (True, False):
        for bits in range(2, 9):
            for columns in (32, 128, 1024):
                fmt = Affine(bits, columns, symmetric)
                excesses, saved = {}, []
                for name, weight in weights(columns, count).items():
                    rng = np.random.default_rng(7)
                    for importance in (np.ones(columns, np.float32), np.exp(rng.standard_normal(columns)).astype("f4")):
                        decoded = formats.decode(kernels.encode(weight, fmt, importance))
                        found = (importance * (weight - decoded) ** 2).sum(dtype=np.float64)
                        excesses.setdefault(name, []).append(found / dense(weight, importance, fmt, (1, -1)) - 1)
                        if symmetric and name == "gaussian":
                            saved.append(1 - found / dense(weight, importance, fmt, (1,)))
                means = {name: 100 * float(np.mean(values)) for name, values in excesses.items()}
                worst = max(means, key=means.__getitem__)
                tail = f"{100 * np.mean(saved):20.1f}" if saved else ""
                print(f"{fmt.name:18} mean {np.mean(list(means.values())):5.1f}, {worst:9} {means[worst]:5.1f} {tail}")


if __name__ == "__main__":
    main()
