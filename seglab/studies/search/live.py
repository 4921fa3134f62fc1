"""What a person sees while the search goes on: a line a trial, the best so far, the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from seglab.studies.search.ledger import DONE, ERROR, PROGRESS, RETRY_OF, Ledger
from seglab.tracking import RunLog

WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class Live:
    """Follows a study, whichever machine its trials run on."""

    def __init__(self, ledger: Ledger, parent: RunLog) -> None:
        self._ledger, self._parent = ledger, parent
        self._started = time.monotonic()
        ended = [t for t in ledger.trials if t.state.is_finished()]
        self._told = {t.number for t in ended}
        self._done_before = sum(t.state in DONE for t in ended)
        self._shows_epochs = sys.stderr.isatty()

    def look(self) -> None:
        """Print what is new."""
        trials = self._ledger.trials
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                self._print(f"{trial_line(trial)}  |  {self._summary(trials)}")
                self._log(trials)
        if self._shows_epochs:
            running = "  ".join(map(running_word, (t for t in trials if is_at_work(t))))
            print(f"\r\x1b[K{running[:150]}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._shows_epochs:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _print(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self._shows_epochs else line, file=sys.stderr, flush=True)

    def _summary(self, trials: list[FrozenTrial]) -> str:
        done, asked = sum(t.state in DONE for t in trials), self._ledger.asked
        best = best_trial(trials)
        leader = (
            "no Dice yet"
            if best is None
            else f"best {best.values[0]:.4f} (trial {best.number:03d})"
        )
        return f"{leader}, {done} of {asked}{self._remaining(done, asked)}"

    def _remaining(self, done: int, asked: int) -> str:
        fresh = done - self._done_before
        if fresh < 1 or done >= asked:
            return ""
        seconds = (time.monotonic() - self._started) / fresh * (asked - done)
        return f", about {timedelta(seconds=round(seconds))} to go"

    def _log(self, trials: list[FrozenTrial]) -> None:
        counts = count_states(trials)
        best = best_trial(trials)
        values: Mapping[str, float] = {f"search/{word}": float(n) for word, n in counts.items()}
        leader = {} if best is None else {"search/best_dice": best.values[0]}
        self._parent.metrics({**values, **leader}, step=sum(counts.values()))


def count_states(trials: list[FrozenTrial]) -> dict[str, int]:
    """Count the trials that ended, by how."""
    ends = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return {WORDS[end]: sum(t.state == end for t in trials) for end in ends}


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial of the highest Dice, the earliest of equals."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda t: (t.values[0], -t.number), default=None)


def trial_line(trial: FrozenTrial) -> str:
    """One line about a trial that ended."""
    progress: dict[str, Any] = trial.user_attrs.get(PROGRESS, {})
    params = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    if trial.state == TrialState.FAIL:
        outcome = trial.user_attrs.get(ERROR, "its machine went silent")
    else:
        outcome = f"Dice {trial.values[0]:.4f}" if trial.values else "no Dice"
        epochs = progress.get("epoch", 0)
        outcome += f" after {epochs} epoch{'' if epochs == 1 else 's'}"
    again = f" (repeats {trial.user_attrs[RETRY_OF]:03d})" if RETRY_OF in trial.user_attrs else ""
    return f"trial {trial.number:03d}{again} {WORDS[trial.state]:<8} {outcome}  {params}"


def is_at_work(trial: FrozenTrial) -> bool:
    """Whether the trial has begun and not ended."""
    return trial.state == TrialState.RUNNING


def running_word(trial: FrozenTrial) -> str:
    """Say how far a running trial is."""
    progress = trial.user_attrs.get(PROGRESS, {})
    if not progress:
        return f"{trial.number:03d}: starts"
    return f"{trial.number:03d}: {progress['epoch']}/{progress['epochs']} {progress['dice']:.3f}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
