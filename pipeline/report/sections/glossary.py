"""The words of a report in plain language, for readers who are not engineers."""

from __future__ import annotations

from pipeline.report.blocks import Section, Terms
from pipeline.report.data.view import View

_TERMS = (
    (
        "Model",
        "The program that turns the facts of a row into a number. This report shows what it relies on.",
    ),
    ("Row, example", "One case that the model was asked about: one flight, one customer, one picture."),
    ("Feature", "One fact about a row that the model is given, such as a distance or a month."),
    (
        "Score",
        "The number that is explained. Often it is the model's number before it is turned into a "
        "probability (then called a logit): on that scale effects add up, and 0 means even chances.",
    ),
    ("Target", "The model output that is explained; a model may have several."),
    (
        "Attribution, φ (phi)",
        "How far one feature moved the score of one row, up (+) or down (−), compared with the baseline. "
        "The φ of all features of a row together lead from the base value to its score.",
    ),
    (
        "Baseline, background",
        "What a row is compared with: one ordinary row, or many. An effect is always relative to something: "
        "raised compared with the baseline, not with zero.",
    ),
    (
        "Base value",
        "The score of the baseline, or the mean score of a baseline of many rows. Explanations start here.",
    ),
    (
        "Importance, mean |φ|",
        "How far a feature moves the score on average, up or down. The bars in |φ| mean: without the sign.",
    ),
    ("Share", "A feature's importance as a part of the importance of all features together."),
    ("Rank", "A feature's position when features are sorted by importance, the most important first."),
    (
        "95 % interval",
        "Contains the true value in 95 of 100 such reports, if the rows are a fair sample of what the "
        "model will meet. It does not say whether the model itself is right.",
    ),
    (
        "Significant",
        "So large a difference that chance alone would rarely produce it. Among many comparisons, some look "
        "significant by luck; the correction keeps false ones to about 1 in 20 of those that are named.",
    ),
    ("Slice", "A part of the rows with something in common, such as one carrier."),
    (
        "Interaction",
        "The effect of one feature depends on another: rain delays flights in the evening, but not in the "
        "morning.",
    ),
    (
        "Convergence",
        "Whether the φ of a row really add up to its score. The difference is the method's own error.",
    ),
    (
        "Rejected row",
        "A row that could not be explained, for example because a value is missing; the reason is recorded.",
    ),
    (
        "What it is not",
        "An attribution says what the model relies on, not what causes the thing it predicts. A model may "
        "rely on a feature that merely accompanies the cause.",
    ),
)


def sections(view: View) -> list[Section]:
    """Builds the glossary, which is the same for every run."""
    return [Section("glossary", "Glossary", "The words of this report in plain language.", [Terms(_TERMS)])]
