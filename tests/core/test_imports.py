"""What importing in peace leaves behind: the garbage collector as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from seglab.core.imports import collector_paused

MANY_CAME = """
import gc
from seglab.core.imports import collector_paused
with collector_paused():
    assert not gc.isenabled()
    import numpy, cv2, pydantic
assert gc.isenabled()
print(gc.get_freeze_count())
import torch, seglab.learning.optimizer as optimizer
from seglab.core.config import Optim
optimizer.build_optimizer(torch.nn.Linear(2, 2), Optim(), torch.device("cpu"))
"""


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_it_was_even_after_an_error(was_on: bool) -> None:
    frozen = gc.get_freeze_count()
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(ImportError), collector_paused():
            raise ImportError
        assert gc.isenabled() is was_on
        assert gc.get_freeze_count() == frozen, "nothing came that would be worth it"
    finally:
        gc.enable()


def test_what_was_imported_is_passed_over() -> None:
    result = subprocess.run([sys.executable, "-c", MANY_CAME], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10_000
    assert "leaked" not in result.stderr, "an extension complains at the end"
