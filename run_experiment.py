#!/usr/bin/env python3
"""Train one experiment, or every arm × seed of an ablation: see --help."""

import sys

from seglab.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
