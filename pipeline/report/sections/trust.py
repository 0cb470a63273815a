"""The report's section on trust: judgements of the numbers, in sentences."""

from __future__ import annotations

from pipeline.report.blocks import Block, Cell, Prose, Section, Table
from pipeline.report.data.view import View, rows_of
from pipeline.run_directory import convergence_scale as yardstick
from pipeline.wording import count, number, percent, plain, shorten

#: Share of a limit above which a value deserves attention.
_NEAR = 0.5
#: Share of rejected rows that is negligible.
_FEW = 0.001
#: Fewest rows from which a report says much about other rows.
_FEWEST_ROWS = 100
#: Most warnings that are shown.
_MOST_WARNINGS = 12
#: Number of first features whose order is judged.
_FIRST = 10


def sections(view: View) -> list[Section]:
    """Builds the judgements, worst first, and the reasons of rejected rows."""
    judgements = [
        *_exceeded(view),
        *_convergence(view),
        *_rejected(view),
        *_rows(view),
        *_order(view),
        *_suppressed(view),
        *_warnings(view),
    ]
    judgements.sort(key=lambda prose: ("bad", "caution", "good", "plain").index(prose.kind))
    blocks: list[Block] = [*judgements]
    if view.data.rejected:
        total = sum(view.data.rejected.values())
        rows: list[list[Cell]] = [
            [shorten(plain(reason), 300), n, 100 * n / total] for reason, n in view.data.rejected.items()
        ]
        blocks.append(
            Table(["Reason", "Rows", "Share, %"], rows[:100], "Rows that could not be explained, by reason.")
        )
    lead = "Whether the attributions add up and there are enough rows, not whether the model is right."
    return [Section("trust", "Can it be trusted", lead, blocks)]


def _exceeded(view: View) -> list[Prose]:
    return [
        Prose(f"A limit was exceeded: {plain(line)}.", "bad")
        for line in view.data.manifest["quality"]["exceeded"]
    ]


def _convergence(view: View) -> list[Prose]:
    manifest = view.data.manifest
    delta = manifest["quality"]["convergence_delta"]
    limited = manifest["quality"].get("limited_rows") or 0
    judgements = []
    if delta is None:
        name = str(manifest["config"]["method"]["name"]).replace("_", " ")
        judgements.append(
            Prose(
                f"The method, {name}, does not guarantee that φ adds up to the score: read φ as a direction "
                "and a size."
            )
        )
    else:
        limit = manifest["config"]["limits"].get("convergence")
        worst = delta["relative_p99"]
        share = yardstick.share_in_words(manifest, percent(worst))
        error = f"in 99 of 100 rows, the difference is at most {number(delta['p99'], 2)}, which {share}"
        if limit is not None and worst > limit:
            judgements.append(
                Prose(
                    f"φ does not add up to the score as it should: {error}; {percent(limit)} is allowed.",
                    "bad",
                )
            )
        elif limit is not None and worst > _NEAR * limit:
            judgements.append(Prose(f"φ adds up to the score, but not closely: {error}.", "caution"))
        else:
            judgements.append(Prose(f"φ adds up to the score: {error}.", "good"))
    if limited:
        rows = count(limited, "row")
        judgements.append(
            Prose(f"{rows} stayed above the method's tolerance even at its maximum effort.", "caution")
        )
    return judgements


def _rejected(view: View) -> list[Prose]:
    manifest = view.data.manifest
    counts, limit = manifest["counts"], manifest["config"]["limits"].get("rejected", 0.0)
    rejected, read = counts["rows_rejected"], counts["rows_read"]
    if not rejected:
        return [Prose(f"Every row was explained: {read:,} of {read:,}.", "good")]
    share = rejected / read
    reason = shorten(plain(next(iter(view.data.rejected), "unknown")), 160)
    text = (
        f"{rejected:,} of {read:,} rows ({percent(share)}) could not be explained, most often because: "
        f"{reason}."
    )
    if share > limit:
        return [Prose(f"{text} This is more than the {percent(limit)} allowed.", "bad")]
    if share > _FEW:
        return [Prose(f"{text} Everything below is about the other rows.", "caution")]
    return [Prose(text, "good")]


def _rows(view: View) -> list[Prose]:
    rows = view.data.manifest["counts"]["rows_attributed"]
    if rows >= _FEWEST_ROWS:
        return []
    return [Prose(f"Explained: {count(rows, 'row')}, too few to say much about other rows.", "caution")]


def _order(view: View) -> list[Prose]:
    """Judges whether the order of the first features of the first target is certain."""
    target = next(iter(view.targets), None)
    if target is None or not view.matters(target):
        return []
    first = view.overall(target).head(_FIRST)
    if len(first) < 2:
        return []
    scope = f" for {shorten(plain(view.targets[target]), 60)}" if len(view.targets) > 1 else ""
    tied = [int(row.rank) for row in rows_of(first) if row.rank_low != row.rank_high]
    if not tied:
        return [Prose(f"The order of the first {len(first)} features{scope} is certain.", "good")]
    sure = min(tied) - 1
    certain = (
        f"Ranks 1 to {sure} are certain"
        if sure > 1
        else "Only the first rank is certain"
        if sure
        else "The first rank is not certain"
    )
    text = f"{certain}{scope}; {len(tied)} of the first {len(first)} features may well have another rank."
    return [Prose(f"{text} Do not rely on the order of these features.", "caution" if sure < 3 else "good")]


def _suppressed(view: View) -> list[Prose]:
    manifest = view.data.manifest
    suppressed = manifest["quality"].get("suppressed_slices", 0)
    if not suppressed:
        return []
    least = (manifest["config"].get("privacy") or {}).get("min_rows", 0)
    slices = count(suppressed, "slice")
    return [Prose(f"{slices} of fewer than {least:,} rows are not shown, because of privacy.min_rows.")]


def _warnings(view: View) -> list[Prose]:
    lines = list(view.data.manifest["warnings"])
    shown = [Prose(f"{shorten(plain(line), 400)}", "caution") for line in lines[:_MOST_WARNINGS]]
    if len(lines) > _MOST_WARNINGS:
        shown.append(Prose(f"{len(lines) - _MOST_WARNINGS:,} more warnings are in manifest.json."))
    return shown
