"""What an engine makes of the pipeline: which stages are fused, and how much passes between them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner import execution
from apache_beam.runners.portability.portable_runner import PortableRunner

from pipeline.config.config import load_config
from pipeline.execution.graph import define_pipeline
from pipeline.planning.plan import Plan, make_plan
from pipeline.results.run import Run
from tests.support import worlds
from transforms.explain import MergeShardResults
from transforms.worker.journal import ShardResult
from transforms.worker.shard import explain_shard
from transforms.worker.spec import ExplainSpec

WORK = "Explain shards/Read, explain and write"
MOST_BYTES = 64 << 10
FEATURES = 50
SHARDS = 6


@dataclass(frozen=True)
class Stage:
    """A step of the fused graph: what a worker runs in one go, or what the engine does between two."""

    kind: str
    names: tuple[str, ...]
    transforms: tuple[Any, ...]
    inputs: frozenset[str]
    outputs: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind.split(':')[2]}: {' → '.join(self.names)}"


def planned(config: Path) -> Plan:
    return make_plan(load_config(str(config)), in_process=True)


def portable(plan: Plan) -> beam_runner_api_pb2.Pipeline:
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    define_pipeline(pipeline, plan.shards, plan.spec)
    return pipeline.to_runner_api()


@cache
def stages() -> tuple[Stage, ...]:
    """The graph as Beam fuses it for Flink's job server; Dataflow's service fuses by the same rule."""
    options = PipelineOptions(["--experiments=pre_optimize=all"])
    fused = PortableRunner._optimize_pipeline(portable(planned(worlds.trips())), options)
    found = []
    for name in fused.root_transform_ids:
        outer = fused.components.transforms[name]
        inner = [outer]
        if "executable_stage" in outer.spec.urn:
            payload = beam_runner_api_pb2.ExecutableStagePayload.FromString(outer.spec.payload)
            inner = [payload.components.transforms[key] for key in payload.transforms]
        found.append(
            Stage(
                outer.spec.urn,
                tuple(transform.unique_name for transform in inner),
                tuple(inner),
                frozenset(outer.inputs.values()),
                frozenset(outer.outputs.values()),
            )
        )
    return tuple(found)


def drawn() -> str:
    return "\n".join(map(str, stages()))


def executable() -> list[Stage]:
    return [stage for stage in stages() if "executable_stage" in stage.kind]


def behind(stage: Stage) -> list[Stage]:
    """The stages that what a stage gives leads to."""
    reached, found = set(stage.outputs), []
    for other in stages():  # in topological order
        if other.inputs & reached:
            reached |= other.outputs
            found.append(other)
    return found


def holds_spec(transform: Any) -> bool:
    """Whether a transform's function was sent out with what it takes to load the model."""
    if transform.spec.urn != common_urns.primitives.PAR_DO.urn:
        return False
    payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
    if payload.do_fn.urn != python_urns.PICKLED_DOFN_INFO:
        return False
    function = pickler.loads(payload.do_fn.payload)[0]
    return any(isinstance(value, ExplainSpec) for value in _within(function))


def _within(value: Any, depth: int = 3) -> Iterator[Any]:
    yield value
    if depth and hasattr(value, "__dict__"):
        for held in vars(value).values():
            yield from _within(held, depth - 1)


def test_one_stage_does_the_work() -> None:
    working = [stage for stage in executable() if WORK in stage.names]
    assert len(working) == 1, drawn()
    # Making the shards known, the work, the sum, and what is left for the launcher.
    assert len(executable()) == 4, drawn()
    names = working[0].names
    assert names.count(WORK) == 1, drawn()
    assert "Keep counts" in names, drawn()
    assert any("Precombine" in name for name in names), drawn()


def test_between_the_shards_and_the_work_is_a_shuffle_and_nothing_else() -> None:
    (work,) = [stage for stage in executable() if WORK in stage.names]
    (before,) = [stage for stage in stages() if stage.outputs & work.inputs]
    assert before.kind == common_urns.composites.RESHUFFLE.urn, drawn()


def test_no_stage_but_the_work_can_load_the_model() -> None:
    found = [t.unique_name for stage in executable() for t in stage.transforms if holds_spec(t)]
    assert found == [WORK], drawn()
    (work,) = [stage for stage in executable() if WORK in stage.names]
    after = behind(work)
    assert {"Leave result", "Merge results/CombinePerKey/Merge"} <= {
        n for stage in after for n in stage.names
    }
    assert not any(holds_spec(t) for stage in after for t in stage.transforms), drawn()


def test_no_environment_and_no_hint_splits_the_work() -> None:
    proto = portable(planned(worlds.trips()))
    assert len(proto.components.environments) == 1, dict(proto.components.environments)
    (environment,) = proto.components.environments.values()
    assert not environment.resource_hints
    named = {t.environment_id for t in proto.components.transforms.values() if t.environment_id}
    assert named == set(proto.components.environments)


