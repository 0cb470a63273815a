"""`check_method_contract`: checks a method, also a user's own, in one call without a test framework."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from transforms.methods.base import AttributionMethod, Needs, with_defaults
from transforms.methods.contract.checks import CHECKS
from transforms.methods.contract.small_models import World, worlds_for
from transforms.methods.contract.subject import Broken, MethodContractError, Subject


def check_method_contract(method: AttributionMethod) -> None:
    """Checks that a method keeps its contract, on small models with a closed form.

    The checks, in their order:
      declared: The class has the required members, is a frozen dataclass with defaults, and can be pickled.
      players: The method accepts a few players; its cost and its memory are whole numbers.
      shapes: Values have a row's shape, and every promised field is there.
      standard_errors: Promised standard errors are finite and not negative.
      predictions: Prediction, output and base value agree with the model.
      sums: Σφ = prediction − base_value, where it is promised.
      retries: The same seeds give the same bits.
      batches: Other rows, padding and the size of device calls change no value.
      order: The order of the rows changes no value.
      targets: Explaining other targets too changes no value.
      ignored: A feature that the score ignores gets 0.
      twins: Features that enter the score alike get equal values.
      costs: The method makes no more model evaluations than it states.
      memory: A batch takes no more memory than planned, `held_bytes` included.

    Args:
      method: The method with its keys. If `standard_error` is a key, the checks set it, to know the errors.
    Raises:
      MethodContractError: The method breaks a check; the error names it, the model, and the figures.
    Cost: about fifty calls of a few rows each; TensorFlow is imported for a method that takes gradients.
    """
    method = with_defaults(method)
    for world in _worlds(method):
        check_in_world(method, world)


def _worlds(method: AttributionMethod) -> list[World]:
    needs = getattr(method, "needs", None)
    # A class without valid needs fails the check `declared` in any world.
    return worlds_for(needs if isinstance(needs, Needs) else Needs(gradients=False, background=True))


def check_in_world(method: AttributionMethod, world: World) -> None:
    """Runs all checks of a method in one world.

    Raises:
      MethodContractError: See `check_method_contract`.
    """
    name = str(getattr(method, "name", type(method).__name__))
    if is_dataclass(method) and any(field.name == "standard_error" for field in fields(method)):
        method = replace(method, standard_error=True)
    subject = Subject(method, world)
    for check, run in CHECKS.items():
        try:
            run(subject)
        except Broken as broken:
            raise MethodContractError(name, check, world.name, str(broken)) from broken.__cause__
        except Exception as error:
            what = f"it raises {type(error).__name__}: {error}"
            raise MethodContractError(name, check, world.name, what) from error
