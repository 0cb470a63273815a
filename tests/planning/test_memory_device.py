"""A device's memory runs out: half the evaluations a call, the same rows again, and the run says so.

On a processor the same exception stands in for it: calls above so many evaluations raise it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.methods.test_methods import VARIANTS
from tests.support import worlds
from tests.support.models.models_zoo import CASES, attribute, make_reference
from transforms.errors import DeviceFull, DeviceMemoryError
from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.deeplift.model import RescaleModel
from transforms.models.graphs.gradients import DifferentiableModel
from transforms.models.graphs.masked import MaskedModel
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.tensorflow_errors import out_of_memory, refusal
from transforms.storage import files
from transforms.worker.device_batch import DeviceBatchSize, with_halved
from transforms.worker.journal import ShardResult
from transforms.worker.shard import explain_shard

PLANNED, FITS, HALVED = 4096, 100, 64


def rows_of(inputs: Any) -> int:
    return len(next(iter(inputs.values())))


class Device:
    """A device on which no call of more than so many evaluations finds room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fits: int = FITS) -> None:
        self.fits = fits
        self.sizes: list[int] = []
        self.refused: list[int] = []
        self._patch = monkeypatch.setattr
        on_paths = lambda x, b, base, alphas, *rest, **_: rows_of(x) * alphas.shape[0] * alphas.shape[1]  # noqa: E731
        self._guard(ScoredGraph, "evaluate", rows_of)
        self._guard(MaskedModel, "sums", lambda x, t, c, base: len(t) * len(c) * base.shape[1])
        self._guard(DifferentiableModel, "integrate", on_paths)
        self._guard(DifferentiableModel, "path_scores", on_paths)
        self._guard(DifferentiableModel, "gradient", lambda x, noise, copies, t, mode: len(t) * copies)
        self._guard(RescaleModel, "explain", lambda x, background, t: len(t) * background.rows)
        self._guard(Compiled, "__call__", self._of_background)

    def _of_background(self, *arguments: Any) -> int:
        named = isinstance(arguments[0], dict) and len(arguments) == 1
        return rows_of(arguments[0]) if named else 0

    def _guard(self, kind: Any, name: str, evaluations: Callable[..., int]) -> None:
        real = getattr(kind, name)

        def guarded(owner: Any, *arguments: Any, **options: Any) -> Any:
            size = evaluations(*arguments, **options)
            self.sizes.append(size)
            if size > self.fits:
                self.refused.append(size)
                raise tf.errors.ResourceExhaustedError(None, None, f"OOM when allocating [{size},8]")
            return real(owner, *arguments, **options)

        self._patch(kind, name, guarded)


METHODS = [
    "saliency",
    "integrated_gradients",
    "integrated_gradients, tolerance",
    "smoothgrad",
    "expected_gradients",
    "deep_shap",
    "kernel_shap",
    "permutation_shap",
    "lime",
    "occlusion",
]


def by_background(name: str) -> bool:
    """Whether each row is evaluated with each background row."""
    found = VARIANTS[name].needs.background or name == "integrated_gradients"
    return found and name not in ("expected_gradients", "lime")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_smaller_calls_and_gives_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, method = CASES["tabular"](), VARIANTS[name]
    fits, halved = 600, 512
    # Where calls are many enough by the background alone, a few rows will do.
    rows, background_rows = (1, 202) if by_background(name) else (100, 202)
    if "tolerance" in name:
        background_rows = 1
    inputs = {key: value[:2] if rows == 1 else np.tile(value, (rows, 1)) for key, value in case.rows.items()}
    background = {key: np.concatenate([value] * background_rows) for key, value in case.background.items()}

    def run(size: int) -> Any:
        # A reference of its own: whatever a method keeps of the background is made in calls, too.
        reference = make_reference(case.model, background)
        return attribute(method, case.model, inputs, reference, device_batch_size=size)

    expected = run(PLANNED)
    reference = make_reference(case.model, background)
    device, device_batch = Device(monkeypatch, fits), DeviceBatchSize(PLANNED)
    found = device_batch.run(
        lambda size: attribute(method, case.model, inputs, reference, device_batch_size=size)
    )
    assert device_batch.used == halved
    assert device.refused
    assert halved // 2 < max(size for size in device.sizes if size <= fits), "not one row at a time"
    spread = reference.spread.max()
    for key, value in expected.values.items():
        np.testing.assert_allclose(found.values[key], value, rtol=0, atol=1e-6 * max(spread, 1))
    np.testing.assert_allclose(found.prediction, expected.prediction, rtol=0, atol=1e-6)


