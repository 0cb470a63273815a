"""The report's sections on pictures, texts and vectors, against numpy, pandas and decoders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.report.blocks import Choice, Figure, Prose, Section, Table
from pipeline.report.data.chosen_examples import gallery
from pipeline.report.data.sampled_rows import SampledRows, mean_by_position, sample_by_target, shown_features
from pipeline.report.data.tables import ReportData
from pipeline.report.page.markup import markup
from pipeline.report.page.render import render
from pipeline.report.page.theme import DARK, LIGHT
from pipeline.report.pictures.figures import draw
from pipeline.report.pictures.png import colours, data_uri, png, reduced
from pipeline.report.sections import examples, images, tokens, vectors
from pipeline.report.sections.tokens import Vocabulary, highlighted, occurrences
from tests.support import media_worlds, worlds
from tests.support.report_blocks import Elements, decoded, figures, prose

MODULES = (examples, images, tokens, vectors)
CSS = Path(tokens.__file__).parents[1] / "templates" / "media.css"


def sections(data: ReportData) -> list[Section]:
    return [section for module in MODULES for section in module.sections(data)]


def pictures(figure: Figure) -> list[dict[str, Any]]:
    return [
        attributes
        for tag, attributes in Elements(markup("pictures.html.j2", shown=figure.pictures)).found
        if tag == "img" and "ramp" not in str(attributes["class"])
    ]


# -- PNG -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (5, 3), (64, 48), (2, 7, 3), (40, 33, 3)])
@pytest.mark.parametrize("smooth", [True, False])
def test_a_png_comes_out_as_it_went_in(shape: tuple[int, ...], smooth: bool) -> None:
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, shape).astype(np.uint8)
    if smooth:
        pixels = np.add.outer(*(np.arange(n) for n in shape[:2])).astype(np.uint8).reshape(
            *shape[:2], *[1] * (len(shape) - 2)
        ) + np.zeros(shape, np.uint8)
    found = decoded(data_uri(png(pixels)))
    np.testing.assert_array_equal(found[..., :3] if pixels.ndim == 3 else found, pixels)
    if pixels.ndim == 2:
        palette = colours(LIGHT["diverging"])
        np.testing.assert_array_equal(decoded(data_uri(png(pixels, palette)))[..., :3], palette[pixels])


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_what_is_no_picture(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="is not a picture"):
        png(pixels)


@pytest.mark.parametrize(("shape", "side"), [((7, 5), 3), ((40, 40), 40), ((41, 20), 40), ((9, 9, 3), 4)])
def test_pictures_made_smaller_are_means(shape: tuple[int, ...], side: int) -> None:
    values = np.random.default_rng(6).normal(size=shape)
    found, size = reduced(values, side)
    assert max(found.shape[:2]) <= side
    for y, x in np.ndindex(*found.shape[:2]):
        block = values[y * size : (y + 1) * size, x * size : (x + 1) * size]
        np.testing.assert_allclose(found[y, x], block.mean(axis=(0, 1)))


# -- pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_maps_are_the_means_over_the_rows(kept: bool) -> None:
    data = media_worlds.digits()
    sample = sample_by_target(data, 3)[1]["sample"]
    if not kept:
        data = replace(data, positions=None)
    (feature,) = shown_features(data)
    phi = sample.attribution(feature)[..., 0]
    figure = figures(images.sections(data))["picture-0-map-1"]
    absolute, mean = (decoded(str(image["src"])) for image in pictures(figure))
    share = np.abs(phi).mean(axis=0)
    heat = colours(LIGHT["heat"])[np.rint(share / share.max() * 255).astype(int)]
    assert np.abs(absolute[..., :3] - heat).max() <= 4, "the sample is in float32"
    reach = np.abs(phi.mean(axis=0)).max()
    signs = colours(LIGHT["diverging"])[np.rint((phi.mean(axis=0) / reach + 1) / 2 * 255).astype(int)]
    assert np.abs(mean[..., :3] - signs).max() <= 4
    order = np.argsort(-share, axis=None)
    for row, at in zip(figure.table.rows, order, strict=False):
        y, x = np.unravel_index(at, share.shape)
        assert row[:2] == [y, x]
        assert row[2] == pytest.approx(share[y, x], rel=1e-5)
        assert row[4] == pytest.approx(phi.mean(axis=0)[y, x], abs=1e-6)
    best = np.unravel_index(share.argmax(), share.shape)
    assert f"row {best[0]}, column {best[1]}" in str(pictures(figure)[0]["alt"])
    assert ("Over all rows" in figure.note) is kept


def test_large_pictures_are_told_by_regions() -> None:
    data = media_worlds.digits(10, side=50, targets=1)
    (feature,) = shown_features(data)
    means = mean_by_position(data, 0, feature)
    assert means is not None
    figure = figures(images.sections(data))["picture-0-map-0"]
    size = 7
    for row in figure.table.rows:
        y, x = (slice(int(str(cell).split("–")[0]), int(str(cell).split("–")[1]) + 1) for cell in row[:2])
        assert y.stop - y.start in (size, 1)
        assert row[2] == pytest.approx(means.absolute[y, x].sum())
        assert row[4] == pytest.approx(means.mean[y, x].sum())


@pytest.mark.parametrize(("channels", "scale"), [(1, 255.0), (3, 255.0), (3, 1.0), (1, 40000.0)])
def test_a_gallery_shows_pictures_and_signs(channels: int, scale: float) -> None:
    data = media_worlds.digits(channels=channels, scale=scale)
    figure = figures(images.sections(data))["picture-0-gallery"]
    found = pictures(figure)
    assert len(found) == 24
    assert all(image["alt"] for image in found)
    drawn = sample_by_target(data, 12)
    (feature,) = shown_features(data)
    chosen = gallery(drawn, 12)
    top = max(rows.value("image").max() for _, rows in chosen) if scale > 255 else scale
    reach = max(np.abs(rows.attribution(feature).sum(axis=-1)).max() for _, rows in chosen)
    for (_, rows), whole, upon in zip(chosen, found[::2], found[1::2], strict=True):
        wanted = np.rint(rows.value("image")[0] / top * 255)
        shown = decoded(str(whole["src"]))
        np.testing.assert_allclose(
            shown[..., :3] if channels == 3 else shown[..., np.newaxis], wanted, atol=1
        )
        phi = rows.attribution(feature)[0].sum(axis=-1)
        mixed = decoded(str(upon["src"]))
        warm = mixed[..., 0] - mixed[..., 2]
        strong = np.abs(phi) > 0.2 * reach
        assert strong.any()
        np.testing.assert_array_equal(warm[strong] > 0, phi[strong] > 0)
        assert np.abs(warm[phi == 0]).max(initial=0) == 0
        assert rows.ids()[0] in str(whole["alt"])
    assert len(figure.table.rows) == 12
    assert f"±{reach:.3g}" in figure.note
    assert {255.0: "255 is white", 1.0: "1 is white"}.get(scale, "is black") in figure.note


def test_photographs_stay_small() -> None:
    """Noise cannot be compressed: the worst there is."""
    random = np.random.default_rng(7)
    shape = (12, 200, 170, 3)
    data = media_worlds.world(
        {"photo": random.normal(size=(12, 2, 200, 170, 3)) * 1e-3},
        {"photo": random.random(shape).astype(np.float32)},
        targets=list("ab"),
        positions=False,
    )
    page = render("photos", "", [], sections(data))
    assert len(page) < 5_000_000
    everywhere = [image for figure in figures(sections(data)).values() for image in pictures(figure)]
    assert max(max(decoded(str(image["src"])).shape) for image in everywhere) <= 160
    sides = [
        max(decoded(str(image["src"])).shape)
        for image in pictures(figures(images.sections(data))["picture-0-gallery"])
    ]
    assert 80 <= max(sides) <= 160


def test_pictures_that_do_not_move_the_score() -> None:
    still = media_worlds.world(
        {"image": np.zeros((6, 1, 5, 5))}, {"image": np.full((6, 5, 5), np.nan, np.float32)}
    )
    render("still", "", [], sections(still))
    assert "Every φ is 0." in figures(images.sections(still))["picture-0-gallery"].note


# -- texts ---------------------------------------------------------------------------------------------------


def tokens_of(data: ReportData) -> tuple[SampledRows, np.ndarray, np.ndarray]:
    sample = sample_by_target(data, 1)[0]["sample"]
    feature = next(feature for feature in sample.features if feature.form == "tokens")
    return sample, sample.value("review"), sample.attribution(feature)


def test_tokens_are_counted_as_pandas_does(tmp_path: Path) -> None:
    data = media_worlds.reviews(vocabulary=tmp_path / "words.txt")
    _, ids, phi = tokens_of(data)
    words = (tmp_path / "words.txt").read_text(encoding="utf-8").split("\n")
    frame = pd.DataFrame(
        {"token": np.array(words, object)[ids.ravel()], "phi": phi.ravel(), "id": ids.ravel()}
    )
    frame = frame[frame["id"] > 0]
    wanted = frame.groupby("token")["phi"].agg(count="size", mean="mean", absolute=lambda v: v.abs().mean())
    wanted = wanted.sort_values("absolute", ascending=False)
    figure = figures(tokens.sections(data))["text-0-0-tokens"]
    rows = figure.table.rows
    assert [row[0] for row in rows] == list(wanted.index)
    assert [row[1] for row in rows] == list(wanted["count"])
    np.testing.assert_allclose([row[2] for row in rows], wanted["mean"], rtol=1e-9)
    np.testing.assert_allclose([row[3] for row in rows], wanted["absolute"], rtol=1e-9)
    assert [row[0] for row in rows[:2]] == ["awful", "wonderful"]
    marks = figure.spec["data"]["values"]
    assert [mark["mean"] for mark in marks] == [row[2] for row in rows[:24]]


def test_rare_tokens_are_left_out() -> None:
    words = np.array([["a", "b"]] * 300 + [["a", "rare"]] * 2, object)
    found = occurrences(words, np.ones(words.shape), np.zeros(words.shape, bool))
    assert (found.tokens, found.least, found.rare) == (["a", "b"], 3, 1)


def test_ids_without_words(tmp_path: Path) -> None:
    assert Vocabulary().words_of(np.array([[5, 0]])).tolist() == [["5", "0"]]
    assert Vocabulary(["", "one"]).words_of(np.array([[1, 7, -1]])).tolist() == [["one", "#7", "#-1"]]
    data = media_worlds.reviews(vocabulary=tmp_path / "words.txt")
    (tmp_path / "words.txt").unlink()
    caution = prose(block for section in tokens.sections(data) for block in section.blocks)[0]
    assert caution.kind == "caution"
    assert str(tmp_path / "words.txt") in caution.text
    bare = figures(tokens.sections(data))["text-0-0-tokens"]
    assert {str(row[0]) for row in bare.table.rows} <= {str(number) for number in range(1, 19)}


def test_colours_tell_sign_and_strength() -> None:
    phi = np.array([1.0, 0.5, 0.03, -0.21, -1.0, 0.0, 0.0, 0.0])
    padding = np.array([False] * 5 + [True, True, False])
    found = highlighted([*"abcde", "", "", "f"], phi, padding, 1.0)
    assert [(word.text, word.step, word.count) for word in found] == [
        ("a", "up5", 1), ("b", "up3", 1), ("c", "", 1), ("d", "down2", 1), ("e", "down5", 1), ("∅", "pad", 2),
        ("f", "", 1),
    ]  # fmt: skip
    assert found[3].phi == "−0.21"


def luminance(colour: np.ndarray) -> float:
    """Relative luminance, WCAG 2.2."""
    channel = colour / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("side", ["positive", "negative"])
def test_coloured_words_can_be_read(theme: dict[str, str], side: str) -> None:
    css = CSS.read_text(encoding="utf-8")
    assert "{{ 10 * step }}%" in css
    assert "range(1, 6)" in css

    def rgb(name: str) -> np.ndarray:
        return np.array([int(theme[name][at : at + 2], 16) for at in (1, 3, 5)], float)

    for step in range(6):
        paper = rgb(side) * step / 10 + rgb("card") * (1 - step / 10)
        light, dark = sorted((luminance(paper), luminance(rgb("ink"))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_texts_are_text() -> None:
    data = media_worlds.reviews(strings=True, hostile=True)
    figure = figures(tokens.sections(data))["text-0-0-texts"]
    elements = Elements(figure.html)
    assert {tag for tag, _ in elements.found} == {"div", "p", "span", "bdi"}
    shown = {text for tag, text in elements.texts if tag == "bdi"}
    assert "<script>alert(1)</script>" in shown
    assert "new\\nline\\ttab" in shown
    assert "שלום עולם" in shown
    assert all(len(text) <= 80 for text in shown)
    assert not any("\u202e" in text for text in shown)
    raised = [attributes for _, attributes in elements.found if str(attributes.get("class")).startswith("up")]
    assert raised
    assert all(str(attributes["title"]).startswith("+") for attributes in raised)


def test_long_texts_end(tmp_path: Path) -> None:
    data = media_worlds.reviews(rows=20, length=900)
    sample, _, phi = tokens_of(data)
    figure = figures(tokens.sections(data))["text-0-0-texts"]
    assert figure.html.count("<bdi>") < 6 * 310
    longest = sample.ids()[int(sample.prediction.argmax())]
    row = sample.ids().index(longest)
    more = int((sample.value("review")[row, 300:] > 0).sum())
    assert more > 0
    told = f"and {more} more tokens, {phi[row, 300:].sum():+.3g} together".replace("-", "−")
    assert told in figure.html


MODEL = """
import numpy as np


