"""The rules file: strict typed blocks, one for each kind of rule, and the rules without a file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.audit.bounds import check_bound
from pipeline.audit.findings import Severity
from pipeline.config.errors import as_user_error, nearest_key
from pipeline.config.input import Strict
from pipeline.config.yaml_text import read_mapping
from transforms.errors import UserError

_DAYS = {"night": 1.0, "week": 7.0, "month": 365.25 / 12, "quarter": 365.25 / 4, "year": 365.25}
_RATE = re.compile(r"(\d+(?:\.\d+)?) per (night|week|month|quarter|year)")
Share = Annotated[float, Field(ge=0, le=1)]
Names = list[str]
#: A comparison and a number, such as `< 0.1` or `> 5 %`.
BoundText = Annotated[str, AfterValidator(check_bound)]


def _rate(text: str) -> str:
    if not _RATE.fullmatch(text):
        raise ValueError("must be a number per night, week, month, quarter or year, such as 1 per quarter")
    return text


class Reference(Strict):
    """The nights that tonight is compared with."""

    window: Annotated[int, Field(ge=7, le=366)] = 28
    """Nights whose differences show how much nights usually differ."""
    season: Literal["week"] | None = "week"
    """`week` expects weekends to differ from weekdays once four weeks are known; null does not."""


class Rule(Strict):
    """What every rule has."""

    name: str | None = None
    """The rule's name in findings; by default its kind."""
    severity: Severity = "error"
    """`error` makes a broken rule fail the audit, `warn` makes it a warning."""

    @property
    def title(self) -> str:
        """The rule's name in findings."""
        return self.name or str(getattr(self, "kind", "rule"))


class Selection(Rule):
    """What rules on features have."""

    features: Names | None = None
    """The features to check; by default all."""
    slices: Names | None = None
    """The slices to check, as the importance names them, "" for all rows; by default all."""
    targets: Names | None = None
    """The names of the targets to check; by default all."""


class Drift(Selection):
    """Tonight differs from the forecast of earlier nights by more than nights usually differ."""

    kind: Literal["drift"]
    """`drift`."""
    min_effect: Annotated[float, Field(ge=0)] = 0.1
    """Smallest relative change of mean |φ| that counts."""
    min_rows: Annotated[int, Field(ge=1)] = 50
    """Fewest rows of a slice, tonight and on most earlier nights."""
    min_history: Annotated[int, Field(ge=3)] = 14
    """Fewest earlier nights."""
    inputs: bool = True
    """Also check the values of the features in the sample of rows."""


class _Bounded(Rule):
    @model_validator(mode="after")
    def _has_a_bound(self) -> _Bounded:
        if getattr(self, "warn_if", None) is None and getattr(self, "error_if", None) is None:
            raise ValueError("the rule has no bound: give error_if or warn_if, such as '> 0.1'")
        return self


class RankAgreement(Selection, _Bounded):
    """The order of the features by importance agrees with the usual order."""

    kind: Literal["rank_agreement"]
    """`rank_agreement`."""
    measure: Literal["ndcg", "kendall", "overlap"] = "ndcg"
    """`ndcg` of mean |φ|, `kendall`'s τ of the ranks, or the `overlap` of the most important features."""
    top: Annotated[int, Field(ge=1)] = 10
    """Features of the overlap."""
    warn_if: BoundText | None = None
    """A bound of the measure that warns, such as `< 0.95`."""
    error_if: BoundText | None = "< 0.9"
    """A bound of the measure that fails."""


class Sign(Selection):
    """The direction in which a feature pushes the score has turned."""

    kind: Literal["sign"]
    """`sign`."""
    min_share: Share = 0.02
    """Smallest share of the importance of a feature whose direction matters."""
    min_rows: Annotated[int, Field(ge=1)] = 50
    """Fewest rows of a slice."""


class Bound(_Bounded):
    """A statistic of the importance is within bounds that its owner knows."""

    kind: Literal["bound"]
    """`bound`."""
    statistic: Literal["share", "rank", "mean_abs", "mean", "positive", "rows"] = "share"
    """A column of the importance."""
    features: Names
    """The features to check."""
    slices: Names = Field(default=[""])
    """The slices to check, "" for all rows."""
    targets: Names | None = None
    """The names of the targets to check; by default all."""
    warn_if: BoundText | None = None
    """A condition that warns, such as `>= 0.1`; of a rank, `<= 5`."""
    error_if: BoundText | None = None
    """A condition that fails."""


