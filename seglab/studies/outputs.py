"""What a training run leaves in its store: config, split, scores, pictures, cost."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from seglab.core.config import RunConfig
from seglab.data.splits import save_split
from seglab.evaluation.case import Case, best_median_worst
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise, write_csv
from seglab.figures.curves import learning_curves
from seglab.figures.overlays import overlay_sheet
from seglab.figures.pixels import write_png
from seglab.learning.inference import build_case
from seglab.learning.training import Trainer
from seglab.models import count_parameters, gflops_per_image
from seglab.studies.data import StudyData
from seglab.tracking import RunLog, environment_report


def log_start(log: RunLog, config: RunConfig, data: StudyData, trainer: Trainer) -> None:
    """Log what is known before the first step; the same again on a resumed run."""
    document = yaml.safe_dump(config.to_dict(), sort_keys=False)
    log.text("# python run_experiment.py config.yaml\n" + document, "config.yaml")
    log.json(environment_report(str(trainer.compute.device)), "environment.json")
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = Path(folder) / "split.json"
        save_split(data.split, path)
        log.artifact(path)
    cache = data.cache
    log.dataset(
        name=cache.source,
        digest=cache.data_hash,
        source=f"{cache.source}:{config.data.root.name}",
        profile={"patients": len(cache.patients), "slices": len(cache.images)},
    )


def log_validation(
    log: RunLog, config: RunConfig, data: StudyData, trainer: Trainer
) -> list[PatientScore]:
    """Score every validation patient with the network as it is; log figures and pictures."""
    predictor, threshold = trainer.predictor, config.evaluation.threshold
    cases = [build_case(predictor, data.cache, name, threshold) for name in data.split.val]
    scores = [case.score for case in cases]
    final = {f"val/{key}": value for key, value in summarise(scores).items()}
    final["val/best_epoch"] = trainer.progress.best_epoch
    # One step after the last epoch: the table of runs shows the newest value of a metric.
    log.metrics(final, step=trainer.progress.epoch + 1)
    log.figure(learning_curves(trainer.progress.history), "curves.png")
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        write_csv(Path(folder) / "patients_val.csv", scores)
        log.artifact(Path(folder) / "patients_val.csv")
        write_overlays(Path(folder) / "overlays", cases, config)
        log.artifact(Path(folder) / "overlays", "overlays")
    return scores


def write_overlays(folder: Path, cases: Sequence[Case], config: RunConfig) -> None:
    """Draw the best, median and worst patients, a sheet each."""
    folder.mkdir(parents=True, exist_ok=True)
    by_id = {case.patient_id: case for case in cases}
    # A small validation part is shared out, so that each sheet has somebody to show.
    count = min(config.evaluation.overlays, -(-len(cases) // 3))
    chosen = best_median_worst([case.score for case in cases], count)
    for label, names in chosen.items():
        if not names:
            continue
        title = f"{config.name}: {label} of {len(cases)} validation patients"
        sheet = overlay_sheet([by_id[name] for name in names], title, [label] * len(names))
        write_png(folder / f"{label}.png", sheet)


def log_cost(log: RunLog, trainer: Trainer) -> dict[str, float]:
    """Log what the run cost, whether it came to its end or not."""
    progress, hw = trainer.progress, trainer.cache.images.shape[1:]
    cost = {
        "cost/train_seconds": progress.train_seconds,
        "cost/images": float(progress.images),
        "cost/images_per_second": progress.images / max(progress.train_seconds, 1e-9),
        "cost/gflops_per_image": gflops_per_image(
            trainer.network, trainer.channels, (hw[0], hw[1])
        ),
        "cost/parameters_m": count_parameters(trainer.network) / 1e6,
        "cost/peak_memory_mb": peak_memory_mb(trainer.compute.device),
    }
    log.metrics(cost, step=progress.epoch + 1)
    return cost


def peak_memory_mb(device: torch.device) -> float:
    """Most memory this process ever held: on the GPU if it trains there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
