"""Searches over configs that are all equal in truth: what the search shows, and its confirmation.

``python -m tests.verdicts.searches`` makes forty of them. The search and its confirmation are the
package's own; in place of a training stands a planted response: a patient's difficulty, what suits
this patient in a config (0 on average over patients), what a seed does to a run, and noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml

from seglab.core.config import RunConfig, flatten
from seglab.core.study import Study, resolve_study
from seglab.data.open import StudyData
from seglab.data.phantom.write import write_phantom
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise, to_csv
from seglab.studies.experiment import FINISHED, Outcome, Plan, identity_tags
from seglab.studies.search.confirm import FILE
from seglab.studies.search.results import summarise as sum_up
from seglab.studies.search.run import run_search
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import Store
from tests.studies.logged_ablation import patient

PATIENTS = 80
SD_CONFIG, SD_SEED, SD_NOISE = 0.25, 0.05, 0.15
"""Of the logit of a patient's Dice; an SD of 0.05 in it is one of about 0.005 in Dice."""


class PlantedRun:
    """Takes the place of a training: logs what a run logs, with planted scores."""

    def __init__(
        self, plan: Plan, store: Store, data: StudyData, scores: Iterable[PatientScore]
    ) -> None:
        self.plan, self._scores = plan, list(scores)
        tags = {**identity_tags(plan, data), **plan.tags}
        self.log = start_run(store, plan.config.name, plan.run_name, tags, plan.parent_run_id)
        self.log.params(flatten(plan.config.to_dict()))
        self.log.text(yaml.safe_dump(plan.config.to_dict()), "config.yaml")
        self.metrics = {f"val/{key}": value for key, value in summarise(self._scores).items()}
        row = {"epoch": 1, "val/dice": self.metrics["val/dice"]}
        self.trainer = SimpleNamespace(progress=SimpleNamespace(history=[row]), kept_epoch=1)

    def __enter__(self) -> PlantedRun:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to do."""

    def epochs(self) -> Iterator[Any]:
        """There are none."""
        return iter(())

    def conclude(self, *, pictures: bool = True) -> Outcome:
        """Log the scores and finish."""
        self.log.text(to_csv(self._scores), "patients_val.csv")
        cost = dict.fromkeys(("train_seconds", "images", "parameters_m"), 1.0)
        metrics = self.metrics | {f"cost/{key}": value for key, value in cost.items()}
        self.log.metrics(metrics, step=1)
        self.log.finish()
        return self.plan.outcome(self.log.run_id, FINISHED, metrics)


def planted_scores(config: RunConfig, names: tuple[str, ...], salt: str) -> Iterator[PatientScore]:
    """Scores that depend on the patients, the learning rate and the seed; no rate is better."""
    rate, run = f"{config.optim.lr}", f"{config.optim.lr} {config.seed}"
    of_run = SD_SEED * _normal(salt, run)
    for name in names:
        logit = 1.8 + 0.8 * _normal("difficulty", name) + SD_CONFIG * _normal(salt, rate, name)
        logit += of_run + SD_NOISE * _normal(salt, run, name)
        yield replace(patient(1, float(1 / (1 + np.exp(-logit)))), patient_id=name)


def _normal(*words: str) -> float:
    digest = hashlib.sha256(" · ".join(words).encode()).digest()
    return float(np.random.default_rng(list(digest[:16])).normal())


def planted_study(folder: Path, trials: int = 8) -> Study:
    """A search of the learning rate on phantoms, which are not looked at."""
    write_phantom(folder / "set", patients=PATIENTS, size=32, slices=8, workers=1)
    return resolve_study(
        {
            "name": "planted",
            "data": {
                "source": "brats-h5",
                "root": str(folder / "set"),
                "cache": str(folder / "cache"),
                "image_size": 32,
                "workers": 1,
            },
            "split": {"fractions": [0.5, 0.4, 0.1]},
            "model": {"name": "unet", "base_channels": 4, "depth": 2},
            "train": {"device": "cpu", "threads": 1},
            "search": {
                "trials": trials,
                "sampler": "random",
                "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}},
                "pruner": "none",
            },
        }
    )


@contextmanager
def trained_by(
    scores: Callable[[Plan, tuple[str, ...]], Iterable[PatientScore]],
) -> Iterator[None]:
    """Have planted scores take the place of every training, without figures and reports."""

    def open_planted(
        plan: Plan, store: Store, data: StudyData, *, fresh: bool = False
    ) -> PlantedRun:
        return PlantedRun(plan, store, data, scores(plan, data.split.val))

    replaced: Mapping[str, Any] = {
        "search.trials.open_run": open_planted,
        "experiment.open_run": open_planted,
        "ablation._report": lambda study, store, parent: None,
        "search.run.publish": lambda study, queue, log: sum_up(study, queue, log.run_id),
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch(f"seglab.studies.{name}", value))
        yield


def search_planted(study: Study, store: Store, number: int) -> dict[str, Any]:
    """Make one search with its confirmation; returns what ``confirmation.json`` says."""
    document = dict(study.document) | {"name": f"planted {number}"}
    document["search"] = {**document["search"], "seed": number}
    with trained_by(lambda plan, names: planted_scores(plan.config, names, f"search {number}")):
        outcome = run_search(resolve_study(document), store)
    path = store.client.download_artifacts(outcome.parent_run_id, FILE)
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))


def main() -> None:
    """Print a row a search, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=40)
    wanted = parser.parse_args().searches
    with tempfile.TemporaryDirectory() as name:
        study, store = planted_study(Path(name)), open_store(Path(name) / "mlruns")
        found = [search_planted(study, store, number) for number in range(wanted)]
    better = sum(one.get("verdict") == "better" for one in found)
    gains = [one for one in found if "confirmed_gain" in one]
    means = {key: np.mean([one[key] for one in gains]) for key in ("search_gain", "confirmed_gain")}
    print(f"{better} of {wanted} winners are called better; {len(gains)} are not the base config:")
    print(f"{means['search_gain']:+.4f} in the search, {means['confirmed_gain']:+.4f} confirmed")


if __name__ == "__main__":
    main()
