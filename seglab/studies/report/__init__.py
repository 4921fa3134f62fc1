"""The report of an ablation: Markdown, one HTML page, and every number as CSV and JSON."""

from __future__ import annotations

from seglab.studies.report.write import Written, report_ablation

__all__ = ["Written", "report_ablation"]
