"""Reports of runs in which something is nothing: every section is drawn, and says what there is to say."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import View
from pipeline.report.page.render import figures, render
from pipeline.report.sections import ORDER, all_sections, examples, images, tokens, vectors
from pipeline.results.run import load_run
from tests.support import media_worlds, report_worlds

RNG = np.random.default_rng(3)
ROWS, FEATURES = 40, 4
PHI = RNG.normal(size=(1, ROWS, FEATURES))
VALUES = {f"f{at}": RNG.normal(size=ROWS) for at in range(FEATURES)}
SLICES = {"s": np.where(np.arange(ROWS) % 2, "s=1", "s=2")}


def _some(phi: np.ndarray, rows: int = ROWS, features: int = FEATURES, **changes: Any) -> dict[str, Any]:
    values = {name: value[:rows] for name, value in list(VALUES.items())[:features]}
    slices = {name: labels[:rows] for name, labels in SLICES.items()}
    return {"phi": phi[:, :rows, :features], "values": values, "slices": slices, **changes}


#: Of each the arguments of `report_worlds.write_run`. Rows whose score or φ is not finite are rejected, so
#: that of all numbers the model's own output alone may be that.
DEGENERATE: dict[str, Callable[[], dict[str, Any]]] = {
    "all zero": lambda: _some(np.zeros_like(PHI)),
    "all zero, two targets": lambda: _some(np.zeros((2, ROWS, FEATURES)), targets=("a", "b")),
    # The score rises by 0.9, and every feature takes something off.
    "all against": lambda: _some(-np.abs(PHI), score=np.full((1, ROWS), -0.1)),
    "all against, downwards": lambda: _some(np.abs(PHI), score=np.full((1, ROWS), -5.0)),
    "one row": lambda: _some(PHI, rows=1),
    "two rows": lambda: _some(PHI, rows=2),
    "one feature": lambda: _some(PHI, features=1),
    "one row, one feature": lambda: _some(PHI, rows=1, features=1),
    "one row of nothing": lambda: _some(np.zeros_like(PHI), rows=1, features=1),
    "one feature, against": lambda: _some(-np.abs(PHI), features=1, score=np.full((1, ROWS), 3.0)),
    "the same in every row": lambda: _some(np.broadcast_to(PHI[:, :1], PHI.shape).copy()),
    "the output is NaN": lambda: _some(PHI, output=np.full((1, ROWS), np.nan)),
    "the output is infinite": lambda: _some(PHI, output=np.full((1, ROWS), np.inf)),
    "huge": lambda: _some(PHI * 1e37),
    "tiny": lambda: _some(PHI * 1e-300),
    "values of nothing": lambda: {**_some(PHI), "values": dict.fromkeys(VALUES, np.full(ROWS, np.nan))},
    "values all the same": lambda: {**_some(PHI), "values": dict.fromkeys(VALUES, np.zeros(ROWS))},
    "strings of nothing": lambda: {
        **_some(PHI, kinds=dict.fromkeys(VALUES, "categorical")),
        "values": dict.fromkeys(VALUES, np.full(ROWS, None, object)),
    },
    "no sample": lambda: _some(np.zeros_like(PHI), sample=False),
    "no sum, nothing": lambda: _some(
        np.zeros_like(PHI), quality={"convergence_delta": None, "limited_rows": 0, "exceeded": []}
    ),
}


@pytest.fixture(scope="module")
def degenerate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ReportData]:
    def load(name: str) -> ReportData:
        place = report_worlds.write_run(tmp_path_factory.mktemp("degenerate") / "run", **DEGENERATE[name]())
        return ReportData.load(load_run(place))

    return load


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_every_section_of_every_world_is_drawn(degenerate: Callable[[str], ReportData], name: str) -> None:
    lead, facts, sections, missing = all_sections(degenerate(name))
    assert missing == []
    assert lead.endswith(".")
    page = render("A title", lead, facts, sections)
    assert "nan" not in page.partition("<main")[2].partition("<script")[0].lower().replace("nanosecond", "")
    assert list(figures(sections)), "some figure at least, the config's"


def _changed(data: ReportData, change: Callable[[np.ndarray], np.ndarray], rows: int | None) -> ReportData:
    """The same with other φ: of the sample, and of the means by position and over all rows."""
    assert data.sample is not None
    sample = data.sample if rows is None else data.drawn(next(iter(data.targets))).slice(0, rows)
    kind = sample.schema.field("attribution").type
    names = [kind.field(at).name for at in range(kind.num_fields)]
    phi = [media_worlds.nested(change(data.values(sample, "attribution", name))) for name in names]
    at = sample.schema.get_field_index("attribution")
    sample = sample.set_column(at, "attribution", pa.StructArray.from_arrays(phi, names))
    importance = data.importance.assign(mean_abs=np.abs(change(data.importance["mean_abs"].to_numpy())))
    positions = data.positions
    for name in ("mean_abs", "mean") if positions is not None else ():
        assert positions is not None
        values = change(positions[name].to_numpy())
        values = np.abs(values) if name == "mean_abs" else values
        positions = positions.set_column(positions.schema.get_field_index(name), name, pa.array(values))
    return dataclasses.replace(data, sample=sample, importance=importance, positions=positions)


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int | None]] = {
    "zero": (np.zeros_like, None),
    "against": (lambda phi: -np.abs(phi), None),
    "one row": (lambda phi: phi, 1),
    "one row of nothing": (np.zeros_like, 1),
    "huge": (lambda phi: phi * 1e30, None),
    "the same": (np.ones_like, None),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("make", [media_worlds.digits, media_worlds.reviews, media_worlds.spectra])
@pytest.mark.filterwarnings("error")
def test_pictures_texts_and_vectors_of_nothing(make: Callable[[], ReportData], name: str) -> None:
    data = _changed(make(), *CHANGES[name])
    made = [section for module in (examples, images, tokens, vectors) for section in module.sections(data)]
    assert made
    render("A title", "Nothing.", [], made)


def test_no_feature_goes_the_score_s_way(degenerate: Callable[[str], ReportData]) -> None:
    text = html.unescape(render("A title", *all_sections(degenerate("all against"))[:3]))
    assert "No feature moves it in that direction" in text
    assert "0.9 above the base value" in text


def test_a_section_that_fails_is_told_and_the_others_are_drawn(
    degenerate: Callable[[str], ReportData], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = degenerate("one row")
    whole = [section.id for section in all_sections(data)[2]]

    def fails(view: View) -> list[Any]:
        return [1 / 0]

    order = [(title, fails if title == "Importance" else make) for title, make in ORDER]
    monkeypatch.setattr("pipeline.report.sections.ORDER", order)
    lead, facts, sections, missing = all_sections(data)
    assert missing == ["Importance: ZeroDivisionError: division by zero"]
    assert [section.id for section in sections if section.id != "missing-3"] == [
        name for name in whole if name != "importance"
    ]
    assert "could not be drawn: ZeroDivisionError: division by zero" in render(
        "A title", lead, facts, sections
    )
