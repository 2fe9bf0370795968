"""`python -m msm_jax.evals.power`: how many samples tell one rate from another.

    python -m msm_jax.evals.power --pairs=0.14:0.07,0.54:0.07 --conditions=27

Two-sided test of two independent rates at `--alpha`. The count is per checkpoint, over all its
conditions together, with the rates the same in all of them; conditions that differ make the mean
more precise and so need fewer (`mean_rates.fixed_bounds`). The interval that a report gives is made
to hold rather than to find, and excludes 0 a little less often (docs/evals.md).
"""

import math
import statistics

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.settings import form, key, values

KEYS = {
    "conditions": key(27, "how many conditions share the samples", at_least=1),
    "power": key(0.8, "probability of finding a difference that exists", above=0, below=1),
    "alpha": key(0.05, "probability of finding one that does not exist", above=0, below=1),
}
DESIGN = form("power", "A comparison of two rates.", **KEYS)
DESIGNS = {"smoke test": 8, "ranking": 50, "paper": 300}  # samples per condition


def samples_per_arm(p_a: float, p_b: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Answers per arm with which a test finds p_a != p_b this often (Fleiss 1981, formula 3.14).

    Raises:
      ValueError: a rate, power or alpha outside (0, 1), or equal rates.
    """
    for name, value in (("power", power), ("alpha", alpha)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: must lie between 0 and 1")
    null, apart = _spreads(p_a, p_b)
    if p_a == p_b:
        raise ValueError(f"rates {p_a} and {p_b} are equal: no number of samples tells them apart")
    quantile = statistics.NormalDist().inv_cdf
    root = quantile(1 - alpha / 2) * null + quantile(power) * apart
    return math.ceil((root / (p_a - p_b)) ** 2)


def power_of(p_a: float, p_b: float, n: int, alpha: float = 0.05) -> float:
    """How often a test with n answers per arm finds p_a != p_b: the inverse of the above."""
    normal, (null, apart) = statistics.NormalDist(), _spreads(p_a, p_b)
    difference = abs(p_a - p_b) * math.sqrt(n)
    if apart == 0:
        return 1.0 if difference > 0 else alpha
    return normal.cdf((difference - normal.inv_cdf(1 - alpha / 2) * null) / apart)


def detectable(p_b: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest rate above p_b that n answers per arm find with this power; None if none."""
    if power_of(1.0, p_b, n, alpha) < power:
        return None
    low, high = p_b, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle, p_b, n, alpha) >= power else (middle, high)
    return high


def table(
    pairs: list[tuple[float, float]], conditions: int, power: float = 0.8, alpha: float = 0.05
) -> str:
    """As text: the samples for each pair, and what the usual designs can tell apart."""
    lines = [
        f"to tell A from B with power {power:g} at alpha {alpha:g}, per checkpoint:",
        f"{'A':>7}{'B':>8}{'samples':>10}{f'per condition of {conditions}':>25}",
    ]
    for p_a, p_b in pairs:
        n = samples_per_arm(p_a, p_b, power, alpha)
        lines.append(f"{p_a:>7.1%}{p_b:>8.1%}{n:>10,}{math.ceil(n / conditions):>25,}")
    lines.append(f"with {conditions} conditions, the smallest rate distinguishable from B:")
    lines.append(f"{'':>22}" + "".join(f"{f'B = {b:.0%}':>10}" for b in (0.01, 0.07, 0.5)))
    for name, each in DESIGNS.items():
        found = [detectable(b, each * conditions, power, alpha) for b in (0.01, 0.07, 0.5)]
        cells = "".join(f"{'-' if rate is None else f'{rate:.1%}':>10}" for rate in found)
        lines.append(f"{f'{name}, {conditions} x {each}':>22}{cells}")
    return "\n".join(lines)


def _spreads(p_a, p_b):
    """Standard deviations of the difference of one answer each: under no difference, and as is."""
    for rate in (p_a, p_b):
        if not 0 <= rate <= 1:
            raise ValueError(f"rate {rate}: must lie within 0 and 1")
    mean = (p_a + p_b) / 2
    return math.sqrt(2 * mean * (1 - mean)), math.sqrt(p_a * (1 - p_a) + p_b * (1 - p_b))


def _main() -> None:
    numbers = values(DESIGN, {name: flags.FLAGS[name].value for name in KEYS}, "--")
    try:
        pairs = [(float(a), float(b)) for a, b in (p.split(":") for p in flags.FLAGS.pairs)]
        if not pairs:
            raise ValueError("it is empty")
        print(table(pairs, **numbers))
    except ValueError as error:
        raise UserError(f"--pairs is a list of A:B such as 0.14:0.07 ({error})") from error


if __name__ == "__main__":
    pairs = ["0.54:0.07", "0.14:0.07", "0.10:0.07", "0.54:0.50"]
    flags.DEFINE_list("pairs", pairs, "The pairs of rates to tell apart, each as A:B.")
    for name, one in KEYS.items():
        define = flags.DEFINE_integer if one.kind is int else flags.DEFINE_float
        define(name, one.default, f"{one.meaning[0].upper()}{one.meaning[1:]}; {one.bounds}.")
    command.run(_main, config=False)
