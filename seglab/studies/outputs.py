"""What a run leaves in its store: config, split, scores, pictures, weights, cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from seglab.core.config import RunConfig, without_local
from seglab.core.documents import digest, json_text
from seglab.core.errors import as_warning
from seglab.core.machine import progress, tell
from seglab.data.loader import gather
from seglab.data.open import StudyData
from seglab.data.splits import training_patients
from seglab.data.volume import UPRIGHT
from seglab.evaluation.failure_report import analyse, best_median_worst
from seglab.evaluation.failures import Explanation, explain
from seglab.evaluation.metrics import Case, PatientScore
from seglab.evaluation.scores import summarise, to_csv
from seglab.figures.curves import learning_curves
from seglab.figures.gallery import write_gallery
from seglab.figures.method import augmentation_sheet, data_sheet, network_drawing
from seglab.figures.sheets import failure_sheet, overlay_sheet
from seglab.figures.style import marked
from seglab.learning.bundle import CARD, make_card
from seglab.learning.device import peak_memory_mb
from seglab.learning.inference import Predictor, build_case, validate
from seglab.learning.training import WEIGHTS, Trainer
from seglab.models.build import count_parameters, gflops_per_image, stages
from seglab.studies.resolve import CHECKPOINTS
from seglab.tracking import tags
from seglab.tracking.run import RunLog

Cases = Callable[[str], Case]
FAILURES = 3
AUGMENTED = 9
"""Augmented examples of one slice."""
CASES_IN_MEMORY = 8
"""One takes 36 MB for a BraTS volume; a validation part of 55 would not fit a laptop."""


def log_setting(log: RunLog, config: RunConfig, data: StudyData, context: str) -> None:
    """Log config, split and data set; ``context`` is what the data are used for."""
    document = yaml.safe_dump(config.to_dict(), sort_keys=False)
    log.text("# python run_experiment.py config.yaml\n" + document, "config.yaml")
    log.json(data.split.to_json(), "split.json")
    log_data(log, config, data, context)


def log_data(log: RunLog, config: RunConfig, data: StudyData, context: str) -> None:
    """Log the data set with its size; ``context`` is what it is used for."""
    cache = data.cache
    log.dataset(
        name=cache.source,
        digest=cache.data_hash,
        source=f"{cache.source}:{config.data.root.name}",
        context=context,
        profile={
            "patients": len(cache.patients),
            "slices": cache.slices,
            "left_out": cache.left_out,
        },
    )


def log_validation(
    log: RunLog, data: StudyData, trainer: Trainer, run_name: str, *, pictures: bool = True
) -> dict[str, float]:
    """Score every validation patient with the network as it is; log and return the figures.

    With ``pictures``, which take longer, curves, overlays and the gallery of failures too.
    ``run_name`` stands before a warning, since runs of several workers share a screen.
    """
    predictor, cache, names = trainer.predictor, data.cache, data.split.val
    config, threshold = trainer.config, trainer.config.evaluation.threshold

    @lru_cache(CASES_IN_MEMORY)
    def case(name: str) -> Case:
        patient = cache.by_id[name]
        probability = predictor.native(cache, patient)
        return build_case(cache, patient, probability, probability > threshold)

    explanations: list[Explanation] = []
    if pictures:
        with as_warning("failures are not explained"):
            named = progress(names, "judging", unit="patient")
            explanations = [explain(case(name)) for name in named]
    scores = [explanation.score for explanation in explanations]
    scores = scores or validate(predictor, cache, names, threshold)[0]
    final = {f"val/{key}": value for key, value in summarise(scores).items()}
    final["val/best_epoch"] = trainer.progress.best_epoch
    final["val/kept_epoch"] = trainer.kept_epoch
    # The last epoch has logged the same Dice where its weights are kept. Other weights have a
    # step of their own: the table of runs shows the newest value of a metric.
    epoch = trainer.progress.epoch
    log.metrics(final, step=epoch if trainer.kept_epoch == epoch else epoch + 1)
    if final["val/dice"] == 0:
        with as_warning(f"{run_name}: why val/dice is 0 is unknown"):
            why = why_zero(predictor, data, threshold)
            tell(f"warning: {run_name}: {why}")
    log.text(to_csv(scores), "patients_val.csv")
    if not pictures:
        return final
    with tempfile.TemporaryDirectory(prefix="seglab-") as name:
        folder = Path(name)
        with as_warning("curves.png is not drawn"):
            curves = learning_curves(trainer.progress.history, trainer.kept_epoch)
            marked(curves, cache.notice).savefig(folder / "curves.png", dpi=100)
        with as_warning("the method is not drawn"):
            shown = {tags.METHOD_HASH: method_hash(config, data.cache.data_hash)}
            if not log.store.find_runs(config.name, shown, ["FINISHED"]):
                write_method(folder / "method", data, trainer)
            log.tags(shown)
        if explanations:
            write_pictures(
                folder,
                case,
                explanations,
                title=f"{config.name}: validation patients",
                overlays=config.evaluation.overlays,
                notice=cache.notice,
            )
        log.artifact(folder)
    return final


def method_hash(config: RunConfig, data_hash: str) -> str:
    """Hash of what :func:`write_method` shows, whatever seed, fold, loss and optimiser."""
    split = config.split.model_copy(update={"fold": 0})
    blocks = [without_local(one) for one in (config.data, split, config.augment, config.model)]
    return digest([data_hash, *blocks])[:12]


def write_method(folder: Path, data: StudyData, trainer: Trainer) -> None:
    """Draw example slices of training patients, augmented ones, and the stages of the network."""
    cache = data.cache
    patients = (cache.by_id[name] for name in data.split.train)
    train = sorted(patients, key=lambda patient: int(patient.tumour_px.sum()))
    places = {len(train) // 4, len(train) // 2, len(train) - 1}
    shown = [train[place] for place in sorted(places)]
    largest = {one: int(cache.native_mask(one).sum(axis=(1, 2)).argmax()) for one in shown}
    examples = [
        (
            f"{patient.patient_id}, slice {patient.slice_indices[at]}",
            np.stack([cache.native_image(patient, m)[at] for m in range(len(cache.modalities))]),
            cache.native_labels(patient)[at],
        )
        for patient, at in largest.items()
    ]
    patient = train[-1]
    row = np.array([patient.first + patient.tumour_px.argmax()])
    grey, truth = trainer.batches.examples(int(row[0]), AUGMENTED)
    images = np.concatenate([gather(cache, row, 0)[..., 0], grey])
    masks = np.concatenate([cache.masks(row), truth])
    figures = {
        "data": data_sheet(examples, cache.modalities, cache.upright),
        "augmentation": augmentation_sheet(images, masks, patient.axes[0] == UPRIGHT),
        "network": network_drawing(
            stages(trainer.network, trainer.channels, cache.shape), trainer.channels
        ),
    }
    folder.mkdir()
    for name, figure in figures.items():
        if figure is not None:
            marked(figure, cache.notice).savefig(folder / f"{name}.png", dpi=100)


def why_zero(predictor: Predictor, data: StudyData, threshold: float) -> str:
    """Say in one line why the Dice of every validation patient is 0."""
    highest, predicted = 0.0, 0
    for name in data.split.val:
        probability = predictor.native(data.cache, data.cache.by_id[name])
        highest = max(highest, float(probability.max()))
        predicted += int(np.count_nonzero(probability > threshold))
    found = f"the highest probability is {highest:.2f}"
    if predicted:
        return f"val/dice is 0: {predicted:,} pixels are predicted, none of them tumour; {found}"
    return f"val/dice is 0: no pixel reached the threshold of {threshold:g}; {found}"


def write_pictures(
    folder: Path,
    case: Cases,
    explanations: Sequence[Explanation],
    *,
    title: str,
    overlays: int,
    notice: str = "",
) -> None:
    """Write overlays, the worst failures and their gallery; what cannot be written is a warning.

    ``failures/1.png`` shows the first case of ``failures.json``. ``notice`` stands everywhere.
    """
    scores = [explanation.score for explanation in explanations]
    with as_warning("overlays are not drawn"):
        write_overlays(folder / "overlays", case, scores, overlays, notice)
    with as_warning("the gallery is not written"):
        analysis = analyse(explanations)
        text = json_text(analysis.to_json())
        (folder / "failures.json").write_text(f"{text}\n", encoding="utf-8")
        (folder / "failures").mkdir()
        worst = list(analysis.explanations.items())[:FAILURES]
        for number, (patient, explanation) in enumerate(worst, start=1):
            sheet = marked(failure_sheet(case(patient), explanation), notice)
            sheet.savefig(folder / f"failures/{number}.png", dpi=100)
        cases = (case(score.patient_id) for score in scores)
        write_gallery(
            folder / "gallery" / "index.html", cases, analysis, title=title, notice=notice
        )


def write_overlays(
    folder: Path, case: Cases, scores: Sequence[PatientScore], count: int, notice: str = ""
) -> None:
    """Draw up to ``count`` of the best, median and worst patients, a sheet each."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = best_median_worst(scores, count)
    for label, names in chosen.items():
        if names:
            title = " · ".join(filter(None, (f"{label} of {len(scores)} patients", notice)))
            sheet = overlay_sheet([case(name) for name in names], title, label)
            sheet.savefig(folder / f"{label}.png", dpi=200)


def log_checkpoint(log: RunLog, data: StudyData, trainer: Trainer) -> None:
    """Log the weights as they are, and beside them what prediction needs to know about them."""
    config, precision = trainer.config, trainer.compute.precision
    train = training_patients(data.split, config)
    card = make_card(config, data.cache, train, precision, log.run_id)
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
