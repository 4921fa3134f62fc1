"""Peak memory belongs to the run, not to the process."""

import sys

import numpy as np
import pytest
import torch

from seglab.learning.device import peak_memory_mb, restart_peak

CPU = torch.device("cpu")


def test_the_peak_grows_with_what_is_held() -> None:
    restart_peak(CPU)
    before = peak_memory_mb(CPU)
    held = np.ones((200, 2**20), np.uint8)
    assert peak_memory_mb(CPU) - before > 150
    del held


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_what_an_earlier_run_held_is_forgotten() -> None:
    held = np.ones((200, 2**20), np.uint8)
    before = peak_memory_mb(CPU)
    del held
    restart_peak(CPU)
    assert peak_memory_mb(CPU) < before - 150
