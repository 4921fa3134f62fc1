"""Error rates of the verdicts, a table each for equal arms, planted differences, equivalence.

python -m tests.verdicts                            1,000 experiments a row
python -m tests.verdicts --experiments 200          sooner
python -m tests.verdicts planted equivalence        some of the tables
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

from tests.verdicts.simulate import (
    Setting,
    false_claims,
    false_equivalence,
    find_planted,
    skewed_arms,
)

SIZES = [(2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (5, 3), (10, 1), (10, 3)]
NULL = [
    *(Setting(a, s, sd_run=sd) for a, s in SIZES for sd in (0.0, 0.01) if s > 1 or sd == 0),
    *(
        Setting(a, s, sd_run=sd, noise=1.0)
        for a, s in ((2, 2), (3, 2), (2, 3), (3, 3), (10, 3))
        for sd in (0.005, 0.012, 0.02)
    ),
    *(Setting(3, 2, n, 0.005) for n in (8, 18, 300)),
    *(Setting(2, 1, n) for n in (8, 18, 300)),
]
SKEWED = [Setting(2), Setting(4), Setting(10)]
PLANTED = [
    *((Setting(), tails) for tails in ("normal", "heavy", "skewed")),
    *((Setting(2, s, sd_run=sd), "normal") for s in (2, 3, 5) for sd in (0.0, 0.005)),
    *((Setting(2, s, noise=1.0), "normal") for s in (2, 3, 5)),
]
EQUIVALENCE = [
    *(Setting(2, s, sd_run=sd) for s in (1, 2, 3) for sd in (0.0, 0.01) if s > 1 or sd == 0),
    *(Setting(2, s, sd_run=0.01, noise=1.0) for s in (2, 3)),
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all where none is named")
    parser.add_argument("--experiments", type=int, default=1_000, help="a row")
    arguments = parser.parse_args()
    for name in arguments.tables or TABLES:
        TABLES[name](arguments.experiments)


def _null(count: int) -> None:
    _rates("equal arms: any called better or worse", NULL, false_claims, count)


def _skewed(count: int) -> None:
    measure = partial(false_claims, draw=skewed_arms)
    _rates("equal means, skewed: any called better or worse", SKEWED, measure, count)


def _planted(count: int) -> None:
    print(f"planted 0.02, paired SD 0.05 ({count} experiments a row)", flush=True)
    for setting, tails in PLANTED:
        found = find_planted(setting, count, tails=tails)
        print(
            f"{_name(setting)}, {tails:<6}  found {found.power:6.1%}  theory {found.theory:6.1%}  "
            f"interval covers {found.coverage:6.1%}",
            flush=True,
        )


def _equivalence(count: int) -> None:
    _rates("difference at the margin: called equivalent", EQUIVALENCE, false_equivalence, count)


def _rates(
    title: str, settings: list[Setting], measure: Callable[[Setting, int], float], count: int
) -> None:
    print(f"{title} ({count} experiments a row)", flush=True)
    for setting in settings:
        rate = measure(setting, count)
        error = math.sqrt(rate * (1 - rate) / count)
        print(f"{_name(setting)}  {rate:6.1%} ± {error:.1%}", flush=True)


def _name(setting: Setting) -> str:
    return (
        f"{setting.arms:2d} arms × {setting.seeds} seeds, {setting.patients:3d} patients, "
        f"luck of a run {setting.sd_run:.3f}, noise of runs {setting.noise:4.0%}"
    )


TABLES = {
    "null": _null,
    "skewed": _skewed,
    "planted": _planted,
    "equivalence": _equivalence,
}

if __name__ == "__main__":
    main()
