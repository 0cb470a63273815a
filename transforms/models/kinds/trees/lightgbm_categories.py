"""Finds the feature of each category list in a LightGBM model: the file does not name it."""

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
    """The lists of `pandas_categorical`: one for each feature that has categories, in the features' order.

    LightGBM splits features with unordered categories between sets of categories. It treats features with
    ordered categories like numbers, and compares their codes with thresholds.

    Args:
      lists: The lists of categories, in the file's order.
      names: Names of all features.
      used: For each feature, the smallest and the largest value or code in training; None if the feature was
        constant.
      categorical: For each feature, whether it is split between sets of categories.
      path: The model's path.
    """

    lists: tuple[Categories, ...]
    names: tuple[str, ...]
    used: tuple[tuple[float, float] | None, ...]
    categorical: tuple[bool, ...]
    path: str

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """See `CategoryPlaces.at`."""
        # The first try gives a list to each feature that holds strings or is split by categories. The second
        # gives lists only to features that hold strings: integers declared categorical without a data frame
        # have no list. The third ignores the columns' types; a column of a wrong type is refused later, in an
        # error that names it.
        none = (False,) * len(self.names)
        tries = ((texts, self.categorical), (texts, none), (None, self.categorical))
        choices = next((fit for known, needed in tries if (fit := self._choices(known, needed))), [])
        if len(choices) == 1:
            return dict(zip(choices[0], self.lists, strict=True))
        raise UserError(
            f"its file lists the categories of {len(self.lists)} features without their names, and "
            + ("no choice" if not choices else "more than one choice")
            + f" of its features fits them: {names_in_words(self.names)}",
            self.path,
            "give the columns the types that they had in training, such as strings",
        )

    def _choices(self, texts: Sequence[bool] | None, needed: Sequence[bool]) -> list[tuple[int, ...]]:
        """Ways to assign the lists to features, each as ascending places; at most two ways are returned."""
        count, lists = len(self.names), len(self.lists)
        must = list(needed) if texts is None else [a or b for a, b in zip(texts, needed, strict=True)]
        # choices[k]: ways to assign the lists k, k + 1, … to the current place and those after it.
        choices: list[list[tuple[int, ...]]] = [[] for _ in range(lists)] + [[()]]
        for place in reversed(range(count)):
            skipping = [] if must[place] else choices
            choices = [
                [
                    *((place, *rest) for rest in choices[k + 1] if self._fits(place, k, texts)),
                    *(skipping[k] if skipping else ()),
                ][:2]
                for k in range(lists)
            ] + [skipping[lists] if skipping else []]
        return choices[0]

    def _fits(self, place: int, number: int, texts: Sequence[bool] | None) -> bool:
        categories, used = self.lists[number], self.used[place]
        if texts is not None and categories.strings != texts[place]:
            return False
        if used is None:
            return True
        low, high = used
        return low >= -1 and high < len(categories.values) and low % 1 == high % 1 == 0


def lists_in_order(booster: Any, header: str, text: str, path: str) -> ListsInOrder | None:
    """The categories of a booster; None if it was not trained on a data frame with categories.

    Args:
      booster: LightGBM's Booster.
      header: The part of the model's text before its trees.
      text: The model's whole text.
      path: The model's path.
    Raises:
      UserError: A feature's categories are neither all strings nor all numbers.
    """
    stored = booster.pandas_categorical or ()
    if not any(stored):
        return None
    lists = []
    for values in stored:
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
    """The smallest and largest value in an entry of `feature_infos`; None for `none` or an empty entry.

    An entry is `[low:high]`, or codes separated by colons.
    """
    if info in ("none", ""):
        return None
    numbers = [float(part) for part in info.strip("[]").split(":")]
    return min(numbers), max(numbers)
