"""Names of every tag of a run, an experiment or a registered model.

Runs are found by their tags: a name that is changed here hides what older versions logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

KIND = "seglab.kind"
"""train, tuning, ablation, trial, sweep, promotion or evaluation."""
TUNING = "tuning"

# What makes two runs the same: a finished one is reported, an unfinished one continued.
ARM, SEED, FOLD, ARM_HASH = "seglab.arm", "seglab.seed", "seglab.fold", "seglab.arm_hash"
CONFIG_HASH, DATA_HASH = "seglab.config_hash", "seglab.data_hash"
SPLIT_HASH, CODE_HASH = "seglab.split_hash", "seglab.code_hash"

# Of an ablation's parent: its arms with their hashes, the reasons of those that failed, and the
# search whose best trials it confirms.
ARMS, BASELINE, BUDGET = "seglab.arms", "seglab.baseline", "seglab.budget"
MARGIN = "seglab.margin"
"""Of equivalence; ablations of earlier versions had the default."""
FACTORS = "seglab.factors"
"""The design whose levels make the arms, as JSON."""
PLAN = "seglab.plan_hash"
"""SHA-256 of the plan that was made before the first run."""
FAILURES, CONFIRMS = "seglab.failures", "seglab.confirms"
VERDICTS = "seglab.verdicts"
# The arm that a tuning run tunes, the values it tries, and on the parent those chosen.
TUNES, VALUES, TUNED = "seglab.tunes", "seglab.values", "seglab.tuned"

# Of a trial: its search, and its number there; of a search, the ablation that confirms it.
BASE_TRIAL = "0"
"""Number of the trial of the base config."""
TRIAL, STUDY, CONFIRMATION_RUN = "seglab.trial", "seglab.study", "seglab.confirmation_run_id"
EXPLANATION_RUN = "seglab.explanation_run_id"
"""The ablation that puts its best trial's changes back."""
# The run that this one repeats.
REPRODUCES = "seglab.reproduces"

# Where and how it ran.
GIT_COMMIT, GIT_DIRTY = "seglab.git_commit", "seglab.git_dirty"
DEVICE, PRECISION = "seglab.device", "seglab.precision"
AUGMENTED_ON, WEIGHTS = "seglab.augmented_on", "seglab.weights"
LOOKS_LIKE_FLAIR, MISSING_FILES = "seglab.looks_like_flair", "seglab.missing_files"
SYNTHETIC = "seglab.synthetic"
"""``true`` where the data are phantoms; absent where they are of patients."""

METHOD_HASH = "seglab.method_hash"
"""Of what pictures of the method show: the first run of an experiment that has it has them."""

# How it ended.
ERROR = "seglab.error"
PRUNED = "seglab.pruned_at_epoch"
INTERRUPTED = "seglab.interrupted"
END_TAGS = (ERROR, PRUNED, INTERRUPTED)

# Of a promotion: the run that it promotes, its baseline, the frozen operating point.
ENSEMBLE = "seglab.ensemble"
"""Runs whose probabilities a promoted model averages, comma-separated."""
PROMOTED_RUN, BASELINE_RUN = "seglab.promoted_run_id", "seglab.baseline_run_id"
PROMOTED_GIT_COMMIT = "seglab.promoted_git_commit"
OPERATING_POINT, ONNX = "seglab.operating_point", "seglab.onnx"

# Of an evaluation: the run that trained the model.
EVALUATED_RUN = "seglab.evaluated_run_id"

# The record of the sealed test: tags of an experiment of its own, see ``openings``.
TEST_HASH = "seglab.test_hash"
TEST_PATIENTS = "seglab.test_patients"
"""Digests of the patients, in as many numbered tags as they need."""
TEST_OPENED_AT = "seglab.test_opened_at"
TEST_OPENED_BY = "seglab.test_opened_by"
"""The promotion run that asked for it."""
REOPEN_REASON = "seglab.reopen_reason"
CONFIRMATORY = "seglab.confirmatory"
TEST_STATE = "seglab.test_state"
"""Of promotion runs of earlier versions, which kept the record: ``opened``."""

# MLflow's own.
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
USER, COMMIT = "mlflow.user", "mlflow.source.git.commit"
SOURCE, SOURCE_TYPE = "mlflow.source.name", "mlflow.source.type"
DATA_CONTEXT = "mlflow.data.context"
EXPERIMENT_KIND = "mlflow.experimentKind"

# How an experiment opens in the UI.
VIEW = "seglab"
"""Key of the view in a link: ``…/runs?viewStateShareKey=seglab``."""
COLUMNS = (
    "attributes.`Created`",
    "attributes.`Duration`",
    "metrics.`val/dice`",
    "metrics.`val/iou`",
    "params.`arm`",
    "params.`loss.name`",  # in view at 1,600 pixels, with the UI's assistant beside the table
    "params.`seed`",
    "params.`model.name`",
    "params.`optim.lr`",
    "params.`data.modalities`",
    "metrics.`val/hd95_mm`",
    "metrics.`test/dice`",
    "metrics.`external/dice`",
    "metrics.`cost/train_seconds`",
    "tags.`seglab.kind`",
    "attributes.`Description`",
)
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The UI keeps shared views as JSON in a tag of the experiment; MLflow has no call for it."""


def view_state(parents: Iterable[str] = ()) -> str:
    """How an experiment opens in the UI: columns, the best run first, parent runs open.

    The UI nests runs only where they are sorted by time, which one click does.
    """
    return json.dumps(
        {
            "searchFilter": "",
            "orderByKey": "metrics.`val/dice`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(COLUMNS),
            "columnOrder": ["duration", *COLUMNS],  # the UI's own id of the duration
            "runsExpanded": dict.fromkeys(parents, True),
            **{"runsPinned": [], "runsHidden": []},
        }
    )


EXPERIMENT = "seglab.experiment"
"""Of an experiment: its name in the configs, whatever a person renames it to."""
EXPERIMENT_TAGS = {
    # Without a kind the UI opens on a page about language models.
    EXPERIMENT_KIND: "custom_model_development",
    VIEW_TAG: view_state(),
}
"""Tags of every new experiment: how it opens in the UI."""
