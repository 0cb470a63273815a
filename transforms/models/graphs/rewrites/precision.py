"""Mixed precision: a traced model whose costly products take operands in half precision.

Half-precision units speed up matrix products and convolutions. The operands of these ops are rounded, and
their results are widened again at once, so that all other ops, sums and attributions stay float32. The first
product after an input stays float32 too, for two reasons: raw values (a year, a distance in metres) would
lose their last digits in half precision, and the affine prefix ends where rounding begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.eager import context

from transforms.errors import UserError
from transforms.models.graphs.rewrites.inline import rebuilt
from transforms.models.graphs.trace import BRANCHES, LOOPS, SHAPE_ONLY, TracedModel

#: Half-precision type by the name of a precision.
HALVES = {"mixed_float16": types_pb2.DT_HALF, "mixed_bfloat16": types_pb2.DT_BFLOAT16}
#: Ops that are lowered, with the name of their output in a function's body.
_PRODUCTS = {
    "BatchMatMul": "output",
    "BatchMatMulV2": "output",
    "Conv2D": "output",
    "Conv3D": "output",
    "DepthwiseConv2dNative": "output",
    "Einsum": "output",
    "MatMul": "product",
}
#: Attributes that name the bodies of branches.
_BRANCHES = ("then_branch", "else_branch", "branches")
_CARRIERS = frozenset({types_pb2.DT_FLOAT, types_pb2.DT_VARIANT})
_numbers = count()


def lowered(traced: TracedModel, precision: str) -> TracedModel:
    """Lowers a model's products to half precision.

    Args:
      traced: A float32 model with inlined calls.
      precision: A key of HALVES.
    Raises:
      UserError: The model has no product that can be lowered.
    """
    definition = traced.graph_def()
    lowering = _Lowering(HALVES[precision], {f.signature.name: f for f in definition.library.function})
    copy = tf.compat.v1.GraphDef()
    copy.versions.CopyFrom(definition.versions)
    copy.node.extend(lowering.nodes(definition.node, set(), inside=False))
    if not lowering.count:
        raise UserError(
            f"{precision} would change nothing: the first layer stays float32, and no other has a float32 "
            "matrix product or convolution",
            "compute.precision",
            "leave it at float32",
        )
    copy.library.CopyFrom(definition.library)
    copy.library.function.extend(lowering.made)
    return rebuilt(traced, copy, [tensor.name for tensor in traced.outputs])


class _Lowering:
    """Rewrites nodes; a product is lowered if another product comes before it.

    Args:
      half: The half-precision type.
      library: Bodies of loops and branches, by name.

    Attributes:
      count: Number of products lowered so far.
      made: Rewritten bodies of loops and branches.
    """

    def __init__(self, half: int, library: Mapping[str, Any]) -> None:
        self._half, self._library = half, library
        self.count = 0
        self.made: list[Any] = []

    def nodes(self, nodes: Iterable[Any], behind: set[str], *, inside: bool) -> list[Any]:
        """Rewrites nodes.

        Args:
          nodes: Nodes in topological order.
          behind: Names of nodes and arguments that come after a product; the method adds the names of further
            such nodes.
          inside: Whether the nodes belong to a function's body, where the outputs of nodes have names.
        """
        lowered: list[Any] = []
        renamed: dict[str, str] = {}
        for node in nodes:
            copy = tf.compat.v1.NodeDef()
            copy.CopyFrom(node)
            copy.input[:] = [_renamed(name, renamed) for name in node.input]
            late = node.op not in SHAPE_ONLY and any(_base(name) in behind for name in node.input)
            if node.op in LOOPS | BRANCHES:
                late |= self._loop(copy, behind)
            if late or node.op in _PRODUCTS:
                behind.add(node.name)
            if late and node.op in _PRODUCTS and node.attr["T"].type == types_pb2.DT_FLOAT:
                lowered += self._product(copy, inside)
                if inside:
                    renamed[f"{node.name}:{_PRODUCTS[node.op]}"] = f"{node.name}:y"
                self.count += 1
            else:
                lowered.append(copy)
        return lowered

    def _product(self, node: Any, inside: bool) -> list[Any]:
        """Nodes for a product between casts; the last cast gives the result and takes the product's name."""
        narrow = tf.compat.v1.NodeDef()
        narrow.CopyFrom(node)
        narrow.name = f"{node.name}/narrow"
        narrow.attr["T"].type = self._half
        narrow.attr.pop("_output_shapes", None)
        made = []
        for place, name in enumerate(node.input):
            if name.startswith("^"):
                continue
            cast = self._cast(f"{node.name}/narrow_{place}", name, types_pb2.DT_FLOAT, self._half)
            narrow.input[place] = f"{cast.name}:y:0" if inside else cast.name
            made.append(cast)
        result = f"{narrow.name}:{_PRODUCTS[node.op]}:0" if inside else narrow.name
        return [*made, narrow, self._cast(node.name, result, self._half, types_pb2.DT_FLOAT)]

    @staticmethod
    def _cast(name: str, operand: str, source: int, target: int) -> Any:
        cast = tf.compat.v1.NodeDef(name=name, op="Cast", input=[operand])
        cast.attr["SrcT"].type, cast.attr["DstT"].type = source, target
        cast.attr["Truncate"].b = False
        return cast

    def _loop(self, node: Any, behind: set[str]) -> bool:
        """Rewrites the bodies of a loop or branch; returns True if its results come after a product."""
        late = [_base(name) in behind for name in node.input if not name.startswith("^")]
        if node.op in LOOPS:
            return self._body(node.attr["body"].func, late, carried=True)
        changed = False
        for key in _BRANCHES:
            if key not in node.attr:
                continue
            value = node.attr[key]
            for function in [value.func] if value.HasField("func") else value.list.func:
                changed |= self._body(function, late[1:], carried=False)
        return changed

    def _body(self, function: Any, late: list[bool], *, carried: bool) -> bool:
        body = self._library[function.name]
        arguments = [argument.name for argument in body.signature.input_arg]
        behind = {name for name, flag in zip(arguments, late, strict=True) if flag}
        if carried:
            # A value that one step hands to the next has gone through the step's products.
            results = [body.ret[argument.name] for argument in body.signature.output_arg]
            kept = {node.name: node.input[0] for node in body.node_def if node.op == "Identity"}
            for argument, result in zip(body.signature.input_arg, results, strict=True):
                while _base(result) in kept:
                    result = kept[_base(result)]
                if _base(result) != argument.name and argument.type in _CARRIERS:
                    behind.add(argument.name)
        copy = type(body)()
        copy.CopyFrom(body)
        before = self.count
        nodes = self.nodes(_ordered(body.node_def), behind, inside=True)
        if self.count > before:
            products = {node.name: _PRODUCTS[node.op] for node in body.node_def if node.op in _PRODUCTS}
            casts = {node.name for node in nodes if node.op == "Cast"}
            del copy.node_def[:]
            copy.node_def.extend(nodes)
            for key, name in body.ret.items():
                if _base(name) in products and _base(name) in casts:
                    copy.ret[key] = f"{_base(name)}:y:0"
            copy.signature.name = f"{body.signature.name}_narrow_{next(_numbers)}"
            self.made.append(copy)
            # Tracing a function registers it with TensorFlow's executor; importing a definition does not.
            context.context().add_function_def(copy)
            function.name = copy.signature.name
        return any(node.op in _PRODUCTS for node in body.node_def)


def _ordered(nodes: Iterable[Any]) -> list[Any]:
    """The nodes of a body in topological order; a body may list them in any order."""
    left = {node.name: node for node in nodes}
    done: dict[str, Any] = {}
    pending = list(reversed(left))
    while pending:
        name = pending[-1]
        needed = [_base(given) for given in left[name].input] if name not in done else []
        missing = [other for other in needed if other in left and other not in done]
        if missing:
            pending.extend(missing)
        else:
            done.setdefault(pending.pop(), left[name])
    return list(done.values())


def _base(name: str) -> str:
    return name.lstrip("^").partition(":")[0]


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    """Replaces `node:output` in `node:output:0` by the output's new name, if it has one."""
    start, _, place = name.rpartition(":")
    return f"{renamed[start]}:{place}" if start in renamed else name
