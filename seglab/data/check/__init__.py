"""Looks at every file of a data set before anything is trained on it."""

from seglab.data.check.channels import ChannelEvidence, Identity
from seglab.data.check.report import CheckReport, SharedPatient
from seglab.data.check.run import check

__all__ = ["ChannelEvidence", "CheckReport", "Identity", "SharedPatient", "check"]
