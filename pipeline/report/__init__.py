"""The report of a committed run: one page that needs nothing else, from aggregates and a sample of rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from pipeline.report.data.tables import ReportData
from pipeline.report.page.render import render
from pipeline.report.pictures.figures import write_figures as _write_figures
from pipeline.report.sections import all_sections
from pipeline.results.run import Run, load_run
from pipeline.run_directory.checks import check_outside
from pipeline.wording import plain, shorten
from transforms.outputs.run_files import REPORT
from transforms.storage import files
from transforms.storage.digests import digest_of

__all__ = ["Report", "draw_report", "report_is_current", "write_figures", "write_page", "write_report"]

#: The meta tag with the run's identity.
_RUN_ID = "attribeam-run"
#: The meta tag with the number of missing sections.
_MISSING = "attribeam-missing"
#: Bytes at the start of a page that contain the head with its meta tags.
_HEAD = 4096


@dataclass(frozen=True)
class Report:
    """A report's page.

    Args:
      html: The page.
      missing: Parts that could not be drawn, each with the reason.
    """

    html: str
    missing: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """Lines about the missing sections, for the screen."""
        return [f"report.html: a section is missing: {line}" for line in self.missing]


def write_report(run_path: str | os.PathLike[str]) -> str:
    """Writes `report.html` of a committed run beside its manifest; an existing report is replaced.

    Args:
      run_path: The run directory, or a Beam filesystem URL of one.
    Returns:
      The page's path.
    Raises:
      UserError: There is no committed run, or its directory cannot be written.
    Cost: seconds for any number of rows: reads the aggregates and the sample.
    """
    run = load_run(run_path)
    return write_page(run, draw_report(run))


def write_page(run: Run, report: Report) -> str:
    """Puts a report beside the manifest of its run, and returns its path."""
    path = files.join(run.path, REPORT)
    files.write_atomic(path, report.html.encode())
    return path


def draw_report(run: Run) -> Report:
    """Draws the report of a run; a section that fails leaves the others intact."""
    lead, facts, sections, missing = all_sections(ReportData.load(run))
    title = shorten(plain(str(run.manifest["name"] or "A model explained")), 120)
    meta = {_RUN_ID: _identity(run), **({_MISSING: str(len(missing))} if missing else {})}
    return Report(render(title, lead, facts, sections, meta=meta), tuple(missing))


def write_figures(run_path: str | os.PathLike[str], folder: str, format: str = "svg") -> list[str]:
    """Writes a report's charts and pictures as files; see `pictures.figures.write_figures`."""
    run = load_run(run_path)
    check_outside(folder, run.path)
    _, _, sections, _ = all_sections(ReportData.load(run))
    return _write_figures(sections, folder, format)


def report_is_current(run: Run | str | os.PathLike[str]) -> bool:
    """Checks that a committed run, or the one at a path, has an up-to-date report with all its sections.

    Raises:
      UserError: There is no committed run.
    """
    if not isinstance(run, Run):
        run = load_run(run)
    path = files.join(run.path, REPORT)
    if not files.exists(path):
        return False
    with files.open_input(path) as source:
        head = source.read(_HEAD).decode("utf-8", "replace")
    whole = f'<meta name="{_MISSING}"' not in head
    return whole and f'<meta name="{_RUN_ID}" content="{_identity(run)}">' in head


def _identity(run: Run) -> str:
    """The run's id with a digest of its labels, which may change after the run."""
    called = json.dumps(run.manifest["config"].get("features") or {}, sort_keys=True)
    return f"{run.manifest['run_id']} {digest_of(called.encode())[:16]}"