def test_what_is_kept_of_the_background_is_that_of_the_last_size() -> None:
    case = CASES["tabular"]()
    reference = make_reference(case.model, case.background)
    made = [reference.latest("x", size, lambda size=size: [size]) for size in (8, 8, 4, 4)]
    assert made[0] is made[1]
    assert made[2] is made[3]
    assert made[2] == [4]
    assert reference._kept["x"][0] == 4


# -- a run ---------------------------------------------------------------------------------------------------


def config_of(folder: Path, **changes: Any) -> Path:
    world = worlds.vectors()
    return worlds.write_config(
        folder / "memory.yaml",
        model={"path": str(world.folder / "model.keras"), "target": 1},
        input={"files": str(world.folder / "part-*.parquet"), "id": "id", "features": list(worlds.NUMBERS)},
        limits={"rejected": 0.05},
        output={"path": "run"},
        **{"method": {"name": "integrated_gradients", "n_steps": 40}, **changes},
    )


def check_same(found: Any, expected: Any) -> None:
    """Tables of the same rows, with numbers within 1e-6 of the spread of the score."""
    one, other = found.attributions(), expected.attributions()
    assert one["example_id"].equals(other["example_id"])
    spread = np.std(other["prediction"].to_numpy())
    np.testing.assert_allclose(worlds.phi(one), worlds.phi(other), rtol=0, atol=1e-6 * spread)
    assert found.manifest["counts"] == expected.manifest["counts"]


def test_a_run_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    expected = worlds.explain(config, tmp_path / "undisturbed")
    planned = expected.manifest["device_batch_size"]
    assert planned > FITS
    assert expected.manifest["device_batch_size_used"] == planned
    assert expected.manifest["warnings"] == []
    # More rows than fit, so that the plan finds out; and then less room than there was at plan time.
    device = Device(monkeypatch, 260)
    import pipeline.execution.run as running

    begin = running._begin

    def begun(*arguments: Any) -> None:
        begin(*arguments)
        device.fits = FITS
        device.sizes.clear()

    monkeypatch.setattr(running, "_begin", begun)
    assert cli.run(["explain", str(config), "--output", str(tmp_path / "disturbed")]) == 0
    assert max(device.sizes) <= 256, "the run begins with what the plan found"
    found = load_run(tmp_path / "disturbed")
    check_same(found, expected)
    assert found.manifest["fingerprint"] == expected.manifest["fingerprint"]
    assert found.manifest["device_batch_size"] == planned
    assert found.manifest["device_batch_size_used"] == HALVED
    line = (
        f"the device's memory ran out: device_batch_size was halved from {planned:,} to {HALVED}; "
        f"set compute.device_batch_size: {HALVED} to start with that size"
    )
    assert found.manifest["warnings"] == [line]
    assert line in " ".join(capsys.readouterr().err.split())


def test_a_process_remembers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, compute={"shard_rows": 100, "batch_size": 50, "device_batch_size": 1000})
    plan = make_plan(load_config(str(config)), in_process=True)
    assert len(plan.shards) > 2
    assert plan.spec.device_room is None
    spec = replace(plan.spec, reference=plan.probe.artifact.to_bytes(), run=str(tmp_path / "run"))
    files.makedirs(str(tmp_path / "run" / "_work" / "shards"))
    device = Device(monkeypatch, 125)
    results = [explain_shard(plan.shards[0], spec)]
    # Two batches at a time, each of a few calls in flight: they fail together and count once.
    assert set(device.refused) <= {1000, 500, 250, 520, 240, 480, 960}
    device.refused.clear()
    results += [explain_shard(shard, spec) for shard in plan.shards[1:]]
    assert device.refused == []
    total = ShardResult.empty(plan.spec.schema.attributed)
    for result in results:
        assert ShardResult.from_bytes(result.to_bytes()).device_batch_size_used == 125
        total.merge(result.counts())
    assert total.device_batch_size_used == 125


def test_without_room_for_one_the_run_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pipeline.execution.run as running

    device = Device(monkeypatch, 1 << 30)
    begin = running._begin

    def begun(*arguments: Any) -> None:
        begin(*arguments)
        device.fits = 0

    monkeypatch.setattr(running, "_begin", begun)
    # A seed of its own: what the process has learnt of another run is none of this one's.
    config = config_of(tmp_path, seed=77, compute={"device_batch_size": 64})
    assert cli.run(["explain", str(config)]) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "too little memory for a single evaluation" in last
    assert last.endswith("finished work is kept, and the same command continues from there")
    assert "OOM when allocating" in last
    assert "baseline.rows" in last
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert not list((tmp_path / "run").glob("rejected/*")), "memory is no row's fault"


