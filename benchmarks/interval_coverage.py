"""How often the intervals of `msm_jax.evals.mean_rates` hold what they promise, by simulation.

    python benchmarks/interval_coverage.py [--studies=4000]

27 conditions whose rates come from a beta distribution with a given mean and spread (standard
deviation over mean); 95 % intervals. The table of docs/evals.md.
"""

import numpy as np
from absl import app, flags

from msm_jax.evals import mean_rates as m

flags.DEFINE_integer("studies", 4000, "Simulated studies per line.")
CONDITIONS, SEEDS = 27, 4


def coverage(bounds, truth) -> float:
    return float(np.mean((bounds[1] <= truth) & (truth <= bounds[2])))


def line(rng, n: int, rate: float, spread: float, studies: int) -> list[float]:
    """Coverage of each interval for one design."""
    deviation = min(spread * rate, 0.29)
    worth = rate * (1 - rate) / deviation**2 - 1
    draw = lambda shape: rng.beta(rate * worth, (1 - rate) * worth, shape)
    fixed, drawn = draw(CONDITIONS), draw((studies, CONDITIONS))
    counts = np.full((studies, CONDITIONS), n)
    k_fixed = rng.binomial(n, np.broadcast_to(fixed, counts.shape))
    half_fixed = rng.binomial(n, np.broadcast_to(fixed / 2, counts.shape))
    k_drawn, half_drawn = rng.binomial(n, drawn), rng.binomial(n, drawn / 2)
    shift = np.clip(rng.normal(0, 0.2, (studies, SEEDS, 1)), -0.9, 0.9)
    moved = lambda rates: rates + shift * np.minimum(rates, 1 - rates)
    k_seeds = rng.binomial(n, moved(fixed))
    k_both = rng.binomial(n, moved(drawn[:, None]))
    whole = np.full(k_both.shape, n)
    return [
        coverage(m.fixed_bounds(k_fixed, counts), fixed.mean()),
        coverage(m.sample_bounds(k_drawn, counts), rate),
        coverage(m.difference_bounds(k_fixed, counts, half_fixed, counts), fixed.mean() / 2),
        coverage(m.difference_sample_bounds(k_drawn / n, half_drawn / n), rate / 2),
        coverage(m.seeds_bounds(k_seeds, whole), fixed.mean()),
        coverage(m.seeds_and_conditions_bounds(k_both, whole), rate),
    ]


def main(argv) -> None:
    del argv
    rng = np.random.default_rng(0)
    names = "fixed", "sample", "diff. fixed", "diff. sample", "seeds", "seeds+cond."
    print("| n | rate | spread | " + " | ".join(names) + " |\n" + "|---" * 9 + "|")
    for n in (30, 300):
        for rate in (0.02, 0.1, 0.5):
            for spread in (0.5, 1.0, 2.0):
                found = line(rng, n, rate, spread, flags.FLAGS.studies)
                cells = " | ".join(f"{100 * value:.1f}" for value in found)
                print(f"| {n} | {rate} | {spread} | {cells} |")


if __name__ == "__main__":
    app.run(main)
