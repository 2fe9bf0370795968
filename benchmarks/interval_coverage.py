"""How often each interval of the evaluations holds the truth, by simulation.

    python benchmarks/interval_coverage.py [--studies=4000] [--quick]

Prints the table of docs/evals.md: 95 % intervals, for each the lowest coverage over what a
reader cannot know (how far conditions, seeds or answers to one question differ), by rate.
With --quick only a small design of each: what
`tests/evals/test_coverage.py` checks.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Container, Sequence

import numpy as np
from absl import app, flags

from msm_jax.evals import mean_rates as m
from msm_jax.evals import statistics as s

RATES = 0.005, 0.02, 0.1, 0.5, 0.9
SPREADS = 0.1, 0.5, 1.0, 2.0  # of conditions: standard deviation over mean, at most .29
SEED_SPREADS = 0.0, 0.3, 0.6  # of training seeds: standard deviation in log-odds
QUICK = {"8", "20", "8 x 2", "20 x 1-10", "28 x 1", "1 x 8", "1 x 20", "3 x 8", "9 x 30", "8 x 30",
         "27 x 8", "2 x 8", "2 x 20", "4 x 20", "4 x 810", "2 x 27 x 30"}  # fmt: skip
FAR = (1.0,)  # seeds of which one in three has more than 2.7 times or less than .37 the odds
ALIKE = 0.02, 0.5, 0.98  # correlation of answers to one question


@dataclasses.dataclass(frozen=True)
class Situation:
    """An interval and the studies in which it is tried.

    Attributes:
      interval: its name in the table.
      design: sizes of the study.
      simulate: (rng, studies, rate, nuisance) -> (estimate, low, high) and the truth.
      nuisances: values of what is not known.
      at_least: the coverage that docs/evals.md promises, at every rate and nuisance.
    """

    interval: str
    design: str
    simulate: Callable
    nuisances: Sequence[float]
    at_least: float = 0.93

    def coverage(self, rate: float, nuisance: float, studies: int) -> float:
        """The share of simulated studies whose interval holds the truth; NaN bounds hold none."""
        name = f"{self.interval} {self.design} {rate} {nuisance}"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        (_, low, high), truth = self.simulate(rng, studies, rate, nuisance)
        return float(np.mean((low <= truth + 1e-9) & (truth <= high + 1e-9)))

    def lowest(self, rate: float, studies: int) -> float:
        return min(self.coverage(rate, nuisance, studies) for nuisance in self.nuisances)


def situations(designs: Container[str] | None = None) -> list[Situation]:
    """All of the table, or those of some designs."""
    found: list[Situation] = []

    def add(interval, simulate, nuisances, designs, at_least=0.93):
        for design in designs:
            name = " x ".join(map(str, design))
            run = functools.partial(simulate, *design)
            found.append(Situation(interval, name, run, nuisances, at_least))

    single = [(8,), (12,), (20,), (21,), (30,), (300,)]
    add("one rate: n", one_rate, [0.0], single, 0.95)
    add("missing verdicts: n", missing, [0.05, 0.3], [(20,), (60,)], 0.95)
    sizes = [(8, 2), (12, 2), (20, 2), (21, 2), (60, 2), (20, "1-2"), (20, "1-10"), (8, 10)]
    add("pairs or questions: clusters x answers", clustered, ALIKE, sizes)
    add("scores from 1 to 10: questions x answers", scores, ALIKE, [(7, 1), (28, 1), (28, 4)])
    add("nats per token: documents", losses, [-0.5, 0.0, 0.5], [(8,), (32,), (150,)], 0.88)
    grids = [(1, 8), (1, 30), (2, 8), (3, 8), (9, 30), (27, 30), (27, 300)]
    add("mean, conditions fixed: conditions x answers", fixed, SPREADS, grids)
    drawn = [(2, 30), (3, 30), (8, 30), (20, 30), (27, 8), (27, 30), (27, 300)]
    add("mean, conditions drawn", sampled, SPREADS, drawn)
    add("difference, independent", difference, SPREADS, grids)
    shares = 0.0, 0.7, 1.0
    add("difference, paired by sample", paired, shares, [(1, 8), (1, 20), *grids[1:-1], (27, 100)])
    add("difference, conditions drawn", difference_drawn, SPREADS, drawn)
    seeds = [(2, 8), (2, 20), (3, 20), (4, 20), (4, 40), (8, 40), (4, 810)]
    add("mean over seeds: seeds x answers", over_seeds, SEED_SPREADS, seeds)
    crossed = [(2, 2, 30), (2, 8, 30), (2, 27, 30), (4, 27, 30)]
    add("seeds and conditions drawn: seeds x conditions x answers", crossed_seeds, SPREADS, crossed)
    add("contrast over seeds: seeds x answers", contrast, SEED_SPREADS, seeds, 0.92)
    add("widening over seeds (difference of differences)", widening, SEED_SPREADS, seeds[:-1])
    far = [(4, 20), (4, 810), (8, 810)]
    add("mean over seeds far apart", over_seeds, FAR, far, 0.89)
    add("contrast over seeds far apart", contrast, FAR, far, 0.84)
    add("widening over seeds far apart", widening, FAR, far)
    return [one for one in found if designs is None or one.design in designs]


# ------------------------------------------------------------------ simulated studies


def beta(rng, rate, spread, shape):
    """Rates of conditions with this mean and spread."""
    worth = rate * (1 - rate) / min(spread * rate, spread * (1 - rate), 0.29) ** 2 - 1
    return rng.beta(rate * worth, (1 - rate) * worth, shape)


def one_rate(n, rng, studies, rate, _):
    k = rng.binomial(n, rate, studies)
    return (k / n, *s.exact_bounds(k / n, np.full(studies, n))), rate


def missing(n, rng, studies, rate, lost):
    """Yes answers lose their verdict more often."""
    k = rng.binomial(n, rate, studies)
    gone = rng.binomial(k, lost)
    other = rng.binomial(n - k, lost / 5)
    low = s.exact_bounds((k - gone) / n, np.full(studies, n))[0]
    high = s.exact_bounds((k + other) / n, np.full(studies, n))[1]
    return (k / n, low, high), rate


def clustered(count, size, rng, studies, rate, alike):
    low, high = map(int, size.split("-")) if isinstance(size, str) else (size, size)
    sizes = rng.integers(low, high + 1, (studies, count))
    worth = 1 / alike - 1
    sums = rng.binomial(sizes, rng.beta(rate * worth, (1 - rate) * worth, (studies, count)))
    return s.bounded_mean_bounds(sums, sizes), rate


def scores(count, size, rng, studies, rate, alike):
    """Scores are 1 and a binomial number of 9 more, so that the mean is 1 + 9 rate."""
    of_question = beta(rng, rate, max(2 * alike, 0.1), (studies, count, 1))
    values = 1 + rng.binomial(9, of_question, (studies, count, size))
    sizes = np.full((studies, count), size)
    return s.bounded_mean_bounds(values.sum(-1), sizes, (1.0, 10.0)), 1 + 9 * rate


def losses(count, rng, studies, rate, alike):
    """Lengths have this standard deviation (of their logarithms), the nats per token of documents
    .2 of their mean; long documents are harder, easier or neither."""
    length, free = rng.normal(size=(2, studies, count))
    sizes = np.exp(rate * length)
    each = np.exp(0.2 * (alike * length + np.sqrt(1 - alike**2) * free) - 0.2**2 / 2)
    return s.ratio_bounds(sizes * each, sizes), np.exp(alike * rate * 0.2)


def fixed(count, n, rng, studies, rate, spread):
    rates = beta(rng, rate, spread, (studies, count))
    return m.fixed_bounds(rng.binomial(n, rates), np.full(rates.shape, n)), rates.mean(-1)


def sampled(count, n, rng, studies, rate, spread):
    k = rng.binomial(n, beta(rng, rate, spread, (studies, count)))
    return m.drawn_bounds(k / n, (0.0, 1.0)), rate


def difference(count, n, rng, studies, rate, spread):
    rates = beta(rng, rate, spread, (studies, count))
    whole = np.full(rates.shape, n)
    bounds = m.difference_bounds(rng.binomial(n, rates), whole, rng.binomial(n, rates / 2), whole)
    return bounds, rates.mean(-1) / 2


def paired(count, n, rng, studies, rate, share):
    """b has a's dice in this share of the samples, and .8 of its rates."""
    rates = beta(rng, rate, 0.5, (studies, count, 1))
    dice = rng.random((studies, count, n), np.float32)
    other = np.where(rng.random(dice.shape, np.float32) < share, dice, rng.random(dice.shape))
    yes_a, yes_b = dice < rates, other < 0.8 * rates
    only_a, only_b = (yes_a & ~yes_b).sum(-1), (yes_b & ~yes_a).sum(-1)
    bounds = m.paired_bounds(only_a, only_b, np.full(only_a.shape, n))
    return bounds, 0.2 * rates.mean((-2, -1))