def test_a_plan_without_room_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Device(monkeypatch, 0)
    # Nothing was begun, and the config is the user's to change.
    assert cli.run(["explain", str(config_of(tmp_path, seed=78))]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "compute: there is too little memory for a single evaluation" in said


# -- the size of a device batch ------------------------------------------------------------------------------


def test_two_threads_that_fail_at_one_size_halve_it_once() -> None:
    device_batch, both = DeviceBatchSize(64), threading.Barrier(2)
    sizes: list[int] = []

    def attempt(size: int) -> int:
        sizes.append(size)
        if size == 64:
            both.wait(10)  # neither has halved it when the other fails
            raise DeviceFull("no room")
        return size

    threads = [threading.Thread(target=device_batch.run, args=(attempt,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sizes) == [32, 32, 64, 64]
    assert (device_batch.size, device_batch.used) == (32, 32)


def test_who_fails_late_does_not_make_the_room_larger_again() -> None:
    device_batch = DeviceBatchSize(64)

    def late(size: int) -> int:
        if size == 64:
            assert device_batch.run(quick) == 8  # while this call was in flight
            raise DeviceFull("no room")
        return size

    def quick(size: int) -> int:
        if size > 8:
            raise DeviceFull("no room")
        return size

    assert device_batch.run(late) == 8
    assert device_batch.used == 8


def test_halving_goes_to_one_and_no_further() -> None:
    device_batch, sizes = DeviceBatchSize(100), []

    def attempt(size: int) -> None:
        sizes.append(size)
        raise DeviceFull("no room")

    with pytest.raises(DeviceMemoryError, match=r"single evaluation of the model \(no room\).*more memory"):
        device_batch.run(attempt)
    assert sizes == [100, 50, 25, 12, 6, 3, 1]
    shrunk = DeviceBatchSize(100)
    for known, size in ((None, 100), (300, 100), (25, 25), (50, 25)):
        shrunk.shrink(known)
        assert shrunk.size == size
    assert DeviceBatchSize(100).used is None


def test_other_errors_halve_nothing() -> None:
    device_batch = DeviceBatchSize(64)
    for error in (ValueError("x"), MemoryError("x"), tf.errors.InvalidArgumentError(None, None, "x")):

        def attempt(size: int, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            device_batch.run(attempt)
    assert device_batch.used is None


def test_what_says_that_memory_ran_out() -> None:
    class OutOfMemoryError(RuntimeError):  # PyTorch's
        pass

    class XlaRuntimeError(RuntimeError):  # JAX's
        pass

    errors = tf.errors
    full = [
        errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        errors.InternalError(None, None, "Failed copying input tensor: Dst tensor is not initialized."),
        OutOfMemoryError("CUDA out of memory"),
        XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        DeviceFull("x"),
    ]
    assert all(map(out_of_memory, full))
    others = [errors.InternalError(None, None, "a bug"), XlaRuntimeError("INTERNAL: x"), ValueError("OOM")]
    assert not any(map(out_of_memory, others))
    assert [refusal(error, planning=True) for error in full] == [None] * len(full)


def test_a_warning_is_told_once() -> None:
    once = with_halved(["another"], 16384, 4096)
    assert once == [
        "another",
        "the device's memory ran out: device_batch_size was halved from 16,384 to 4,096; "
        "set compute.device_batch_size: 4096 to start with that size",
    ]
    assert [json.dumps(line) for line in with_halved(once, 16384, 2048)][1].count("2,048") == 1
    assert len(with_halved(once, 16384, 2048)) == 2
    assert with_halved(["another"], 64, 64) == ["another"]


@pytest.mark.parametrize(
    ("sizes", "merged"), [((None, None), None), ((64, None), 64), ((None, 32), 32), ((64, 32), 32)]
)
def test_shards_tell_the_smallest(sizes: tuple[int | None, int | None], merged: int | None) -> None:
    results = []
    for size in sizes:
        result = ShardResult.empty(("a",))
        result.device_batch_size_used = size
        results.append(result)
    results[0].merge(results[1])
    assert results[0].device_batch_size_used == merged
