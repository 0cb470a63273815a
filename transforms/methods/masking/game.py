"""The game of masking methods: the value of a coalition is the score with all other features replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.methods.base import take
from transforms.methods.calls import in_flight
from transforms.methods.masking.unchanged_players import still_players
from transforms.models.players import Players
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel
    from transforms.models.capabilities import MaskedScores

#: Bytes that the scores of a block of rows may take in this process's memory.
_HOST_BYTES = 32 << 20
#: Rows of a call, which share a coalition's masked background; more rows leave room for fewer coalitions.
ROWS_A_CALL = 32
#: Fewest calls into which the work is cut, provided that each has at least `_LEAST_EVALUATIONS`.
_LEAST_CALLS = 4
_LEAST_EVALUATIONS = 1024

#: The rows and the coalitions of a device call.
_Cell = tuple[slice, slice]


@dataclass(frozen=True)
class Game:
    """Scores of coalitions of players.

    Args:
      model: The model with its score; TensorFlow models are masked on the device, all others evaluate masked
        rows that are built here.
      reference: The players, and the background that replaces players outside a coalition.
      device_batch_size: Most model evaluations in one device call.
    """

    model: ScoredModel
    reference: Reference
    device_batch_size: int

    @property
    def players(self) -> Players:
        """The players."""
        return self.reference.players

    def scores(
        self, inputs: Arrays, targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray | None = None
    ) -> np.ndarray:
        """Computes scores of rows of which only a coalition's values are kept.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output indices, `[B, T]`.
          coalitions: Members of each coalition, `[C, M]` bool, the same for every row.
          base: The background row that replaces the other players, `[C]`; None: the mean over all R rows.
        Returns:
          `[B, C, T]` float64; `blocks` cuts rows so that this fits into memory.
        Cost: C · R model evaluations per row, C with `base`; memory O(device_batch_size) besides the result.
        """
        scores = np.zeros((len(targets), len(coalitions), targets.shape[1]))
        if not scores.size:
            return scores
        every = self.reference.rows if base is None else 1
        masked = self.model.masked(self.reference)
        if masked is None:
            call = self._here(inputs, targets, coalitions, base, scores)
        else:
            call = self._on_device(masked, inputs, targets, coalitions, base, scores)
        in_flight(list(self._cells(len(targets), len(coalitions), every)), call)
        return scores / every

    def empty_coalition(self, inputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """v(∅): scores with every feature replaced, `[B, T]` float32, which are the base values.

        Cost: nothing, or R evaluations per row if some values are held, so that rows differ.
        """
        if not self.players.holds:
            return self.reference.base_values[targets]
        empty = self.scores(inputs, targets, np.zeros((1, self.players.count), bool))
        return empty[:, 0].astype(np.float32)

    def still(self, inputs: Arrays) -> np.ndarray | None:
        """Marks the players that change nothing, `[B, M]`; None if no row has one. See `still_players`.

        Args:
          inputs: Model inputs, `[B, *shape]`.
        """
        return still_players(inputs, self.reference)

    def blocks(self, targets: np.ndarray, coalitions: int) -> Iterator[tuple[np.ndarray, slice]]:
        """Blocks of rows and targets whose scores stay within a few tens of megabytes.

        Args:
          targets: Output index, `[B, T]`.
          coalitions: Number of coalitions C whose scores are held at a time.
        Yields:
          Row indices and a slice of the targets. All targets of a row stay together if they fit.
        """
        rows, width = targets.shape
        values = max(1, _HOST_BYTES // (8 * max(1, coalitions)))
        columns = min(width, values)
        at_once = max(1, values // max(1, columns))
        for start in range(0, rows, at_once):
            for first in range(0, width, max(1, columns)):
                yield np.arange(start, min(start + at_once, rows)), slice(first, first + columns)

    def _cells(self, rows: int, coalitions: int, every: int) -> Iterator[_Cell]:
        """Cuts the work into cells of one device call, or of several if the background is too large."""
        pairs = max(1, self.device_batch_size // every)
        # As in run_calls: at least a few calls, so that several are in flight.
        even = max(-(-rows * coalitions // _LEAST_CALLS), -(-_LEAST_EVALUATIONS // every))
        pairs = min(pairs, even)
        height = min(rows, ROWS_A_CALL, pairs)
        width = max(1, pairs // height)
        for row in range(0, rows, height):
            for coalition in range(0, coalitions, width):
                yield (
                    slice(row, min(row + height, rows)),
                    slice(coalition, min(coalition + width, coalitions)),
                )

    def _bases(self, base: np.ndarray | None, coalitions: slice) -> Iterator[np.ndarray]:
        """Background rows of a cell's coalitions by device call, `[C′, 1]` or `[1, R′]`."""
        if base is not None:
            yield base[coalitions, None]
            return
        for first in range(0, self.reference.rows, self.device_batch_size):
            yield np.arange(first, min(first + self.device_batch_size, self.reference.rows))[None]

    def _on_device(
        self,
        masked: MaskedScores,
        inputs: Arrays,
        targets: np.ndarray,
        coalitions: np.ndarray,
        base: np.ndarray | None,
        total: np.ndarray,
    ) -> Any:
        def call(cell: _Cell) -> None:
            rows, some = cell
            part = {name: value[rows] for name, value in inputs.items()}
            for others in self._bases(base, some):
                total[cell] += masked.sums(part, targets[rows], coalitions[some], others)

        return call

    def _here(
        self,
        inputs: Arrays,
        targets: np.ndarray,
        coalitions: np.ndarray,
        base: np.ndarray | None,
        total: np.ndarray,
    ) -> Any:
        def call(cell: _Cell) -> None:
            rows, some = cell
            part = {name: value[rows] for name, value in inputs.items()}
            shape = (len(targets[rows]), len(coalitions[some]))
            for others in self._bases(base, some):
                scores, _ = self.model.evaluate(self._replaced(part, coalitions[some], others))
                with np.errstate(invalid="ignore"):  # ∞ − ∞: the row is rejected in the end
                    by_pair = scores.reshape(*shape, -1, scores.shape[1]).sum(axis=2, dtype=np.float64)
                    total[cell] += np.take_along_axis(by_pair, targets[rows][:, None], axis=2)

        return call

    def _replaced(self, inputs: Arrays, kept: np.ndarray, base: np.ndarray) -> dict[str, np.ndarray]:
        """Builds rows whose values that are not kept come from background rows, `[B · C · R′, *shape]`."""
        masks = self.players.masks(kept)
        others = take(self.reference.inputs, base.reshape(-1))
        replaced = {}
        for name, value in inputs.items():
            shape = value.shape[1:]
            mask = masks[name].reshape(1, len(kept), 1, *shape)
            other = others[name].reshape(1, *base.shape, *shape)
            replaced[name] = np.where(mask, value[:, None, None], other).reshape(-1, *shape)
        return replaced


def base_values(
    model: ScoredModel, inputs: Arrays, reference: Reference, targets: np.ndarray, device_batch_size: int
) -> np.ndarray:
    """Scores at the baseline, `[B, T]`: each row's own if inputs are held, else those of the background.

    Args:
      model: The model.
      inputs: Model inputs, `[B, *shape]`.
      reference: The background.
      targets: Output index, `[B, T]`.
      device_batch_size: Most model evaluations in one device call.
    Cost: nothing, or R evaluations per row if some inputs are held.
    """
    if not reference.players.holds:
        return reference.base_values[targets]
    return Game(model, reference, device_batch_size).empty_coalition(inputs, targets)
