"""Ops that DeepLIFT's rules know, and the rule for each."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from transforms.models.graphs.trace import STOPS

#: Ops that return their operand unchanged: checks, marks, and stops of the training gradient.
IDENTITIES = STOPS | {
    "CheckNumerics",
    "CheckNumericsV2",
    "Copy",
    "CopyHost",
    "DebugGradientIdentity",
    "DebugIdentity",
    "DebugIdentityV2",
    "DebugIdentityV3",
    "DeepCopy",
    "EnsureShape",
    "Identity",
    "PlaceholderWithDefault",
    "Snapshot",
}
#: Ops that return their operand's values in another shape or type.
PASSING = IDENTITIES | {"Reshape", "Squeeze", "ExpandDims", "Cast"}
#: Element-wise sums.
SUMS = frozenset({"Add", "AddV2", "AddN", "Sub", "BiasAdd", "BiasAddV1"})
#: Places of the operands in which an op is jointly linear, if its other operands are the same for every row;
#: for None, `rule_name` knows the places.
LINEAR: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        (
            "AvgPool", "AvgPool3D", "BatchToSpaceND", "BatchToSpace", "BroadcastTo", "Conv", "Conv2D",
            "Conv3D", "Cumsum", "DepthToSpace", "DepthwiseConv2dNative", "Diag", "DiagPart",
            "ExtractImagePatches", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "GatherNd",
            "GatherV2", "MatrixBandPart", "MatrixDiag", "MatrixDiagPart", "MatrixDiagPartV3",
            "MatrixDiagV3", "Mean", "Neg", "Pad", "ResizeBicubic", "ResizeBilinear",
            "ResizeNearestNeighbor", "ReverseSequence", "ReverseV2", "Roll", "Slice", "SpaceToBatchND",
            "SpaceToBatch", "SpaceToDepth", "SplitV", "StridedSlice", "Sum", "Tile", "Transpose",
            "Unpack", "UnsortedSegmentSum", "SegmentSum",
        ),
        (0,),
    ),
    "ConcatV2": None,
    "Conv2DBackpropInput": (2,),
    "Conv3DBackpropInputV2": (2,),
    "DepthwiseConv2dNativeBackpropInput": (2,),
    "Div": (0,),
    "DivNoNan": (0,),
    "MirrorPad": (0,),
    "Pack": None,
    "PadV2": (0, 2),
    "RealDiv": (0,),
    "ScatterNd": (1,),
    "Select": (1, 2),
    "SelectV2": (1, 2),
    "Split": (1,),
}  # fmt: skip
#: Ops that are linear in each of two operands, or the square of their difference.
PRODUCTS = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Einsum",
        "LogicalAnd",
        "MatMul",
        "Mul",
        "SquaredDifference",
    }
)
QUOTIENTS = frozenset({"Div", "DivNoNan", "RealDiv"})
LARGEST = frozenset({"Any", "Max", "MaxPool", "MaxPoolV2", "MaxPool3D", "Maximum"})
SMALLEST = frozenset({"All", "Min", "Minimum"})
SELECTS = frozenset({"Select", "SelectV2"})
COMPARISONS = frozenset({"Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"})
#: Element-wise functions of one operand.
CURVES = frozenset(
    {
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "ClipByValue", "Cos", "Cosh",
        "Digamma", "Elu", "Erf", "Erfc", "Erfinv", "Exp", "Expm1", "FakeQuantWithMinMaxArgs",
        "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "Floor", "Inv", "IsFinite", "IsInf",
        "IsNan", "LeakyRelu", "Lgamma", "Log", "Log1p", "LogicalNot", "Ndtri", "Reciprocal", "Relu",
        "Relu6", "Rint", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
        "Softsign", "Sqrt", "Square", "Tan", "Tanh",
    }
)  # fmt: skip
#: Smooth ops with a gradient in TensorFlow, but without a closed form in terms of the two ends.
INTEGRALS = frozenset(
    {
        "Atan2",
        "Cumprod",
        "CumulativeLogsumexp",
        "LRN",
        "LogSoftmax",
        "Pow",
        "Prod",
        "Softmax",
        "Xdivy",
        "Xlogy",
    }
)
#: Ops that return the largest values in order; their second output holds indices, which are not numbers.
ORDERS = frozenset({"TopK", "TopKV2"})
#: Further element-wise functions of two operands.
_PAIRS = frozenset(
    {"Mod", "FloorMod", "FloorDiv", "LogicalOr", "LogicalXor", "Pow", "Xdivy", "Xlogy", "Atan2"}
)
#: Ops whose value changes from call to call.
RANDOM = frozenset(
    {
        "Multinomial", "RandomGamma", "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal",
        "RandomUniform", "RandomUniformInt", "StatefulStandardNormalV2", "StatefulUniform",
        "TruncatedNormal",
    }
)  # fmt: skip
#: Ops that work element by element.
ELEMENTWISE = (
    CURVES
    | COMPARISONS
    | SELECTS
    | QUOTIENTS
    | _PAIRS
    | IDENTITIES
    | {
        "Add",
        "AddN",
        "AddV2",
        "BiasAdd",
        "Cast",
        "LogicalAnd",
        "Maximum",
        "Minimum",
        "Mul",
        "Neg",
    }
    | {"SquaredDifference", "Sub"}
)
#: Piecewise linear ops: on either side of the kink the difference quotient is exact to the last digit.
KINKED = frozenset({"Relu", "Relu6", "LeakyRelu"})
_STRAIGHT = SUMS | IDENTITIES | {"Neg", "LogicalNot"}


def cuts_off(op: Any) -> bool:
    """True if a cast rounds so coarsely that the score changes: to integers, or to one-byte floats."""
    if op.type != "Cast":
        return False
    before, after = op.inputs[0].dtype, op.outputs[0].dtype
    if is_float(before):
        return not is_float(after) or bool(after.size < min(before.size, 2))
    return bool(after == tf.bool and before != tf.bool)


def is_float(dtype: Any) -> bool:
    """True for types that hold fractions; TensorFlow's `is_floating` is False for one-byte floats."""
    return bool(dtype.is_floating or dtype.name.startswith("float"))


