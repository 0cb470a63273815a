"""Whether a method can be had of a model, and which others could."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np

from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod
from transforms.models.base import MaskInputs, NoGradients, ScoredModel
from transforms.rows.schema import ExampleSchema
from transforms.wording import names_in_words

#: Values of a row up to which every coalition of them can be evaluated.
_EXACTLY = 12
_NONE = "no other method works either"


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
    """Makes sure that the method can have these players; see `AttributionMethod.check`.

    Raises:
      UserError: It cannot.
    """
    method.check(schema.players)


def playable(names: Iterable[str], schema: ExampleSchema) -> list[str]:
    """Of methods, those that can have so many players with their defaults, in the same order."""
    found = []
    for name in names:
        with suppress(UserError):
            check_players(METHODS[name](), schema)
            found.append(name)
    return found


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
    if method.needs.gradients:
        try:
            _check_gradients(model, inputs, method, schema)
        except UserError as error:
            what = f"{method.name} needs gradients: {error.what}"
            remedy = _without_gradients(error, model) if isinstance(error, NoGradients) else None
            remedy = remedy or _working(model, inputs, method, schema, gradients=False) or error.remedy
            raise UserError(what, error.where, remedy) from error
    if padded and method.needs.entry_spread:
        raise UserError(
            f"{method.name}'s noise is measured place by place, and lists of {names_in_words(padded)} "
            "differ in length",
            "method.name",
            "use integrated_gradients or expected_gradients",
        )
    if method.needs.rescale:
        try:
            model.rescaled(inputs)  # names the op that it has no rule for
        except UserError as error:
            remedy = error.remedy or _working(model, inputs, method, schema) or _NONE
            raise UserError(error.what, error.where, remedy) from error
    if method.needs.trees:
        if not model.has_trees:
            what = f"{method.name} needs a tree model, and the model's kind is {model.adapter.kind}"
            raise UserError(what, "method.name", _working(model, inputs, method, schema) or _NONE)
        masking = " or ".join(playable(("kernel_shap", "exact_shap"), schema) or ["occlusion"])
        if schema.groups:
            groups = names_in_words(list(schema.groups))
            raise UserError(
                f"{method.name} plays single features, and {groups} is a group",
                "input.groups",
                f"leave it out, or play groups with {masking}",
            )
        if fixed:
            raise UserError(
                f"{method.name} lets every feature play, and {names_in_words(fixed)} is fixed",
                "input.features",
                f"free it, or hold features fixed with {masking}",
            )
        model.trees()


def fitted(
    model: ScoredModel,
    background: Mapping[str, np.ndarray],
    method: AttributionMethod,
    schema: ExampleSchema,
    scored: Callable[[ExampleSchema], ScoredModel],
) -> tuple[ExampleSchema, ScoredModel]:
    """Makes sure that the method can work on the model, with what only masks held at the row's value.

    Args:
      model: The model with its score.
      background: Rows that it takes, by feature.
      method: The method.
      schema: Of the examples.
      scored: Makes the model for a schema that holds more of its inputs.
    Returns:
      The schema and the model, both as they are where nothing has to be held.
    Raises:
      UserError: It cannot; the line names methods that would work.
    """
    try:
        check_method(model, schema.assemble(background), method, schema)
    except UserError as error:
        masks = error.__cause__.inputs if isinstance(error.__cause__, MaskInputs) else ()
        members = {name for group in schema.groups.values() for name in group}
        held = {feature.name for feature in schema.features if feature.input in masks}
        if not masks or held & members or len(held) == len(schema.features) or method.needs.rescale:
            raise
        schema = schema.holding(masks)
        model = scored(schema)
        check_method(model, schema.assemble(background), method, schema)
    return schema, model


def _check_gradients(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, schema: ExampleSchema
) -> None:
    part = [
        f.name for f in schema.features if f.fixed and (method.needs.rescale or f.input not in schema.held)
    ]
    if part and method.needs.rescale:
        raise UserError(f"it moves every feature, and {names_in_words(part)} is fixed", "input.features")
    if part:
        raise UserError(
            f"it moves a whole input of the model, and {names_in_words(part)} is fixed and a part of one",
            "input.features",
        )
    if method.needs.rescale and model.has_gradients:
        return  # its rules go where gradients do not
    for name in sorted(model.differentiable({k: v[:1] for k, v in inputs.items()}).counted):
        columns = {schema.attributed_as(f.name): None for f in schema.features if f.input == name}
        if len(columns) > 1:
            raise UserError(
                f"the model counts what stands anywhere in its input {name!r}, so that gradients cannot tell "
                f"{names_in_words(list(columns))} apart",
                "model",
            )


def evaluating_methods(model: ScoredModel) -> str:
    """The methods that need only evaluations of such a model, in words."""
    values = sum(math.prod(shape) for shape in model.shapes.values())
    names = [name for name, method in METHODS.items() if not (method.needs.gradients or method.needs.trees)]
    return ", ".join(name for name in names if name != "exact_shap" or values <= _EXACTLY)


def _without_gradients(error: NoGradients, model: ScoredModel) -> str | None:
    """The model's own remedy, and the methods that would do without gradients."""
    others = evaluating_methods(model)
    if not others:
        return error.remedy
    return (
        f"{error.remedy}, or use {others}"
        if error.remedy
        else f"methods that need only evaluations: {others}"
    )


def _working(
    model: ScoredModel,
    inputs: Mapping[str, np.ndarray],
    method: AttributionMethod,
    schema: ExampleSchema,
    *,
    gradients: bool = True,
) -> str | None:
    """The other methods that work on the model, if any, those that promise a sum before those that do not."""
    found: list[str] = []
    for name, other in sorted(METHODS.items(), key=lambda item: not item[1].additive):
        missing = (other.needs.gradients and not gradients) or (other.needs.trees and not model.has_trees)
        if name != method.name and not missing:
            with suppress(UserError):
                check_method(model, inputs, other(), schema)
                found.append(name)
    which = "methods that would work" if gradients else "methods that need no gradients would work"
    return f"{which}: {', '.join(found)}" if found else None
