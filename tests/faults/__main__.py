"""The fault campaign: real commands on tiny phantoms, disturbed at random moments.

python -m tests.faults                            every fault, as often as each is worth
python -m tests.faults --only kill-run --repeats 50
python -m tests.faults --only kill-run --seed 17 --repeats 1    that one again
python -m tests.faults --list
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.one_code import MixedCode, OneCode
from tests.faults.registry import FAULTS, Fault
from tests.faults.workshop import Workshop


def main() -> int:
    """Run the campaign; 1 if anything was lost."""
    import tests.faults.catalogue  # noqa: F401  (registers)

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of them")
    parser.add_argument("--repeats", type=int, help="of each (default: its own number)")
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat; then seed + 1 …")
    parser.add_argument("--folder", type=Path, help="keep there what undisturbed commands left")
    parser.add_argument("--list", action="store_true", help="what there is")
    arguments = parser.parse_args()
    names = arguments.only or list(FAULTS)
    unknown = set(names) - FAULTS.keys()
    if unknown:
        print(f"no fault {min(unknown)}; there are: {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    if arguments.list:
        for one in FAULTS.values():
            print(f"{one.name:<20} {one.repeats:3d} × {one.summary}")
        return 0
    try:
        return _campaign(arguments.folder, names, arguments.repeats, arguments.seed)
    except MixedCode as error:
        print(error, file=sys.stderr)
        return 2


def _campaign(kept: Path | None, names: list[str], repeats: int | None, seed: int) -> int:
    """Inject these faults in a folder to be kept, or a temporary one."""
    folder = kept or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    code = OneCode(folder)
    code.check()
    shop = Workshop(folder.absolute())
    try:
        found = sum(_repeat(shop, code, FAULTS[name], repeats, seed) for name in names)
    finally:
        shop.nursery.close()
    if not found and kept is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if found else 0


def _repeat(shop: Workshop, code: OneCode, one: Fault, repeats: int | None, seed: int) -> int:
    """Inject one fault again and again; returns how often something was lost."""
    count = one.repeats if repeats is None else repeats
    started, injected, found = time.monotonic(), Counter[str](), 0
    for number in range(seed, seed + count):
        try:
            injected += one.inject(shop, random.Random(f"{one.name} {number}"))
        except Exception as error:
            code.check()  # what differs may be the code
            found += 1
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            print(f"FOUND {one.name} --seed {number} in {shop.folder}: {error}", flush=True)
        code.check()
    told = ", ".join(f"{n} {what}" for what, n in sorted(injected.items()))
    took = time.monotonic() - started
    print(f"{one.name}: {count} times ({told}), {found} findings, {took:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
