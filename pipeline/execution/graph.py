"""Builds the Beam graph: the only place where stages are joined."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam

from pipeline.execution.commit import Commit, commit_run, result_path
from transforms.explain import ExplainShards, MergeShardResults
from transforms.outputs.parts import as_output_lost
from transforms.sources.base import Shard
from transforms.sources.shards import schedule
from transforms.storage import files
from transforms.worker.journal import ShardResult
from transforms.worker.spec import ExplainSpec


def define_pipeline(
    pipeline: beam.Pipeline, shards: Sequence[Shard], spec: ExplainSpec, commit: Commit | None = None
) -> None:
    """Joins the stages of a run.

    Args:
      pipeline: The pipeline to which the stages are added.
      shards: The shards of the plan.
      spec: The specification that workers receive.
      commit: Makes the last step commit the run, for a launcher that does not wait for it.
    """
    merged = (
        pipeline
        # A shard names rows without holding them. The largest go first: local workers get shards in turn.
        | "Create shards" >> beam.Create(schedule(shards), reshuffle=False)
        # Without a reshuffle, Beam would fuse the source with the work, and one worker would do all of it.
        | "Spread over workers" >> beam.Reshuffle()
        # One fused step reads, attributes and writes: no row crosses a stage boundary.
        | "Explain shards" >> ExplainShards(spec)
        # Aggregates grow with slices and targets: the launcher reads them from the journal, in the order of
        # shards. The runner only adds up counts, a few KB a shard, to be compared with the journal.
        | "Keep counts" >> beam.Map(ShardResult.counts)
        | "Merge results" >> beam.CombineGlobally(MergeShardResults(spec.schema.attributed))
    )
    # Neither of the following steps loads a model.
    if commit is None:
        # The launcher, which may be on another machine, reads the result from a file.
        _ = merged | "Leave result" >> beam.ParDo(_LeaveResult(spec.run))
    else:
        _ = merged | "Commit run" >> beam.ParDo(_CommitRun(commit))


class _LeaveResult(beam.DoFn):
    def __init__(self, run: str) -> None:
        self._run = run

    def process(self, result: ShardResult) -> None:
        path = result_path(self._run)
        with as_output_lost(path):
            files.write_atomic(path, result.to_bytes())


class _CommitRun(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(self, result: ShardResult) -> None:
        commit_run(self._commit, result)
