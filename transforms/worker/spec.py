"""The instructions for a worker: a run's schema, model, method, targets and outputs."""

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
    """The outputs to explain: the same for every row, the predicted one, or one named by a column.

    Args:
      indices: Indices of outputs, the same for every row; None if another field chooses the outputs.
      predicted: True to explain the largest output of each row.
      mirrored: True if the model's only output scores "yes", and a column names yes (1) or no (0). The score
        of "no" is one minus the score of "yes"; for a logit, it is the negated score of "yes".
    """

    indices: tuple[int, ...] | None = None
    predicted: bool = False
    mirrored: bool = False

    def signature(self, signature: Signature) -> Signature:
        """The model's signature; if mirrored, with one output for no and one for yes."""
        if not self.mirrored:
            return signature
        (head,) = signature.outputs
        return replace(signature, outputs=(replace(head, shape=(2,)),))

    def count(self, outputs: int) -> int:
        """The number of outputs that may be explained, of a model with `outputs` outputs."""
        return outputs if self.indices is None else len(self.indices)

    def of(self, outputs: np.ndarray | None, column: np.ndarray | None, rows: int) -> np.ndarray:
        """Output index of each row, `[B, T]`."""
        if column is not None:
            return column[:, None]
        if self.predicted:
            if outputs is None:
                raise ValueError("the predicted output needs the outputs")
            # With a single output this is index 0.
            return outputs.argmax(axis=1)[:, None]
        return np.broadcast_to(np.array(self.indices, np.int64), (rows, len(self.indices or ())))


@dataclass(frozen=True)
class ExplainSpec:
    """Everything that a worker needs to explain a shard; small, and the same on every runner.

    Args:
      run: The run directory.
      run_id: Identifier of the run.
      fingerprint: Digest of all that decides the numbers; parts of another fingerprint are not reused.
      model: The model to load.
      score: auto | output | logit | probability.
      schema: The examples' schema.
      method: The method with its keys.
      targets: The outputs to explain.
      reference: The baseline artifact, as a path or as its bytes.
      output: What to write of each example.
      batch_size: Rows per Arrow batch.
      device_batch_size: Model evaluations per device call.
      seed: The run's seed.
      threads: TensorFlow's threads in this process; None: TensorFlow decides.
      metadata: Metadata of every part.
      affine_prefix: Whether to skip the affine prefix of the model; False serves to measure the gain.
      sample: Numbers of rows to keep for the report.
      device_room: The size of device calls that fitted while planning, if memory ran out. It changes numbers
        by rounding at most, and is not in the fingerprint.
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
        """True if a launcher has begun the run in its directory, where it stores the reference."""
        return isinstance(self.reference, str)
