"""The card of a promoted model: Markdown with the front matter that model hubs read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from seglab.core.documents import fill_template
from seglab.learning.bundle import CARD, ModelCard
from seglab.studies.report import outcomes, sections, tables
from seglab.studies.report.page import MAX_NOTE, escape_markdown
from seglab.studies.report.record import Record, frozen_model, read_record
from seglab.tracking import tags
from seglab.tracking.artifacts import describe_version
from seglab.tracking.run import RunLog
from seglab.tracking.store import RunInfo, Store

FILE = "model_card.md"
FIGURES = ("dice", "iou", "precision", "recall", "lesion_f1", "hd95_mm", "nsd_2mm",
           "dice_slice_tumour", "empty_slice_fp_rate")  # fmt: skip
HUB_METRICS = ("dice", "iou")
OF_THE_DATA = ("other", "that of its training data, which seglab does not know: ask its provider")
LICENCES = {
    "lgg-tif": ("cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0, as its training data (Buda et al. 2019)"),
    "brats-h5": ("other", "research use, as its training data (BraTS 2020, Menze et al. 2015)"),
}
"""Source of the training data → name of the licence on hubs, and in words."""


def licence(card: ModelCard, source: str) -> tuple[str, str]:
    """Licence of a model trained on this source of data: its name on hubs, and in words."""
    if card.notice:
        return "mit", "MIT: trained on synthetic data"
    return LICENCES.get(source, OF_THE_DATA)


def log_model_card(log: RunLog, card: ModelCard, experiment: str) -> str:
    """Log ``model_card.md`` with a promotion whose test was scored.

    Returns what the registered model's description says: the card without its front matter, cut
    to what MLflow stores.
    """
    store = log.store
    return _write(read_record(store, experiment), store.get_run(log.run_id), card)


def update_model_cards(store: Store, trained: RunInfo) -> None:
    """Write the cards of a run's promotions anew, with evaluations that came after them."""
    promoted = {tags.KIND: "promotion", tags.PROMOTED_RUN: trained.run_id}
    for run in store.find_runs(tags=promoted, statuses=["FINISHED"]):
        record = read_record(store, store.experiments()[run.experiment_id])
        found = record.read_json(run, next(f for f in record.files(run) if f.endswith(f"/{CARD}")))
        if found is not None:
            describe_version(store, run.run_id, _write(record, run, ModelCard.from_json(found)))


def _write(record: Record, run: RunInfo, card: ModelCard) -> str:
    """Log the card; returns what the registered model's description says."""
    matter, body = model_card(record, run, card)
    head = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    store, text = record.store, f"---\n{head}---\n\n{body}"
    store.call(lambda: store.client.log_text(run.run_id, text, FILE))
    rest = f"\n\n… the rest: {FILE} of run {run.run_id}"
    return body if len(body) <= MAX_NOTE else f"{body[: MAX_NOTE - len(rest)]}{rest}"


def model_card(record: Record, run: RunInfo, card: ModelCard) -> tuple[dict[str, Any], str]:
    """Describe a promoted model from what its promotion ``run`` logged: front matter and Markdown.

    The record of its experiment has evaluations on other data.
    """
    source = run.params["data.source"]
    data = sections.data(record, run)
    results = {f"sealed test: {data['data set']}": record.read_json(run, "test_results.json") or {}}
    for other in record.of_kind("evaluation"):
        found = record.read_json(other, "external_results.json")
        if found and frozen_model(other) == frozen_model(run):  # newest first
            results.setdefault(f"external: {other.params.get('evaluation.set')}", found)
    hub, words = licence(card, source)
    # Over few patients a figure has no interval.
    shown = [
        sections.figure(one["frozen"].get(name)) for one in results.values() for name in FIGURES
    ]
    body = fill_template(
        "seglab.studies.report",
        FILE,
        {"number": tables.number, "figure": sections.figure, "text": _text},
        outcomes=outcomes,
        sections=sections,
        tags=tags,
        figures=FIGURES,
        intervals=any("(" in text for text in shown),
        record=record,
        run=run,
        card=card,
        data=data,
        results=results,
        test=next(iter(results.values())),
        interface={**card.interface(), "licence": words},
        chosen=record.read_json(run, "candidates.json"),
        split=record.read_json(run, "split.json"),
        failures=record.read_json(run, "failures.json") or {"causes": ()},
    )
    matter = {
        "license": hub,
        **({"license_name": words} if hub == "other" else {}),
        "library_name": "seglab",
        "pipeline_tag": "image-segmentation",
        "tags": ["brain-tumor", "mri", *card.modalities, *(["synthetic"] if card.notice else [])],
        "metrics": list(HUB_METRICS),
        "model-index": [
            {"name": card.name, "results": [_hub_result(*one, source) for one in results.items()]}
        ],
    }
    return matter, body


def _hub_result(name: str, found: Mapping[str, Any], source: str) -> dict[str, Any]:
    figures = {key: found["frozen"][key]["value"] for key in HUB_METRICS}
    return {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": name, "type": source},
        "metrics": [
            {"type": key, "value": round(value, 4), "name": f"{key}, mean over patients"}
            for key, value in figures.items()
            if value is not None and math.isfinite(value)
        ],
    }


def _text(value: object) -> str:
    """A value in a cell of a table."""
    if isinstance(value, Mapping):
        words = {"True": "yes", "False": "no"}
        value = ", ".join(f"{key} {words.get(str(one), one)}" for key, one in value.items())
    elif isinstance(value, list | tuple):
        sizes = all(isinstance(one, int | float) for one in value)
        value = " × ".join(map(tables.short, value)) if sizes else ", ".join(map(str, value))
    return escape_markdown(str(value))
