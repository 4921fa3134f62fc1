#!/usr/bin/env python3
"""Search for the best config with Optuna; the same command continues: see --help."""

import sys

from seglab.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
