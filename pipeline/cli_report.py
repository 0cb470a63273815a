"""The verb that makes a run's report."""

from __future__ import annotations

import click

from pipeline.command_line import DONE, common, print_json, printable, told


@click.command(short_help="Rebuild report.html from a run's tables.")
@click.argument("run")
@click.option("--figures", metavar="DIR", help="Write each chart into this folder as well.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "png"]),
    default="svg",
    metavar="FORMAT",
    help="Of the figures: svg, as by default, or png.",
)
@common
def report(run: str, figures: str | None, form: str, as_json: bool, debug: bool) -> int:
    """Rebuild report.html from the tables of a run, and print its path.

    Reads the aggregates and the sample, so that it takes seconds whatever the number of rows.
    """
    from pipeline.report import write_figures, write_report

    path = write_report(run)
    written = [] if figures is None else write_figures(run, figures, form)
    with told():
        if as_json:
            print_json({"run": run, "report": path, "figures": written})
        else:
            for line in [path, *written]:
                print(printable(line))
    return DONE
