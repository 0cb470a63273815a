"""A comparison's page in a browser: it draws, fits, is silent on the console, and everybody can read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from pipeline.compare import compare
from pipeline.compare.page import write_page
from tests.support.run_worlds import importance_of, write_run

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"),
    reason=f"there is no browser at {CHROMIUM}: apt-get install chromium",
)
HOSTILE = "</script><img src=x onerror=alert(1)>" + "x" * 500


def table(seed: int, **scales: float) -> pd.DataFrame:
    """Two targets and three slices."""
    rng = np.random.default_rng(seed)
    parts = []
    for target, name in enumerate(("late", HOSTILE)):
        for slice in ("", "carrier=UA", f"carrier={HOSTILE}"):
            features = ("distance", "\u202eright to left", HOSTILE, "temp.[0]")
            phi = {f: rng.normal(size=500) * scales.get(f, 1.0) + 0.1 for f in features}
            parts.append(importance_of(phi, slice, target, name))
    return pd.concat(parts, ignore_index=True)


def test_the_page(tmp_path: Path) -> None:
    outputs: dict[str, Any] = {
        "path": "m",
        "digest": "d3",
        "outputs": [{"name": "o", "shape": [2], "score": "logit"}],
    }
    runs = [
        write_run(tmp_path / name, frame, model=outputs)
        for name, frame in (("a", table(0)), ("b", table(1, distance=2.0, **{HOSTILE: 0.5})))
    ]
    page_file = Path(write_page(compare(*runs), str(tmp_path / "page.html")))
    told: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (360, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            page.on("console", lambda message: told.append(message.text))
            page.on("pageerror", lambda error: told.append(str(error)))
            page.on(
                "request",
                lambda sent: told.append(sent.url) if not sent.url.startswith(("file:", "data:")) else None,
            )
            page.goto(page_file.as_uri())
            charts = page.locator(".chart:visible")
            for at in range(charts.count()):
                charts.nth(at).scroll_into_view_if_needed()
                charts.nth(at).locator("svg, canvas").first.wait_for()
            assert charts.count() == 3
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            assert page.locator("img").count() == 0
            bad = [
                v["id"]
                for v in Axe().run(page).response["violations"]
                if v["impact"] in ("serious", "critical")
            ]
            assert bad == []
            page.close()
        browser.close()
    assert told == []
