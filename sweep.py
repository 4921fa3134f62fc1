#!/usr/bin/env python3
"""Search for the best config with Optuna; the same command continues: see --help."""

import sys

from seglab.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
