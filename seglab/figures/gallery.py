"""A self-contained page of the failures: thumbnails, causes, and the marked slices.

The page loads nothing: pictures are inside as data URIs and the script is inline, so it
opens from disk and in a sandboxed frame without network, storage or a shared origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from seglab.core.documents import fill_template, finite
from seglab.data.identity import TITLES
from seglab.evaluation.failure_report import MEANINGS, FailureAnalysis, describe
from seglab.evaluation.failures import Explanation
from seglab.evaluation.metrics import Case, slice_counts
from seglab.evaluation.scores import score_rows
from seglab.figures.sprites import CONTEXT, encode, thumbnail, worst_position
from seglab.figures.style import AGREEMENT, BLUE, FALSE_ALARM, MISSED, ORANGE, PURPLE, YELLOW

MOST_BYTES: Final = 14_000_000
"""Of pictures in one page."""
MOST_PER_CASE: Final = 400_000
CHOSEN_WEIGHT: Final = 2
"""A case that some rule chose gets this many times the bytes of another."""
SLICES_CHOSEN: Final = 96
SLICES_OTHER: Final = 32
MOST_FINDINGS: Final = 6
LEAST_SHARE: Final = 0.01
"""Of a patient's wrong voxels; findings below it are not listed."""


COLOURS: Final = {
    "agreement": AGREEMENT,
    "missed": MISSED,
    "false": FALSE_ALARM,
    "truth": YELLOW,
    "prediction": PURPLE,
    "probability": BLUE,
    "disagreement": ORANGE,
}


def write_gallery(
    path: Path, cases: Iterable[Case], analysis: FailureAnalysis, *, title: str, notice: str = ""
) -> None:
    """Write the gallery of explained patients as one HTML file.

    Cases, every patient of ``analysis``, are taken one at a time, so an iterator keeps memory
    small. The page stays below 15 MB for any number of patients up to about 200: cases that no
    rule chose are thinned out first. Below the title stands ``notice``, of the data.
    """
    chosen = set().union(*analysis.selection.values())
    weights = len(analysis.explanations) + (CHOSEN_WEIGHT - 1) * len(chosen)
    share = MOST_BYTES // max(weights, 1)
    data = analysis.to_json() | {"rules": MEANINGS, "colours": COLOURS, "context": CONTEXT}
    entries: dict[str, Any] = {}
    for case in cases:
        shown = case.patient_id in chosen
        budget = min(MOST_PER_CASE, share * (CHOSEN_WEIGHT if shown else 1))
        slices = SLICES_CHOSEN if shown else SLICES_OTHER
        explanation = analysis.explanations[case.patient_id]
        entries[case.patient_id] = _entry(case, explanation, slices, budget)
        data |= {"modality": TITLES[case.modality], "ensemble": case.disagreement is not None}
    known = [one for one in data["cases"] if one["patient_id"] in entries]
    data["cases"] = [one | entries[one["patient_id"]] for one in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"title": title, "notice": notice, "data": finite(data)}
    page = fill_template("seglab.figures", "gallery.html", **values)
    path.write_text(page, encoding="utf-8")


def _entry(case: Case, explanation: Explanation, slices: int, budget: int) -> dict[str, Any]:
    """What the page shows of a case beside its words."""
    sprites = encode(case, slices, budget)
    chosen = list(sprites["positions"])
    tp, fp, fn = slice_counts(case.prediction[chosen], case.truth[chosen])
    score, contrast = explanation.score, explanation.tumour_contrast
    figures = score_rows(score)
    if np.isfinite(score.hd95_mm):
        figures["HD95"] = f"{score.hd95_mm:.1f} mm"
    figures["tumour contrast"] = f"{contrast:.1f} SD" if np.isfinite(contrast) else "undefined"
    figures["empty slices hit"] = f"{score.empty_slice_fp} of {score.empty_slices}"
    return {
        "figures": figures,
        "findings": [
            {
                "cause": finding.cause,
                "share": finding.share,
                "slice": finding.peak_slice,
                "text": describe(finding, explanation),
            }
            for finding in explanation.findings[:MOST_FINDINGS]
            if finding.share >= LEAST_SHARE
        ],
        "slices": np.stack([case.slice_indices[chosen], tp, fn, fp], axis=1).tolist(),
        "start": int(case.slice_indices[worst_position(case)]),
        "of": len(case.image),
        "thumbnail": thumbnail(case),
        **sprites,
    }
