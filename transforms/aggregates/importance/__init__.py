"""Global feature importance as a state that merges: numpy and Arrow alone, no engine and no model."""

from transforms.importance.groups import state_bytes
from transforms.importance.intervals import ranking_bytes
from transforms.importance.state import ImportanceState
from transforms.importance.table import TABLE

__all__ = ["TABLE", "ImportanceState", "ranking_bytes", "state_bytes"]
