"""Global feature importance as a mergeable state, in numpy and Arrow, without an engine or a model."""

from transforms.aggregates.importance.groups import state_bytes
from transforms.aggregates.importance.intervals import ranking_bytes
from transforms.aggregates.importance.state import ImportanceState
from transforms.aggregates.importance.table import TABLE

__all__ = ["TABLE", "ImportanceState", "ranking_bytes", "state_bytes"]
