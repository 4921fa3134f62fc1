"""Error rates, power and coverage of verdicts, as the tables of docs/statistics.md.

python -m tests.verdicts                            2,000 experiments a row
python -m tests.verdicts --experiments 500          sooner
python -m tests.verdicts power equivalence          some of the tables
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from tests.verdicts.rules import OF_ONE_SEED, RULES, Rates, measure
from tests.verdicts.simulate import Setting

SIZES = ((2, 2), (2, 3), (3, 2), (3, 3), (10, 3))
ONE = Setting()
SKEWED = Setting(shape="skewed", noise=0.0)
SELECTED = Setting(2, 3, sd_run=0.01)
PLANTED = Setting(shape="normal", difference=0.02)
SIMILAR = Setting(shape="normal", sd=0.02)
TABLES: dict[str, tuple[str, list[Setting]]] = {
    "equal": (
        "Equal arms, any called different",
        [
            *(
                replace(ONE, arms=a, shape=s)
                for s in ("dice", "normal", "heavy")
                for a in (2, 3, 10)
            ),
            *(replace(SKEWED, arms=arms) for arms in (2, 3, 10)),
            *(replace(one, patients=n) for one in (ONE, SKEWED) for n in (4, 6, 8, 18, 300)),
            *(Setting(*size, sd_run=sd) for size in SIZES for sd in (0.0, 0.01)),
            *(Setting(*size, sd_run=sd, noise=1.0) for size in SIZES for sd in (0.005, 0.02)),
            *(
                replace(SKEWED, arms=a, seeds=2, sd_run=sd)
                for sd in (0.0, 0.005)
                for a in (2, 3, 10)
            ),
            *(Setting(3, 2, patients, sd_run=0.005) for patients in (8, 18, 300)),
        ],
    ),
    "kept": (
        "Equal arms, the best epoch and learning rate kept, any called different",
        [
            replace(SELECTED, arms=arms, epochs=epochs, rates=rates, sd_rate=sd)
            for arms in (2, 3, 10)
            for epochs, rates, sd in ((10, 1, 0.0), (1, 5, 0.0), (10, 5, 0.0), (10, 5, 0.005))
        ],
    ),
    "hidden": (
        "Equal arms of one seed, which cannot show what a seed does, called different",
        [
            *(Setting(sd_run=sd) for sd in (0.002, 0.005, 0.01)),
            Setting(sd_run=0.005, epochs=10, rates=5),
        ],
    ),
    "power": (
        "A difference of 0.02, found / held by the 95 % interval",
        [
            *(replace(PLANTED, shape=shape) for shape in ("dice", "normal", "heavy", "skewed")),
            *(
                replace(PLANTED, seeds=seeds, sd_run=sd, shape=shape)
                for seeds in (2, 3, 5)
                for sd in (0.0, 0.005)
                for shape in ("normal", "skewed")
            ),
            *(replace(PLANTED, seeds=seeds, noise=1.0) for seeds in (2, 3, 5)),
            *(replace(PLANTED, arms=4, seeds=3, sd_run=sd) for sd in (0.0, 0.005)),
            replace(PLANTED, seeds=3, sd_run=0.005, shape="dice", epochs=10, rates=5),
        ],
    ),
    "equivalence": (
        "Called equivalent, differences of exactly the margin and of 0",
        [
            replace(SIMILAR, seeds=seeds, sd_run=sd, shape=shape, difference=difference)
            for difference in (0.01, 0.0)
            for seeds, sd in ((1, 0.0), (2, 0.0), (3, 0.0), (3, 0.003))
            for shape in ("normal", "skewed")
        ],
    ),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all where none is named")
    parser.add_argument("--experiments", type=int, default=2_000, help="a row")
    arguments = parser.parse_args()
    header = ("arms × seeds", "patients", "shape", "SD of a run", "run noise", "kept", "truth")
    for name in arguments.tables or TABLES:
        title, settings = TABLES[name]
        print(f"\n{title}; % of {arguments.experiments:,} experiments a row\n")
        print(f"| {' | '.join([*header, *RULES])} |\n|{'---|' * (len(header) + len(RULES))}")
        for setting in settings:
            rules = RULES if setting.seeds > 1 else OF_ONE_SEED
            found = measure(setting, arguments.experiments, rules)
            cells = [_cell(name, found[rule]) if rule in found else "" for rule in RULES]
            print(f"| {' | '.join([*_describe(setting), *cells])} |", flush=True)


def _describe(one: Setting) -> list[str]:
    kept = [f"epoch of {one.epochs}"] if one.epochs > 1 else []
    kept += [f"rate of {one.rates}, SD {one.sd_rate:g}"] if one.rates > 1 else []
    size, moved = [f"{one.arms} × {one.seeds}", f"{one.patients}"], [f"{one.sd_run:g}"]
    return [*size, one.shape, *moved, f"{one.noise:.0%}", "; ".join(kept), f"{one.difference:g}"]


def _cell(table: str, rates: Rates) -> str:
    shown = {"power": [rates.found, rates.covered], "equivalence": [rates.equivalent]}
    values = shown.get(table, [rates.any_claim])
    return " / ".join("–" if value != value else f"{100 * value:.1f}" for value in values)


if __name__ == "__main__":
    main()
