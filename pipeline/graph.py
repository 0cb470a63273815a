"""The Beam graph: the only place where stages are joined."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam

from transforms import files
from transforms.explain import ExplainShards, MergeShardResults
from transforms.shard_result import ShardResult
from transforms.shards import Shard, schedule
from transforms.worker import ExplainSpec


def result_path(run: str) -> str:
    """Where the pipeline leaves the run's aggregates for the commit."""
    return files.join(run, "_work", "result")


def define_pipeline(pipeline: beam.Pipeline, shards: Sequence[Shard], spec: ExplainSpec) -> None:
    """Joins the stages of a run.

    Args:
      pipeline: To add them to.
      shards: The plan.
      spec: What workers are told.
    """
    (
        pipeline
        # A shard names rows and holds none. The largest go first: local workers are dealt shards in turn.
        | "Create shards" >> beam.Create(schedule(shards), reshuffle=False)
        # Without it the source would be fused with the work, and one worker would do it all.
        | "Spread over workers" >> beam.Reshuffle()
        # One fused step reads, attributes and writes: no row crosses a stage boundary.
        | "Explain shards" >> ExplainShards(spec)
        # Aggregates grow with slices and targets: the launcher reads them from the journal, in the shards'
        # order. What the runner adds up is there to be held against it: a few KB a shard, whatever it holds.
        | "Keep counts" >> beam.Map(ShardResult.counts)
        | "Merge results" >> beam.CombineGlobally(MergeShardResults(spec.schema.attributed))
        # For the launcher, which may be on another machine. Loads no model.
        | "Leave result" >> beam.ParDo(_LeaveResult(spec.run))
    )


class _LeaveResult(beam.DoFn):
    def __init__(self, run: str) -> None:
        self._run = run

    def process(self, result: ShardResult) -> None:
        files.write_atomic(result_path(self._run), result.to_bytes())
