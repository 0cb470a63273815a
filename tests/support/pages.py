"""The README and the pages of docs/, and the code blocks in them that tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
#: By their paths from the root: the README, and what stands beside it or in docs/.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        README,
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("[!_]*/*.md")),
        ROOT / "docs" / "index.md",
    )
}


def block(marker: str) -> str:
    """The code block below `<!-- marker -->`, on whichever page it is."""
    pattern = re.compile(rf"<!-- {marker} -->\n+```\w+\n(.*?)```", re.DOTALL)
    found = [match[1] for text in PAGES.values() for match in pattern.finditer(text)]
    assert len(found) == 1, f"{len(found)} pages have a block {marker}"
    return found[0]
