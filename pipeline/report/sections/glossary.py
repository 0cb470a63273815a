"""The words of a report, for who is no engineer."""

from __future__ import annotations

from pipeline.report.blocks import Section, Terms
from pipeline.report.data.view import View

_TERMS = (
    ("Model", "The program that turns the facts of a row into a number. This report says what it goes by."),
    ("Row, example", "One case that the model was asked about: one flight, one customer, one picture."),
    ("Feature", "One fact that the model is told about a row, such as a distance or a month."),
    (
        "Score",
        "The number that is explained. Often it is the model's number before it is squeezed into a "
        "probability (then called a logit): there effects add up, and 0 stands for even chances.",
    ),
    ("Target", "Which of the model's outputs is explained, where it has several."),
    (
        "Attribution, φ (phi)",
        "How far one feature moved the score of one row, up (+) or down (−), against the baseline. The φ "
        "of all features of a row together lead from the base value to its score.",
    ),
    (
        "Baseline, background",
        "What a row is compared with: one ordinary row, or many. An effect is always an effect instead of "
        "something: raised against the baseline, not against nothing.",
    ),
    (
        "Base value",
        "The score of the baseline; of many rows, their mean score. Where every explanation starts.",
    ),
    (
        "Importance, mean |φ|",
        "How far a feature moves the score on average, whichever way. The bars | | mean: without its sign.",
    ),
    ("Share", "A feature's importance as a part of the importance of all features together."),
    ("Rank", "The place of a feature when the most important one is first."),
    (
        "95 % interval",
        "Where the true value lies in 95 of 100 such reports, if the rows are a fair draw of what the "
        "model will meet. It says nothing of whether the model itself is right.",
    ),
    (
        "Significant",
        "So far from no difference that chance alone would seldom do it. Of many comparisons some would look "
        "so by luck; the correction keeps the false ones to about 1 in 20 of those named.",
    ),
    ("Slice", "A part of the rows that have something in common, such as one carrier."),
    (
        "Interaction",
        "What one feature does depends on another: rain that delays flights in the evening, not in the "
        "morning.",
    ),
    (
        "Convergence",
        "Whether the φ of a row really add up to its score. What is missing is the method's own error.",
    ),
    (
        "Rejected row",
        "A row that could not be explained, such as one without a value; the reason is on record.",
    ),
    (
        "What it is not",
        "An attribution says what the model goes by, not what causes the thing it predicts. A model may "
        "go by a feature that merely comes along with the cause.",
    ),
)


def sections(view: View) -> list[Section]:
    """The same for every run."""
    return [Section("glossary", "Glossary", "The words of this report in plain language.", [Terms(_TERMS)])]