def score(rows):
    return np.array([0.0, 1.0, -2.0, 0.5])[rows["review"]].sum(axis=1)
"""


def test_from_a_config_to_a_page_with_words(reports: None, tmp_path: Path) -> None:
    (tmp_path / "opinions.py").write_text(MODEL)
    (tmp_path / "words.txt").write_text("\ngood\n<b>bad</b>\nfine\n")
    ids = np.random.default_rng(10).integers(0, 4, (80, 6))
    table = pa.table({"review": pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), 6)})
    pq.write_table(table, tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python:opinions:score", "target": 0},
        input={"files": "rows.parquet", "features": [{"name": "review", "label": "Review"}]},
        features={"review": {"vocabulary": "words.txt"}},
        method={"name": "permutation_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )
    run = worlds.explain(config, tmp_path / "run")
    assert run.manifest["config"]["features"] == {"review": {"label": "Review", "vocabulary": "words.txt"}}
    found = figures(sections(ReportData.load(run)))
    rows = {row[0]: row for row in found["text-0-0-tokens"].table.rows}
    counts = np.bincount(ids.ravel(), minlength=4)
    assert {word: row[1] for word, row in rows.items()} == {
        "<b>bad</b>": counts[2], "good": counts[1], "fine": counts[3],
    }  # fmt: skip
    assert [rows[word][2] for word in ("<b>bad</b>", "good", "fine")] == pytest.approx([-2, 1, 0.5])
    assert "Review" in found["text-0-0-tokens"].title
    page = Path(run.path, "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert "<b>bad</b>" not in page


# -- vectors -------------------------------------------------------------------------------------------------


def test_positions_are_ranked() -> None:
    data = media_worlds.spectra()
    sample = sample_by_target(data, 1)[0]["sample"]
    found = figures(vectors.sections(data))
    spectrum, small = sample.features
    wanted = np.abs(sample.attribution(spectrum)).mean(axis=0)
    figure = found["vector-0-0"]
    rows = figure.table.rows
    assert [row[0] for row in rows] == [str(at) for at in np.argsort(-wanted)]
    np.testing.assert_allclose([row[1] for row in rows], np.sort(wanted)[::-1], rtol=1e-6)
    assert [mark["value"] for mark in figure.spec["data"]["values"]] == [row[1] for row in rows[:30]]
    means = np.abs(sample.attribution(small)).mean(axis=0)
    best = np.unravel_index(means.argmax(), means.shape)
    assert found["vector-1-0"].table.rows[0][0] == str([int(at) for at in best])


def test_many_positions_are_means_of_some(tmp_path: Path) -> None:
    data = media_worlds.reviews(rows=20, length=900)
    _, _, phi = tokens_of(data)
    wanted = np.abs(phi).mean(axis=0)
    figure = figures(tokens.sections(data))["text-0-0-positions"]
    marks = figure.spec["data"]["values"]
    assert [mark["at"] for mark in marks] == list(range(0, 900, 3))
    np.testing.assert_allclose(
        [mark["value"] for mark in marks], wanted.reshape(-1, 3).mean(axis=1), rtol=1e-4
    )
    assert "A bar is the mean over 3 positions" in figure.note
    assert len(figure.table.rows) == 100
    for at, value, _ in figure.table.rows:
        assert value == pytest.approx(wanted[at], rel=1e-5)
    assert min(row[1] for row in figure.table.rows) >= np.sort(wanted)[-101]


def test_positions_along_a_text() -> None:
    data = media_worlds.reviews()
    _, _, phi = tokens_of(data)
    figure = figures(tokens.sections(data))["text-0-0-positions"]
    np.testing.assert_allclose([row[1] for row in figure.table.rows], np.abs(phi).mean(axis=0), rtol=1e-5)


# -- the browser ---------------------------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"), reason="there is no Chromium to open pages in"
)
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """At the narrowest and wide, light and dark: nothing is said, too wide, missing, or hard to read."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for name, width, scheme in (
            ("reviews", 360, "dark"),
            ("colours", 360, "light"),
            ("hostile", 1280, "light"),
        ):
            found = sections(WORLDS[name]())
            place = tmp_path / f"{name}.html"
            place.write_text(render(name, "What it says.", [], found), encoding="utf-8")
            page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, said=said: said.append(request.url[:60]))
            page.goto(place.as_uri())
            page.evaluate(
                """async () => {
                    for (const shown of document.querySelectorAll(".option[hidden]")) shown.hidden = false;
                    for (const chart of document.querySelectorAll(".chart")) {
                        chart.scrollIntoView();
                        for (let n = 0; n < 100 && !chart.querySelector("svg, canvas"); n++)
                            await new Promise((done) => setTimeout(done, 30));
                    }
                }"""
            )
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            undrawn = page.evaluate(
                "[...document.querySelectorAll('.chart')].filter(c => !c.querySelector('svg,canvas')).length"
            )
            assert undrawn == 0
            broken = page.evaluate(
                "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
            )
            assert broken == 0
            assert page.locator("script").count() == page.content().count("</script>")
            requests = [line for line in said if not line.startswith(("data:", "file:"))]
            assert requests == []
            serious = [
                violation["id"]
                for violation in Axe().run(page).response["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
            assert serious == []
            page.close()
        browser.close()


# -- the page ------------------------------------------------------------------------------------------------

WORLDS = {
    "flights": media_worlds.flights,
    "hostile": lambda: media_worlds.flights(hostile=True),
    "bars": lambda: media_worlds.flights(additive=False),
    "one row": lambda: media_worlds.flights(rows=1),
    "digits": media_worlds.digits,
    "colours": lambda: media_worlds.digits(channels=3, targets=1, scale=1.0),
    "reviews": lambda: media_worlds.reviews(strings=True, hostile=True),
    "spectra": media_worlds.spectra,
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_figure_is_drawn_and_described(name: str) -> None:
    found = sections(WORLDS[name]())
    render(name, "", [], found)
    for figure in figures(found).values():
        assert figure.title
        assert figure.description
        assert isinstance(figure.table, Table)
        if figure.spec is None:
            assert figure.html or figure.pictures
        else:
            assert b"<svg" in draw(figure.spec)


def test_many_tensors_of_many_targets_stay_small() -> None:
    random = np.random.default_rng(11)
    phi = {f"v{n}": random.normal(size=(8, 12, 300)) * (n + 1) / 99 for n in range(14)}
    values = {f"v{n}": np.zeros((8, 300), np.float32) for n in range(14)}
    phi["text"], values["text"] = random.normal(size=(8, 12, 2000)) / 99, random.integers(1, 99, (8, 2000))
    data = media_worlds.world(phi, values, targets=list("abcdefghijkl"))
    found = sections(data)
    assert len(render("many", "", [], found)) < 5_000_000
    shown = {block.name.split("-")[1] for block in figures(found).values() if block.name.startswith("vector")}
    assert len(shown) == 8
    (section,) = vectors.sections(data)
    assert section.blocks[0] == Prose("The 8 most important ones are shown, 6 others are not.")
    (choice,) = (block for block in section.blocks if isinstance(block, Choice))
    assert list(choice.options) == [f"v{n}" for n in range(6, 14)]


def test_nothing_is_said_without_a_sample() -> None:
    for data in (media_worlds.flights(), media_worlds.reviews()):
        without = replace(data, sample=None, positions=None)
        assert sections(without) == []
    empty = media_worlds.flights()
    assert empty.sample is not None
    assert sections(replace(empty, sample=empty.sample.slice(0, 0))) == []


def test_many_targets_are_cut_and_said() -> None:
    random = np.random.default_rng(8)
    data = media_worlds.world(
        {"x": random.normal(size=(10, 15, 30))},
        {"x": random.normal(size=(10, 30)).astype(np.float32)},
        targets=["same name"] * 15,
    )
    for section in sections(data):
        said = [block.text for block in section.blocks if isinstance(block, Prose)]
        assert said == ["The 12 targets of most rows are shown, 3 others are not."]
        (choice,) = (block for block in section.blocks if isinstance(block, Choice))
        assert len(choice.options) == 12
        names = [name.strip("\u2068\u2069") for name in choice.options]
        assert names[:2] == ["same name", "same name (2)"]


def test_a_sample_that_has_no_values() -> None:
    data = media_worlds.digits()
    assert data.sample is not None
    bare = replace(data, sample=data.sample.drop_columns(["feature"]))
    assert len(pictures(figures(images.sections(bare))["picture-0-gallery"])) == 12
    assert pa.types.is_struct(bare.sample.schema.field("attribution").type)  # type: ignore[union-attr]
