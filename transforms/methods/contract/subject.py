"""A method in a small world, and what a check says where a promise is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, take
from transforms.methods.contract.small_models import World
from transforms.numerics.random import row_keys

#: Relative to the largest value of an input: what two orders of summing float32 may differ by.
CLOSE = 1e-5


class MethodContractError(AssertionError):
    """A method breaks its contract.

    Args:
      method: Its name.
      check: The name of the check, a key of `CHECKS`.
      world: The name of the model.
      what: The promise and the figures that break it.
    """

    def __init__(self, method: str, check: str, world: str, what: str) -> None:
        super().__init__(f"{method} breaks the check {check!r} on the model {world!r}: {what}")
        self.method, self.check, self.world, self.what = method, check, world, what

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return (type(self), (self.method, self.check, self.world, self.what))


class Broken(Exception):
    """A check's own finding, in words; `check_method_contract` adds which check and which model."""


@dataclass(frozen=True)
class Subject:
    """A method in a world, with what it says of all rows and all targets in one call.

    Args:
      method: With its keys.
      world: The model, its rows and its background.
      seed: Of the run.
    """

    method: AttributionMethod
    world: World
    seed: int = 0

    @cached_property
    def whole(self) -> Attribution:
        """The attribution of all rows with all targets."""
        return self.explain(np.arange(self.world.count))

    def explain(
        self, rows: np.ndarray, device_batch_size: int = 1024, targets: np.ndarray | None = None
    ) -> Attribution:
        """Attributes some rows, each with the seed that it has in the whole; by default all targets."""
        if targets is None:
            targets = np.broadcast_to(np.arange(self.world.targets), (len(rows), self.world.targets))
        seeds = row_keys(self.seed, np.arange(self.world.count))[rows]
        return self.method.attribute(
            self.world.model,
            take(self.world.rows, rows),
            self.world.reference,
            targets,
            seeds,
            device_batch_size,
        )


def require(kept: Any, what: str) -> None:
    """Raises `Broken` where a promise is not kept.

    Raises:
      Broken: `kept` is false, or false anywhere.
    """
    if not np.all(kept):
        raise Broken(what)


def require_arrays(
    noun: str, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Requires arrays of given shapes by input, float32 and finite.

    Raises:
      Broken: They are not.
    """
    require(
        arrays.keys() == wanted.keys(), f"{noun} are of {sorted(arrays)}, and the inputs are {sorted(wanted)}"
    )
    for name, value in arrays.items():
        require(
            value.shape == wanted[name],
            f"{noun} of {name!r} have the shape {value.shape}, not {wanted[name]}",
        )
        require(value.dtype == np.float32, f"{noun} of {name!r} are {value.dtype}, not float32")
        require(np.isfinite(value), f"{noun} of {name!r} are not all finite")


def require_equal(noun: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Requires numbers to equal others but for rounding.

    Raises:
      Broken: They do not; the largest difference is named.
    """
    apart = np.abs(found - expected) - 1e-5 * np.abs(expected)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart), apart.shape))
    require(apart <= 1e-6, f"{noun}{list(at)} is {found[at]:.6g}, and must be {expected[at]:.6g}")


def require_close(
    noun: str, found: np.ndarray, expected: np.ndarray, whole: np.ndarray, relative: float = CLOSE
) -> None:
    """Requires values to be those of the whole batch, but for the order of sums.

    Raises:
      Broken: They are not; the largest difference is named.
    """
    require(found.shape == expected.shape, f"{noun}: the shape is {found.shape}, not {expected.shape}")
    apart = np.abs(found - expected)
    allowed = relative * np.abs(expected) + CLOSE * np.abs(whole).max() + 1e-12
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart - allowed), apart.shape))
    require(
        apart <= allowed,
        f"{noun}: {found[at]:.6g} where the whole batch has {expected[at]:.6g}",
    )
