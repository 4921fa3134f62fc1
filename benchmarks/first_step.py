"""What ``run_experiment.py`` does, up to the end of its first training step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def main(file: str) -> None:
    """Start the experiment ``file``; the process is gone as soon as a step is done."""
    from seglab.core.study import load_study

    study = load_study(Path(file))
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from seglab.studies.ablation import run_study
    from seglab.tracking import open_store

    register_optimizer_step_post_hook(_leave)
    outcome = run_study(study, open_store(), fresh=True)
    raise SystemExit(f"{file}: no training step was made: {outcome.runs[0].error}")


def _leave(*_: Any) -> None:
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
