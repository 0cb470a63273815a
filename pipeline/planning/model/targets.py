"""Finds the outputs to explain, and describes them in words."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.errors import UserError
from transforms.models.base import ScoredModel, Signature
from transforms.models.categories import Category
from transforms.wording import did_you_mean
from transforms.worker.spec import TargetSpec

Target = bool | int | float | str | None
#: Largest number of classes that an error or a plan names.
_SHOWN = 12


def find_targets(target: Target, column: str | None, model: ScoredModel) -> TargetSpec:
    """Finds the outputs that `model.target` means.

    Args:
      target: An index, a name, "predicted", "all"; None: the target of `column`, or else
        the second of two classes, or else the first output.
      column: The column with each row's output or class.
      model: The model with its score.
    Raises:
      UserError: There is no such output.
    """
    signature = model.signature
    names, classes = signature.target_names, signature.classes
    if column is not None:
        return TargetSpec(mirrored=is_yes_or_no(model))
    if target is None:
        return TargetSpec((1 if len(classes) == 2 else 0,))
    if target == "all" and isinstance(target, str):
        return TargetSpec(tuple(range(len(names))))
    if target == "predicted" and isinstance(target, str):
        if len(signature.outputs) > 1:
            heads = ", ".join(head.name for head in signature.outputs)
            raise UserError(
                f"predicted means the largest output of one head, and the model has several: {heads}",
                "model.target",
                "give a head's name, an output index or all",
            )
        return TargetSpec(predicted=True)
    index = _by_name(target, names, classes)
    if index is not None:
        return TargetSpec((index,))
    if isinstance(target, str) and target in signature.heads:
        return TargetSpec(tuple(signature.heads[target]))
    if isinstance(target, str):
        raise UserError(
            f"{target!r} is not an output of the model",
            "model.target",
            did_you_mean(target, list(dict.fromkeys([*names, *signature.heads, "predicted", "all"])))
            or f"its outputs are {', '.join(names[:_SHOWN])}",
        )
    if isinstance(target, bool | float) or not 0 <= target < len(names):
        known = f", and its classes are {_listed(classes)}" if classes else ""
        outputs = f"{len(names)} output{'s' if len(names) > 1 else ''}"
        raise UserError(
            f"{target} is not an output index: the model has {outputs}{known}",
            "model.target",
            f"give 0 to {len(names) - 1}" if len(names) > 1 else "give 0",
        )
    return TargetSpec((target,))


def is_yes_or_no(model: ScoredModel) -> bool:
    """Whether the model has a single output, the probability of "yes"."""
    signature = model.signature
    if len(signature.outputs) != 1 or signature.outputs[0].width != 1:
        return False
    return model.score_kinds[0] in ("logit", "probability") or model.yes_or_no


def _by_name(target: Target, names: Sequence[str], classes: Sequence[Category]) -> int | None:
    """The index of the class or output with this name; a class's name takes precedence over an index."""
    if target in names and isinstance(target, str):
        return list(names).index(target)
    numeric = not isinstance(target, str)
    for index, name in enumerate(classes):
        if (numeric and not isinstance(name, str) and target == name) or str(target) == str(name):
            return index
    return None


def explained_in_words(
    target: Target, column: str | None, spec: TargetSpec, signature: Signature, score_kinds: Sequence[str]
) -> str:
    """Describes the explained outputs: "class 1 (churned), the margin".

    Args:
      target: `model.target` of the config; see `find_targets`.
      column: `model.target.column` of the config.
      spec: The targets that were found.
      signature: The model's signature, with outputs as in the tables.
      score_kinds: The kind of score that is explained, by head.
    """
    kinds = {f"the {kind}" for kind in score_kinds}
    ends = f", {kinds.pop()}" if len(kinds) == 1 else ""
    names, classes = signature.target_names, signature.classes
    if column is not None:
        whose = "the class" if classes or spec.mirrored else "the output"
        return f"{whose} that {column} names in each row{ends}"
    if spec.predicted:
        return f"{'the predicted class' if classes else 'the largest output'} of each row{ends}"
    indices = spec.indices or ()
    if len(indices) > 1:
        head = f" of {target}" if len(signature.heads) > 1 and target in signature.heads else ""
        return f"all {len(indices)} {'classes' if classes else 'outputs'}{head}{ends}"
    (index,) = indices
    if not classes:
        if len(names) > 1:
            return f"{names[index]} (output {index}){ends}"
        return "the output" if ends == ", the output" else f"{names[index]}{ends}"
    called = "" if names[index].endswith(f"[{index}]") else f" ({names[index]})"
    why = ""
    if isinstance(target, int) and not isinstance(target, bool) and target != index:
        why = f"; {target} is the name of that class, not an index"
    if target is None and len(classes) == 2:
        why = "; set model.target for the other"
    return f"class {index}{called}{ends}{why}"


def _listed(classes: Sequence[Category]) -> str:
    return ", ".join(map(str, classes[:_SHOWN]))
