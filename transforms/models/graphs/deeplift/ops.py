"""Ops that DeepLIFT's rules know, and the rule for each."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from transforms.models.graphs.trace import STOPS

#: The values of the operand as they are: what checks or marks them, or stops the gradient of training.
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
#: The values of the operand in another shape, or as another type that holds them.
PASSING = IDENTITIES | {"Reshape", "Squeeze", "ExpandDims", "Cast"}
#: Sums, element by element.
SUMS = frozenset({"Add", "AddV2", "AddN", "Sub", "BiasAdd", "BiasAddV1"})
#: Linear in these operands together, the others being the same for every row.
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
#: Linear in each of two operands, or a square of their difference.
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
#: Functions of one element at a time.
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
#: Smooth, with a gradient that TensorFlow knows and no closed form of the two ends.
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
#: The largest values in their order; their second output, the places they come from, is not a number.
ORDERS = frozenset({"TopK", "TopKV2"})
#: Of two operands, element by element, beyond the above.
_PAIRS = frozenset(
    {"Mod", "FloorMod", "FloorDiv", "LogicalOr", "LogicalXor", "Pow", "Xdivy", "Xlogy", "Atan2"}
)
#: Their value changes from call to call.
RANDOM = frozenset(
    {
        "Multinomial", "RandomGamma", "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal",
        "RandomUniform", "RandomUniformInt", "StatefulStandardNormalV2", "StatefulUniform",
        "TruncatedNormal",
    }
)  # fmt: skip
#: Element by element, whatever the operands.
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
#: Straight pieces: the quotient of two differences is exact to the last digit on either side of the kink.
KINKED = frozenset({"Relu", "Relu6", "LeakyRelu"})
_STRAIGHT = SUMS | IDENTITIES | {"Neg", "LogicalNot"}


def cuts_off(op: Any) -> bool:
    """Whether a cast rounds to steps that a score feels: to whole numbers, or to floats of a byte."""
    if op.type != "Cast":
        return False
    before, after = op.inputs[0].dtype, op.outputs[0].dtype
    if is_float(before):
        return not is_float(after) or bool(after.size < min(before.size, 2))
    return bool(after == tf.bool and before != tf.bool)


def is_float(dtype: Any) -> bool:
    """Whether a type holds fractions; TensorFlow does not say so of floats of a byte."""
    return bool(dtype.is_floating or dtype.name.startswith("float"))


def bends(op: Any, varying: list[int]) -> bool:
    """Whether an element-wise op bends: it is not a straight line in its varying operands together."""
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
    """The rule for an op whose operands at these places vary; None where there is none."""
    kind = op.type
    if kind in QUOTIENTS | {"Mean"} and op.outputs[0].dtype.is_integer:
        return None  # it rounds, and is not a function of one element
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
