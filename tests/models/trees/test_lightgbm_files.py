"""LightGBM's text files on their way to LightGBM: their layout, line ends and marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from tests.support.models.tree_tables import through
from transforms.errors import UserError
from transforms.models.kinds.trees.lightgbm_text import whole_text

ROWS = np.random.default_rng(0).normal(size=(200, 3))


@cache
def booster() -> lightgbm.Booster:
    data = lightgbm.Dataset(ROWS, ROWS[:, 0] * ROWS[:, 1])
    return lightgbm.train({"verbose": -1, "num_leaves": 5}, data, 6)


def toy(*trees: str, sizes: Sequence[object] | None = None, end: str = "end of trees\n") -> str:
    """Text of the same layout, which LightGBM itself refuses at its first line."""
    blocks = [f"Tree={number}\n{tree}\n\n" for number, tree in enumerate(trees)]
    stated = [len(block) for block in blocks] if sizes is None else sizes
    return f"toy\ntree_sizes={' '.join(map(str, stated))}\n\n{''.join(blocks)}{end}\nrest\n"


CUT, CHANGED = "is cut short: the end of its trees is missing", "was changed after it was saved"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (toy("abc", "de"), None),
        (toy(), None),
        (toy("abc", "de", end=""), CUT),
        (toy("abc", "de", sizes=(12, 12)), CHANGED),
        (toy("abc", "de", sizes=(12,)), CHANGED),
        (toy("abc", "de", sizes=(12, 11, 3)), CHANGED),
        (toy("abc", "de", sizes=("12", "x")), CHANGED),
    ],
)
def test_a_layout_that_does_not_hold_is_told(tmp_path: Path, text: str, told: str | None) -> None:
    (tmp_path / "m.txt").write_text(text)
    if told is None:
        assert whole_text(str(tmp_path / "m.txt")) is None
    else:
        with pytest.raises(UserError, match=rf"m\.txt: {told}.*; .*save it again"):
            whole_text(str(tmp_path / "m.txt"))


@pytest.mark.parametrize("kind", ["CRLF", "a mark of byte order", "no sizes"])
def test_what_editors_and_older_versions_make_of_it_is_read(tmp_path: Path, kind: str) -> None:
    text = booster().model_to_string()
    text = {
        "CRLF": text.replace("\n", "\r\n"),
        "a mark of byte order": "\ufeff" + text,
        "no sizes": re.sub("tree_sizes=.*\n", "", text),
    }[kind]
    (tmp_path / "m.txt").write_bytes(text.encode())
    table = pa.table({f"Column_{place}": ROWS[:, place] for place in range(3)})
    found = through(str(tmp_path / "m.txt"), table)
    np.testing.assert_allclose(found.outputs[:, 0], booster().predict(ROWS), rtol=1e-6)
