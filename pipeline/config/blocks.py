"""The blocks of a config for baseline, output, computation, engine, limits and privacy.

A string below a key is its description: the reference in docs/ is generated from it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.errors import nearest_key
from pipeline.config.input import Strict
from pipeline.config.values import Path, Scalar
from pipeline.runners.names import RUNNERS
from transforms.errors import UserError


class Baseline(Strict):
    """The `baseline` block; the method decides the kind if it is left out."""

    kind: Literal["zeros", "constant", "mean", "median", "mode", "sample", "file", "run"] | None = None
    """One row (`zeros`, `constant`, `mean`, `median`, `mode`), rows drawn from the input (`sample`), the rows
    of a file (`file`), or the baseline of a committed run (`run`). Without it, methods that compare with one
    row take the mean (for categories and whole numbers the most frequent value), and the others a sample."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """Largest number of rows to draw, without replacement. Without it, `sample` draws 100 and the other kinds
    take all rows."""
    path: Path | None = None
    """The file of rows (`kind: file`) or the committed run (`kind: run`)."""
    value: Scalar | dict[str, Scalar] | None = None
    """One value for every feature, or a value by feature (`kind: constant`)."""

    @model_validator(mode="after")
    def _whole(self) -> Baseline:
        for key, kinds in (("path", ("file", "run")), ("value", ("constant",))):
            given = getattr(self, key) is not None
            if given != (self.kind in kinds):
                named = " or ".join(kinds) if self.kind not in kinds else self.kind
                raise ValueError(f"kind: {named} and the key {key!r} belong together")
        if self.kind == "run" and self.rows is not None:
            raise ValueError("kind: run takes all rows of that run's baseline; leave the key 'rows' out")
        return self


class TopK(Strict):
    """The value `{top_k: 5}` of `output.attributions`."""

    top_k: Annotated[int, Field(ge=1)]
    """Number of strongest features to keep for each row."""


class Output(Strict):
    """The `output` block."""

    path: Path
    """The run directory. `{date}` becomes today's date, or `--date`."""
    attributions: Literal["all", "none"] | TopK = "all"
    """Write every attribution, none, or each row's k strongest and the sum of the rest."""
    features: bool = False
    """Also write the feature values."""
    sample: Annotated[int, Field(ge=0, le=1 << 20)] = 2000
    """Rows kept with their values for the report, fewer if rows are wide; 0 keeps none."""
    report: bool = True
    """Write `report.html`."""


class Compute(Strict):
    """The `compute` block."""

    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 4096
    """Largest number of rows in an Arrow batch; fewer if they would take more than 64 MiB."""
    device_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Model evaluations in one device call."""
    shard_rows: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Rows in a shard: the unit of work, retry and resume."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Worker processes on this machine, if no other engine is chosen."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Precision of matrix products and convolutions, except the first one after each input. Mixed
    precision rounds their operands and is meant for GPUs; TensorFlow models only."""
    jit: bool = False
    """Compile the model and the method around it with XLA, except strings, tables and look-ups by id;
    TensorFlow models only."""


class Runner(Strict):
    """The `runner` block."""

    name: Annotated[str, Field(json_schema_extra={"enum": list(RUNNERS)})]
    """The engine."""
    options: dict[str, Scalar | list[Scalar] | None] = Field(default={})
    """Beam's own options for the engine, by the names of their flags, such as `{parallelism: 8}`."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in RUNNERS:
            raise UserError(f"{value!r} is not a runner", "runner.name", nearest_key(value, RUNNERS))
        return value


class Limits(Strict):
    """The `limits` block: a run that exceeds a limit is written in full and ends with exit status 1."""

    rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of rows that may be rejected."""
    convergence: Annotated[float, Field(ge=0)] = 0.05
    """Largest p99 of |convergence_delta|, relative to the spread of the score; with a baseline of one row,
    relative to the score's distance from the base value if that is larger."""


class Privacy(Strict):
    """The `privacy` block."""

    min_rows: Annotated[int, Field(ge=0)] = 0
    """Fewest rows of a slice: smaller slices are neither written to the importance nor shown."""
