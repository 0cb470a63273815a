"""Broken configs by the thousand: each is planned, some are explained, and none may do worse than status 2.

At length, by hand: `python -m tests.fuzz.fuzz_configs --seconds 600`. Each failure is printed with its
number, and `python -m tests.fuzz.fuzz_configs --one NUMBER` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.cli import commands as cli
from pipeline.planning.model.probe import probe_model
from transforms.methods import METHODS

#: Of one config, in seconds of a processor, in seconds, and in bytes beyond what the process has.
SLOWEST, LONGEST, MOST_MEMORY = 5.0, 60.0, 3 << 30
#: One in so many is also explained.
_EXPLAINED = 12

_MODEL = """
import numpy as np


def score(arrays):
    numbers = [value for name, value in arrays.items() if name != "colour"]
    columns = [value.astype(float).reshape(len(value), -1).sum(1) for value in numbers]
    return np.tanh(np.column_stack(columns) @ np.arange(1, len(columns) + 1) / 9)


def two(arrays):
    return np.column_stack([score(arrays), -score(arrays)])
"""

_PLAIN: list[dict[str, Any]] = [
    {
        "name": "fuzz",
        "model": {
            "path": "python: fuzz_model:score", "target": 0, "score": "auto", "modules": ["fuzz_model"],
            "allow_unsafe": False,
        },
        "input": {
            "format": "parquet", "files": "rows-*.parquet", "id": "id", "features": ["a", "b", "c"],
            "slices": [
                "colour", "a > 0.5 and not b < c", ["colour", "label == 1"], {"column": "b", "bins": 3},
            ],
            "weight": "amount",
        },
        "features": {"a": {"label": "The first"}, "b": {"label": "Second, in kg"}},
        "privacy": {"min_rows": 2},
        "method": {"name": "exact_shap"},
        "baseline": {"kind": "sample", "rows": 5},
        "output": {"path": "run", "attributions": "all", "features": False},
        "compute": {
            "batch_size": 16, "device_batch_size": "auto", "shard_rows": "auto", "workers": 1,
            "precision": "float32", "jit": False,
        },
        "incremental": False,
        "seed": 0,
        "limits": {"rejected": 0.5, "convergence": 0.05},
    },
    {
        "model": {"path": "python: fuzz_model:two", "target": "all"},
        "input": {
            "files": ["rows-1.parquet", "rows-2.parquet"],
            "features": [
                {"name": "a", "fill": 0.5},
                {"name": "series", "kind": "numeric", "shape": [3]},
                {"name": "colour", "kind": "categorical", "fill": "red"},
                {"name": "b", "fixed": True},
                {"name": "c"},
            ],
            "groups": {"both": ["a", "c"]},
        },
        "method": {"name": "kernel_shap", "n_samples": 32, "sampling": "shapley", "standard_error": True},
        "baseline": {"kind": "constant", "value": {"a": 1, "series": 0.5, "colour": "red", "b": 0, "c": 2}},
        "features": {"both": {"label": "Both of them"}},
        "output": {"path": "runs/{date}", "attributions": {"top_k": 2}},
        "compute": {"shard_rows": 16},
    },
    {
        "model": {"path": "python: fuzz_model:two", "target": {"column": "label"}},
        "input": {"files": "rows-*.parquet", "features": {"c": {"label": "C"}, "a": {"fill": 0}},
                  "slices": ["colour", "label", ["isnull(a)", {"column": "c", "bins": [-1, 0.5]}]]},
        "method": {"name": "permutation_shap", "n_permutations": 3, "tolerance": 0.1},
        "baseline": {"kind": "file", "path": "rows-2.parquet", "rows": 4},
        "output": {"path": "run"},
        "runner": {"name": "DirectRunner", "options": {"direct_num_workers": 1}},
    },
    {
        "model": {"path": "python: fuzz_model:two", "target": "predicted"},
        "input": {"files": "rows-*.parquet", "features": ["a", "b", "series"]},
        "method": {"name": "lime", "n_samples": 60, "kernel_width": 3.0},
        "output": {"path": "run"},
    },
    {
        "model": {"path": "python: fuzz_model:score"},
        "input": {"files": "rows-*.parquet", "features": ["a", "b", "series"]},
        "method": {"name": "occlusion", "window": [2]},
        "baseline": {"kind": "median"},
        "output": {"path": "run"},
    },
]  # fmt: skip

#: Keys of methods that need gradients, over a Keras model: by hand alone, for TensorFlow takes its time.
_KERAS: list[dict[str, Any]] = [
    {"name": "integrated_gradients", "n_steps": 8, "tolerance": 0.1, "max_steps": 32},
    {"name": "smoothgrad", "n_samples": 4, "noise": 0.1, "tolerance": 0.5, "standard_error": True},
    {"name": "expected_gradients", "n_samples": 8, "tolerance": 0.5, "standard_error": True},
    {"name": "saliency", "absolute": True},
    {"name": "input_x_gradient"},
    {"name": "deep_shap"},
    {"name": "kernel_shap", "n_samples": 16, "sampling": "leverage"},
    {"name": "permutation_shap", "n_permutations": 2, "standard_error": True},
    {"name": "lime", "n_samples": 40},
    {"name": "occlusion"},
]

_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 10**9, 10**12, 2**31, 2**31 - 1, 2**32, 2**63,
    2**63 - 1, 2**64, 10**30, -(10**30), -(2**63), 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, -1e300, math.inf,
    -math.inf, math.nan, 1e-3, "", " ", "a", "all", "none", "auto", "mean", "zeros", "sample",
    "predicted", "0", "1e3", "nan", "null", "{date}", "*", "?", "[", "[a", "**", ".", "..", "/", "~",
    "-", "--", ":", "a:b", "python:", "python: fuzz_model", "a.b.c", "rows-1.parquet",
    "rows-1.parquet/x", "fuzz_model.py", "missing.keras", "model.keras", "rows.tfrecord", "é", "日本",
    "\x1b[31m", "a\0b", "a\nb", "\u202e", "\ufeff", "x" * 5000, "%s%n{0}", "$HOME", "a" * 300 + ".parquet",
    "{", "}", "{0}", "{date:>99}", [], {}, [[]], [{}], [None], {"a": None}, ["a"], ["a", "a"], [1, 2],
    [-1], [0], [10**9, 10**9], [2**32, 2**32], [10**30], ["a", 1, None], {"name": "a"},
    {"name": {"name": "a"}}, {"top_k": 3},
    {"top_k": 10**12}, {"column": "a"}, {"column": "label"}, [["a"]], [[[[[[[[1]]]]]]]],
    {"a": {"b": {"c": {"d": 1}}}}, ["a"] * 3000, [0] * 3000, "colour", "label", "series", "id", "b", "c",
    "a > 0", "a >", "not a in [1, 2]", "`a` % 0 == 1", "colour == 'red'", "a + b",
    "a" + " > 0 or a" * 40 + " > 0",
    "amount", ["a > 0", "colour"], ["a", "a"], {"column": "a", "bins": 2}, {"column": "c", "bins": [0]},
    {"column": "colour", "bins": 3}, {"label": "Words"}, {"a": {"label": "Words"}},
    [0, math.nan], [1e308, 2e308],
    "n_steps", "exact_shap", "kernel_shap", "tree_shap", "deep_shap",
]  # fmt: skip

_PIECES = [
    b":", b"- ", b"&a ", b"*a", b"<<: ", b"!!", b"!", b"|", b">", b"%", b"@", b"`", b"{", b"}", b"[",
    b"]", b",", b"#", b"?", b"'", b'"', b"\\", b"\t", b"\r", b"\n", b"\n---\n", b"\n...\n", b"~",
    b"\x00", b"\x1b", b"\x7f", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b".inf", b".nan", b"1e999", b"0x", b"0o7", b"9" * 60,
    b"- " * 60, b"[" * 60, b"  ", b"\xe2\x80\xae",
]  # fmt: skip


class TooSlow(BaseException):
    """A config that takes longer than it may; no `except Exception` keeps it."""


def world(folder: Path, *, keras: bool = False) -> list[dict[str, Any]]:
    """Makes what the configs are about, and returns these."""
    (folder / "fuzz_model.py").write_text(_MODEL)
    rng = np.random.default_rng(0)
    for number, rows in ((1, 30), (2, 12)):
        columns = {
            "id": [f"row {number}/{row}" for row in range(rows)],
            **{name: rng.normal(size=rows) for name in "abc"},
            "colour": rng.choice(["red", "green"], rows),
            "label": rng.integers(0, 2, rows),
            "amount": rng.uniform(0, 3, rows),
            "series": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=rows * 3)), 3),
        }
        pq.write_table(pa.table(columns), folder / f"rows-{number}.parquet")
    if not keras:
        return _PLAIN
    import keras as library

    inputs = library.Input((3,), name="x")
    hidden = library.layers.Dense(4, activation="tanh")(inputs)
    library.Model(inputs, library.layers.Dense(2, activation="softmax")(hidden)).save(folder / "small.keras")
    shared = {
        "model": {"path": "small.keras", "target": "all"},
        "input": {"files": "rows-*.parquet", "features": ["a", "b", "c"]},
        "output": {"path": "run"},
        "compute": {"device_batch_size": 64, "precision": "float32", "jit": False},
    }
    return [{**shared, "method": method} for method in _KERAS]


# -- mutations -----------------------------------------------------------------------------------------------


def mutated(rng: random.Random, configs: list[dict[str, Any]]) -> bytes:
    """A config with one to four things changed, in its tree or in its text."""
    tree, way = copy.deepcopy(rng.choice(configs)), rng.random()
    changes = rng.choice((1, 1, 1, 2, 2, 3, 4))
    if way < 0.4:  # so little that it comes far
        for _ in range(min(changes, 2)):
            _change_leaf(rng, tree)
    elif way < 0.7:
        for _ in range(changes):
            _change_tree(rng, tree, configs)
    text = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5, sort_keys=False).encode(
        "utf-8", "surrogatepass"
    )
    if way >= 0.7 or rng.random() < 0.05:
        for _ in range(changes):
            text = _change_text(rng, text)
    return text


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with every key of it."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _change_leaf(rng: random.Random, tree: dict[str, Any]) -> None:
    """Another value of the same type, or none."""
    leaves = [(holder, key) for holder, key in _places(tree) if not isinstance(holder[key], dict | list)]
    if leaves:
        holder, key = rng.choice(leaves)
        alike = [value for value in _VALUES if type(value) is type(holder[key])]
        holder[key] = rng.choice([*alike, None])


def _change_tree(rng: random.Random, tree: dict[str, Any], configs: list[dict[str, Any]]) -> None:
    places = list(_places(tree))
    if not places:
        tree["model"] = rng.choice(_VALUES)
        return
    holder, key = rng.choice(places)
    kind = rng.randrange(9)
    if kind <= 3:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    elif kind == 4 and isinstance(holder, dict):
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        # A key of another block, or none at all.
        names = [key for _, key in places if isinstance(key, str)]
        name = rng.choice([*names, *(str(v) for v in _VALUES if isinstance(v, str | int | float))])
        holder[name] = copy.deepcopy(rng.choice(_VALUES))
    elif kind == 6:
        other, at = rng.choice(places)
        holder[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(holder[key])
    elif kind == 7:
        donor = rng.choice(configs)
        block = rng.choice(list(donor))
        tree[block] = copy.deepcopy(donor[block])
    elif isinstance(tree.get("method"), dict):
        tree["method"]["name"] = rng.choice(list(METHODS))
    else:
        holder[key] = [copy.deepcopy(holder[key])] * rng.choice((0, 2, 50))


def _change_text(rng: random.Random, text: bytes) -> bytes:
    if not text:
        return rng.choice(_PIECES)
    at, to = sorted((rng.randrange(len(text)), rng.randrange(len(text))))
    to = min(to, at + 40)
    kind = rng.randrange(8)
    if kind == 0:
        return text[:at] + bytes([text[at] ^ (1 << rng.randrange(8))]) + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[to:]
    if kind == 2:
        return text[:to] + text[at:]
    if kind in (3, 4):
        return text[:at] + rng.choice(_PIECES) + text[at:]
    lines = text.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 5:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 6:
        lines[first] = rng.choice((b" ", b"  ", b"\t", b"      ")) + lines[first]
    else:
        lines.insert(first, lines[second])
    return b"\n".join(lines)


# -- running -------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of the configs.

    Args:
      tried: How many.
      statuses: How they ended.
      slowest: Seconds of a processor that one took at most.
      findings: Number and text of a config, and what is wrong with how it ended.
    """

    tried: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    findings: list[tuple[int, str, str]] = field(default_factory=list)


