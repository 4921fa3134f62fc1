"""What a training run leaves in its store: config, split, scores, pictures, cost."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from seglab.core.config import RunConfig
from seglab.core.errors import as_warning
from seglab.data.splits import save_split
from seglab.evaluation.failures.explain import Explanation
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise, write_csv
from seglab.figures.curves import learning_curves
from seglab.learning.bundle import CARD, make_card
from seglab.learning.inference import Predictor, build_case, evaluate
from seglab.learning.memory import peak_memory_mb
from seglab.learning.training import WEIGHTS, Trainer
from seglab.models import count_parameters, gflops_per_image
from seglab.studies.data import StudyData
from seglab.studies.pictures import CaseBook, explain_all, write_pictures
from seglab.studies.resolve import CHECKPOINTS
from seglab.tracking import RunLog, environment_report


def log_start(log: RunLog, config: RunConfig, data: StudyData, trainer: Trainer) -> None:
    """Log what is known before the first step."""
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
        profile={"patients": len(cache.patients), "slices": cache.slices},
    )


def log_validation(
    log: RunLog, config: RunConfig, data: StudyData, trainer: Trainer, *, pictures: bool = True
) -> list[PatientScore]:
    """Score every validation patient with the network as it is; log scores and pictures.

    Args:
        log: of the run.
        config: of the run.
        data: of the run.
        trainer: has the network.
        pictures: curves, overlays and the gallery too, which take longer than the scores.
    """
    predictor, threshold = trainer.predictor, config.evaluation.threshold
    cases = CaseBook(
        data.split.val, lambda name: build_case(predictor, data.cache, name, threshold)
    )
    explanations: list[Explanation] = []
    if pictures:
        with as_warning("failures are not explained"):
            explanations = explain_all(cases)
    scores = [explanation.score for explanation in explanations]
    scores = scores or evaluate(predictor, data.cache, data.split.val, threshold)
    final = {f"val/{key}": value for key, value in summarise(scores).items()}
    final["val/best_epoch"] = trainer.progress.best_epoch
    final["val/kept_epoch"] = trainer.kept_epoch
    # One step after the last epoch: the table of runs shows the newest value of a metric.
    log.metrics(final, step=trainer.progress.epoch + 1)
    if final["val/dice"] == 0:
        print(f"warning: {why_zero(predictor, data, threshold)}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="seglab-") as name:
        folder = Path(name)
        write_csv(folder / "patients_val.csv", scores)
        if pictures:
            with as_warning("curves.png is not drawn"):
                curves = learning_curves(trainer.progress.history, trainer.kept_epoch)
                curves.savefig(folder / "curves.png", dpi=100)
        if explanations:
            title, overlays = f"{config.name}: validation patients", config.evaluation.overlays
            write_pictures(folder, cases, explanations, title=title, overlays=overlays)
        log.artifact(folder)
    return scores


def why_zero(predictor: Predictor, data: StudyData, threshold: float) -> str:
    """Say in one line why the Dice of every validation patient is 0."""
    patients = [data.cache.by_id[name] for name in data.split.val]
    highest, predicted = 0.0, 0
    for patient in patients:
        probability = predictor.native(data.cache, patient)
        highest = max(highest, float(probability.max()))
        predicted += int(np.count_nonzero(probability > threshold))
    found = f"the highest probability is {highest:.2f}"
    if predicted:
        return f"val/dice is 0: {predicted:,} pixels are predicted, none of them tumour; {found}"
    return f"val/dice is 0: no pixel reached the threshold of {threshold:g}; {found}"


def log_checkpoint(log: RunLog, config: RunConfig, data: StudyData, trainer: Trainer) -> None:
    """Log the weights as they are, and beside them what prediction needs to know about them."""
    precision = trainer.compute.precision
    card = make_card(config, data.cache, data.split.train, precision, log.run_id)
    log.json(card.to_json(), f"{CHECKPOINTS}/{CARD}")
    trainer.save_kept(log.state)
    log.artifact(log.state / WEIGHTS, CHECKPOINTS)


def log_cost(log: RunLog, trainer: Trainer) -> dict[str, float]:
    """Log what the run cost, whether it came to its end or not."""
    progress = trainer.progress
    cost = {
        "cost/train_seconds": progress.train_seconds,
        "cost/images": float(progress.images),
        "cost/images_per_second": progress.images / max(progress.train_seconds, 1e-9),
        "cost/gflops_per_image": gflops_per_image(
            trainer.network, trainer.channels, trainer.cache.shape
        ),
        "cost/parameters_m": count_parameters(trainer.network) / 1e6,
        "cost/peak_memory_mb": peak_memory_mb(trainer.compute.device),
    }
    log.metrics(cost, step=progress.epoch + 1)
    return cost
