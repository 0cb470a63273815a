"""Pictures as files of their own: what the page shows, pixel for pixel, whatever the names are."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.blocks import Card, Figure, Pictures
from pipeline.report.page.markup import markup
from pipeline.report.pictures.figures import draw_pictures, write_figures
from pipeline.report.pictures.overlays import signs, tile
from pipeline.report.pictures.picture_files import drawing
from pipeline.report.pictures.png import png
from pipeline.report.sections import examples, images, tokens
from tests.support import media_worlds
from tests.support.report_blocks import Elements, decoded, figures

SVG = "{http://www.w3.org/2000/svg}"


def pictures() -> dict[str, Figure]:
    data = media_worlds.digits()
    found = figures([*images.sections(data), *examples.sections(data)])
    return {name: figure for name, figure in found.items() if figure.pictures}


def number(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


def test_the_verb_writes_pictures_and_leaves_out_texts(tmp_path: Path) -> None:
    data = media_worlds.digits()
    paths = write_figures(images.sections(data), str(tmp_path / "new"), "png")
    maps = [f"picture-0-map-{target}.png" for target in range(3)]
    assert [Path(path).name for path in paths] == [*maps, "picture-0-gallery.png"]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in paths)
    words = tokens.sections(media_worlds.reviews())
    written = {Path(path).stem for path in write_figures(words, str(tmp_path / "words"))}
    assert set(figures(words)) - written == {"text-0-0-texts"}


@pytest.mark.parametrize("name", ["picture-0-map-1", "picture-0-gallery", "example-0-largest-0"])
def test_a_file_has_what_the_page_shows_and_says(name: str) -> None:
    figure = pictures()[name]
    assert figure.pictures
    drawn = ElementTree.fromstring(drawing(figure.pictures, figure.description))
    # A group, whose pictures are met one by one.
    assert (drawn.get("role"), drawn.get("aria-label")) == ("group", figure.description)
    page = Elements(markup("pictures.html.j2", shown=figure.pictures))
    wanted = sorted((of["src"], of["alt"]) for tag, of in page.found if tag == "img")
    found = [(image.get("href"), image.findtext(f"{SVG}title")) for image in drawn.iter(f"{SVG}image")]
    assert sorted(found) == wanted
    assert {image.get("role") for image in drawn.iter(f"{SVG}image")} == {"img"}
    said = sorted(text.text for text in drawn.iter(f"{SVG}text") if text.text)
    assert said == sorted(text for _, text in page.texts)


def test_photographs_are_smooth_and_few_pixels_are_squares() -> None:
    for side, ways in ((8, {"optimizeSpeed"}), (96, {None})):
        found = figures(images.sections(media_worlds.digits(side=side, rows=10)))["picture-0-gallery"]
        assert found.pictures
        drawn = ElementTree.fromstring(drawing(replace(found.pictures, scale=None), ""))
        assert {image.get("image-rendering") for image in drawn.iter(f"{SVG}image")} == ways


def test_texts_that_do_not_fit_say_so() -> None:
    one = tile(png(np.zeros((9, 9), np.uint8)), (9, 9), "black")
    drawn = ElementTree.fromstring(
        drawing(Pictures([Card([one], "a" * 99, ["b" * 99, "short"])], "small"), "")
    )
    title, line, short = [text.text or "" for text in drawn.iter(f"{SVG}text")]
    assert re.fullmatch("a{20,40}…", title)
    assert re.fullmatch("b{20,40}…", line)
    assert short == "short"


def test_one_picture_takes_the_room_of_one() -> None:
    """Values that are not known leave no hole."""
    data = media_worlds.digits()
    assert data.sample is not None
    bare = replace(data, sample=data.sample.drop(["feature"]))
    found = figures(examples.sections(bare))["example-0-largest-0"]
    assert found.pictures
    assert float(ElementTree.fromstring(drawing(found.pictures, "")).get("width", "")) == 300 + 2 * 16


def test_many_slice_columns_are_cut_and_said() -> None:
    data = media_worlds.digits()
    assert data.sample is not None
    more = data.sample
    for number in range(40):
        more = more.append_column(f"slice {number}", pa.array(["a"] * len(more)))
    found = figures(images.sections(replace(data, sample=more)))["picture-0-gallery"]
    assert found.pictures
    assert found.pictures.cards[0].lines[-1] == "and 35 more columns"
    assert len(found.pictures.cards[0].lines) < 12


@pytest.mark.parametrize("name", ["picture-0-map-1", "picture-0-gallery", "example-0-largest-0"])
def test_a_png_has_each_pixel_where_the_svg_says(name: str) -> None:
    """Of two decoders: the middle of every square of the file is the pixel of the picture that it holds."""
    shown = pictures()[name].pictures
    assert shown
    drawn = ElementTree.fromstring(drawing(shown, ""))
    file = matplotlib.image.imread(io.BytesIO(draw_pictures(shown, "", "png")), format="png")
    found = np.rint(file[..., :3] * 255)
    assert list(found.shape[:2]) == [2 * size for size in number(drawn, "height", "width")]
    for image in drawn.iter(f"{SVG}image"):
        if image.get("image-rendering") is None:
            continue  # a scale
        pixels = decoded(image.get("href", ""))
        pixels = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
        x, y, width, height = number(image, "x", "y", "width", "height")
        rows, columns = pixels.shape[:2]
        for row, column in np.ndindex(rows, columns):
            down, across = y + (row + 0.5) * height / rows, x + (column + 0.5) * width / columns
            np.testing.assert_allclose(found[round(2 * down), round(2 * across)], pixels[row, column], atol=1)


@pytest.mark.parametrize("size", ["small", "large", "single"])
@pytest.mark.parametrize("shape", [(9, 9), (3, 12), (12, 3), (1, 160), (160, 1)])
def test_nothing_lies_upon_anything(size: str, shape: tuple[int, int]) -> None:
    one = tile(png(np.zeros(shape, np.uint8)), shape, "black")
    tiles = [one] if size == "large" else [one, one]
    cards = [
        Card(tiles, "名" * 80, ["W" * 200, "short"][: place % 3], signs(1.0) if place % 2 else None)
        for place in range(5)
    ]
    drawn = ElementTree.fromstring(drawing(Pictures(cards, size, signs(2.0)), ""))
    across, down = number(drawn, "width", "height")
    boxes = [number(image, "x", "y", "width", "height") for image in drawn.iter(f"{SVG}image")]
    assert all(
        w / h == pytest.approx(shape[1] / shape[0], rel=0.01) for _, _, w, h in boxes if min(w, h) > 10
    )
    frames = [number(frame, "width", "height") for frame in drawn.iter(f"{SVG}rect")]
    assert min(min(frame) for frame in frames) > 0
    # What is said below a picture is cut off at its width, should letters be wider than is reckoned with.
    boxes += [number(line, "x", "y", "width", "height") for line in drawn.findall(f"{SVG}svg")]
    for text in drawn.findall(f"{SVG}text"):  # those of scales
        x, y = number(text, "x", "y")
        width = 12 * 0.7 * len(text.text or "")  # at most: they are digits and small letters
        start = x - width * {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor", ""), 0.0)
        boxes.append([start, y - 11, width, 13])
    for box in boxes:
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[0] + box[2] <= across
        assert box[1] + box[3] <= down
    for place, (x, y, w, h) in enumerate(boxes):
        for X, Y, W, H in boxes[place + 1 :]:
            assert x + w <= X or x >= X + W or y + h <= Y or y >= Y + H, (x, y, w, h, X, Y, W, H)


def test_names_are_text() -> None:
    nasty = ["<script>alert(1)</script>", "\"'&]]>", "\u202eright to left", "x" * 500]
    image = np.random.default_rng(0).random((4, 2, 6, 6))
    data = media_worlds.world(
        {"image": image}, {"image": image[:, 0]}, kinds={"image": "image"}, targets=nasty[:2],
        slices={nasty[0]: nasty}, ids=nasty,
    )  # fmt: skip
    for figure in figures(images.sections(data)).values():
        assert figure.pictures
        svg = drawing(figure.pictures, figure.description)
        drawn = ElementTree.fromstring(svg)
        assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= {
            "svg", "style", "rect", "image", "title", "text"
        }  # fmt: skip
        assert draw_pictures(figure.pictures, figure.description, "png").startswith(b"\x89PNG")
