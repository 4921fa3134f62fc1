"""What the store holds of one experiment, and the files its runs logged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from seglab.learning.operating_point import PLAIN
from seglab.studies.candidates import DICE, TRAINED, Candidates, rank
from seglab.studies.resolve import find
from seglab.studies.results import notice_of
from seglab.tracking import tags
from seglab.tracking.artifacts import list_artifacts, read_artifact
from seglab.tracking.openings import openings
from seglab.tracking.store import RunInfo, Store


@dataclass(frozen=True)
class Record:
    """An experiment's runs, newest first."""

    store: Store
    experiment: str
    runs: Sequence[RunInfo]
    _listed: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)

    def of_kind(self, *kinds: str) -> list[RunInfo]:
        """Return the runs of these kinds, newest first."""
        return [run for run in self.runs if run.tags.get(tags.KIND) in kinds]

    @cached_property
    def ranking(self) -> Candidates | None:
        """The finished training runs with a validation Dice, as a promotion ranks them."""
        finished = [run for run in self.of_kind(*TRAINED) if run.status == "FINISHED"]
        scored = [run for run in finished if math.isfinite(run.metrics.get(DICE, math.nan))]
        return rank(scored) if scored else None

    @property
    def best(self) -> RunInfo | None:
        """The first of the ranking."""
        return self.ranking.best if self.ranking else None

    @cached_property
    def promotion(self) -> RunInfo | None:
        """The newest promotion that finished."""
        return next((r for r in self.of_kind("promotion") if r.status == "FINISHED"), None)

    @property
    def members(self) -> list[str]:
        """Ids of the runs that the promoted model averages; none where it is a single run."""
        ids = self.promotion.tags.get(tags.ENSEMBLE, "") if self.promotion else ""
        return [one for one in ids.split(",") if one]

    @cached_property
    def evaluations(self) -> list[RunInfo]:
        """Finished evaluations, newest first: of the same model on the same patients the newest."""
        newest: dict[tuple[Any, ...], RunInfo] = {}
        for run in self.of_kind("evaluation"):
            if run.status == "FINISHED":
                data = run.tags.get(tags.DATA_HASH, run.run_id)
                newest.setdefault((*frozen_model(run), data), run)
        return list(newest.values())

    @cached_property
    def sweep(self) -> RunInfo | None:
        """The newest search."""
        return next(iter(self.of_kind("sweep")), None)

    @cached_property
    def ablations(self) -> list[RunInfo]:
        """The ablations, newest first, without those that confirm this experiment's search."""
        found = self.of_kind("ablation")
        return [run for run in found if self.sweep is None or tags.CONFIRMS not in run.tags]

    @cached_property
    def follow_ups(self) -> dict[str, list[RunInfo]]:
        """Runs that confirm and explain the search: they are in experiments of their own."""
        parents = {"confirmation": tags.CONFIRMATION_RUN, "explanation": tags.EXPLANATION_RUN}
        known = self.sweep.tags if self.sweep else {}
        ids = {word: known[tag] for word, tag in parents.items() if tag in known}
        return {word: self.store.find_runs(parent_run_id=one) for word, one in ids.items()}

    @property
    def notice(self) -> str:
        """What must be said of the data: that they are synthetic."""
        return notice_of(self.runs)

    @property
    def failed(self) -> list[RunInfo]:
        """Runs that neither finished nor were pruned."""
        return [
            run for run in self.runs if run.status != "FINISHED" and tags.PRUNED not in run.tags
        ]

    @cached_property
    def reference(self) -> RunInfo | None:
        """The run whose data, split and machine are shown: promoted, best or newest."""
        promoted = self.promotion.tags.get(tags.PROMOTED_RUN) if self.promotion else None
        trained = self.of_kind(*TRAINED)
        known = next((run for run in trained if run.run_id == promoted), None)
        return known or self.best or next(iter(trained), None)

    @cached_property
    def earlier_openings(self) -> list[str]:
        """Openings of the test whose result is not on this page.

        Of promotions of this experiment that were deleted or did not finish and, while it has no
        result, of other experiments' promotions of the same patients.
        """
        kind, here = {tags.KIND: "promotion"}, {run.experiment_id for run in self.runs}
        promotions = {run.run_id: run for run in self.store.find_runs(tags=kind, deleted=True)}
        for run in self.runs:
            if run.status == "FINISHED":
                promotions.pop(run.run_id, None)
        tested = set() if self.promotion else self._test_patients(self.reference)
        told = []
        for one in openings(self.store):
            text = f"The sealed test was opened at {one.opened_at} by promotion {one.opened_by}"
            by = promotions.get(one.opened_by)
            if by and by.experiment_id in here:
                ended = "was deleted or interrupted: the same command continues an interrupted one."
                told.append(f"{text}, which {ended}")
            elif by and tested and tested & self._test_patients(by):
                other = "of another experiment: a promotion of this one confirms nothing."
                told.append(f"{text} {other}")
        return told

    def _test_patients(self, run: RunInfo | None) -> set[tuple[str, str]]:
        """Data set and name of the test patients of a run."""
        if run is None:
            return set()
        source = self.data_set(run).get("source")
        names = (self.read_json(run, "split.json") or {}).get("test", ())
        return {(source, name) for name in names if source}

    def data_set(self, run: RunInfo) -> Mapping[str, Any]:
        """The data set that a run logged; empty where there is none on record.

        Searches of earlier versions logged a wrong source without profile, and MLflow keeps the
        first entry of an experiment for all of its runs; that of the confirmation is right.
        """
        follow_ups = (one for runs in self.follow_ups.values() for one in runs)
        same = (
            one.run_id
            for one in (run, *follow_ups)
            if one.tags.get(tags.DATA_HASH) == run.tags.get(tags.DATA_HASH)
        )
        found = (entry for run_id in same for entry in self.store.data_inputs(run_id)[:1])
        own: Mapping[str, Any] = next(found, {})
        return own if own.get("profile") else next(found, own)

    def files(self, run: RunInfo) -> Sequence[str]:
        """Return the path of every file that ``run`` logged; the store is asked once."""
        if run.run_id not in self._listed:
            self._listed[run.run_id] = list_artifacts(self.store, run.run_id)
        return self._listed[run.run_id]

    def drawn(self, run: RunInfo) -> RunInfo:
        """The run with the pictures of a run's method: itself, or one of the same method."""
        shown = run.tags.get(tags.METHOD_HASH)
        same = [
            one for one in reversed(self.runs) if shown and one.tags.get(tags.METHOD_HASH) == shown
        ]
        return next((one for one in (run, *same) if "method/data.png" in self.files(one)), run)

    def read(self, run: RunInfo, name: str) -> bytes | None:
        """Return a file that ``run`` logged; None if it did not."""
        return read_artifact(self.store, run, name) if name in self.files(run) else None

    def read_json(self, run: RunInfo, name: str) -> dict[str, Any] | None:
        """Return an object that ``run`` logged as JSON; None if there is none."""
        try:
            value = json.loads(self.read(run, name) or b"null")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def frozen_model(run: RunInfo) -> tuple[str | None, str | None, str]:
    """What tells the model of a promotion or an evaluation from others.

    The run that trained it, those that it averages, and its operating point: a run, its promotion
    and an ensemble of it have the first in common.
    """
    trained = run.tags.get(tags.EVALUATED_RUN) or run.tags.get(tags.PROMOTED_RUN)
    point = vars(PLAIN) | json.loads(run.tags.get(tags.OPERATING_POINT, "{}"))
    return trained, run.tags.get(tags.ENSEMBLE), json.dumps(point)


def read_record(store: Store, experiment: str, ending: str = "") -> Record:
    """Find everything that ran under an experiment's name; a UserError where nothing did.

    The run ``ending``, which logs its report before it finishes, is taken as finished.
    """
    runs = [
        replace(run, status="FINISHED", end_time=time.time()) if run.run_id == ending else run
        for run in find(store, experiment, "experiment").runs
    ]
    return Record(store, experiment, runs)