def test_stage_labels_are_verb_phrases() -> None:
    proto = portable(planned(worlds.trips()))
    (root,) = proto.root_transform_ids
    transforms = proto.components.transforms
    labels = [transforms[name].unique_name for name in transforms[root].subtransforms]
    assert labels == [
        "Create shards",
        "Spread over workers",
        "Explain shards",
        "Keep counts",
        "Merge results",
        "Leave result",
    ]


# -- what passes between stages ------------------------------------------------------------------------------


@dataclass
class Crossing:
    """Encoded bytes that passed between stages of a run, and what the sum was given.

    Args:
      sizes: Of what was handed over, one after another.
      summed: The inputs of the combine.
    """

    run: Run
    sizes: list[int]
    summed: list[ShardResult]


@cache
def wide(slices: tuple[int, ...], outputs: int) -> Path:
    """A config over 240 rows of 50 features in six shards, slices of so many values, and so many targets."""
    import keras

    folder = worlds.shelf() / f"wide-{'-'.join(map(str, slices))}-{outputs}"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"a feature of the user's number {i}" for i in range(FEATURES)]
    columns: dict[str, Any] = {name: rng.normal(size=240).astype(np.float32) for name in names}
    for number, values in enumerate(slices):
        columns[f"slice {number}"] = [f"value {i % values} of it" for i in range(240)]
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    inputs = keras.Input((FEATURES,), name="x")
    hidden = keras.layers.Dense(4, activation="tanh")(inputs)
    keras.Model(inputs, keras.layers.Dense(outputs)(hidden)).save(folder / "model.keras")
    return worlds.write_config(
        folder / "wide.yaml",
        model={"path": "model.keras", "target": "all"},
        input={
            "files": "rows.parquet",
            "features": names,
            "slices": [f"slice {number}" for number in range(len(slices))],
        },
        method={"name": "integrated_gradients", "n_steps": 4},
        output={"path": "run"},
        compute={"shard_rows": 240 // SHARDS},
        limits={"convergence": 1e9},
    )


def crossing(config: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Crossing:
    """Runs a config with scales at every place where the local engine keeps what passes between stages."""
    sizes: list[int] = []
    summed: list[ShardResult] = []
    for buffer in (execution.ListBuffer, execution.GroupingBuffer):

        def append(self: Any, data: bytes, real: Any = buffer.append) -> None:
            sizes.append(len(data))
            real(self, data)

        monkeypatch.setattr(buffer, "append", append)
    add = MergeShardResults.add_input

    def add_input(self: Any, accumulator: ShardResult, element: ShardResult) -> ShardResult:
        summed.append(element)
        return add(self, accumulator, element)

    monkeypatch.setattr(MergeShardResults, "add_input", add_input)
    return Crossing(worlds.explain(config, output), sizes, summed)


@pytest.mark.parametrize(("slices", "outputs"), [((), 1), ((20, 30), 3)], ids=["plain", "sliced"])
def test_little_crosses_a_shuffle(
    slices: Sequence[int], outputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wide(tuple(slices), outputs)
    found = crossing(config, tmp_path / "run", monkeypatch)
    groups = (1 + sum(slices)) * outputs
    assert len(found.run.importance()) == groups * FEATURES, "the aggregates are whole"
    # Each shard, each shuffled shard, one sum, and its way to the launcher's file.
    assert len(found.sizes) >= 4
    assert SHARDS * 100 < sum(found.sizes) < SHARDS * MOST_BYTES / 8, found.sizes
    assert len(found.summed) == SHARDS
    # An engine that does not sum before the shuffle sends every input of the sum through it.
    proto = portable(planned(config))
    (counts,) = [t for t in proto.components.transforms.values() if t.unique_name == "Keep counts"]
    (pcollection,) = counts.outputs.values()
    coder = PipelineContext(proto.components).coders.get_by_id(
        proto.components.pcollections[pcollection].coder_id
    )
    assert max(len(coder.encode(element)) for element in found.summed) < MOST_BYTES / 8


def test_the_aggregates_themselves_would_be_too_much(tmp_path: Path) -> None:
    """Why counts are all that crosses: the case above is no exception, and far above the bar."""
    config = wide((20, 30), 3)
    whole = _shard_result(config, tmp_path)
    assert len(pickle.dumps(whole)) > 2 * MOST_BYTES
    assert len(whole.to_bytes()) > 2 * MOST_BYTES


def _shard_result(config: Path, folder: Path) -> ShardResult:
    plan = planned(config)
    spec = replace(plan.spec, run=str(folder), reference=plan.probe.artifact.to_bytes())
    for place in ("attributions", "_work/shards"):
        (folder / place).mkdir(parents=True)
    return explain_shard(plan.shards[0], spec)
