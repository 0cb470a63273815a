"""LIME for tabular data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, predict, take
from transforms.methods.masking.game import Game
from transforms.methods.masking.unchanged_players import at_zero
from transforms.methods.sampling import sample_rounds
from transforms.models.reference import Arrays, Reference
from transforms.numerics.random import row_keys, stream, uniforms

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel
    from transforms.models.players import Players

#: Name of the random stream of the background rows; the stream of the kept players has no name.
_BASES = 1 << 20
#: Most players times samples of the regression, which holds a few arrays of 8 bytes for each.
_MOST_ENTRIES = 1 << 26


@dataclass(frozen=True)
class Lime(AttributionMethod):
    """Attributes the score by the slopes of a linear model, fitted to masked copies of the row.

    A sample z of zeros and ones keeps the row's value if z_i = 1, and takes all other values together from a
    background row drawn for the sample. φ are the coefficients of the least-squares regression of the score
    on z, with an intercept and the weights exp(−d² / kernel_width²), where d = √(number of zeros) is the
    distance to the row. The first sample is the row; samples come in pairs z and 1 − z with one background
    row, and are the same for all rows, so that one regression serves them all.

    `fit` says for each row and target how linear the expected score of the samples is: the share of its
    weighted variance that the regression explains, without the variance due to the draw of the background
    row. 1: the slopes explain the row fully; 0: they explain nothing, because features interact or because
    the slopes are only noise. Interaction is measured without that noise, in the sum of a pair's two scores,
    which is F(x) + F(x′) if no features interact; a quarter of the pairs are repeated with a second
    background row. Interactions of three features count in part only, so that the fit is up to a tenth too
    high if they matter.

    The lime package differs: it cuts numbers into quartiles and draws replacements one by one from the
    frequencies and a normal distribution of the training data. Replacements from a background row need no
    bins, occur together as in the data, and suit strings, integers and groups alike. The package's kernel is
    the root of the paper's, which is used here. Its ridge penalty and its choice of ten features are left
    out, since they distort the coefficients: here a linear model gives (x − mean)·w.

    Args:
      n_samples: Samples for each row, the row itself included; an odd number is reduced by one, for pairs.
      kernel_width: Distance at which a sample's weight is 1/e; auto: 0.75 · √M.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        given fresh samples, up to ten times `n_samples`.
      standard_error: Write a standard error beside every value: the sandwich of the regression, with pairs as
        clusters whose errors need not be alike.
    Cost: `n_samples` model evaluations per row, and n_samples · M multiplications; rows above the tolerance
    cost more; memory O(device_batch_size) besides n_samples · M numbers and some tens of MB of scores.
    Reference: Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938, eq. 1 and algorithm 1; for the errors
    Bell and McCaffrey 2002, "Bias reduction in standard errors for linear regression with multi-stage
    samples", Survey Methodology 28 (2), §3.
    """

    name: ClassVar[str] = "lime"
    cap: ClassVar[str] = "n_samples"
    summary: ClassVar[str] = "slopes of a linear model fitted to the score around the row, with its fit"
    when: ClassVar[str] = (
        "any model, where a local linear picture is asked for and its fit must be shown; no sums"
    )
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = False
    local_fit: ClassVar[bool] = True

    n_samples: Annotated[int, Field(ge=20, le=1_000_000)] = 5000
    kernel_width: Literal["auto"] | Annotated[float, Field(ge=1e-3, le=1e6)] = "auto"
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    standard_error: bool = False

    def check(self, players: Players) -> None:
        """Refuses a number of samples that is too small for a regression under the kernel, or too large.

        Raises:
          UserError: There are too few samples, or too many for the memory.
        """
        count = players.count
        if self.n_samples * count > _MOST_ENTRIES:
            raise UserError(
                f"a regression of {self.n_samples:,} samples on {count:,} features does not fit into memory",
                "method.n_samples",
                "take fewer, or put features into input.groups",
            )
        # Kish's effective sample size, from the moments of the weight of a random sample.
        of_one = np.exp(-1 / self._width(count) ** 2)
        share = ((1 + of_one) ** 2 / (2 * (1 + of_one**2))) ** count
        # A pair counts once: both of its samples give the same information about each feature.
        if self.n_samples * share < 4 * (count + 1):
            raise UserError(
                f"{self.n_samples} samples under a kernel of width {self._width(count):.3g} count as "
                f"{self.n_samples * share:.0f}, and {count} features need {4 * (count + 1)}",
                "method.n_samples",
                "take more samples or a wider kernel, or put features into input.groups",
            )

    def held_bytes(self, players: int) -> int:
        """Bytes of the surrogate: matrices of the samples' size (more with errors), and square ones."""
        matrices = 5 if not self.standard_error and self.tolerance is None else 11
        return matrices * 8 * self.n_samples * players + 5 * 8 * players**2

    def _width(self, players: int) -> float:
        return 0.75 * float(np.sqrt(players)) if self.kernel_width == "auto" else self.kernel_width

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """`n_samples`, whatever the background; rows above the tolerance cost more."""
        return self.n_samples // 2 * 2

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Samples and fits; see `AttributionMethod.attribute`."""
        game = Game(model, reference, device_batch_size)
        count = game.players.count
        prediction, output = predict(model, inputs, targets, device_batch_size)
        squares = self.standard_error or self.tolerance is not None
        unmoved = game.still(inputs)

        def alone(rows: np.ndarray, columns: slice) -> np.ndarray:
            """Scores of the background rows, `[B, T, R]`, with held values taken from the row."""
            chosen = targets[rows, columns]
            if not game.players.holds:
                return reference.scores.T[chosen]
            empty = np.zeros((reference.rows, count), bool)
            worths = game.scores(take(inputs, rows), chosen, empty, np.arange(reference.rows))
            return worths.swapaxes(1, 2)

        def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            kept, base = samples(reference.seed, self.n_samples // 2, count, reference.rows, number)
            width = self._width(count)
            surrogate = Surrogate(kept, kernel(kept, width))
            slopes = np.empty((len(rows), targets.shape[1], count))
            variances = np.zeros_like(slopes)
            fit = np.empty((len(rows), targets.shape[1]))
            for block, columns in game.blocks(targets[rows], len(kept)):
                some = rows[block]
                scores = game.scores(take(inputs, some), targets[some, columns], kept, base)
                scores = np.ascontiguousarray(scores.swapaxes(1, 2))
                still = None if unmoved is None else unmoved[some]
                together = None
                if reference.rows > 1:  # with one background row the expected score is the score
                    ends = prediction[some, columns, None] + alone(some, columns)[..., base[::2]]
                    together = weight_of_pairs(width) * acting_together(scores, ends)
                slopes[block, columns], fit[block, columns] = surrogate.fitted(scores, still, together)
                if squares:
                    square = surrogate.variances(scores)
                    moving = square if still is None else np.where(still[:, None], 0, square)
                    variances[block, columns] = moving
            # A row with several rounds is given the mean of their fits as it is of their slopes.
            return {"players": slopes, "fit": fit}, {"players": variances, "fit": np.zeros_like(fit)}

        means, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance)
        values = game.players.to_inputs(means["players"])
        error = game.players.to_inputs(errors["players"]) if self.standard_error else None
        base_value = reference.base_values[targets]
        return Attribution(values, prediction, output, base_value, None, error, limited, means["fit"])


def samples(
    seed: int, pairs: int, players: int, background_rows: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the players that each sample keeps, and the background row that replaces the others.

    Args:
      seed: Seed of the run.
      pairs: Number of pairs, half of the samples.
      players: M.
      background_rows: R.
      number: Number of the round; samples of different rounds are independent.
    Returns:
      The kept players, `[2 · pairs, M]` bool: the two of a pair one after the other, first all and none; and
      the background row of each sample, `[2 · pairs]`, the same for both of a pair.
    """
    keys = stream(row_keys(seed, np.zeros(1, np.int64)), number)
    one = uniforms(keys, 0, pairs * players).reshape(pairs, players) < 0.5
    one[0] = True
    again = repeated(pairs)
    one[pairs - again :] = one[1 : 1 + again]
    base = (uniforms(stream(keys, _BASES), 0, pairs)[:, 0] * background_rows).astype(np.int64)
    return np.stack([one, ~one], axis=1).reshape(2 * pairs, players), np.repeat(base, 2)


