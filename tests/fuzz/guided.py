"""A reader under atheris: ``python -m tests.fuzz.guided READER [libFuzzer options]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["seglab", "yaml", "nibabel", "csv", "json"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].read)
    atheris.Fuzz()
