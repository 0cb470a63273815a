"""The verb that makes a run's report."""

from __future__ import annotations

import click

from pipeline.cli.options import DONE, common, print_json, printable, stdout_guard, warn
from transforms.errors import UserError


@click.command(short_help="Rebuild report.html from a run's tables.")
@click.argument("run")
@click.option("--figures", metavar="DIR", help="Also write each chart and the pictures into this folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "png"]),
    metavar="FORMAT",
    help="Format of the figures: svg (default) or png.",
)
@click.option(
    "--export",
    metavar="KIND",
    help="Also write the attributions for another tool: clarify, vertex or tfma.",
)
@click.option(
    "--export-dir", metavar="DIR", help="Folder of the export, which must be empty; RUN-KIND by default."
)
@common
def report(
    run: str,
    figures: str | None,
    form: str | None,
    export: str | None,
    export_dir: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Rebuild report.html from the tables of a run, and print its path.

    Reads the aggregates and the sample, which takes seconds whatever the number of rows; --export also reads
    the attributions.
    """
    from pipeline.exports import KINDS
    from pipeline.exports import export as write_export
    from pipeline.report import draw_report, write_figures, write_page
    from pipeline.results.run import load_run

    if export is not None and export not in KINDS:
        raise UserError(f"{export!r} is not an export", "--export", f"known: {', '.join(KINDS)}")
    if export is None and export_dir is not None:
        raise UserError("is given without --export", "--export-dir", f"add --export {'|'.join(KINDS)}")
    if figures is None and form is not None:
        raise UserError("is given without --figures", "--format", "add --figures DIR")
    opened = load_run(run)
    made = draw_report(opened)
    path = write_page(opened, made)
    written = [] if figures is None else write_figures(run, figures, form or "svg")
    exported = [] if export is None else write_export(opened, export, export_dir)
    with stdout_guard():
        if as_json:
            missing = list(made.missing)
            result = {
                "run": run,
                "report": path,
                "missing": missing,
                "figures": written,
                "exported": exported,
            }
            print_json(result)
        else:
            for line in [path, *written, *exported]:
                print(printable(line))
    warn(made.warnings)
    return DONE
