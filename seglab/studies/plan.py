"""What a study would do, before it does it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from seglab.core.config import RunConfig
from seglab.core.documents import json_text
from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.data.open import StudyData
from seglab.data.splits import Split, training_patients
from seglab.evaluation.comparison import limits_ahead
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer, mean_over_scales
from seglab.models.build import count_parameters, gflops_per_image
from seglab.studies.ablation import find_shared_parent, find_twin, open_parent, shared_hash
from seglab.studies.candidates import TRAINED
from seglab.studies.data import SharedData, share_patients
from seglab.studies.experiment import Plan
from seglab.studies.preregistration import ANALYSIS, ARM_DATA, FILE, find_plan, plan_file
from seglab.studies.queue import one_at_a_time
from seglab.studies.results import arm_hash
from seglab.studies.search.space import make_space
from seglab.studies.tuning import plans_of, tuning_plans
from seglab.tracking import tags
from seglab.tracking.environment import code_hash
from seglab.tracking.store import Store

STEPS = 5
"""Timed; the fastest counts, since other work on the machine can only slow a step down."""
MOST_SEEDS_NAMED = 10
SLOWEST = 2.0
"""Times the steps, at most, with batches, augmentation, scores and pictures between them."""


def make_plan(study: Study, store: Store | None = None) -> dict[str, Any]:
    """Open the data, build every network, time a few steps of each; train and log nothing.

    Of a search the trials are taken to be as long as its base config. Runs that have finished in
    ``store`` are not trained again.

    Returns the keys of ``--dry-run --json``; raises what would stop the study before its first
    step.
    """
    study = share_patients(study)
    tuning_plans(study, "")  # refuses a space that an arm does not fit
    if study.search:
        make_space(study)
    shared = SharedData()
    runs = _runs(study, store, shared)
    left = Counter(arm for arm, is_finished in runs if not is_finished)
    timed: dict[str, float] = {}
    arms = [_plan_arm(arm, config, shared.of(config), timed) for arm, config in study.arms.items()]
    split = shared.of(study.reference).split
    parts = {"train": split.train, "validation": split.val, "test": split.test}
    folds, tries = len(study.folds), study.tune.trials if study.tune else 0
    low, high = (
        sum(arm[key] * left[arm["arm"]] for arm in arms)
        for key in ("estimated_seconds", "at_most_seconds")
    )
    return {
        "experiment": study.name,
        "patients": {part: len(names) for part, names in parts.items()},
        "split_hash": split.hash,
        "seeds": list(study.seeds),
        "folds": folds,
        "tuning_trials": tries,
        "runs": len(runs),
        "left": dict(left),
        "arms": arms,
        "estimated_seconds": low,
        "at_most_seconds": high,
        "warnings": _warnings(study, split),
    }


def _runs(study: Study, store: Store | None, data: SharedData) -> list[tuple[str, bool]]:
    """The arm of every run of a study, and whether the run is finished."""
    if study.search:
        return [(next(iter(study.arms)), False)] * study.search.trials
    if not study.is_ablation and len(study.folds) == 1:
        plans = [Plan(config, arm) for arm, config in study.arms.items()]
    else:
        found = find_shared_parent(study, store, data.of(study.reference)) if store else None
        run_id, tuned = (found.run_id, found.tags.get(tags.TUNED)) if found else ("", None)
        values = json.loads(tuned or "{}")
        plans = [one for v in (None, values) for one in plans_of(study, run_id, v).values()]
    return [
        (plan.tags.get(tags.TUNES, plan.arm), bool(store and find_twin(plan, store, data)))
        for plan in plans
    ]


def _warnings(study: Study, split: Split) -> list[str]:
    """What the comparison could not show, known before the first run."""
    if study.search:
        return [
            f"all {study.search.trials} trials are taken for as long as the base config: an upper "
            "bound unless networks are larger, since pruned trials end early; confirmation follows"
        ]
    return limits_ahead(study, len(split.train), len(split.val))


def write_plan(study: Study, store: Store) -> dict[str, Any]:
    """Write what is to be compared, and how, before the first run: with MLflow and to a file.

    Returns the keys of ``--plan --json``. Raises UserError where there is nothing to compare, a
    run has been trained, or another plan is there.
    """
    if not study.is_ablation and len(study.folds) == 1:
        raise UserError("--plan: one run compares nothing; give it arms, factors or seeds")
    study = share_patients(study)
    tuning_plans(study, "")
    shared = SharedData()
    data = shared.of(study.reference)
    split, folded = data.split, len(study.folds) > 1
    both = sorted(split.train + split.val)  # in one of the folds each of them validates
    content = {
        "experiment": study.name,
        "arms": {arm: arm_hash(config) for arm, config in study.arms.items()},
        "changes": study.document.get("arms") or {},  # what the hashes stand for, to be read
        "baseline": study.baseline or next(iter(study.arms)),
        "seeds": list(study.seeds),
        "folds": list(study.folds),
        **ANALYSIS,
        "margin": study.margin,
        "design": asdict(study.design) if study.design else None,
        "budget": study.budget.model_dump(),
        "tune": study.tune.model_dump(exclude_defaults=True) if study.tune else None,
        "train_patients": both if folded else list(split.train),
        "validation_patients": both if folded else list(split.val),
        "test_patients": list(split.test),
        "shared_config_hash": shared_hash(study),
        "code_hash": code_hash(),
        "split_hash": split.hash,
        "data_hash": data.cache.data_hash,
    }
    if len({config.data.modalities for config in study.arms.values()}) > 1:
        content[ARM_DATA] = {
            arm: shared.of(config).cache.data_hash for arm, config in study.arms.items()
        }
    text = f"{json_text(content)}\n"
    made, path = hashlib.sha256(text.encode()).hexdigest(), plan_file(store, study.name)
    with one_at_a_time(study, store.folder):
        before = find_plan(store, study.name)
        if before is not None and before.hash != made:
            raise UserError(
                f"'{study.name}' has another plan, {before.hash[:12]}: a plan stays as it was "
                "made; name=… begins another experiment"
            )
        if before is None:
            kinds = (*TRAINED, tags.TUNING)
            runs = sum(run.tags.get(tags.KIND) in kinds for run in store.find_runs(study.name))
            if runs:
                raise UserError(
                    f"'{study.name}' has {runs} runs: a plan is made before the first; name=… "
                    "begins another experiment"
                )
            parent = open_parent(study, store, data, fresh=False)
            with parent:
                parent.text(text, FILE)
                parent.tags({tags.PLAN: made})
                parent.interrupt("planned, not begun")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    warnings = _warnings(study, data.split)
    return {"experiment": study.name, "plan": path, "hash": made, "warnings": warnings}


def plan_text(plan: Mapping[str, Any]) -> str:
    """A page for a person."""
    counts = ", ".join(f"{count} {part}" for part, count in plan["patients"].items())
    if plan["folds"] > 1:
        scored = plan["patients"]["train"] + plan["patients"]["validation"]
        counts += f" in the first fold; all {scored} outside the test are validated, once each"
    seeds = plan["seeds"]
    which = f" ({', '.join(map(str, seeds))})" if len(seeds) <= MOST_SEEDS_NAMED else ""
    lines = [
        f"experiment '{plan['experiment']}': {len(plan['arms'])} arm(s) × {len(seeds)} "
        f"seed(s){which} × {plan['folds']} fold(s), {plan['tuning_trials']} tuning trial(s) an arm",
        f"patients: {counts} (split {plan['split_hash']})",
    ]
    for arm in plan["arms"]:
        height, width = arm["image_hw"]
        lines.append(
            f"  {arm['arm']}: {height}×{width} px, {arm['parameters_m']:.2f} M parameters, "
            f"{arm['gflops_per_image']:.2f} GFLOP an image, {arm['epochs']} epochs × "
            f"{arm['steps_per_epoch']} steps = {arm['images']} images, "
            f"{_span(arm)} a run"
        )
    runs, left = plan["runs"], sum(plan["left"].values())
    if not left:
        lines.append(f"all {runs} runs are finished: nothing is left to train")
    elif left < runs:
        told = ", ".join(f"{arm} ({count})" for arm, count in plan["left"].items())
        lines.append(f"{runs - left} of {runs} runs are finished; left: {told}")
    if left:
        lines.append(
            f"{left} trainings: in all {_span(plan)} with one worker, one run after the other, if "
            "this machine stays as busy as it is now"
        )
    return "\n".join([*lines, *(f"warning: {told}" for told in plan["warnings"])])


def _span(part: Mapping[str, Any]) -> str:
    """``1.2 to 2.4 h``, in minutes below an hour."""
    low, high = part["estimated_seconds"], part["at_most_seconds"]
    unit_s, unit = (3600, "h") if high >= 3600 else (60, "min")
    return f"{low / unit_s:.1f} to {high / unit_s:.1f} {unit}"


def _plan_arm(
    arm: str, config: RunConfig, data: StudyData, timed: dict[str, float]
) -> dict[str, Any]:
    """Plan an arm; ``timed`` holds the seconds an image of each network that was timed before."""
    patients = training_patients(data.split, config)
    trainer = Trainer(config, data.cache, patients, choose_compute(config.train))
    image_hw = data.cache.shape
    images = trainer.samples * config.train.epochs
    val = [data.cache.in_planes(data.cache.by_id[name]) for name in data.split.val]
    validated = sum(one.count for planes in val for _, one in planes) * config.train.epochs
    # A forward pass is about a third of a training step.
    network = f"{config.model} {trainer.channels} {image_hw} {config.train.batch_size}"
    if network not in timed:
        timed[network] = _seconds_per_image(trainer, image_hw)
    seconds = (images + validated / 3) * timed[network]
    limit = config.train.max_seconds or math.inf
    return {
        "arm": arm,
        "config_hash": config.hash(),
        "image_hw": list(image_hw),
        "parameters_m": count_parameters(trainer.network) / 1e6,
        "gflops_per_image": gflops_per_image(trainer.network, trainer.channels, image_hw),
        "steps_per_epoch": trainer.steps,
        "epochs": config.train.epochs,
        "images": images,
        "estimated_seconds": min(seconds, limit),
        "at_most_seconds": min(SLOWEST * seconds, limit),
    }


def _seconds_per_image(trainer: Trainer, image_hw: tuple[int, int]) -> float:
    """Time forward and backward passes on random images; the first step is a warm-up."""
    batch = trainer.config.train.batch_size
    images = torch.rand(batch, trainer.channels, *image_hw, device=trainer.compute.device)
    images = images.contiguous(memory_format=torch.channels_last)
    masks = (images[:, :1] > 0.9).float()
    taken = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        with trainer.compute.autocast():
            logits = trainer.network(images)
        loss = mean_over_scales(trainer.loss, logits.float(), masks)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())  # waits for the device
        taken.append(time.perf_counter() - started)
    return min(taken[1:]) / batch