def repeated(pairs: int) -> int:
    """The number of last pairs that repeat the first pairs' players with another background row."""
    return pairs // 4


def acting_together(scores: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Variance of the expected score that is due to interactions, over equally likely samples.

    Without interactions the sum of a pair's scores is F(x) + F(x′), for any background row. The deviation
    from this varies with the players that are kept, by their interactions, and with the background row. The
    latter variance is measured by pairs that keep the same players with different background rows, and is
    subtracted.

    Args:
      scores: `[..., C]`, the two of a pair one after the other.
      ends: F(x) + F(x′) for each pair's background row, `[..., C/2]`.
    Returns:
      The variance due to interactions, `[...]`, plus half the standard error of the subtracted part, so that
      few repeated pairs do not hide interactions.
    """
    lacks = scores[..., 0::2] + scores[..., 1::2] - ends
    pairs = lacks.shape[-1]
    again = repeated(pairs)
    if again < 2:
        return lacks.var(axis=-1)
    drawn = np.square(lacks[..., 1 : 1 + again] - lacks[..., pairs - again :]) / 2
    error = drawn.std(axis=-1, ddof=1) / np.sqrt(again)
    together: np.ndarray = np.maximum(lacks.var(axis=-1) - drawn.mean(axis=-1), 0) + error / 2
    return together


def weight_of_pairs(width: float) -> float:
    """The factor that converts the variance of pairwise interactions from equal weights to the kernel's.

    Under equal weights the deviation of a product of two features has variance 1/4. Under the kernel, which
    keeps a feature with probability p, the part of the product that is not linear has variance (p (1 − p))².
    """
    of_one = np.exp(-1 / width**2)
    return float(4 * (of_one / (1 + of_one) ** 2) ** 2)


def kernel(kept: np.ndarray, width: float) -> np.ndarray:
    """The weight of each sample, `[C]`: exp(−d² / width²), where d² is the number of values not kept."""
    weights: np.ndarray = np.exp(-(~kept).sum(axis=1) / width**2)
    return weights


class Surrogate:
    """A weighted least-squares regression on fixed samples for any number of scores, factored once.

    Players that the samples do not distinguish share: the limit of a vanishing ridge penalty.

    Args:
      kept: `[C, M]` bool, the two of a pair one after the other.
      weights: `[C]`, positive.
    """

    def __init__(self, kept: np.ndarray, weights: np.ndarray) -> None:
        self._weights = weights / weights.sum()
        self._mean = self._weights @ kept
        self._centred = kept - self._mean  # equivalent to an intercept
        weighted = self._centred * self._weights[:, None]
        self._gram = self._centred.T @ weighted
        self._inverse = np.linalg.pinv(self._gram, hermitian=True)
        self._solve = self._inverse @ weighted.T

    def _slopes(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores minus their weighted mean, `[..., C]`, and slopes, `[..., M]`."""
        about = scores - (scores @ self._weights)[..., None]
        return about, about @ self._solve.T

    def fitted(
        self, scores: np.ndarray, still: np.ndarray | None = None, together: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slopes `[B, T, M]` and fits `[B, T]` of scores `[B, T, C]`; the fit of a constant score is 1.

        Args:
          scores: Scores of the samples.
          still: Players whose slope is to be 0, `[B, M]`.
          together: Variance of the expected score that is not linear, `[B, T]`; None: the residual variance
            of the scores, so that the fit is their weighted r².
        """
        about, slopes = self._slopes(scores)
        total = np.square(about) @ self._weights
        # A variance within single precision's rounding of a constant does not count.
        constant = total <= np.square(np.finfo(np.float32).eps * np.abs(scores).max(axis=-1))
        taken = 0.0 if together is None else self._chance(about - slopes @ self._centred.T)
        slopes = at_zero(slopes, still, self._inverse)
        explained = ((slopes @ self._gram) * slopes).sum(axis=-1)
        if together is not None:
            explained = np.maximum(explained - taken, 0)
            total = explained + together
        fit = np.divide(explained, total, out=np.ones_like(total), where=~constant & (total > 0))
        return slopes, np.clip(fit, 0, 1)

    def _chance(self, residuals: np.ndarray) -> np.ndarray:
        """Variance that slopes explain by chance, `[...]`: the expectation of that of their errors."""
        weighted = self._centred * self._weights[:, None]
        turned = weighted @ self._inverse
        alone = (weighted * turned).sum(axis=1)
        both = 2 * (weighted[0::2] * turned[1::2]).sum(axis=1)
        chance: np.ndarray = np.square(residuals) @ alone
        return chance + (residuals[..., 0::2] * residuals[..., 1::2]) @ both

    def variances(self, scores: np.ndarray) -> np.ndarray:
        """Squared standard errors of the slopes, `[..., M]`, of scores `[..., C]`."""
        about, slopes = self._slopes(scores)
        residuals = about - slopes @ self._centred.T
        # Σ (a r + a′ r′)² over pairs: the effects of a pair's two residuals on a slope are correlated.
        influence = self._influence
        variances = np.square(residuals) @ np.square(influence).T
        both = residuals[..., 0::2] * residuals[..., 1::2]
        variances += both @ (2 * influence[:, 0::2] * influence[:, 1::2]).T
        return np.maximum(variances, 0)

    @cached_property
    def _influence(self) -> np.ndarray:
        """The influence of each residual on the slopes, `[M, C]`, corrected for its pair's leverage (CR2)."""
        pairs = (len(self._weights) // 2, 2, -1)
        root = np.sqrt(self._weights)[:, None]
        design, solve = (root * self._centred).reshape(pairs), (self._solve.T / root).reshape(pairs)
        taken = design @ solve.swapaxes(1, 2)
        taken += root.reshape(pairs) @ root.reshape(pairs).swapaxes(1, 2)  # the intercept's share
        left, axes = np.linalg.eigh(np.eye(2) - taken)
        back = (axes / np.sqrt(np.maximum(left, 1e-6))[:, None]) @ axes.swapaxes(1, 2)
        return (root * (back @ solve).reshape(len(root), -1)).T