class Gap(_Bounded):
    """A feature pushes two slices apart: their mean φ differs by more than a bound."""

    kind: Literal["gap"]
    """`gap`."""
    features: Names | None = None
    """The features to check; by default all."""
    slices: Annotated[Names, Field(min_length=2, max_length=2)]
    """The two slices, such as `[sex=F, sex=M]`."""
    targets: Names | None = None
    """The names of the targets to check; by default all."""
    warn_if: BoundText | None = None
    """A bound of |difference of mean φ| over the mean |φ| of all features that warns, such as `> 0.05`."""
    error_if: BoundText | None = "> 0.1"
    """A bound that fails."""


class Quality(Rule):
    """The run itself is sound: rejected rows, convergence, the number of rows, digests."""

    kind: Literal["quality"]
    """`quality`."""
    rejected: Share | None = None
    """Largest share of rejected rows; by default what the run's own limits say."""
    convergence: Annotated[float, Field(ge=0)] | None = None
    """Largest p99 of |convergence_delta| over the score's spread; by default the run's own limit."""
    rows: bool = True
    """Compare the number of rows with its history."""
    model_digest: str | None = None
    """The digest that the model must have."""
    baseline_digest: str | None = None
    """The digest that the baseline must have."""


class Freshness(_Bounded):
    """The input is fresh: its latest rows are of the night itself."""

    kind: Literal["freshness"]
    """`freshness`."""
    column: str
    """A slicing column of dates or times, whose latest value shows how fresh the rows are."""
    warn_if: BoundText | None = None
    """A bound of the age in days that warns, such as `> 1`."""
    error_if: BoundText | None = "> 2"
    """A bound of the age in days that fails."""


#: The kinds of rules, by the value of `kind`.
KINDS: dict[str, type[Rule]] = {
    "drift": Drift,
    "rank_agreement": RankAgreement,
    "sign": Sign,
    "bound": Bound,
    "gap": Gap,
    "quality": Quality,
    "freshness": Freshness,
}
AnyRule = Annotated[
    Drift | RankAgreement | Sign | Bound | Gap | Quality | Freshness,
    Field(discriminator="kind"),
]


class Rules(Strict):
    """A rules file."""

    reference: Reference = Reference()
    """The nights that tonight is compared with."""
    false_alarms: Annotated[str, AfterValidator(_rate)] = "1 per quarter"
    """How many nights may have a finding although nothing changed."""
    rules: Annotated[list[AnyRule], Field(min_length=1)]
    """The rules."""

    @property
    def alpha(self) -> float:
        """The probability of a false alarm in one night."""
        match = _RATE.fullmatch(self.false_alarms)
        assert match is not None  # validated
        return min(1.0, float(match[1]) / _DAYS[match[2]])


def default_rules() -> Rules:
    """The rules without a file."""
    return Rules.model_validate(
        {
            "rules": [
                {"kind": "quality"},
                {"kind": "drift"},
                {"kind": "sign", "severity": "warn"},
            ]
        }
    )


def load_rules(path: str | None) -> Rules:
    """Reads a rules file; None gives the default rules.

    Raises:
      UserError: The file, a key or a value is wrong; the line suggests the nearest known key.
    """
    if path is None:
        return default_rules()
    data = read_mapping(path)
    for number, item in enumerate(data.get("rules") or []):
        kind = item.get("kind") if isinstance(item, dict) else None
        if isinstance(item, dict) and (not isinstance(kind, str) or kind not in KINDS):
            problem = "is missing" if kind is None else f"{kind!r} is not a kind of rule"
            raise UserError(problem, f"{path}: rules.{number}.kind", nearest_key(str(kind), list(KINDS)))
    try:
        return Rules.model_validate(data)
    except ValidationError as error:
        raise as_user_error(error, path, _keys_at) from error


def _keys_at(location: Any) -> list[str]:
    """The known keys of the block at a location of a rules file."""
    blocks: dict[str, Any] = {"reference": Reference, **KINDS}
    named = [blocks[part] for part in location if part in blocks]
    return list((named[-1] if named else Rules).model_fields)
