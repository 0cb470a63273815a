"""The report's summary: what the model does, in sentences made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.blocks import Block, Prose, Section
from pipeline.report.data.slicings import by_itself
from pipeline.report.data.view import View, as_word, rows_of
from pipeline.report.sections.interactions import HINT, strongest
from pipeline.wording import listed, number, percent, plain, shorten
from transforms.aggregates.importance.differences import differences

#: Most features that the summary names first.
_FIRST = 3
#: Most features whose direction the summary describes.
_DIRECTIONS = 4
#: The share of all importance that counts as most of it.
_MOST_OF_IT = 0.8
#: Spearman's correlation of value and φ above which a higher value means a higher score.
_MONOTONE = 0.5
#: Share of rows with one sign of φ above which a feature is said to push one way.
_ONE_WAY = 0.8
#: Fewest rows of a sample from which directions are read.
_FEWEST = 20


def sections(view: View) -> list[Section]:
    """Builds a few sentences for each target."""
    lead = "A short summary of the numbers below."
    blocks = view.by_target(lambda target: _sentences(view, target))
    return [Section("summary", "What the model does", lead, blocks)]


def in_a_sentence(view: View) -> str:
    """The line under the page's title."""
    rows = view.data.manifest["counts"]["rows_attributed"]
    counted = f"{rows:,} row{'' if rows == 1 else 's'} explained"
    targets = view.data.targets
    if not targets:
        return "No row could be explained."
    first = next(iter(targets))
    if not view.matters(first) and view.missed:
        return f"{counted}: every attribution is 0, though the score moves."
    if not view.matters(first):
        return f"{counted}: nothing that the model is given moves its score."
    names = [_name(view, f) for f in view.overall(first)["feature"].head(_FIRST)]
    whose = f"For {_short(targets[first])}, the" if len(targets) > 1 else "The"
    relies = "relies on" if len(view.overall(first)) <= len(names) else "relies mostly on"
    return f"{counted}. {whose} model {relies} {listed(names)}."


def _short(text: str, width: int = 60) -> str:
    return f"\u2068{shorten(plain(text), width)}\u2069"


def _name(view: View, feature: str) -> str:
    """The feature's name in a sentence; in quotes where a comma in it could look like the sentence's own."""
    name = _short(view.labels.get(feature, feature))
    return f"“{name}”" if "," in name else name


def _sentences(view: View, target: int) -> Sequence[Block]:
    if not view.matters(target) and view.missed:
        return [
            Prose(
                "Every attribution is 0, though the score differs from the base value: the method missed "
                "what moves the score. Try more steps or samples, or another method or baseline.",
                "bad",
            )
        ]
    if not view.matters(target):
        return [
            Prose(
                "Nothing that the model is given moves this score: every row has the same score as "
                "the baseline. Either the model is constant, or the features it relies on are not among "
                "those that were explained."
            )
        ]
    sentences = [
        _score(view, target),
        _concentration(view, target),
        _directions(view, target),
        _slices(view, target),
        _hints(view, target),
    ]
    return [Prose(text) for text in sentences if text]


def _score(view: View, target: int) -> str:
    """A sentence that defines the score."""
    name, unit = _short(view.data.targets[target]), view.unit(target)
    if unit in ("logit", "probability"):
        return (
            f"The score is the {unit} of {name}: the higher it is, the likelier the model takes {name} to be."
        )
    return f"The score is the number that the model gives for {name}."


def _concentration(view: View, target: int) -> str:
    frame = view.overall(target)
    first = frame.head(_FIRST)
    shares = frame["share"].cumsum().to_numpy()
    names = [_name(view, feature) for feature in first["feature"]]
    if len(frame) == 1:
        return f"The score depends on {names[0]} alone: no other feature was explained."
    if shares[0] > 0.995:
        return f"The score depends almost only on {names[0]}; the other {len(frame) - 1:,} hardly move it."
    if len(frame) <= _FIRST:
        parts = [f"{name} ({percent(share)})" for name, share in zip(names, first["share"], strict=True)]
        return f"The score is moved by {listed(parts)}; percentages are of all movement."
    enough = int(np.searchsorted(shares, _MOST_OF_IT)) + 1
    text = (
        f"The score depends most on {listed(names)}: together they make up {percent(shares[_FIRST - 1])} "
        "of all movement."
    )
    if enough > _FIRST:
        text += f" It takes {enough:,} of the {len(frame):,} features to make up {percent(_MOST_OF_IT)}"
        text += ": the model uses many features." if enough > len(frame) / 2 else "; the others add little."
    elif len(frame) > _FIRST:
        text += f" The other {len(frame) - _FIRST:,} add little."
    return text


