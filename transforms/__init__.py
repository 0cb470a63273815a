"""Everything a worker executes: reading, attribution, writing, and the Beam transforms made of them.

`from transforms import ExplainShards, ExplainBatches` for a Beam pipeline of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.explain import ExplainBatches, ExplainShards

__all__ = ["ExplainBatches", "ExplainShards"]


def __getattr__(name: str) -> Any:
    # Imported on first use: most of this package is used without Beam.
    if name in __all__:
        from transforms import explain

        return getattr(explain, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
