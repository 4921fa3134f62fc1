"""Where the time of a call goes, by looking at its thread every few milliseconds."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import FrameType

EVERY_S = 0.004
PARTS = (
    ("seglab/learning/inference.py", "validate", "validation"),
    ("seglab/learning/training.py", "save", "checkpoint"),
    ("seglab/tracking/", "", "logging"),
    ("torch/autograd/", "", "backward"),
    ("seglab/losses/", "", "loss"),
    ("seglab/learning/batches.py", "", "waiting for batches"),
    ("torch/optim/", "", "optimizer"),
    ("torch/nn/utils/clip_grad.py", "", "optimizer"),
    ("torch/nn/modules/", "", "forward"),
)
"""(file, function or any, part): the first that is on the stack has the moment."""
OTHER = "the rest"


def split_of(call: Callable[[], object]) -> dict[str, float]:
    """Make the call and tell the seconds of each part of it, in the order of ``PARTS``."""
    seconds: defaultdict[str, float] = defaultdict(float)
    ended = threading.Event()
    watched = threading.get_ident()

    def watch() -> None:
        last = time.perf_counter()
        while not ended.wait(EVERY_S):
            # By the clock, not by counting looks: a busy machine lets some looks wait.
            part, now = _part(sys._current_frames()[watched]), time.perf_counter()
            seconds[part] += now - last
            last = now

    watcher = threading.Thread(target=watch, name="split", daemon=True)
    started = time.perf_counter()
    watcher.start()
    try:
        call()
    finally:
        total = time.perf_counter() - started
        ended.set()
        watcher.join()
    scale = total / max(sum(seconds.values()), EVERY_S)
    names = dict.fromkeys([part for _, _, part in PARTS] + [OTHER])
    return {name: seconds[name] * scale for name in names if name in seconds}


def _part(frame: FrameType) -> str:
    stack = list(_stack(frame))
    for file, function, part in PARTS:
        if any(file in path and function in ("", name) for path, name in stack):
            return part
    return OTHER


def _stack(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back
