"""Lists of varying length into models of any: every row as the model predicts it alone, padding nothing."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from tests.support import worlds
from transforms.rows.padding import extent_for

TABLE = np.array([0, 1, -2, 4, 0.5, 3, -1, 2.5, -3, 6], np.float32)
LISTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2, 3], [9, 9], [], [2, 7, 4], [3, 5], None, [8]] * 2


@cache
def model(*, masked: bool):
    """The mean of a table's values over a list's ids, of those that are not 0 where it is masked."""
    import keras

    path = worlds.shelf() / f"mean-{masked}.keras"
    ids = keras.Input((None,), dtype="int64", name="ids")
    table = keras.initializers.Constant(TABLE[:, None])
    embedded = keras.layers.Embedding(10, 1, embeddings_initializer=table, mask_zero=masked)(ids)
    keras.Model(ids, keras.layers.GlobalAveragePooling1D()(embedded)).save(path)
    return path


def config(folder, files, method, masked=True, baseline=None, compute=None, **feature):
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": str(model(masked=masked)), "score": "output"},
        input={"files": files, "features": [{"name": "ids", **feature}]},
        method=method,
        baseline=baseline or {"kind": "constant", "value": 1},
        limits={"rejected": 1, "convergence": 1},
        compute=compute or {},
        output={"path": "run", "report": False},
    )


def by_row(run):
    """{row: (φ, output, base_value)} and {row: reason}."""
    table, rejected = run.attributions(), run.rejected()
    rows = [int(one.rsplit(":", 1)[1]) for one in table["example_id"].to_pylist()]
    phi = table["attribution"].combine_chunks().field("ids").to_pylist()
    values = zip(phi, table["output"].to_pylist(), table["base_value"].to_pylist(), strict=True)
    reasons = dict(zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    return dict(zip(rows, values, strict=True)), reasons


def write(folder, format):
    if format == "parquet":
        pq.write_table(pa.table({"ids": pa.array(LISTS, pa.list_(pa.int64()))}), folder / "rows.parquet")
    else:
        worlds.write_tfrecord(folder / "rows.tfrecord", [{"ids": ids or None} for ids in LISTS])
    return f"rows.{format}"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("format", ["parquet", "tfrecord"])
def test_each_row_is_what_the_model_predicts_of_it_alone(tmp_path, format, masked):
    import keras

    files = write(tmp_path, format)
    path = config(tmp_path, files, {"name": "integrated_gradients"}, masked=masked, pad=0)
    found, reasons = by_row(worlds.explain(path, tmp_path / "run"))
    alone = keras.models.load_model(model(masked=masked))
    gone = [row for row, ids in enumerate(LISTS) if ids is None or (format == "tfrecord" and not ids)]
    assert reasons == dict.fromkeys(gone, "ids is null") | {
        row: reason for row, reason in reasons.items() if not LISTS[row] and row not in gone
    }
    for row, (phi, output, base) in found.items():
        ids = LISTS[row]
        if not ids:
            assert phi == [0.0] * 8
            continue
        assert output == pytest.approx(float(alone(np.array([ids]))[0, 0]), rel=1e-6)
        assert base == pytest.approx(TABLE[1])
        assert phi[: len(ids)] == pytest.approx((TABLE[ids] - TABLE[1]) / len(ids), abs=1e-6)
        assert phi[len(ids) :] == [0.0] * (8 - len(ids))


@pytest.mark.parametrize("name", ["kernel_shap", "expected_gradients", "deep_shap"])
def test_values_do_not_depend_on_the_batch_and_a_background_of_lists_is_cut_to_the_rows_length(
    tmp_path, name
):
    files = write(tmp_path, "parquet")
    sample = {"kind": "sample", "rows": 4}
    runs = []
    for size in (1, 5, 1000):
        folder = tmp_path / str(size)
        folder.mkdir()
        path = config(
            folder,
            str(tmp_path / files),
            {"name": name},
            baseline=sample,
            compute={"batch_size": size},
            pad=1,
        )
        runs.append(by_row(worlds.explain(path, folder / "run"))[0])
    for row, (phi, output, base) in runs[0].items():
        for other in runs[1:]:
            assert other[row][0] == pytest.approx(phi, abs=1e-6)
            assert other[row][1:] == pytest.approx((output, base), abs=1e-6)
        if name != "expected_gradients":
            assert sum(phi) == pytest.approx(output - base, abs=1e-5)
        assert not any(phi[len(LISTS[row]) :])


def test_without_pad_one_line_names_the_key(tmp_path, capsys):
    for format, what in (
        (
            "parquet",
            "give its shape, or pad, the value that fills shorter lists at their end, such as pad: 0",
        ),
        (
            "tfrecord",
            "give its shape, or pad, the value that fills shorter lists at their end, such as pad: 0",
        ),
    ):
        path = config(tmp_path, write(tmp_path, format), {"name": "saliency"})
        assert cli.run(["plan", str(path)]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].endswith(what)
    rows = [{"ids": [1, 2, 3]}] * 8 + [{"ids": [4]}]
    worlds.write_tfrecord(tmp_path / "rows.tfrecord", rows)
    assert cli.run(["plan", str(config(tmp_path, "rows.tfrecord", {"name": "saliency"}))]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .endswith(
            "input.features ids: its lists have 1 to 3 values, and the model takes any number of "
            "them; give pad, the value that fills shorter lists at their end, such as pad: 0"
        )
    )


def test_a_padded_run_is_verified_and_one_that_grows_needs_a_shape(tmp_path, capsys):
    path = config(tmp_path, write(tmp_path, "parquet"), {"name": "integrated_gradients"}, pad=0)
    run = worlds.explain(path, tmp_path / "run")
    assert cli.run(["verify", run.path, "--rows", "5"]) == 0
    assert run.explanation(rows=2).data.shape[0] == 2  # the values are read from the input again
    capsys.readouterr()
    assert cli.run(["plan", str(path), "--set", "incremental=true"]) == 2
    assert "a growing input may bring longer lists; give its shape" in capsys.readouterr().err


def test_extents_are_few_and_none_is_much_longer_than_its_list():
    assert [extent_for(steps) for steps in (0, 1, 63, 64, 65, 72, 73, 128, 129, 1000)] == [
        *(1, 1, 63, 64, 72, 72, 80, 128, 144),
        1024,
    ]
    extents = {extent_for(steps) for steps in range(1, 10_001)}
    assert len(extents) < 64 + 8 * 8
    assert all(steps <= extent_for(steps) <= 1.13 * steps for steps in range(1, 10_001))


def test_a_held_mask_stays_held_for_rows_of_every_length(tmp_path):
    """The model is traced anew for each length: which inputs stay the row's is no property of one trace."""
    import keras

    ids, mask = (keras.Input((None,), dtype="int64", name=name) for name in ("ids", "mask"))
    table = keras.initializers.Constant(TABLE[:, None])
    embedded = keras.layers.Embedding(10, 1, embeddings_initializer=table)(ids)
    counted = keras.ops.cast(mask, "bool")
    mean = keras.layers.GlobalAveragePooling1D()(embedded, mask=counted)
    keras.Model([ids, mask], mean).save(tmp_path / "m.keras")
    lists = [[1, 2, 3], [4], [5, 6, 7, 8]]
    pq.write_table(
        pa.table({"ids": lists, "mask": [[1] * len(one) for one in lists]}), tmp_path / "r.parquet"
    )
    path = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "m.keras", "score": "output"},
        input={
            "files": "r.parquet",
            "features": [{"name": "ids", "pad": 0}, {"name": "mask", "pad": 0, "fixed": True}],
        },
        method={"name": "integrated_gradients"},
        baseline={"kind": "constant", "value": 1},
        output={"path": "run", "report": False},
    )
    run = worlds.explain(path, tmp_path / "run")
    assert run.manifest["counts"]["rows_rejected"] == 0
    found, _ = by_row(run)
    for row, one in enumerate(lists):
        expected = [(TABLE[i] - TABLE[1]) / len(one) for i in one]  # linear in the embeddings under the mask
        np.testing.assert_allclose(found[row][0][: len(one)], expected, atol=1e-6)
        assert not any(found[row][0][len(one) :])
