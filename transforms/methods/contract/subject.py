"""A method on a small model, and the error that a check raises for a broken promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, take
from transforms.methods.contract.small_models import World
from transforms.numerics.random import row_keys

#: Largest difference between two orders of summing float32, relative to an input's largest value.
CLOSE = 1e-5


class MethodContractError(AssertionError):
    """A method breaks its contract.

    Args:
      method: The method's name.
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
    """A broken promise in words; `check_method_contract` adds the names of the check and the model."""


@dataclass(frozen=True)
class Subject:
    """A method on a small model, with its attribution of all rows and targets in one call.

    Args:
      method: With its keys.
      world: The model, its rows and its background.
      seed: Seed of the run.
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
        """Attributes some rows, each with the same seed as in `whole`; by default for all targets."""
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
    """Raises `Broken` if a promise is not kept.

    Raises:
      Broken: `kept`, or one of its elements, is false.
    """
    if not np.all(kept):
        raise Broken(what)


def require_arrays(
    noun: str, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Requires arrays of given shapes by input, float32 and finite.

    Raises:
      Broken: An array is missing, has another shape or type, or is not finite.
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
    """Requires numbers to equal the expected ones except for rounding.

    Raises:
      Broken: The numbers differ; the error names the largest difference.
    """
    apart = np.abs(found - expected) - 1e-5 * np.abs(expected)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart), apart.shape))
    require(apart <= 1e-6, f"{noun}{list(at)} is {found[at]:.6g}, and must be {expected[at]:.6g}")


def require_close(
    noun: str, found: np.ndarray, expected: np.ndarray, whole: np.ndarray, relative: float = CLOSE
) -> None:
    """Requires values to equal those of the whole batch, except for rounding in another order of sums.

    Raises:
      Broken: The values differ; the error names the largest difference.
    """
    require(found.shape == expected.shape, f"{noun}: the shape is {found.shape}, not {expected.shape}")
    apart = np.abs(found - expected)
    allowed = relative * np.abs(expected) + CLOSE * np.abs(whole).max() + 1e-12
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart - allowed), apart.shape))
    require(
        apart <= allowed,
        f"{noun}: {found[at]:.6g} where the whole batch has {expected[at]:.6g}",
    )