def difference_drawn(count, n, rng, studies, rate, spread):
    rates = beta(rng, rate, spread, (studies, count))
    a, b = rng.binomial(n, rates) / n, rng.binomial(n, rates / 2) / n
    return m.drawn_bounds(a - b, (-1.0, 1.0)), rate / 2


def moved(rng, rate, spread, studies, seeds):
    """Rates of seeds that a normal shift of their log-odds moves, and their mean."""
    of = lambda shift: 1 / (1 + np.exp(-np.log(rate / (1 - rate)) - spread * shift))
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    return of(rng.normal(size=(studies, seeds))), of(points) @ weights / weights.sum()


def over_seeds(seeds, n, rng, studies, rate, spread):
    rates, truth = moved(rng, rate, spread, studies, seeds)
    return m.seed_rates_bounds(rng.binomial(n, rates) / n, np.float64(1 / n)), truth


def crossed_seeds(seeds, count, n, rng, studies, rate, spread):
    drawn = beta(rng, rate, spread, (studies, 1, count))
    shift = np.clip(rng.normal(0, 0.2, (studies, seeds, 1)), -0.9, 0.9)
    k = rng.binomial(n, drawn + shift * np.minimum(drawn, 1 - drawn))
    return m.seeds_and_conditions_bounds(k, np.full(k.shape, n)), rate


