"""Goldens of exact statistics, from Python's integers: sums, means, variances, covariances and correlations of columns of floats.

    python3 tests/parity/exact_sums.py > tests/parity/exact_sums.json

Floats are written as 16 hex digits of their bits. The reference is exact: `fractions.Fraction` for all but roots, whose division to a float rounds to nearest,
ties to even, and `decimal` with 2,000 digits for those. Nothing but the standard library.
"""

import decimal
import json
import math
import random
import struct
from fractions import Fraction

decimal.getcontext().prec = 2000
LARGEST = Fraction(struct.unpack(">d", bytes.fromhex("7fefffffffffffff"))[0])


def bits(x):
    return struct.pack(">d", x).hex()


def rounded(x):
    """A fraction as the nearest float; infinite from half a unit beyond the largest on."""
    if abs(x) >= LARGEST + Fraction(2) ** 970:
        return math.inf if x > 0 else -math.inf
    return float(x.numerator / x.denominator) if x else 0.0


def decimal_of(x):
    return decimal.Decimal(x.numerator) / decimal.Decimal(x.denominator)


def spread(x, y):
    n = len(x)
    return n * sum(a * b for a, b in zip(x, y)) - sum(x) * sum(y)


def case(name, x, y):
    fx, fy, n = [Fraction(v) for v in x], [Fraction(v) for v in y], len(x)
    xx, xy, yy = spread(fx, fx), spread(fx, fy), spread(fy, fy)
    out = {"name": name, "x": [bits(v) for v in x], "y": [bits(v) for v in y]}
    out["sum"], out["mean"] = bits(rounded(sum(fx))), bits(rounded(sum(fx) / n))
    out["var_pop"], out["covar_pop"] = bits(rounded(xx / n**2)), bits(rounded(xy / n**2))
    if n > 1:
        out["var"], out["covar"] = bits(rounded(xx / (n * (n - 1)))), bits(rounded(xy / (n * (n - 1))))
        out["stddev"] = bits(float(decimal_of(xx / (n * (n - 1))).sqrt()))
        if xx and yy:
            out["corr"] = bits(float(decimal_of(xy) / (decimal_of(xx) * decimal_of(yy)).sqrt()))
    if max(map(abs, x)) < 1e300:
        assert bits(math.fsum(x) + 0.0) == out["sum"]
    return out


def main():
    rng = random.Random(17)
    any_float = lambda low, high: rng.choice([-1, 1]) * math.ldexp(rng.random() + 0.5, rng.randint(low, high))
    cases = [
        case("one", [0.1], [0.3]),
        case("tenths", [0.1] * 10, [0.1 * i for i in range(10)]),
        case("a large value that cancels", [1e100, 1.0, -1e100, 2.0], [1.0, 2.0, 3.0, 5.0]),
        case("zeros", [0.0, -0.0, 0.0], [-0.0, -0.0, 0.0]),
        case("negative zeros", [-0.0, -0.0], [1.0, 2.0]),
        case("smallest", [5e-324, 5e-324, -1.5e-323, 5e-324, 5e-324], [2.0**-1022, -(2.0**-1022), 5e-324, 0.0, 1.0]),
        case("subnormal to normal", [2.0**-1022 - 5e-324, 5e-324], [1.0, 2.0]),
        case("largest", [1.7976931348623157e308, -1.0, 1.7976931348623157e308], [1.7976931348623157e308, 0.0, -1.7976931348623157e308]),
        case("mean of an overflowing sum", [1.7976931348623157e308] * 3 + [-1.0], [2.0] * 4),
        case("largest and half a unit", [1.7976931348623157e308, 2.0**969], [1.0, 2.0]),
        case("half a unit overflows", [1.7976931348623157e308, 2.0**970], [1.0, 2.0]),
        case("tie to even, down", [2.0**53, 1.0], [1.0, 1.0]),
        case("tie to even, up", [2.0**53 + 2, 1.0], [1.0, -1.0]),
        case("above a tie", [2.0**53, 1.0, 5e-324], [1.0, 3.0, 2.0]),
        case("below a tie", [2.0**53, 1.0, -5e-324], [1.0, 3.0, 2.0]),
        case("a variance that cancels", [1e15 + i for i in range(5)], [1e15 - 2 * i for i in range(5)]),
        case("equal", [0.3] * 7, [0.1] * 7),
        case("a line", [0.1, 0.2, 0.3, 0.4], [1.1, 1.2, 1.3, 1.4]),
        case("negative", [-3.5, -1e-5, -7e20], [1e-200, 2e-200, -1e200]),
    ]
    for count, low, high in [(3, -1074, 1020), (20, -1074, -1000), (20, 900, 1015), (30, -600, 600), (30, -40, 40), (50, -3, 3), (2, -1074, 1015)]:
        for i in range(3):
            name = f"{count} of 2^{low} to 2^{high}, {i}"
            cases.append(case(name, [any_float(low, high) for _ in range(count)], [any_float(low, high) for _ in range(count)]))
    print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")


if __name__ == "__main__":
    main()
