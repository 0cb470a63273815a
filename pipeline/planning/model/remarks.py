"""Warns of combinations of a model and a method that give surprising attributions."""

from __future__ import annotations

from pipeline.planning.method.requirements import evaluating_methods
from transforms.methods.base import AttributionMethod
from transforms.models.base import ScoredModel
from transforms.models.reference import Reference
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.rows.schema import ExampleSchema
from transforms.wording import names_in_words


def remarks(
    model: ScoredModel,
    schema: ExampleSchema,
    reference: Reference,
    columns: ColumnRequest,
    method: AttributionMethod,
) -> tuple[str, ...]:
    """Remarks on the combination of a model and a method; each begins with the config key concerned."""
    if not model.has_gradients:
        return ()
    from transforms.models.graphs.cut.remarks import masked_lists, remarks_on_gradients, split_texts
    from transforms.models.graphs.scored import ScoredGraph

    assert isinstance(model, ScoredGraph), "only TensorFlow models have gradients"

    notes = []
    asked = {column.name for column in columns.features or () if column.fixed}
    held = [f.name for f in schema.features if f.fixed and f.name not in asked]
    if held:
        notes.append(
            f"input.features: {names_in_words(held)} only masks, and has no gradient: it is held at the "
            "row's value, as with fixed: true, and gets no attribution"
        )
    split = split_texts(model.traced)
    for feature in schema.features:
        if feature.input in split:
            notes.append(
                f"input.features: {feature.name} is split into tokens inside the model: one number per text, "
                "not per token; for the latter, give the model lists of token ids"
            )
    if method.needs.gradients and not method.needs.rescale:
        cut = model.differentiable(reference.inputs).cut
        instead = evaluating_methods(model)
        lines = remarks_on_gradients(model.traced, cut, additive=method.additive, instead=instead)
        notes += [f"method.name: {line}" for line in lines]
    else:
        padded = {feature.input for feature in schema.features if feature.pad is not None}
        masked = [name for name in masked_lists(model.traced, model.scores, model.held) if name not in padded]
        if masked:
            notes.append(
                f"method.name: the model masks padding of {names_in_words(masked)}: where a row has padding "
                "and a background row has none, the position gets the effect of the value and its "
                "mask; integrated_gradients and expected_gradients keep the row's mask, and "
                "give padding exactly 0"
            )
    return tuple(notes)
