"""Layer 5: the command line. Parsing and printing; the work is done below."""

import gc
import sys
from importlib.util import find_spec

# Outside the environment: one line, where an import below would end in a traceback.
_needed = ("torch", "mlflow", "optuna", "pydantic", "yaml")
_absent = [name for name in _needed if find_spec(name) is None]
if _absent or sys.version_info < (3, 11):
    _what = f"has no package {_absent[0]}" if _absent else "is older than 3.11"
    _program = "-m seglab" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    _folder = "Scripts" if sys.platform == "win32" else "bin"
    print(
        f"error: {sys.executable} {_what}: run `make env`, then .venv/{_folder}/python "
        f"{_program} …",
        file=sys.stderr,
    )
    sys.exit(2)

# torch and MLflow make a million objects while they are imported, none of them garbage: to look
# for garbage after each 700 took a fifth of a command's start. Workers pass here too.
gc.set_threshold(100_000)
