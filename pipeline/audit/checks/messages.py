"""Names of features, slices and targets in the sentences of findings."""

from __future__ import annotations

from pipeline.audit.nights import Night


def feature_in_words(night: Night, feature: str, slice_: str | None, target: str | None) -> str:
    """A feature's label, with its slice, and with its target if the run has several."""
    words = night.run.labels.get(feature, feature)
    if slice_:
        words += f" in {slice_}"
    if target is not None and len(night.run.manifest["target_names"]) > 1:
        words += f" for {target}"
    return words
