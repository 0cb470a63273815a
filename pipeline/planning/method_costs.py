"""Costs of every method on a config, and the reasons why some methods do not work on its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.config import LoadedConfig
from pipeline.planning.inputs import of_config, probe_request, sources_of
from pipeline.planning.method.requirements import check_method
from pipeline.planning.model.child import in_child
from pipeline.planning.model.opening import ProbeRequest, open_model
from transforms.errors import UserError
from transforms.methods import METHODS


@dataclass(frozen=True)
class Cost:
    """The cost of a method on a config.

    Args:
      method: The method's name.
      evaluations_per_row: Model evaluations per row.
      refused: The reason why the method does not work on the model; None if it works.
    """

    method: str
    evaluations_per_row: int
    refused: str | None


def survey(loaded: LoadedConfig) -> dict[str, Any]:
    """The cost of every method on a config: the config's own method with its keys, others with defaults.

    Args:
      loaded: The config. Without `baseline.kind`, methods that take a background get a sample, and others one
        row.
    Returns:
      `rows`, the input's rows; `players`, the number of players; and `costs`, a `Cost` per method.
    Raises:
      UserError: The config's input, model and columns do not fit each other, or no method can explain the
        model.
    Cost: loads the model in a child process.
    """
    sources, kind = sources_of(loaded), loaded.config.baseline.kind
    try:
        request = probe_request(loaded, sources, kind or "sample")
        players, costs = in_child(_costs if kind else _costs_by_default, request)
    except UserError as error:
        raise of_config(loaded, error) from error
    return {"rows": sources.rows, "players": players, "costs": costs}


def _costs_by_default(request: ProbeRequest) -> tuple[int, list[Cost]]:
    """Costs if methods that need no background get a baseline of one row."""
    return _costs(request, one_row=True)


def _costs(request: ProbeRequest, *, one_row: bool = False) -> tuple[int, list[Cost]]:
    """The number of players, and the cost of each method, on the model of a request."""
    opened = open_model(replace(request, method=None))  # every method is checked below
    schema, model = opened.schema, opened.model
    inputs = schema.assemble(opened.background)
    rows, players = len(next(iter(inputs.values()))), schema.players.count
    costs = []
    for name, kind in METHODS.items():
        own = request.method is not None and request.method.name == name
        method = request.method if own and request.method is not None else kind()
        refused = None
        try:
            check_method(model, inputs, method, schema)
        except UserError as error:
            refused = error.what
        background_rows = 1 if one_row and not method.needs.background else rows
        costs.append(Cost(name, method.evaluations_per_row(background_rows, players), refused))
    return players, costs
