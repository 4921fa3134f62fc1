"""Layer 3: experiments, runs and artifacts. The only package that knows MLflow.

MLflow costs two to three seconds to import, so it is imported inside functions:
importing this package is free.
"""

from seglab.tracking.artifacts import DownloadReport, download
from seglab.tracking.connect import default_uri, open_store, serve_ui
from seglab.tracking.environment import code_hash, environment_report, environment_tags
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import RunInfo, RunInUse, Store, UnknownRun, artifact_link

__all__ = [
    "DownloadReport",
    "RunInUse",
    "RunInfo",
    "RunLog",
    "Store",
    "UnknownRun",
    "artifact_link",
    "code_hash",
    "default_uri",
    "download",
    "environment_report",
    "environment_tags",
    "open_store",
    "resume_run",
    "serve_ui",
    "start_run",
]
