"""Whether a method can be had of a model, and which others could."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod, Needs
from transforms.models.base import ScoredModel, names_in_words
from transforms.schema import ExampleSchema


class Unfit(UserError):
    """A method that cannot work on a model, or on so many features."""


@contextmanager
def fitting() -> Iterator[None]:
    """Around what asks whether a method fits: that it does not is known for that."""
    try:
        yield
    except UserError as error:
        raise Unfit(error.what, error.where, error.remedy) from error


def check_players(method: AttributionMethod, schema: ExampleSchema) -> None:
    """Makes sure that the method can have so many players; see its `check`, if it has one.

    Raises:
      UserError: It cannot.
    """
    check = getattr(method, "check", None)
    if check is not None:
        check(schema.players)


def check_method(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, schema: ExampleSchema
) -> None:
    """Makes sure that the method can work on the model.

    Args:
      model: The model with its score.
      inputs: Rows that it takes.
      method: The method.
      schema: Of the examples.
    Raises:
      UserError: It cannot; the line names methods that would work.
    """
    check_players(method, schema)
    fixed = [feature.name for feature in schema.features if feature.fixed]
    padded = [feature.name for feature in schema.features if feature.pad is not None]
    if padded and method.name == "smoothgrad":
        raise UserError(
            f"smoothgrad's noise is measured place by place, and lists of {names_in_words(padded)} differ in "
            "length",
            "method.name",
            "use integrated_gradients or expected_gradients",
        )
    if method.needs.gradients:
        try:
            if fixed:
                raise UserError(
                    f"it moves every feature, and {names_in_words(fixed)} is fixed", "input.features"
                )
            model.differentiable({name: value[:1] for name, value in inputs.items()})
        except UserError as error:
            remedy = _remedy(model, error, gradients=False)
            raise UserError(f"{method.name} needs gradients: {error.what}", error.where, remedy) from error
    if method.needs.rescale:
        model.rescaled(inputs)  # names the op that it has no rule for, and the methods that would work
    if method.needs.trees:
        if not model.has_trees:
            what = f"{method.name} needs a tree model, and the model's kind is {model.adapter.kind}"
            raise UserError(what, "method.name", _remedy(model, None, trees=False))
        if schema.groups:
            groups = names_in_words(list(schema.groups))
            raise UserError(
                f"{method.name} plays single features, and {groups} is a group",
                "input.groups",
                "leave it out, or use kernel_shap or exact_shap, which play groups",
            )
        if fixed:
            raise UserError(
                f"{method.name} lets every feature play, and {names_in_words(fixed)} is fixed",
                "input.features",
                "free it, or use kernel_shap or exact_shap, which hold features fixed",
            )
        model.trees()


def _remedy(
    model: ScoredModel, error: UserError | None, *, gradients: bool = True, trees: bool = True
) -> str | None:
    """The methods that do without what is missing; where there are none, what the error itself advises."""

    def fits(needs: Needs) -> bool:
        if needs.gradients and not (gradients and model.has_gradients):
            return False
        return not needs.trees or (trees and model.has_trees)

    others = [name for name, other in METHODS.items() if fits(other.needs)]
    if not others:
        return None if error is None else error.remedy
    what = "methods that need no gradients would work" if not gradients else "methods that would work"
    return f"{what}: {', '.join(others)}"