def fuzz(
    folder: Path,
    configs: list[dict[str, Any]],
    first: int,
    *,
    count: int = 1 << 60,
    seconds: float = 1e9,
    slowest: float | None = None,
) -> Report:
    """Tries configs number `first` and following, until there were so many or it took so long.

    `slowest` is what one may take of a processor, where that is not SLOWEST seconds.
    """
    _import_all()
    report, began = Report(), time.perf_counter()
    with _guarded():
        for number in range(first, first + count):
            if time.perf_counter() - began > seconds:
                break
            _try(folder, configs, number, report, SLOWEST if slowest is None else slowest)
    return report


def _import_all() -> None:
    """What a first command would import: an import that the watchdog ends leaves half a module behind."""
    import apache_beam.options.pipeline_options
    import apache_beam.runners.portability.fn_api_runner  # noqa: F401

    import pipeline.execution.graph
    import pipeline.runners.dataflow
    import pipeline.runners.flink
    import pipeline.runners.local
    import pipeline.terminal.run_and_plan  # noqa: F401


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """With a watchdog, a bound on memory, and the model asked in this process."""

    def slow(*_: Any) -> None:
        raise TooSlow

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, slow) for number in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))
    try:
        with mock.patch("pipeline.planning.plan.probe_in_child", probe_model):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


