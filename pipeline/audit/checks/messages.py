"""Names of features, slices and targets in the sentences of findings."""

from __future__ import annotations

from pipeline.audit.findings import Finding
from pipeline.audit.nights import Night


def place_in_words(finding: Finding, night: Night) -> str:
    """The feature of a finding, with its slice and its target where a run has several."""
    labels = night.run.labels
    words = labels.get(finding.feature or "", finding.feature or "the rows")
    if finding.slice:
        words += f" in {finding.slice}"
    if finding.target_name is not None and len(night.run.manifest["target_names"]) > 1:
        words += f" for {finding.target_name}"
    return words
