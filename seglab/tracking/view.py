"""How an experiment opens in the MLflow UI: as model training, with the columns a person needs."""

from __future__ import annotations

import json

LOCAL_UI = "http://127.0.0.1:5000"
"""Where ``make ui`` serves a store of this machine."""
VIEW = "seglab"
"""Key of the view in a link: ``…/runs?viewStateShareKey=seglab``."""
COLUMNS = (
    "attributes.`Created`",
    "attributes.`Duration`",
    "metrics.`val/dice`",
    "metrics.`val/iou`",
    "metrics.`val/hd95_mm`",
    "metrics.`test/dice`",
    "metrics.`cost/train_seconds`",
    "params.`arm`",
    "params.`seed`",
    "params.`model.name`",
    "params.`loss.name`",
    "params.`augment.name`",
    "params.`optim.lr`",
    "tags.`seglab.kind`",
)
_STATE = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": list(COLUMNS),
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
}
VIEW_TAGS = {
    # Without a kind the UI opens on a page about language models.
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps(_STATE),
}
"""Tags of every experiment; the UI keeps such views as JSON in a tag of the experiment."""


def view_link(address: str, experiment_id: str) -> str:
    """Return the link that opens an experiment's runs with these columns."""
    view = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    return f"{address}/#/experiments/{experiment_id}/runs?{view}"


def run_link(address: str, experiment_id: str, run_id: str) -> str:
    """Return the link to the page of one run."""
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}"
