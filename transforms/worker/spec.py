"""What a worker needs to know of a run: its schema, model, method, targets and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from transforms.aggregates.sample import SampleSpec
from transforms.methods.base import AttributionMethod
from transforms.models.base import Signature
from transforms.models.load import ModelRequest
from transforms.outputs.layout import TableSpec
from transforms.rows.schema import ExampleSchema


@dataclass(frozen=True)
class TargetSpec:
    """Which outputs are explained: some for every row, the predicted one, or one named by a column.

    Args:
      indices: These; None: see the others.
      predicted: The largest output of each row.
      mirrored: The model's one output is that of a yes: a column names yes (1) or no (0), and the score of no
        is one minus that of yes, or, of a logit, minus it.
    """

    indices: tuple[int, ...] | None = None
    predicted: bool = False
    mirrored: bool = False

    def signature(self, signature: Signature) -> Signature:
        """The model's, with an output for no and for yes each where it is mirrored."""
        if not self.mirrored:
            return signature
        (head,) = signature.outputs
        return replace(signature, outputs=(replace(head, shape=(2,)),))

    def count(self, outputs: int) -> int:
        """How many of so many outputs may be explained."""
        return outputs if self.indices is None else len(self.indices)

    def of(self, outputs: np.ndarray | None, column: np.ndarray | None, rows: int) -> np.ndarray:
        """Output index of each row, `[B, T]`."""
        if column is not None:
            return column[:, None]
        if self.predicted:
            if outputs is None:
                raise ValueError("the predicted output needs the outputs")
            # One output is a yes or no: there is nothing to choose from.
            return outputs.argmax(axis=1)[:, None]
        return np.broadcast_to(np.array(self.indices, np.int64), (rows, len(self.indices or ())))


@dataclass(frozen=True)
class ExplainSpec:
    """All that a worker needs to explain a shard; small, and the same on every runner.

    Args:
      run: The run directory.
      run_id: Of the run.
      fingerprint: Of what decides the numbers; parts of another fingerprint are not reused.
      model: What to load.
      score: auto | output | logit | probability.
      schema: Of the examples.
      method: The method with its keys.
      targets: Which outputs.
      reference: The baseline artifact: its path, or itself.
      output: What to write.
      batch_size: Rows per Arrow batch.
      device_batch_size: Model evaluations per device call.
      seed: Of the run.
      threads: TensorFlow's threads in this process; None leaves them to it.
      metadata: Of every part.
      affine_prefix: False does not skip the affine prefix of the model (to measure what it gains).
      sample: How many rows are kept for the report.
      device_room: What fitted into a device call while the plan was made, where the memory ran out; it
        decides no number beyond rounding, and is not in the fingerprint.
    """

    run: str
    run_id: str
    fingerprint: str
    model: ModelRequest
    score: str
    schema: ExampleSchema
    method: AttributionMethod
    targets: TargetSpec
    reference: str | bytes
    output: TableSpec
    batch_size: int
    device_batch_size: int
    seed: int
    threads: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    affine_prefix: bool = True
    device_room: int | None = None
    sample: SampleSpec = field(default_factory=SampleSpec)

    @property
    def begun(self) -> bool:
        """Whether a launcher has begun the run in its directory: it keeps the reference there."""
        return isinstance(self.reference, str)
