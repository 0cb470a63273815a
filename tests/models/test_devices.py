"""One model and one queue a device; more devices than one share out the shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import pipeline.planning.model.probe
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.errors import UserError
from transforms.models import devices
from transforms.models.base import CompileOptions
from transforms.models.devices import Claims
from transforms.models.graphs.compiled import Compiled

TWO = ("/device:GPU:0", "/device:GPU:1")


# -- who gets which device -----------------------------------------------------------------------------------


def test_shards_that_run_at_the_same_time_get_devices_of_their_own(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path))
    with claims.lease(TWO) as first:
        with claims.lease(TWO) as second:
            assert {first.scope, second.scope} == set(TWO)
            with claims.lease(TWO) as third, claims.lease(TWO) as fourth:
                assert {third.scope, fourth.scope} == set(TWO), "then they share, evenly"
        with claims.lease(TWO) as again:
            assert again.scope == second.scope, "the idle one"


def test_a_process_keeps_the_device_that_has_its_model(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path))
    for _ in range(3):
        with claims.lease(TWO) as device:
            assert device.scope == TWO[0]


def test_no_two_processes_claim_one_device_while_another_is_free(tmp_path: Path) -> None:
    # A file is locked for whoever has opened it, so that two of these meet as two processes do.
    processes = [Claims(str(tmp_path)) for _ in range(4)]
    found = []
    for claims in processes:
        with claims.lease(TWO) as device:
            found.append(device.scope)
    assert found[:2] == list(TWO)
    assert sorted(found[2:]) == sorted(TWO), "more processes than devices share them evenly"


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from transforms.models.devices import Claims\n"
        f"with Claims({str(tmp_path)!r}).lease({TWO!r}) as device:\n"
        "    print(device.scope, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=worlds.ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().decode().strip() == TWO[0]
        with Claims(str(tmp_path)).lease(TWO) as device:
            assert device.scope == TWO[1]
        other.kill()
    with Claims(str(tmp_path)).lease(TWO[:1]) as device:
        assert device.scope == TWO[0]


def test_no_more_calls_are_in_flight_on_a_device_than_it_has_lanes() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def enter() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1

    def function(value: Any) -> Any:
        return tf.numpy_function(lambda v: (enter(), v)[1], [value], tf.float32)

    for lanes, least in ((1, 1), (0, 2)):
        most = 0
        compiled = Compiled(
            function, [tf.TensorSpec([], tf.float32)], CompileOptions(lanes=lanes, device="/device:CPU:0")
        )
        compiled(1.0)
        threads = [threading.Thread(target=compiled, args=(1.0,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert least <= most <= (lanes or 6)


# -- two devices, in a process that has them -----------------------------------------------------------------

_BOTH = """
import json, sys, tempfile, threading
from dataclasses import replace
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from transforms.methods.gradients.background_ends import background_ends
from transforms.models import devices
from transforms.worker import runtime as worker
from transforms.worker.shard import explain_shard
devices._claims.folder = tempfile.mkdtemp()
config, run, *settings = sys.argv[1:]
plan = make_plan(load_config(config, settings=settings), in_process=True)
spec = replace(plan.spec, run=run, reference=plan.probe.artifact.to_bytes())
ready = threading.Barrier(2, timeout=120)
real, places = worker._runtime, {}
def waiting(spec, device):
    found = real(spec, device)
    if len(places) < 2:
        places[device.scope] = found
        ready.wait()  # both have one before either goes on
    return found
worker._runtime = waiting
halves = [plan.shards[::2], plan.shards[1::2]]
threads = [threading.Thread(target=lambda h: [explain_shard(s, spec) for s in h], args=(h,)) for h in halves]
for thread in threads: thread.start()
for thread in threads: thread.join()
def where(found):
    inputs = found.reference.inputs
    score = found.model._evaluate(dict(inputs))[0]
    entries = background_ends(found.model, found.reference, 1024).kept[0]
    weights = found.model.adapter.model.weights
    return sorted({v.device.partition("device:")[2] for v in (score, *entries, *(w.value for w in weights))})
print(json.dumps({
    "placed": {scope: where(found) for scope, found in places.items()},
    "models": len({id(found.model.adapter) for found in places.values()}),
    "loaded": len(worker._adapters), "devices": list(plan.probe.devices),
}))
"""


@pytest.mark.parametrize("settings", [(), ("method=saliency", "compute.jit=true")], ids=["plain", "jit"])
def test_shards_spread_over_two_devices(settings: Sequence[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in ("attributions", "_work/shards"):
        (run / folder).mkdir(parents=True)
    config = str(worlds.trips())
    done = subprocess.run(
        [sys.executable, "-c", _BOTH, config, str(run), *settings],
        cwd=worlds.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["/device:CPU:0", "/device:CPU:1"]
    # Weights, what is computed of the background, and scores: all of it on the shard's own device.
    assert found["placed"] == {"/device:CPU:0": ["CPU:0"], "/device:CPU:1": ["CPU:1"]}
    assert (found["models"], found["loaded"]) == (2, 2)
    alone = worlds.explained(worlds.trips(), *settings)
    parts = {name: data for name, data in worlds.part_bytes(alone).items() if name.startswith("attributions")}
    assert len(parts) > 2
    for name in parts:
        mine, theirs = pq.read_table(run / name), pq.read_table(Path(alone.path) / name)
        assert mine["example_id"].equals(theirs["example_id"])
        assert abs(worlds.phi(mine) - worlds.phi(theirs)).max() < 1e-6


# -- GPUs, of which this machine may have none ---------------------------------------------------------------


def test_memory_growth_is_set_before_the_first_use() -> None:
    """Also where somebody else has imported TensorFlow before, which uses no device yet."""
    code = """
import json
import tensorflow as tf
from tensorflow.python.eager import context
from transforms.worker.tensorflow_setup import start_tensorflow
calls = []
tf.config.list_physical_devices = lambda kind=None: ["gpu 0", "gpu 1"] if kind == "GPU" else []
tf.config.experimental.set_memory_growth = lambda device, on: calls.append(
    [device, on, context.context()._initialized])
start_tensorflow(None)
tf.constant(1.0)
start_tensorflow(None)  # too late to be set again
print(json.dumps(calls))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=worlds.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [["gpu 0", True, False], ["gpu 1", True, False]]


def test_workers_and_gpus_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.planning.model.probe, "device_scopes", lambda: TWO)

    def plan(workers: int) -> Any:
        loaded = load_config(str(worlds.trips()), settings=[f"compute.workers={workers}"])
        return make_plan(loaded, in_process=True)

    assert [line.partition(": ")[2] for line in plan(1).warnings] == [
        "compute.workers: 1 of 2 GPUs will be used; give 2 to use all"
    ]
    assert not plan(2).warnings
    with pytest.raises(UserError, match="3 workers and 2 GPUs: each worker needs its own; give at most 2"):
        plan(3)


def test_a_single_device_is_left_to_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for scopes, lanes in ((("/device:CPU:0",), 0), (("/device:GPU:0",), 2)):
        monkeypatch.setattr(devices, "device_scopes", lambda scopes=scopes: scopes)
        with devices.leased_device(needs_tensorflow=True) as device:
            assert (device.scope, device.lanes) == (None, lanes)