def bends(op: Any, varying: list[int]) -> bool:
    """True if an element-wise op is not jointly linear in its varying operands."""
    if op.type in _STRAIGHT:
        return False
    if op.type == "Cast":
        return cuts_off(op)
    if op.type == "Mul":
        return len(varying) > 1
    if op.type in QUOTIENTS:
        return varying != [0] or bool(op.outputs[0].dtype.is_integer)
    if op.type in SELECTS:
        return 0 in varying
    return True


def rule_name(op: Any, varying: list[int]) -> str | None:
    """The name of the rule for an op whose operands at these places vary; None if no rule applies."""
    kind = op.type
    if kind in QUOTIENTS | {"Mean"} and op.outputs[0].dtype.is_integer:
        return None  # the op rounds, and is not a function of one element
    if (kind in PASSING and varying == [0] and not cuts_off(op)) or kind == "IdentityN":
        return "passing"
    if kind in SUMS:
        return "sums"
    if kind in LINEAR:
        places = LINEAR[kind]
        last = len(op.inputs) - 1 if kind == "ConcatV2" else -1
        fits = last not in varying if places is None else set(varying) <= set(places)
        if fits and not (kind.startswith("FusedBatchNorm") and op.get_attr("is_training")):
            return "linear"
    if kind in PRODUCTS:
        if len(varying) == 1 and kind not in ("LogicalAnd", "SquaredDifference"):
            return "linear"
        return "products" if len(op.inputs) == 2 else None
    for names, rule in (
        (QUOTIENTS, "quotients"),
        (LARGEST, "largest"),
        (SMALLEST, "largest"),
        (SELECTS, "selects"),
        (COMPARISONS, "comparisons"),
        ({"LogicalOr"}, "either"),
        (INTEGRALS, "integrals"),
        (ORDERS, "orders"),
    ):
        if kind in names:
            return rule
    return None
