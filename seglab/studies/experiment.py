"""One training run: found again or started, trained, judged, logged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seglab.core.config import RunConfig, flatten
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.machine import tell
from seglab.data.open import StudyData, open_data
from seglab.data.splits import training_patients
from seglab.learning.device import choose_compute, restart_peak
from seglab.learning.training import LAST, WEIGHTS, Trainer, fit
from seglab.models.build import loaded_weights
from seglab.studies.outputs import log_checkpoint, log_cost, log_setting, log_validation
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.environment import changed_packages, code_hash, environment_report
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import RunInfo, RunInUse, Store, artifact_link

FINISHED, FAILED = "FINISHED", "FAILED"
ENVIRONMENT = "environment.json"


class Interrupted(KeyboardInterrupt):
    """Stop was requested: the run is interrupted at the end of its epoch, to be continued."""


@dataclass(frozen=True)
class Plan:
    """A run to be done, and where it belongs."""

    config: RunConfig
    arm: str
    kind: str = "train"
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_name(self) -> str:
        """As the table of runs shows it."""
        split = self.config.split
        fold = f" · fold {split.fold + 1}/{split.folds}" if split.folds else ""
        again = "reproduction of " if self.kind == "reproduction" else ""
        return f"{again}{self.arm} · seed {self.config.seed}{fold}"

    def outcome(self, run_id: str, status: str, metrics: dict[str, float], **more: Any) -> Outcome:
        """Say what became of it."""
        split = self.config.split
        fold = split.fold if split.folds else None
        return Outcome(run_id, self.arm, self.config.seed, status, metrics, fold=fold, **more)


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    run_id: str
    arm: str
    seed: int
    status: str
    metrics: dict[str, float]
    fold: int | None = None
    """From 0; None where there is one validation part."""
    reused: bool = False
    error: str | None = None
    our_fault: bool = False
    """It failed by a fault of ours."""

    def to_json(self) -> dict[str, Any]:
        """The run as ``--json`` reports it."""
        return {
            "run_id": self.run_id,
            "arm": self.arm,
            "seed": self.seed,
            **({} if self.fold is None else {"fold": self.fold}),
            "status": self.status,
            "val/dice": self.metrics.get("val/dice"),
            "val/iou": self.metrics.get("val/iou"),
            "train_seconds": self.metrics.get("cost/train_seconds"),
            **({"error": self.error} if self.error else {}),
        }


class OpenRun:
    """A run that is being trained; however the block is left, its status says how."""

    def __init__(self, plan: Plan, data: StudyData, trainer: Trainer, log: RunLog) -> None:
        self.plan, self.data, self.trainer, self.log = plan, data, trainer, log

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # It would diverge again; and weights without the rest of a checkpoint are no start.
        if isinstance(error, TrainingDiverged) or not (self.log.state / LAST).is_file():
            drop_training_state(self.log.state)
        self.log.__exit__(kind, error, trace)

    def epochs(self) -> Iterator[int]:
        """Train; yields the number of each epoch once it is logged and saved."""
        for metrics in fit(self.trainer, self.data.split.val):
            epoch = self.trainer.progress.epoch
            self.log.metrics(metrics, step=epoch)
            self.trainer.save(self.log.state)
            yield epoch

    def prune(self, epoch: int) -> None:
        """End the run at ``epoch``; what it has is logged."""
        log_cost(self.log, self.trainer)
        dice = self.trainer.progress.history[-1]["val/dice"]
        self.log.tags({tags.NOTE: f"Pruned after epoch {epoch} at a validation Dice of {dice:.3f}"})
        self.log.prune(epoch)
        drop_training_state(self.log.state)

    def conclude(self, *, pictures: bool = True) -> Outcome:
        """Judge the kept weights on the validation patients, log everything, finish.

        The training is done: a failure to explain or draw what came of it is a warning.
        """
        log, trainer, name = self.log, self.trainer, self.plan.run_name
        trainer.load_kept(log.state)
        scores = log_validation(log, self.data, trainer, name, pictures=pictures)
        cost = log_cost(log, trainer)
        log_checkpoint(log, self.data, trainer)
        page = "gallery/index.html" if pictures else "patients_val.csv"
        link = artifact_link(log.store.get_run(log.run_id), page)
        told = f"Validation Dice {scores['val/dice']:.3f}, IoU {scores['val/iou']:.3f}."
        log.tags({tags.NOTE: f"{told}\n\n[{page}]({link})"})
        log.finish()
        drop_training_state(log.state)
        return self.plan.outcome(log.run_id, FINISHED, {**scores, **cost})


def drop_training_state(state: Path) -> None:
    """Remove the checkpoint of a run that is not continued, and what a killed process left."""
    for name in (LAST, WEIGHTS):
        for path in (state / name, *state.glob(f".{name}.*")):
            path.unlink(missing_ok=True)
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()


def open_run(plan: Plan, store: Store, data: StudyData, *, fresh: bool = False) -> OpenRun:
    """Continue an unfinished run of the same config, data and code, or start one.

    Raises UserError where the model does not take the images, or a device is not there.
    """
    config = plan.config
    compute = choose_compute(config.train)
    restart_peak(compute.device)
    trainer = Trainer(config, data.cache, training_patients(data.split, config), compute)
    weights = loaded_weights(trainer.network)
    if weights != "none":
        tell(f"{plan.run_name}  encoder weights: {weights}")
    log = None if fresh else _reopen(plan, store, data)
    if log is None:
        own_tags = {
            tags.LOOKS_LIKE_FLAIR: str(data.identity.ok).lower(),
            tags.MISSING_FILES: str(data.missing_files),
            tags.SYNTHETIC: "true" if data.cache.notice else None,
            tags.DEVICE: str(compute.device),
            tags.PRECISION: compute.precision,
            tags.AUGMENTED_ON: trainer.batches.augmented_on,
            tags.WEIGHTS: weights,
            **identity_tags(plan, data),
            **plan.tags,
        }
        log = start_run(store, config.name, plan.run_name, own_tags, plan.parent_run_id)
    run = OpenRun(plan, data, trainer, log)
    try:
        if not trainer.resume(log.state):
            # What was logged before the first checkpoint stays as the first process wrote it.
            log.params({"arm": plan.arm, **flatten(config.to_dict())})
            log.json(environment_report(str(compute.device)), ENVIRONMENT)
            log_setting(log, config, data, "training")
    except BaseException:
        run.__exit__(*sys.exc_info())
        raise
    return run


def identity_tags(plan: Plan, data: StudyData) -> dict[str, str]:
    """What makes two runs twins: the same config, data, split and code."""
    return {
        tags.KIND: plan.kind,
        tags.ARM: plan.arm,
        tags.SEED: str(plan.config.seed),
        tags.CONFIG_HASH: plan.config.hash(),
        tags.DATA_HASH: data.cache.data_hash,
        tags.SPLIT_HASH: data.split.hash,
        tags.CODE_HASH: code_hash(),
    }


def find_twins(plan: Plan, store: Store, data: StudyData) -> list[RunInfo]:
    """Runs of the same config, data and code under the same parent, newest first."""
    runs = store.find_runs(
        plan.config.name, identity_tags(plan, data), parent_run_id=plan.parent_run_id
    )
    return [run for run in runs if run.parent_run_id == plan.parent_run_id]


def finished_twin(plan: Plan, store: Store, data: StudyData) -> Outcome | None:
    """The finished run that this plan would only repeat, if there is one."""
    for run in find_twins(plan, store, data):
        if run.status == FINISHED:
            return plan.outcome(run.run_id, FINISHED, run.metrics, reused=True)
    return None


def made_with(store: Store, run: RunInfo) -> str:
    """Say whether code or packages gave a run another code hash than this process has."""
    what = "other code or packages"
    with suppress(UserError, ValueError, KeyError):
        versions = json.loads(read_artifact(store, run, ENVIRONMENT))["versions"]
        what = ", ".join(changed_packages(versions)) or "other code"
    return f"{what} (code hash {run.tags.get(tags.CODE_HASH, 'unknown')}, here {code_hash()})"


def tell_other_code(store: Store, experiment: str, identity: Mapping[str, str]) -> None:
    """Say where the same was trained before, but with other code, and so is trained again."""
    same = {key: value for key, value in identity.items() if key != tags.CODE_HASH}
    runs = [run for run in store.find_runs(experiment, same) if run.parent_run_id is None]
    if not runs or any(run.tags.get(tags.CODE_HASH) == code_hash() for run in runs):
        return
    run = min(runs, key=lambda run: run.status != FINISHED)  # the newest that finished, if any did
    word = "a finished" if run.status == FINISHED else "an unfinished"
    made = made_with(store, next(iter(store.find_runs(parent_run_id=run.run_id)), run))
    tell(f"{word} run exists ({run.run_id}), made with {made}: training again")


def _reopen(plan: Plan, store: Store, data: StudyData) -> RunLog | None:
    for run in find_twins(plan, store, data):
        # An error of the machine, such as no space or no memory, need not come again.
        has_failed = run.status == FAILED and not (store.state(run.run_id) / LAST).is_file()
        if run.status == FINISHED or has_failed or tags.PRUNED in run.tags:
            continue
        if store.may_continue(run):
            with suppress(RunInUse):  # another process was faster
                return resume_run(store, run.run_id)
    return None


def train_one(
    plan: Plan, store: Store, data: StudyData | None = None, *, fresh: bool = False
) -> Outcome:
    """Do a whole run, or report its finished twin; on any error the run ends as FAILED."""
    data = data or open_data(plan.config)
    if not fresh and (twin := finished_twin(plan, store, data)) is not None:
        return twin
    if not fresh:
        tell_other_code(store, plan.config.name, identity_tags(plan, data))
    tell(f"run 1 of 1: {plan.run_name}")
    return train(plan, store, data, fresh=fresh)


def train(
    plan: Plan,
    store: Store,
    data: StudyData,
    *,
    fresh: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do a run to its end; ``stop`` is asked after each epoch but the last: True interrupts it.

    Raises Interrupted then, and what :func:`train_one` raises.
    """
    with open_run(plan, store, data, fresh=fresh) as run:
        for _ in run.epochs():
            show(plan, run.trainer)
            if stop() and not run.trainer.is_over:
                raise Interrupted
        return run.conclude()


def show(plan: Plan, trainer: Trainer) -> None:
    """Print one line of the last epoch on stderr."""
    progress, train = trainer.progress, plan.config.train
    metrics = progress.history[-1]
    is_told = train.keep == "best" or train.patience is not None  # else the last epoch is kept
    mark = "  best so far" if is_told and progress.best_epoch == progress.epoch else ""
    print(
        f"{plan.run_name}  epoch {progress.epoch:3d}/{train.epochs}"
        f"  loss {metrics['train/loss']:.4f}  val loss {metrics['val/loss']:.4f}"
        f"  dice {metrics['val/dice']:.4f}  iou {metrics['val/iou']:.4f}"
        f"  {metrics['time/train_seconds'] + metrics['time/val_seconds']:.1f} s{mark}\n",
        end="",  # one write, which lines of other workers do not cut
        file=sys.stderr,
    )
