"""The campaign: many inputs, each reader in a process of its own.

python -m tests.fuzz --runs 100000            every reader
python -m tests.fuzz --runs 100000 h5 nifti   some of them
python -m tests.fuzz --engine atheris yaml    guided by coverage, where atheris is installed
python -m tests.fuzz --repeat 4711 h5         one input again
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.campaign import guided, hunt, worker


def main() -> int:
    """Run the campaign; 1 if a reader let anything through."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="readers; all where none is named")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--engine", choices=("mutants", "atheris"), default="mutants")
    parser.add_argument("--repeat", type=int, help="run this input alone, in this process")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.targets[0], arguments.first, arguments.runs, arguments.worker)
    return _campaign(arguments)


def _campaign(arguments: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    names = arguments.targets or list(TARGETS)
    unknown = set(names) - TARGETS.keys()
    if unknown:
        print(f"no reader {min(unknown)}; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    found = 0
    for name in names:
        if arguments.repeat is not None:
            from tests.fuzz.campaign import try_one

            try_one(name, arguments.repeat)
        elif arguments.engine == "atheris":
            found += guided(name, arguments.runs)
        else:
            found += hunt(name, arguments.first, arguments.runs)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