def contrast(seeds, n, rng, studies, rate, spread, arms=2):
    """Arms have rate and rate / 2 in turn; what a seed moves, it moves in all of them."""
    shift, truth = moved(rng, rate, spread, studies, seeds)
    a = [rng.binomial(n, shift) / n for _ in range(arms // 2)]
    b = [rng.binomial(n, shift / 2) / n for _ in range(arms // 2)]
    plus, minus, truth = (a[0], b[0], truth / 2) if arms == 2 else (a[0] + b[0], b[1] + a[1], 0.0)
    step, limit = 1 / n, arms / 2
    found = [
        s.paired_difference(x, y, step=step, limit=limit) for x, y in zip(plus, minus, strict=True)
    ]
    bounds = np.asarray([(one.estimate, one.ci_low, one.ci_high) for one in found])
    return bounds.T, truth


def widening(seeds, n, rng, studies, rate, spread):
    return contrast(seeds, n, rng, studies, rate, spread, arms=4)


# ------------------------------------------------------------------ the table


def print_table(studies: int, quick: bool) -> None:
    print(f"| interval | design | {' | '.join(map(str, RATES))} |")
    print("|---|---|" + "---|" * len(RATES))
    before = ""
    for one in situations(QUICK if quick else None):
        cells = [f"{100 * one.lowest(rate, studies):.1f}" for rate in RATES]
        name = "" if one.interval == before else one.interval
        before = one.interval
        print(f"| {name} | {one.design} | {' | '.join(cells)} |", flush=True)


def main(argv) -> None:
    del argv
    print_table(flags.FLAGS.studies, flags.FLAGS.quick)


if __name__ == "__main__":
    flags.DEFINE_integer("studies", 4000, "Simulated studies per design, rate and spread.")
    flags.DEFINE_bool("quick", False, "Small designs only.")
    app.run(main)
