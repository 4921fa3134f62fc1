"""The MLflow UI on the right store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from seglab.core.errors import UserError
from seglab.tracking import tags
from seglab.tracking.database import ARTIFACTS
from seglab.tracking.errors import redact

if TYPE_CHECKING:
    from seglab.tracking.store import Store

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
    "params.`optim.lr`",
    "params.`data.modalities`",
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
EXPERIMENT_TAGS = {
    # Without a kind the UI opens on a page about language models.
    tags.EXPERIMENT_KIND: "custom_model_development",
    # The UI keeps shared views as JSON in a tag of the experiment; MLflow has no call for it.
    f"mlflow.sharedViewState.{VIEW}": json.dumps(_STATE),
}
"""Tags of every experiment: how it opens in the UI."""
_STOP_S = 10
_OF_CLIENTS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def serve_ui(store: Store, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve the UI until Ctrl-C and return its exit status.

    A remote server has its own UI: then only its address is printed.

    Raises:
        UserError: the port is taken, or the address is not of this machine.
    """
    if store.uri.startswith("http"):
        print(redact(store.uri))
        return 0
    _check_free(host, port)
    address = f"http://{host}:{port}"
    print(f"MLflow UI: {address}  (Ctrl-C stops it)", file=sys.stderr)
    for experiment_id, name in store.experiments().items():
        print(f"  {name}: {runs_link(address, experiment_id)}", file=sys.stderr)
    server = subprocess.Popen(server_command(host, port), env=server_environment(store))
    try:
        return server.wait()
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server; on Ctrl-C the terminal told it already, on SIGTERM nobody did."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def server_command(host: str, port: int) -> list[str]:
    """Return the command of a small server; which store it serves is in its environment."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", host, "--port", str(port)),
        *("--workers", "1", "--uvicorn-opts", "--log-level warning"),
    ]


def server_environment(store: Store) -> dict[str, str]:
    """Return the environment of a server of ``store``.

    The address of the store may hold a password, which a command line would show
    to every user of the machine.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in _OF_CLIENTS}
    return inherited | {
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(store.folder / ARTIFACTS),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise UserError(f"cannot serve on {host}:{port}: {error.strerror}; try --port") from None


def runs_link(address: str, experiment_id: str) -> str:
    """Return the link that opens an experiment's table of runs with the columns people need."""
    view = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    return f"{address}/#/experiments/{experiment_id}/runs?{view}"


def run_link(address: str, experiment_id: str, run_id: str) -> str:
    """Return the link to the page of one run."""
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}"