def _try(folder: Path, configs: list[dict[str, Any]], number: int, report: Report, slowest: float) -> None:
    rng = random.Random(number)
    text = mutated(rng, configs)
    path = folder / "config.yaml"
    path.write_bytes(text)
    verb = "explain" if number % _EXPLAINED == 0 else "plan"
    line = [verb, str(path)]
    if verb == "explain":
        # Whatever the config says: into one place, in this process, on this machine.
        safe = ("--set", "compute.workers=1", "--runner", "DirectRunner", "--overwrite")
        line += ["--output", str(folder / "explained"), *safe]
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    wrong, status = None, None
    signal.setitimer(signal.ITIMER_PROF, slowest)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run(line)
    except TooSlow:
        wrong = "took too long"
    except BaseException as error:  # noqa: BLE001 - that it was raised is the finding
        wrong = f"raised {error!r:.500}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - began
    wrong = wrong or _judge(verb, status, out.getvalue(), err.getvalue())
    report.tried += 1
    report.slowest = max(report.slowest, took)
    report.statuses[f"{verb} {status}"] += 1
    if wrong:
        report.findings.append((number, text.decode("utf-8", "backslashreplace"), wrong))


def _judge(verb: str, status: int | None, out: str, err: str) -> str | None:
    """What is wrong with how a command ended; None where nothing is."""
    lines = err.splitlines()
    last = lines[-1] if lines else ""
    if status not in ((0, 1, 2) if verb == "explain" else (0, 2)):
        return f"status {status}: {last}"
    if status and not last.startswith("error: "):
        return f"the last line is no error: {last!r}"
    if status == 2 and (out or sum(line.startswith("error: ") for line in lines) != 1):
        return f"more than a line was said: {out[:200]!r} {err[:500]!r}"
    if any("Traceback" in line for line in lines):
        return f"a traceback: {err[-500:]}"
    strange = {c for c in out + err if not c.isprintable()} - {"\n"}
    if strange:
        return f"characters that a terminal obeys: {strange}"
    if max(map(len, lines), default=0) > 2100:
        return f"a line of {max(map(len, lines)):,} characters"
    return None


def main() -> int:
    """The command line; exit status 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=1, help="number of the first config")
    parser.add_argument("--one", type=int, help="show and try this one alone")
    parser.add_argument(
        "--keras", action="store_true", help="on a Keras model, the methods with gradients too"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attribeam-fuzz-") as place:
        folder = Path(place)
        configs = world(folder, keras=given.keras)
        if given.keras:
            from transforms.worker.tensorflow_setup import start_tensorflow

            start_tensorflow(None)
        number, count = (given.first, 1 << 60) if given.one is None else (given.one, 1)
        began = time.perf_counter()
        # Tracing and compiling a model takes TensorFlow seconds, whatever the config.
        slowest = 6 * SLOWEST if given.keras else SLOWEST
        report = fuzz(folder, configs, number, count=count, seconds=given.seconds, slowest=slowest)
    for number, text, wrong in report.findings:
        print(f"--- {number}: {wrong}\n{text[:3000]}")
    took = time.perf_counter() - began
    statuses = ", ".join(f"{name}: {count}" for name, count in sorted(report.statuses.items()))
    print(
        f"{report.tried} configs in {took:.0f} s, the slowest in {report.slowest:.1f} s; {statuses}; "
        f"{len(report.findings)} findings"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
