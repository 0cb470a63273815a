"""Reading a run back: tables, explanations that shap draws, and SQL."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import load_run
from pipeline.results.run import Run
from tests.support import worlds
from transforms.errors import UserError

#: Several shards, rows rejected in the middle of some, and nothing kept of the features.
CUT = "compute.shard_rows=64"


def vectors(*settings: str, format: str = "parquet") -> Run:
    return worlds.explained(worlds.vectors().config(format), CUT, *settings)


# -- tables ------------------------------------------------------------------------------------------------


def test_the_python_interface(tmp_path: Path) -> None:
    run = pipeline.explain(str(worlds.trips()), output=str(tmp_path / "run"), limit=30)
    again = pipeline.load_run(tmp_path / "run")
    assert isinstance(run, Run)
    assert repr(run) == repr(again) == f"Run('{tmp_path / 'run'}', rows=29, method=integrated_gradients)"
    assert isinstance(again.importance(), pd.DataFrame)
    assert isinstance(again.attributions(), pa.Table)
    assert again.features == ["city", "distance", "hour", "wind"]
    assert {"explain", "load_run", "Run"} <= set(pipeline.__all__)


def test_importance_by_slice_and_target() -> None:
    run = worlds.explained(worlds.trips())
    whole = run.importance()
    assert list(whole["slice"].unique()) == ["", "carrier=X", "carrier=Y"]
    part = run.importance(slice="carrier=Y")
    assert set(part["slice"]) == {"carrier=Y"}
    assert list(part["rank"]) == [1, 2, 3, 4]
    assert part["mean_abs"].is_monotonic_decreasing
    assert list(part.index) == [0, 1, 2, 3]

    heads = worlds.explained(worlds.heads())
    assert set(heads.importance(target=1)["target_name"]) == {"minutes[0]"}
    pd.testing.assert_frame_equal(heads.importance(target="minutes[0]"), heads.importance(target=1))
    with pytest.raises(UserError, match=r"'minute' is not an output; the outputs are late, minutes\[0\]"):
        heads.importance(target="minute")
    with pytest.raises(UserError, match="3 is not an output"):
        heads.importance(target=3)


def test_columns_and_filters() -> None:
    run = vectors()
    whole = run.attributions()
    some = run.attributions(columns=["example_id", "attribution.größe", "colour"])
    assert some.column_names == ["example_id", "attribution.größe", "colour"]
    assert some["attribution.größe"].to_pylist() == [row["größe"] for row in whole["attribution"].to_pylist()]
    high = run.attributions(filter=(pc.field("prediction") > 0.5) & (pc.field("colour") == "grün"))
    wanted = [r["example_id"] for r in whole.to_pylist() if r["prediction"] > 0.5 and r["colour"] == "grün"]
    assert 0 < len(wanted) < len(whole)
    assert high["example_id"].to_pylist() == wanted
    nested = run.attributions(columns=["example_id"], filter=pc.field("attribution", "level") > 0)
    assert len(nested) == sum(row["level"] > 0 for row in whole["attribution"].to_pylist())
    with pytest.raises(UserError, match=r"there is no column 'attribution\.size'"):
        run.attributions(columns=["attribution.size"])


def test_filters_as_pandas_has_them() -> None:
    run = vectors()
    wanted = run.attributions(filter=(pc.field("colour") == "grün") & (pc.field("prediction") > 0))
    assert run.attributions(filter=[("colour", "=", "grün"), ("prediction", ">", 0)]).equals(wanted)
    either = run.attributions(filter=[[("colour", "=", "grün")], [("prediction", ">", 0)]])
    assert len(either) > len(wanted) > 0


@pytest.mark.parametrize(
    ("filter", "reason"),
    [
        ([("hue", "=", "grün")], "hue"),
        ([("colour", "~", "grün")], "operator"),
        ([("colour",)], ""),
        ("colour = 'grün'", ""),
        (3, ""),
        (pc.field("hue") == 1, "hue"),
        (pc.field("colour") > 1, ""),
    ],
)
def test_filters_that_do_not_fit(filter: Any, reason: str) -> None:
    with pytest.raises(
        UserError, match=f"attributions: the filter does not fit the table: .*{reason}.*; write"
    ):
        vectors().attributions(filter=filter)


def test_one_column_is_given_in_a_list_too() -> None:
    with pytest.raises(
        UserError, match=r"columns must be a list, not a string; give a list: \['example_id'\]"
    ):
        vectors().attributions(columns="example_id")


@pytest.mark.parametrize("rows", [0, -1])
def test_an_explanation_has_rows(rows: int) -> None:
    with pytest.raises(UserError, match=f"rows is {rows}; give 1 or more, or None for all rows"):
        vectors().explanation(rows)


def test_names_may_hold_dots(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((2,), name="x")
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "model.keras")
    weather = pa.StructArray.from_arrays([pa.array([1.0, 2.0]), pa.array([3.0, 4.0])], ["temp", "wind"])
    pq.write_table(pa.table({"weather": weather}), tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "model.keras"},
        input={"files": "rows.parquet", "features": ["weather.temp", "weather.wind"]},
        method="saliency",
        output={"path": "run"},
    )
    run = worlds.explain(config, tmp_path / "run")
    assert run.features == ["weather.temp", "weather.wind"]
    assert run.attributions(columns=["attribution.weather.wind"]).num_rows == 2


def test_rejected_rows() -> None:
    world = worlds.vectors()
    run = vectors()
    assert run.rejected().column_names == ["example_id", "file", "row", "stage", "reason"]
    assert len(run.rejected()) == (~world.good).sum()
    none = worlds.explained(worlds.heads()).rejected()
    assert none.schema.equals(run.rejected().schema)
    assert len(none) == 0


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run"):
        load_run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        load_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not a manifest"):
        load_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="schema_version 99"):
        load_run(tmp_path)


def test_sql() -> None:
    """The query of a person with DuckDB and no Python of ours."""
    run = vectors()
    rows = duckdb.sql(
        f"""
        SELECT colour, count(*), avg(abs(attribution.level)), avg(attribution."größe")
        FROM '{run.path}/attributions/*.parquet' GROUP BY colour ORDER BY colour
        """
    ).fetchall()
    table = run.attributions()
    frame = pd.DataFrame(table["attribution"].to_pylist()).assign(colour=table["colour"].to_pylist())
    wanted = frame.groupby("colour").agg(
        n=("level", "size"), a=("level", lambda x: x.abs().mean()), b=("größe", "mean")
    )
    assert len(rows) == 3
    for found, row in zip(rows, wanted.itertuples(), strict=True):
        assert found[:2] == (row.Index, row.n)
        assert found[2:] == pytest.approx((row.a, row.b), rel=1e-5)
    best = duckdb.sql(f"SELECT feature FROM '{run.path}/importance.parquet' WHERE slice = '' AND rank = 1")
    assert best.fetchall() == [(run.importance(slice="")["feature"][0],)]


# -- explanations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", worlds.FORMATS)
def test_values_and_data_belong_to_the_same_rows(format: str) -> None:
    """Feature values are read from the input once more: past rejected rows, over shards and files."""
    world = worlds.vectors()
    run = vectors(format=format)
    assert len(run.parts()) > 3
    explanation = run.explanation(rows=None)
    np.testing.assert_array_equal(explanation.data, world.values.astype(np.float64))
    np.testing.assert_array_equal(explanation.values, worlds.phi(run.attributions()).astype(np.float64))
    assert explanation.feature_names == list(worlds.NUMBERS)
    prediction = run.attributions()["prediction"].to_numpy()
    np.testing.assert_allclose(
        explanation.values.sum(axis=1) + explanation.base_values, prediction, atol=1e-4
    )


def test_a_sample_is_drawn_without_replacement_in_order() -> None:
    world = worlds.vectors()
    whole = vectors().explanation(rows=None)
    part = vectors().explanation(rows=50)
    at = [int(np.flatnonzero((whole.values == row).all(axis=1))[0]) for row in part.values]
    assert len(set(at)) == 50
    assert at == sorted(at)
    assert at[-1] > 200, "from all over the table"
    np.testing.assert_array_equal(part.data, world.values[at])
    np.testing.assert_array_equal(vectors().explanation(rows=50).values, part.values)
    assert not np.array_equal(vectors().explanation(rows=50, seed=1).values, part.values)


def test_strings_are_displayed() -> None:
    run = worlds.explained(worlds.trips())
    explanation = run.explanation(rows=None)
    source = pa.concat_tables(
        [
            pq.read_table(path).cast(pq.read_schema(path))
            for path in sorted(worlds.trips().parent.glob("*.parquet"))
        ]
    ).to_pylist()
    rows = [row for row in source if row["distance"] is not None]
    names = explanation.feature_names
    assert names == ["city", "distance", "hour", "wind"]
    assert explanation.display_data[:, 0].tolist() == [row["city"] for row in rows]
    ranks = {city: rank for rank, city in enumerate(sorted(worlds.CITIES))}
    assert explanation.data[:, 0].tolist() == [ranks[row["city"]] for row in rows]
    np.testing.assert_array_equal(explanation.data[:, 2], [row["hour"] for row in rows])
    np.testing.assert_allclose(explanation.data[:, 1], [row["distance"] for row in rows], rtol=1e-6)

    kept = worlds.explained(worlds.trips(), "output.features=true").explanation(rows=None)
    np.testing.assert_array_equal(kept.data, explanation.data)
    assert (kept.display_data == explanation.display_data).all()


def test_a_group_stands_for_its_members() -> None:
    run = worlds.explained(worlds.trips(), "input.groups={weather: [wind, distance]}")
    explanation = run.explanation(rows=None)
    assert explanation.feature_names == ["city", "weather", "hour"]
    first = pq.read_table(worlds.trips().parent / "trips-1.parquet").slice(0, 1).to_pylist()[0]
    assert explanation.display_data[0, 1] == f"{np.float32(first['wind']):.6g}, {first['distance']:.6g}"
    wind = worlds.explained(worlds.trips()).explanation(rows=None).data[:, 3]
    assert explanation.data[:, 1].argsort().tolist() == wind.argsort().tolist()


def test_lists_and_targets_are_taken_apart() -> None:
    run = worlds.explained(worlds.heads())
    with pytest.raises(UserError, match=r"several outputs per row; give one of late, minutes\[0\]"):
        run.explanation()
    names = ["load", "series[0]", "series[1]", "series[2]", "series[3]"]
    source = pq.read_table(worlds.heads().parent / "rows.parquet")
    wanted = np.column_stack([source["load"].to_numpy(), np.array(source["series"].to_pylist())])
    for index, target in enumerate(["late", "minutes[0]", 2]):
        explanation = run.explanation(rows=None, target=target)
        assert explanation.feature_names == names
        np.testing.assert_allclose(explanation.data, wanted, rtol=1e-6)
        table = run.attributions(filter=pc.field("target") == index)
        load = [row["load"] for row in table["attribution"].to_pylist()]
        np.testing.assert_array_equal(explanation.values[:, 0], np.array(load, np.float64))


def test_pictures_are_taken_apart() -> None:
    run = worlds.explained(worlds.pictures())
    explanation = run.explanation(rows=None)
    assert explanation.values.shape == explanation.data.shape == (89, 36)
    assert explanation.feature_names[7] == "image[1, 1, 0]"
    images = np.delete(np.load(worlds.pictures().parent / "images.npy"), 40, axis=0)
    np.testing.assert_array_equal(explanation.data, images.reshape(89, 36))


def test_explanations_that_cannot_be(tmp_path: Path) -> None:
    short = worlds.explained(worlds.trips(), "output.attributions={top_k: 2}")
    with pytest.raises(UserError, match=r"holds no attributions in full; set output\.attributions: all"):
        short.explanation()
    none = worlds.explained(worlds.trips(), "output.attributions=none")
    with pytest.raises(UserError, match="holds no attributions in full"):
        none.explanation()
    config = Path(shutil.copytree(worlds.trips().parent, tmp_path / "data")) / "trips.yaml"
    run = worlds.explain(config, tmp_path / "run", limit=20)
    part = tmp_path / "data" / "trips-1.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)
    with pytest.raises(UserError, match=r"has changed.*set output\.features: true"):
        run.explanation()
    part.unlink()
    with pytest.raises(UserError, match=r"set output\.features: true"):
        run.explanation()


def draw_bar(shap: Any, explanation: Any) -> None:
    shap.plots.bar(explanation, show=False)


def draw_beeswarm(shap: Any, explanation: Any) -> None:
    shap.plots.beeswarm(explanation, show=False)


def draw_waterfall(shap: Any, explanation: Any) -> None:
    shap.plots.waterfall(explanation[3], show=False)


def draw_scatter(shap: Any, explanation: Any) -> None:
    shap.plots.scatter(explanation[:, 1], color=explanation, show=False)


def draw_scatter_of_words(shap: Any, explanation: Any) -> None:
    shap.plots.scatter(explanation[:, 0], show=False)


def draw_heatmap(shap: Any, explanation: Any) -> None:
    shap.plots.heatmap(explanation, show=False)


PLOTS = [draw_bar, draw_beeswarm, draw_waterfall, draw_scatter, draw_scatter_of_words, draw_heatmap]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("world", ["trips", "groups", "pictures"])
@pytest.mark.parametrize("draw", PLOTS, ids=lambda draw: draw.__name__)
def test_shap_draws(draw: Callable[[Any, Any], None], world: str, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt
    import shap

    run = {
        "trips": lambda: worlds.explained(worlds.trips()),
        "groups": lambda: worlds.explained(worlds.trips(), "input.groups={weather: [wind, hour]}"),
        "pictures": lambda: worlds.explained(worlds.pictures()),
    }[world]()
    plt.close("all")
    draw(shap, run.explanation(rows=80))
    picture = tmp_path / f"{world}-{draw.__name__}.png"
    plt.savefig(picture, bbox_inches="tight", dpi=60)
    plt.close("all")
    pixels = matplotlib.image.imread(picture)[..., :3]
    # Neither blank nor a frame alone: a good part of it is neither white nor black.
    coloured = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 0.2
    assert coloured.mean() > 0.002
