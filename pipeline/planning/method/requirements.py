"""Checks that a method can explain a model, and names those that can."""

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

#: Most values in a row for which all coalitions can be evaluated.
_EXACTLY = 12
_NONE = "no other method works either"


class Unfit(UserError):
    """The error of a method that cannot explain a model, or not with its number of features."""


@contextmanager
def fitting() -> Iterator[None]:
    """Turns a UserError into Unfit: the method is the cause, and another method may work."""
    try:
        yield
    except UserError as error:
        raise Unfit(error.what, error.where, error.remedy) from error


def check_players(method: AttributionMethod, schema: ExampleSchema) -> None:
    """Checks that the method can handle these players; see `AttributionMethod.check`.

    Raises:
      UserError: The method cannot handle the players.
    """
    method.check(schema.players)


def playable(names: Iterable[str], schema: ExampleSchema) -> list[str]:
    """The methods that can handle the players with their defaults, in the given order."""
    fitting_names = []
    for name in names:
        with suppress(UserError):
            check_players(METHODS[name](), schema)
            fitting_names.append(name)
    return fitting_names


def check_method(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, schema: ExampleSchema
) -> None:
    """Checks that the method can explain the model.

    Args:
      model: The model with its score.
      inputs: Rows of model inputs.
      method: The method.
      schema: The schema of the examples.
    Raises:
      UserError: The method cannot explain the model; the error names methods that can.
    """
    check_players(method, schema)
    fixed = [feature.name for feature in schema.features if feature.fixed]
    padded = [feature.name for feature in schema.features if feature.pad is not None]
    if method.needs.gradients:
        try:
            _check_gradients(model, inputs, method, schema)
        except UserError as error:
            problem = f"{method.name} needs gradients: {error.what}"
            remedy = _without_gradients(error, model) if isinstance(error, NoGradients) else None
            remedy = remedy or _working(model, inputs, method, schema, gradients=False) or error.remedy
            raise UserError(problem, error.where, remedy) from error
    if padded and method.needs.entry_spread:
        raise UserError(
            f"{method.name} measures its noise at each position, and lists of {names_in_words(padded)} "
            "differ in length",
            "method.name",
            "use integrated_gradients or expected_gradients",
        )
    if method.needs.rescale:
        try:
            model.rescaled(inputs)  # an error names the op that has no rule
        except UserError as error:
            remedy = error.remedy or _working(model, inputs, method, schema) or _NONE
            raise UserError(error.what, error.where, remedy) from error
    if method.needs.trees:
        if not model.has_trees:
            problem = f"{method.name} needs a tree model, and the model's kind is {model.adapter.kind}"
            raise UserError(problem, "method.name", _working(model, inputs, method, schema) or _NONE)
        masking = " or ".join(playable(("kernel_shap", "exact_shap"), schema) or ["occlusion"])
        if schema.groups:
            groups = names_in_words(list(schema.groups))
            raise UserError(
                f"{method.name} attributes to single features, and {groups} is a group",
                "input.groups",
                f"leave it out, or attribute to groups with {masking}",
            )
        if fixed:
            raise UserError(
                f"{method.name} attributes to every feature, and {names_in_words(fixed)} is fixed",
                "input.features",
                f"leave fixed out, or hold features fixed with {masking}",
            )
        model.trees()


def held_for_method(
    model: ScoredModel,
    background: Mapping[str, np.ndarray],
    method: AttributionMethod,
    schema: ExampleSchema,
    scored: Callable[[ExampleSchema], ScoredModel],
) -> tuple[ExampleSchema, ScoredModel]:
    """Checks that the method can explain the model, after holding inputs that serve only as masks.

    Args:
      model: The model with its score.
      background: Rows of the background, by feature.
      method: The method.
      schema: The schema of the examples.
      scored: Makes the model for a schema that holds more of its inputs.
    Returns:
      The schema and the model, unchanged if nothing has to be held.
    Raises:
      UserError: The method cannot explain the model; the error names methods that can.
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
        raise UserError(f"it changes every feature, and {names_in_words(part)} is fixed", "input.features")
    if part:
        raise UserError(
            f"it changes whole inputs of the model, and {names_in_words(part)} is fixed and part of one",
            "input.features",
        )
    if method.needs.rescale and model.has_gradients:
        return  # the rules also cover ops without gradients
    for name in sorted(model.differentiable({k: v[:1] for k, v in inputs.items()}).counted):
        columns = {schema.attributed_as(f.name): None for f in schema.features if f.input == name}
        if len(columns) > 1:
            raise UserError(
                f"the model only counts the values of its input {name!r}, so gradients cannot tell "
                f"{names_in_words(list(columns))} apart",
                "model",
            )


def evaluating_methods(model: ScoredModel) -> str:
    """Names the methods that need only evaluations of the model."""
    values = sum(math.prod(shape) for shape in model.shapes.values())
    names = [name for name, method in METHODS.items() if not (method.needs.gradients or method.needs.trees)]
    return ", ".join(name for name in names if name != "exact_shap" or values <= _EXACTLY)


def _without_gradients(error: NoGradients, model: ScoredModel) -> str | None:
    """The model's own remedy, with the methods that work without gradients."""
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
    """A remedy that names other methods for the model, first those that promise a sum."""
    working: list[str] = []
    for name, other in sorted(METHODS.items(), key=lambda item: not item[1].additive):
        missing = (other.needs.gradients and not gradients) or (other.needs.trees and not model.has_trees)
        if name != method.name and not missing:
            with suppress(UserError):
                check_method(model, inputs, other(), schema)
                working.append(name)
    which = "methods that would work" if gradients else "methods that need no gradients would work"
    return f"{which}: {', '.join(working)}" if working else None
