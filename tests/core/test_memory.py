"""Freed memory is kept when asked for, and given back when asked for."""

import platform
import resource
from pathlib import Path

import numpy as np
import pytest

from seglab.core.memory import give_back_freed_memory, keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
BYTES = 2**26


def test_kept_memory_comes_without_page_faults() -> None:
    keep_freed_memory()
    faults = [_faults_of_filling() for _ in range(5)]
    assert faults[-1] < 0.01 * BYTES / resource.getpagesize()


def test_memory_given_back_is_not_resident() -> None:
    keep_freed_memory()
    _faults_of_filling()
    before = _resident_bytes()
    give_back_freed_memory()
    assert before - _resident_bytes() > 0.8 * BYTES


def _faults_of_filling() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(BYTES, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()
