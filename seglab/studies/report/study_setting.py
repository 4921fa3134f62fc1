"""What a study stood on: data, split, cost and environment."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from seglab.core.errors import UserError
from seglab.data.splits import PARTS, Split, load_split
from seglab.studies.report.document import Block, Notice, Section, Table, Text
from seglab.studies.report.record import StudyRecord
from seglab.studies.report.tables import number
from seglab.tracking import RunInfo

SHORT = 12
UNSET = "null"
SETTINGS = (
    "source", "modalities", "target", "image_size", "crop", "normalise", "normalise_scope",
    "context", "slices",
)  # fmt: skip
KINDS = {
    "train": "training",
    "trial": "search trial",
    "reproduction": "rerun",
    "promotion": "promotion",
}
NOTHING_TRAINED = "No run has been trained in this experiment yet."


def facts(rows: Sequence[tuple[str, str]], note: str = "") -> Table:
    """Lay out names with their values."""
    return Table(("", ""), [row for row in rows if row[1]], note, text_columns=2)


def data_section(record: StudyRecord) -> Section:
    """Which patients, prepared how."""
    run = record.reference
    if run is None:
        return Section("Data", [Text(NOTHING_TRAINED)])
    rows: list[tuple[str, str]] = []
    for found in record.store.data_inputs(run.run_id)[:1]:
        counts = [
            (key, f"{value:,}") for key, value in found["profile"].items() if _is_count(value)
        ]
        rows += [("data set", found["source"] or found["name"]), *counts]
    rows.append(("content hash", run.tags.get("seglab.data_hash", "")))
    settings = [(f"data.{key}", run.params.get(f"data.{key}", "")) for key in SETTINGS]
    rows += [(key, value) for key, value in settings if value != UNSET]
    blocks: list[Block] = [facts(rows, f"As run {run.name} ({run.run_id[:8]}) read it.")]
    return Section("Data", [*blocks, *_several(record, "seglab.data_hash", "contents of data")])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def split_section(record: StudyRecord) -> Section:
    """How many patients each part has; no names, least of all the test's."""
    run = record.reference
    if run is None:
        return Section("Split", [Text(NOTHING_TRAINED)])
    split = _split(record, run)
    if isinstance(split, str):
        return Section("Split", [Notice(split)])
    members = split.to_dict()
    table = Table(
        ("part", "patients"),
        [[part, str(len(members[part]))] for part in PARTS],
        "By patient: no patient's slices are in two parts. Settings are chosen on val; test is "
        "sealed until a promotion.",
    )
    settings = [
        ("split hash", split.hash),
        ("fractions", run.params.get("split.fractions", "")),
        ("seed", run.params.get("split.seed", "")),
        ("folds", run.params.get("split.folds", "").replace(UNSET, "none")),
        ("test part", "" if members[PARTS[-1]] else "none: nothing can be promoted"),
    ]
    several = [] if record.ablations else _several(record, "seglab.split_hash", "splits")
    return Section("Split", [table, facts(settings), *several])


def _split(record: StudyRecord, run: RunInfo) -> Split | str:
    content = record.read(run, "split.json")
    if content is None:
        return f"Run {run.name} ({run.run_id}) logged no split."
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = Path(folder) / "split.json"
        path.write_bytes(content)
        try:
            return load_split(path)
        except UserError as error:
            return str(error).replace(str(path), f"split.json of run {run.run_id}")


def _several(record: StudyRecord, tag: str, noun: str) -> list[Block]:
    """Tell where the runs of the experiment do not share ``tag``."""
    found = Counter(run.tags[tag] for run in record.of_kind("train", "trial") if run.tags.get(tag))
    if len(found) < 2:
        return []
    listed = ", ".join(f"{value[:SHORT]} ({count} runs)" for value, count in found.most_common())
    return [Notice(f"Runs of this experiment are of {len(found)} {noun}: {listed}.")]


def cost_table(record: StudyRecord) -> Table:
    """What all runs took together, a row a kind."""
    rows = []
    for kind, word in KINDS.items():
        runs = record.of_kind(kind)
        if runs:
            rows.append(_cost_row(word, runs))
    if len(rows) > 1:
        rows.append(_cost_row("all", record.of_kind(*KINDS)))
    return Table(
        ("runs", "number", "finished", "images", "training time", "elapsed", "peak memory MB"),
        rows,
        "Elapsed: from start to end of each run, added up, with validation, pictures and waiting; "
        "runs side by side count each. Failed and stopped runs are counted with what they logged.",
    )


def _cost_row(word: str, runs: Sequence[RunInfo]) -> list[str]:
    def total(metric: str) -> float:
        return sum(run.metrics.get(metric, 0.0) for run in runs)

    elapsed = sum(run.end_time - run.start_time for run in runs if run.end_time is not None)
    peak = max((run.metrics.get("cost/peak_memory_mb", 0.0) for run in runs), default=0.0)
    return [
        word,
        str(len(runs)),
        str(sum(run.status == "FINISHED" for run in runs)),
        number(total("cost/images"), 0),
        duration(total("cost/train_seconds")),
        duration(elapsed),
        number(peak or None, 0),
    ]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; a tenth of a second below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def environment_section(record: StudyRecord) -> Section:
    """Which code ran, with which versions, on which machine."""
    run = record.reference
    if run is None:
        return Section("Environment", [Text(NOTHING_TRAINED)])
    blocks: list[Block] = [_code_table(record)]
    if any(run.tags.get("seglab.git_dirty") == "true" for run in record.runs):
        blocks.append(
            Notice(
                "Some runs were made with changes that are in no commit; the code hash names them."
            )
        )
    report = record.read_json(run, "environment.json")
    if report is None:
        blocks.append(Text(f"Run {run.name} ({run.run_id}) logged no versions."))
        return Section("Environment", blocks)
    described = {**report.get("machine", {}), **report.get("versions", {})}
    rows = [(str(key), str(value)) for key, value in described.items()]
    return Section("Environment", [*blocks, facts(rows, f"Of run {run.name} ({run.run_id}).")])


def _code_table(record: StudyRecord) -> Table:
    keys = ("seglab.git_commit", "seglab.code_hash", "seglab.device", "seglab.precision")
    found = Counter(tuple(run.tags.get(key, "–") for key in keys) for run in record.of_kind(*KINDS))
    rows = [[*values, str(count)] for values, count in found.most_common()]
    return Table(("commit", "code hash", "device", "precision", "runs"), rows, text_columns=4)
