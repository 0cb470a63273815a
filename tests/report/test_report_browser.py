"""The report in a browser: it draws, fits, reaches for nothing, and everybody can read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.report import write_report
from tests.support import report_worlds

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"),
    reason=f"there is no browser at {CHROMIUM}: apt-get install chromium",
)

SCHEMES = ("light", "dark")
VIEWS = [
    *(("small", width, scheme) for width in (360, 1280, 3840) for scheme in SCHEMES),
    ("hostile", 360, "light"),
    ("hostile", 1280, "dark"),
    ("large", 1280, "light"),
    ("many_targets", 360, "dark"),
    ("one row", 360, "light"),
    ("tiny", 1280, "light"),
]

#: Scrolls past everything, so that it is drawn; tells of the charts in sight.
_DRAW = """async () => {
  const shown = [...document.querySelectorAll(".chart")].filter((chart) => !chart.closest("[hidden]"));
  for (const chart of shown) {
    chart.scrollIntoView({block: "center", behavior: "instant"});
    for (let n = 0; n < 400 && !chart.view; n += 1) await new Promise((done) => setTimeout(done, 10));
  }
  return shown.map((chart) => {
    const svg = chart.querySelector("svg"), canvas = chart.querySelector("canvas");
    const drawn = ["path", "line", "text"].map((tag) => `[class*=mark-] ${tag}`).join();
    let marks = svg ? svg.querySelectorAll(drawn).length : 0;
    if (canvas) {
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (let at = 3; at < data.length; at += 4) marks += data[at] > 0;
    }
    const [inner, outer] = [chart.firstElementChild, chart].map((box) => box.getBoundingClientRect());
    return {name: chart.dataset.spec, marks, over: Math.max(0, inner.right - outer.right)};
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page a world."""
    place = tmp_path_factory.mktemp("report")
    found = {}
    for name in dict.fromkeys(name for name, _, _ in VIEWS):
        folder = place / name
        if name in report_worlds.DEGENERATE:
            report_worlds.degenerate(folder, name)
        else:
            getattr(report_worlds, name)(folder)
        found[name] = Path(write_report(folder))
    return found


@pytest.fixture
def told() -> list[str]:
    """What a page said that it should not: on the console, to the network."""
    return []


@pytest.fixture
def open_page(
    browser: Browser, reports: dict[str, Path], told: list[str], request: pytest.FixtureRequest
) -> Any:
    def opened(name: str, width: int = 1280, scheme: Any = "light", **options: Any) -> Page:
        height = 2160 if width > 2000 else 900
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        request.addfinalizer(context.close)
        page = context.new_page()
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda sent: told.append(sent.url) if not _is_own(sent.url) else None)
        page.goto(reports[name].as_uri())
        return page

    return opened


def _is_own(url: str) -> bool:
    return url.startswith("data:") or url.endswith("report.html")


def serious(page: Page) -> list[tuple[str, Any]]:
    found = Axe().run(page).response["violations"]
    return [
        (rule["id"], [node["html"][:200] for node in rule["nodes"]][:3])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("name", "width", "scheme"), VIEWS)
def test_it_is_drawn_and_fits(open_page: Any, told: list[str], name: str, width: int, scheme: str) -> None:
    page = open_page(name, width, scheme)
    charts = page.evaluate(_DRAW)
    assert len(charts) >= 2
    assert [chart for chart in charts if chart["marks"] < 3 or chart["over"] > 1] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert told == []
    assert page.title() in ("flights", report_worlds.HOSTILE[1])
    if width <= 1280:
        assert serious(page) == []


def test_every_option_is_drawn(open_page: Any, told: list[str]) -> None:
    """Choosing shows another's figures; a target chosen in one place is chosen everywhere."""
    page = open_page("many_targets")
    selects = page.locator("select")
    selects.first.select_option("3")
    assert {selects.nth(at).input_value() for at in range(selects.count())} == {"3"}
    charts = page.evaluate(_DRAW)
    assert all(
        chart["name"].split("-")[1] == "3" for chart in charts if chart["name"].startswith("importance")
    )
    assert min(chart["marks"] for chart in charts) >= 3
    page = open_page("small")
    # By events rather than by the pointer: charts that are drawn as they come into view move what is below.
    page.get_by_role("radio", name="origin").dispatch_event("click")
    page.locator("label", has_text="Mean φ").locator("visible=true").first.dispatch_event("click")
    assert "slices-0-2-mean-spec" in [chart["name"] for chart in page.evaluate(_DRAW)]
    assert told == []


def test_what_is_drawn_is_in_the_tables(open_page: Any, reports: dict[str, Path]) -> None:
    page = open_page("small")
    page.evaluate(_DRAW)
    frame = pd.read_parquet(reports["small"].parent / "importance.parquet")
    overall = frame[frame["slice"] == ""].sort_values("rank")
    drawn = page.evaluate(
        """() => {
          const {view} = document.querySelector("[data-spec=importance-0-spec]");
          const marks = (item) => [item, ...(item.items || []).flatMap(marks)];
          const all = marks(view.scenegraph().root).filter((mark) => mark.marktype === "rect");
          const bars = all.flatMap((mark) => mark.items);
          const x = view.scale("x");
          return bars.map((bar) => [bar.datum.f, x.invert(bar.x + bar.width) - x.invert(bar.x)]);
        }"""
    )
    assert len(drawn) == len(overall)
    for (name, length), row in zip(drawn, overall.itertuples(), strict=True):
        assert length == pytest.approx(row.mean_abs, rel=1e-3)
        assert row.feature[:2].lower() in name.lower() or row.feature in ("dep_hour", "visib")
    cells = (
        page.locator("#importance-0 tbody tr")
        .first.locator("td.n")
        .evaluate_all("(cells) => cells.map((cell) => Number(cell.dataset.v))")
    )
    assert cells[1] == overall["mean_abs"].iloc[0]


def test_hostile_names_are_text(open_page: Any, told: list[str]) -> None:
    page = open_page("hostile")
    page.evaluate(_DRAW)
    assert page.locator("main script:not([type='application/json']), main img[src=x]").count() == 0
    text = page.evaluate(
        "[...document.querySelectorAll('#importance-0 tbody bdi')].map((cell) => cell.textContent)"
    )
    for name in report_worlds.HOSTILE[1:]:
        assert name in text  # whole, though a chart shows part of it
    labels = page.evaluate(
        "[...document.querySelectorAll('#importance-0 svg text')].map((label) => label.textContent)"
    )
    assert any(label.startswith("\u2068<script>") or "</script" in label for label in labels)
    page.locator("#importance-0 svg .mark-rect path").nth(2).hover(force=True)
    assert page.locator(".tip bdi").first.inner_text().startswith("\u2068</script><img")
    assert told == []
    assert page.title() == report_worlds.HOSTILE[1]


def test_tables_are_sorted_and_searched(open_page: Any) -> None:
    page = open_page("large")
    figure = page.locator("#importance-0")
    # By an event rather than by the pointer: charts that are drawn as they come into view move what is below.
    figure.locator("summary").dispatch_event("click")
    assert figure.locator("details").get_attribute("open") is not None
    rows = figure.locator("tbody tr")
    assert rows.count() == 500
    figure.get_by_role("searchbox").fill("number_49")
    assert figure.locator("tbody tr:visible").count() == 11
    assert figure.locator("output").inner_text() == "11 of 500"
    figure.get_by_role("searchbox").fill("")
    for sort, least in (("descending", 500), ("ascending", 1)):
        figure.get_by_role("button", name="Rank").dispatch_event("click")
        assert figure.locator("th").first.get_attribute("aria-sort") == sort
        assert rows.first.locator("td").first.get_attribute("data-v") == str(least)


def test_the_theme_is_switched_and_remembered(open_page: Any, told: list[str]) -> None:
    page = open_page("small", scheme="light")
    page.evaluate(_DRAW)
    fill = "document.querySelector('#importance-0 svg .mark-rect path').getAttribute('fill')"
    light = page.evaluate(fill), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator(".theme label", has_text="Dark").click()
    for _ in range(200):
        if page.evaluate(fill) != light[0]:
            break
        page.wait_for_timeout(10)
    dark = page.evaluate(fill), page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator(".theme input[value=dark]").is_checked()
    assert told == []


def test_it_is_used_by_keyboard(open_page: Any) -> None:
    page = open_page("small")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.querySelector('#importance-0 summary').focus()")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('#importance-0 .scroll, #importance-0 input')")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    radio = page.locator("#slices .segments input").first
    radio.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#slices .segments input").nth(1).is_checked()
    assert page.locator("#slices .option").first.is_hidden()


def test_it_is_resized_to_the_window(open_page: Any) -> None:
    page = open_page("small", 1280)
    page.evaluate(_DRAW)
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_timeout(400)
    assert [chart for chart in page.evaluate(_DRAW) if chart["over"] > 1] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 500


def test_it_is_printed(open_page: Any, told: list[str], tmp_path: Path) -> None:
    """Charts that nobody has scrolled to as well, light on white, within the paper."""
    page = open_page("small", scheme="dark")
    paper = tmp_path / "report.pdf"
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    dark = page.evaluate(colours)
    page.emulate_media(media="print")
    assert page.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(31, 29, 26)"]
    page.emulate_media(media="screen")
    assert page.evaluate(colours) == dark
    page.evaluate(
        """() => addEventListener("afterprint", () => {
          const charts = [...document.querySelectorAll(".chart")].filter((c) => !c.closest("[hidden]"));
          window.printed = charts.map((chart) => Boolean(chart.querySelector("svg, canvas")));
        }, {capture: true})"""
    )
    page.pdf(path=str(paper), format="A4")
    assert paper.read_bytes().startswith(b"%PDF")
    printed = page.evaluate("window.printed")
    assert len(printed) > 10
    assert all(printed)
    assert told == []


def test_without_scripts_it_is_all_there(open_page: Any) -> None:
    page = open_page("small", java_script_enabled=False)
    assert page.locator("noscript p").count() or page.get_by_text("need JavaScript").is_visible()
    assert page.locator(".option:visible").count() == page.locator(".option").count() > 3
    assert page.locator("select:visible, input:visible").count() == 0


def test_a_report_says_which_run_it_is_of(open_page: Any) -> None:
    page = open_page("small")
    assert page.locator("meta[name=attribeam-run]").get_attribute("content").split()[0] == "0123456789abcdef"
    assert json.loads(page.locator("#attribeam-settings").inner_text() or "{}") is not None


def test_a_narrow_heat_map_has_the_columns_that_fit(open_page: Any, told: list[str]) -> None:
    counted = {}
    for width in (360, 1280):
        page = open_page("large", width)
        drawn = page.evaluate(_DRAW)
        name = next(chart["name"] for chart in drawn if chart["name"].startswith("slices-0-1-share"))
        counted[width] = page.evaluate(
            "(name) => document.querySelector(`[data-spec=${name}]`).view.scale('x').domain().length", name
        )
    assert 3 <= counted[360] <= 12 < counted[1280]
    assert told == []
