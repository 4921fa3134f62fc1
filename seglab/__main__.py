"""``python -m seglab``."""

import sys

from seglab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
