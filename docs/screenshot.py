"""Makes docs/report.png, the README's picture of the quickstart's report: `python docs/screenshot.py`."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
REPORT = HERE.parent / "runs" / "flights" / "report.html"
SECTION = "Example by example"


def main() -> None:
    """Opens the report in the machine's Chromium, at one section."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 940}, device_scale_factor=1.5)
        page.goto(REPORT.as_uri())
        page.add_style_tag(content="html { scroll-behavior: auto !important; }")
        heading = page.get_by_role("heading", name=SECTION)
        for _ in range(3):  # charts are drawn when they come into view, and move what is below them
            heading.evaluate("it => window.scrollTo(0, it.getBoundingClientRect().top + window.scrollY - 90)")
            page.wait_for_timeout(1500)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    picture.quantize(128, dither=Image.Dither.NONE).save(HERE / "report.png", optimize=True)


if __name__ == "__main__":
    main()
