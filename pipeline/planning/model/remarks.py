"""What a plan says of a model and a method together, and stops no run for."""

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
    """What a reader should know of how such a model and such a method go together, by key of the config."""
    if not model.has_gradients:
        return ()
    from transforms.models.graphs.cut.remarks import masked_lists, remarks_on_gradients, split_texts
    from transforms.models.graphs.scored import ScoredGraph

    assert isinstance(model, ScoredGraph), "only TensorFlow models have gradients"

    found = []
    asked = {column.name for column in columns.features or () if column.fixed}
    held = [f.name for f in schema.features if f.fixed and f.name not in asked]
    if held:
        found.append(
            f"input.features: {names_in_words(held)} only masks, and has no gradient: held at the row's "
            "value, as with fixed: true, and attributed nothing"
        )
    split = split_texts(model.traced)
    for feature in schema.features:
        if feature.input in split:
            found.append(
                f"input.features: {feature.name} is split into tokens inside the model: one number a text, "
                "not one a token; for that, give the model the ids of the tokens, as a list"
            )
    if method.needs.gradients and not method.needs.rescale:
        cut = model.differentiable(reference.inputs).cut
        instead = evaluating_methods(model)
        lines = remarks_on_gradients(model.traced, cut, additive=method.additive, instead=instead)
        found += [f"method.name: {line}" for line in lines]
    else:
        padded = {feature.input for feature in schema.features if feature.pad is not None}
        masked = [name for name in masked_lists(model.traced, model.scores, model.held) if name not in padded]
        if masked:
            found.append(
                f"method.name: the model masks padding of {names_in_words(masked)}: where a row has padding "
                "and a background row has none, the position gets what stood there, mask and all; "
                "integrated_gradients and expected_gradients hold the row's mask, and give padding exactly 0"
            )
    return tuple(found)
