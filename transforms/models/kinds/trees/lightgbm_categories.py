"""Features of a LightGBM model that had categories: its file lists these without naming the features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.errors import UserError
from transforms.models.categories import Categories, known_as_one_kind
from transforms.wording import names_in_words


@dataclass(frozen=True)
class ListsInOrder:
    """The lists of `pandas_categorical`, one a column that had categories, in the order of the columns.

    LightGBM takes columns of unordered categories for such by itself; ordered ones it encodes, and compares
    with thresholds like numbers.

    Args:
      lists: In their order.
      names: Of the features.
      used: Of each feature, what its values in training were: the smallest and largest code of a category, or
        the smallest and largest number; None where it was constant.
      categorical: Of each feature, whether its splits are between categories.
      path: The model's.
    """

    lists: tuple[Categories, ...]
    names: tuple[str, ...]
    used: tuple[tuple[float, float] | None, ...]
    categorical: tuple[bool, ...]
    path: str

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """See `CategoryPlaces.at`."""
        # Whole numbers that were called categorical without a data frame have no list. Where the columns
        # are of other types than the categories, what fits without a look at them is refused by name later.
        none = (False,) * len(self.names)
        tries = ((texts, self.categorical), (texts, none), (None, self.categorical))
        ways = next((some for known, needed in tries if (some := self._ways(known, needed))), [])
        if len(ways) == 1:
            return dict(zip(ways[0], self.lists, strict=True))
        raise UserError(
            f"its file lists the categories of {len(self.lists)} features without their names, and "
            + ("none" if not ways else "more than one choice")
            + f" of its features fits them: {names_in_words(self.names)}",
            self.path,
            "give the columns as they were when it was trained: categories that are strings as strings",
        )

    def _ways(self, texts: Sequence[bool] | None, needed: Sequence[bool]) -> list[tuple[int, ...]]:
        """Choices of places, ascending, that fit the lists; two at most."""
        count, most = len(self.names), len(self.lists)
        must = list(needed) if texts is None else [a or b for a, b in zip(texts, needed, strict=True)]
        # ways[k]: how lists k and later can be given to the places from the present one on.
        ways: list[list[tuple[int, ...]]] = [[] for _ in range(most)] + [[()]]
        for place in reversed(range(count)):
            before = [] if must[place] else ways
            ways = [
                [
                    *((place, *rest) for rest in ways[k + 1] if self._fits(place, k, texts)),
                    *(before[k] if before else ()),
                ][:2]
                for k in range(most)
            ] + [before[most] if before else []]
        return ways[0]

    def _fits(self, place: int, number: int, texts: Sequence[bool] | None) -> bool:
        listed, used = self.lists[number], self.used[place]
        if texts is not None and listed.strings != texts[place]:
            return False
        if used is None:
            return True
        low, high = used
        return low >= -1 and high < len(listed.values) and low % 1 == high % 1 == 0


def lists_in_order(booster: Any, header: str, text: str, path: str) -> ListsInOrder | None:
    """The categories of a booster; None where it was not trained on a data frame with any.

    Args:
      booster: LightGBM's.
      header: Of the model as text: what stands before its trees.
      text: All of it.
      path: The model's.
    Raises:
      UserError: Categories are neither all strings nor all numbers.
    """
    listed = booster.pandas_categorical or ()
    if not any(listed):
        return None
    lists = []
    for values in listed:
        kind = known_as_one_kind(values)
        if kind is None:
            words = names_in_words(list(map(str, values)))
            raise UserError(
                f"has categories that are neither all strings nor all numbers: {words}",
                path,
                "make them strings before training",
            )
        lists.append(Categories(kind, reject=False))
    names = tuple(booster.feature_name())
    infos = _line(header, "feature_infos").split(" ")
    stated = re.search(r"^\[categorical_feature: ([\d,]+)\]", text, re.MULTILINE)
    places = {int(number) for number in stated[1].split(",") if number} if stated else set()
    split_by = [not info.startswith("[") and info != "none" for info in infos]
    return ListsInOrder(
        tuple(lists),
        names,
        tuple(map(_range, infos)),
        tuple(place in places or split for place, split in enumerate(split_by)),
        path,
    )


def _line(header: str, key: str) -> str:
    match = re.search(rf"^{key}=(.*)$", header, re.MULTILINE)
    return match[1] if match else ""


def _range(info: str) -> tuple[float, float] | None:
    """Reads an item of `feature_infos`: `[low:high]`, codes with colons between them, or `none`."""
    if info in ("none", ""):
        return None
    numbers = [float(part) for part in info.strip("[]").split(":")]
    return min(numbers), max(numbers)