def _directions(view: View, target: int) -> str:
    frame = view.overall(target).head(_DIRECTIONS)
    sample = view.sample(target)
    sentences = []
    for row in rows_of(frame[frame["mean_abs"] > 0]):
        name = _name(view, row.feature)
        values = None if sample is None or len(sample) < _FEWEST else view.values_of(sample, row.feature)
        sentence = ""
        if values is not None and sample is not None:
            phi = view.phi_of(sample, row.feature)
            if view.is_numeric(row.feature):
                sentence = _slope(name, values.astype(np.float64), phi)
            else:
                sentence = _categories(name, values, phi, view.fewest)
        sentences.append(sentence or _one_way(name, row.positive, row.mean))
    return " ".join(sentences)


def _slope(name: str, values: np.ndarray, phi: np.ndarray) -> str:
    real = np.isfinite(values)
    correlation = _spearman(values[real], phi[real])
    if correlation > _MONOTONE:
        return f"The higher {name}, the higher the score."
    if correlation < -_MONOTONE:
        return f"The higher {name}, the lower the score."
    return f"{name} raises the score at some values and lowers it at others."


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    import pandas as pd

    ranks = [pd.Series(values).rank() for values in (one, other)]
    if len(one) < 2 or any(rank.nunique() < 2 for rank in ranks):
        return 0.0
    return float(ranks[0].corr(ranks[1]))


def _categories(name: str, values: np.ndarray, phi: np.ndarray, fewest: int) -> str:
    import pandas as pd

    words = pd.Series([as_word(value) for value in values.tolist()])
    means = pd.Series(phi).groupby(words).agg(["mean", "size"])
    means = means[means["size"] >= max(3, len(words) // 100, fewest)].sort_values("mean")
    if len(means) < 2 or not means["mean"].iloc[0] < 0 < means["mean"].iloc[-1]:
        return ""
    high, low = (_short(str(means.index[at]), 30) for at in (-1, 0))
    return f"Of {name}, {high} raises the score most and {low} lowers it most."


def _one_way(name: str, positive: float, mean: float) -> str:
    if positive >= _ONE_WAY:
        return f"{name} raises the score of {percent(positive)} of the rows."
    if 1 - positive >= _ONE_WAY and mean < 0:
        return (
            f"{name} lowers the score of nearly all rows."
            if positive < 0.05
            else f"{name} mostly lowers the score."
        )
    return f"{name} raises the score of {percent(positive)} of the rows and lowers it for others."


def _slices(view: View, target: int) -> str:
    sliced = view.sliced(target)
    if sliced is None:
        return ""
    tested = differences(view.overall(target), sliced, view.fewest)
    real = tested[(tested["kind"] == "abs") & tested["significant"]]
    if not len(tested):
        return ""
    if not len(real):
        return "These rows do not show that the model relies on different features in any slice."
    # A feature trivially differs in slices of its own values: prefer others.
    news = real[~by_itself(real, view.data.manifest)]
    count = real["slice"].nunique()
    real = news if len(news) else real
    row = real.iloc[int(np.argmax(np.abs(real["difference"].to_numpy(np.float64))))]
    name, where = _name(view, row["feature"]), _short(str(row["slice"]))
    times = row["here"] / row["rest"] if row["rest"] > 0 else math.inf
    if math.isfinite(times) and times >= 1.05:
        how = f"moves the score {number(float(times), 2)} times as far as in the other rows"
    elif times <= 0.95:
        how = f"moves the score {percent(1 - float(times))} less than in the other rows"
    else:
        how = f"moves the score {'more' if row['difference'] > 0 else 'less'} than in the other rows"
    many = f" In all, {count:,} slices differ from the other rows in some feature." if count > 1 else ""
    return f"The slice that stands out is {where}: there {name} {how}.{many}"


def _hints(view: View, target: int) -> str:
    hints = strongest(view, target)
    if not hints or hints[0][2] < HINT:
        return ""
    feature, modulator, _ = hints[0]
    effect = f"the effect of {_name(view, feature)} depends on {_name(view, modulator)}"
    return f"The strongest interaction: {effect}."
