"""Everything a worker executes: reading, attribution, writing, and the Beam transforms made of them.

`from transforms import ExplainShards, ExplainBatches` for a Beam pipeline of your own, and
`from transforms import check_method_contract` for a method of your own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.explain import ExplainBatches, ExplainShards
    from transforms.methods import check_method_contract

__all__ = ["ExplainBatches", "ExplainShards", "check_method_contract"]

#: Where a name is defined. Imported on first use: most of this package is used without Beam.
_HOMES = {
    "ExplainBatches": "transforms.explain",
    "ExplainShards": "transforms.explain",
    "check_method_contract": "transforms.methods",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
