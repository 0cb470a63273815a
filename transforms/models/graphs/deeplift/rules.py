"""DeepLIFT's rules: each turns the multipliers of an op's outputs into multipliers of its operands.

A multiplier m of a tensor y is the gain of the score per unit of y between a row and a background row:
Σ m Δy is the difference of the scores, and every rule preserves that sum, Σ m_in Δin = Σ m_out Δout.
Names end in _x for values at the row and in _r for values at the background row (the reference). Shapes are
those of `walk.py`: values `[outer, 1, B, inner]` and `[outer, R, 1, inner]`, multipliers `[outer, T, R, B,
inner]`. All rules are called while tracing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from transforms.models.graphs.deeplift.loops import loops
from transforms.models.graphs.deeplift.ops import SMALLEST
from transforms.models.graphs.deeplift.plan import Step
from transforms.models.graphs.deeplift.walk import Rule, Walk
from transforms.numerics.quadrature import gauss_legendre

#: Relative rounding error of a value and its curve's start: a few units in float32's last place.
_ROUNDING = 4e-7
#: Quadrature nodes per panel of a local integral; and the limit for the number of panels, which starts at one
#: and doubles.
_NODES, _MOST_PANELS = 8, 64
#: Largest accepted error of a local integral's sum, relative to the summed magnitudes.
_EXACT = 2e-6
#: An operand of a softmax that is this far below the largest one contributes nothing.
_SOFTMAX_RANGE = 40.0
#: If the largest operand of a softmax moves by more than this, a mask moved all of them.
_SOFTMAX_FAR = 1e4

Multipliers = dict[int, Any]


def passing(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Passes multipliers on unchanged, because operand and output have the same values."""
    if step.op.type == "IdentityN":
        return {place: given[step.op.outputs[place].name] for place in step.operands}
    (m,), (operand,) = given.values(), step.operands.values()
    return {0: walk.like(m, operand)}


def sums(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Gives every term the output's multiplier, negated for the second term of a difference."""
    (m,) = given.values()
    multipliers = {}
    for place, operand in step.operands.items():
        part = walk.sum_to(m, step.outputs[0], operand)
        multipliers[place] = -part if step.op.type == "Sub" and place == 1 else part
    return multipliers


def linear(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Applies TensorFlow's gradient, which is constant for a linear op; common ops are written out here."""
    op = step.op
    (place, operand), *others = step.operands.items()
    if op.type in ("Split", "Unpack"):
        parts = [given[t.name] if t.name in given else walk.zeros(t) for t in op.outputs]
        if op.type == "Unpack":
            return {0: tf.stack(parts, axis=op.get_attr("axis"))}
        return {1: tf.concat(parts, axis=walk.fixed(op.inputs[0]))}
    if not others:
        m = next(iter(given.values()))
        if op.type == "Mul":
            return {place: walk.sum_to(m * walk.number(op.inputs[1 - place]), op.outputs[0], operand)}
        if op.type == "RealDiv":
            return {0: walk.sum_to(m / walk.number(op.inputs[1]), op.outputs[0], operand)}
        if op.type == "MatMul" and place == 0 and not op.get_attr("transpose_a"):
            return {0: tf.matmul(m, walk.number(op.inputs[1]), transpose_b=not op.get_attr("transpose_b"))}
    operands = {place: walk.zeros(tensor) for place, tensor in step.operands.items()}
    return walk.gradients(step, operands, given)


def products(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Splits a product by the Shapley value of two players: in a · b, b contributes (a_x + a_r)/2 · Δb.

    The multiplier is the gradient at the midpoint, which is exact for any function of the second degree.
    """
    op = step.op
    if op.type == "Mul" and walk.alike(op.outputs[0], *step.operands.values()):
        m = walk.flat(next(iter(given.values())), op.outputs[0])
        halves = [0.5 * tf.expand_dims(sum(walk.pair(tensor)), 1) for tensor in op.inputs]
        return {place: walk.like(m * halves[1 - place], tensor) for place, tensor in step.operands.items()}
    operands = {place: 0.5 * sum(walk.ends(tensor)) for place, tensor in step.operands.items()}
    return walk.gradients(step, operands, given)


def quotients(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Treats a/b as the product of a and 1/b; the factor 1/b has the difference quotient −1/(b_x b_r)."""
    (m,) = given.values()
    a, b = step.op.inputs
    (a_x, a_r), (b_x, b_r) = walk.ends(a), walk.ends(b)
    if step.op.type == "DivNoNan":
        v_x, v_r = (tf.math.divide_no_nan(1.0, value) for value in (b_x, b_r))
        slope = tf.where(v_x * v_r == 0, tf.math.divide_no_nan(v_x - v_r, b_x - b_r), -v_x * v_r)
    else:
        v_x, v_r = 1.0 / b_x, 1.0 / b_r
        slope = -v_x * v_r
    full = {0: m * 0.5 * (v_x + v_r), 1: m * 0.5 * (a_x + a_r) * slope}
    return {place: walk.sum_to(full[place], step.outputs[0], t) for place, t in step.operands.items()}


def curves(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Applies the rescale rule, Δout/Δin, or the mean derivative of the two ends if rounding dominates.

    The quotient carries the rounding errors of both ends. If the mean derivative agrees with the quotient
    within these errors, the derivative is used, because it is as exact and free of noise. Otherwise the
    quotient is used, which is right with or without a kink between the ends.
    """
    (m,), (start,) = given.values(), step.operands.values()
    end = step.outputs[0]
    x, r = walk.pair(start)
    f_x, f_r = walk.pair(end)
    s_x, s_r = walk.slopes(end)
    apart = x - r
    same = tf.equal(apart, 0)
    slope = 0.5 * (s_x + s_r)
    width = tf.where(same, 1.0, apart)
    quotient = (f_x - f_r) / width
    if step.op.type == "Relu":  # exact: Δout is Δin, 0, or one end's value
        q = tf.where(same, slope, quotient)
    else:
        size = tf.abs(f_x) + tf.abs(f_r) + tf.abs(slope) * (tf.abs(x) + tf.abs(r))
        noise = _ROUNDING * size / tf.abs(width)
        # If derivative and quotient disagree, the quotient is used unchanged. In a layer norm of few values,
        # multipliers are large and cancel, so even clipping the quotient to the noise bound would show in Σφ.
        q = tf.where(same, slope, tf.where(tf.abs(slope - quotient) <= noise, slope, quotient))
    q, flat = tf.expand_dims(q, 1), walk.flat(m, end)
    multiplied = tf.math.multiply_no_nan(q, flat) if walk.guarded else q * flat
    return {0: walk.like(multiplied, start)}


def largest(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Applies DeepLIFT's cross-max rule to the largest (or smallest) of some values.

    The output first moves from y_r up to cross = max(y_x, y_r), which is credited to the row's largest
    operand. It then moves down to y_x, which is credited to the background row's largest operand. For the
    smallest value, cross is the minimum, and the smallest operands get the credit. An operand that does not
    differ gets nothing.
    """
    (m,) = given.values()
    y_x, y_r = walk.ends(step.outputs[0])
    cross = tf.minimum(y_x, y_r) if step.op.type in SMALLEST else tf.maximum(y_x, y_r)
    ends = {place: walk.ends(tensor) for place, tensor in step.operands.items()}
    name = step.outputs[0].name
    at_x = walk.gradients(step, {k: v[0] for k, v in ends.items()}, {name: m * (cross - y_r)})
    at_r = walk.gradients(step, {k: v[1] for k, v in ends.items()}, {name: m * (y_x - cross)})
    return {k: tf.math.divide_no_nan(at_x[k] + at_r[k], x - r) for k, (x, r) in ends.items()}


def selects(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Treats the choice c a + (1 − c) b, with c in {0, 1}, as two products, each split between its factors.

    If both ends choose the same branch, the other branch gets nothing. If the ends choose different branches,
    and a branch that was not chosen is NaN or infinite, the condition c gets the whole difference.
    """
    (m,) = given.values()
    c, a, b = step.op.inputs
    (c_x, c_r), (a_x, a_r), (b_x, b_r) = walk.ends(c), walk.ends(a), walk.ends(b)
    y_x, y_r = walk.ends(step.outputs[0])
    moved = c_x - c_r
    gain = 0.5 * ((a_x + a_r) - (b_x + b_r))
    known = tf.math.is_finite(gain)
    shared = tf.where(known, 0.5, 0.0)
    full = {
        0: tf.where(moved == 0, 0.0, m * tf.where(known, gain, (y_x - y_r) * moved)),
        1: m * tf.where(moved == 0, c_x + tf.zeros_like(shared), shared),
        2: m * tf.where(moved == 0, 1.0 - c_x + tf.zeros_like(shared), shared),
    }
    return {place: walk.sum_to(full[place], step.outputs[0], t) for place, t in step.operands.items()}


def comparisons(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Treats a comparison as a step function of a − b, by the rescale rule on that difference."""
    (m,) = given.values()
    (a_x, a_r), (b_x, b_r) = (walk.ends(tensor) for tensor in step.op.inputs)
    y_x, y_r = walk.ends(step.outputs[0])
    full = m * tf.math.divide_no_nan(y_x - y_r, (a_x - b_x) - (a_r - b_r))
    signs = {0: 1.0, 1: -1.0}
    return {
        place: signs[place] * walk.sum_to(full, step.outputs[0], tensor)
        for place, tensor in step.operands.items()
    }


def either(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Treats the disjunction of a and b, 1 − (1 − a)(1 − b), as a product."""
    (m,) = given.values()
    halves = [0.5 * sum(walk.ends(tensor)) for tensor in step.op.inputs]
    return {
        place: walk.sum_to(m * (1.0 - halves[1 - place]), step.outputs[0], tensor)
        for place, tensor in step.operands.items()
    }


def integrals(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Averages the op's gradient along the straight line between the two ends, panel by panel.

    The number of panels doubles until the sum is exact for all pairs of a call, or reaches `_MOST_PANELS`.
    """
    (m,) = given.values()
    ends = {place: walk.ends(tensor) for place, tensor in step.operands.items()}
    whole = ends
    if step.op.type == "Softmax":
        # Operands that a mask pushes to −10⁹ would need endless panels, and rounding would swamp the rest.
        ends = {0: _within_range(*ends[0])}
    starts = {place: r for place, (_, r) in ends.items()}
    apart = {place: x - r for place, (x, r) in ends.items()}
    name = step.outputs[0].name
    moved = walk.apply(step, {k: x for k, (x, _) in ends.items()}) - walk.apply(step, starts)
    wanted = walk.per_pair(m * moved, step.outputs[0])
    nodes, weights = gauss_legendre(_NODES)
    places = list(ends)

    def mean(panels: Any) -> list[Any]:
        def add(node: Any, *total: Any) -> tuple[Any, ...]:
            inside = tf.gather(tf.constant(nodes), node % _NODES)
            alpha = (tf.cast(node // _NODES, tf.float32) + inside) / tf.cast(panels, tf.float32)
            weight = tf.gather(tf.constant(weights), node % _NODES) / tf.cast(panels, tf.float32)
            points = {place: starts[place] + alpha * apart[place] for place in places}
            gradients = walk.gradients(step, points, {name: m})
            return (node + 1, *[t + weight * gradients[k] for t, k in zip(total, places, strict=True)])

        state = (tf.constant(0), *[tf.zeros_like(apart[place]) for place in places])
        return list(
            tf.while_loop(lambda node, *_: node < _NODES * panels, add, state, parallel_iterations=1)[1:]
        )

    def off(means: list[Any]) -> Any:
        terms = [value * apart[place] for value, place in zip(means, places, strict=True)]
        tensors = [step.operands[place] for place in places]
        total = sum(walk.per_pair(term, t) for term, t in zip(terms, tensors, strict=True))
        size = sum(walk.per_pair(tf.abs(term), t) for term, t in zip(terms, tensors, strict=True))
        return tf.reduce_any(tf.abs(total - wanted) > _EXACT * (size + tf.abs(wanted)))

    def more(panels: Any, again: Any, *_: Any) -> Any:
        return tf.logical_and(again, panels <= _MOST_PANELS)

    def refine(panels: Any, again: Any, *_: Any) -> tuple[Any, ...]:
        means = mean(panels)
        return (2 * panels, off(means), *means)

    begin = (tf.constant(1), tf.constant(True), *[tf.zeros_like(apart[place]) for place in places])
    means = tf.while_loop(more, refine, begin, parallel_iterations=1)[2:]
    result = dict(zip(places, means, strict=True))
    if step.op.type != "Softmax":
        return result
    return {0: _from_range(result[0], apart[0], *whole[0])}


def orders(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Gives each sorted value the multipliers of the ranks that it holds along the straight line.

    Between the two ends, a value's rank changes where the value crosses another one, at most once per other
    value. The value gets the mean of its ranks' multipliers, weighted by the share of the line on which it
    holds each rank. This is the exact local integral. The operand is `[…, size]`, and the multipliers of the
    k largest values are `[…, k]`.
    """
    (m,), (operand,) = given.values(), step.operands.values()
    x, r = walk.ends(operand)
    size = x.shape[-1]
    m = tf.concat([m, tf.zeros_like(x)[..., m.shape[-1] :]], axis=-1)
    # [..., i, j]: how far another value j is above value i at each end; of equal values the first is above.
    start, end = (v[..., tf.newaxis, :] - v[..., :, tf.newaxis] for v in (r, x))
    first = tf.linalg.band_part(tf.ones([size, size], tf.bool), -1, 0)
    above_r, above_x = (tf.where(tf.equal(v, 0), first, v > 0) for v in (start, end))
    # A value counts as above itself: hence − 1. `when` is the share of the line after which j crosses i.
    first_rank = tf.reduce_sum(tf.cast(above_r, tf.int32), axis=-1, keepdims=True) - 1
    turn = tf.cast(above_x, tf.int32) - tf.cast(above_r, tf.int32)
    when = tf.where(tf.equal(turn, 0), 1.0, tf.math.divide_no_nan(start, start - end))
    order = tf.argsort(when, axis=-1)
    when, turn = (tf.gather(v, order, axis=-1, batch_dims=when.shape.rank - 1) for v in (when, turn))
    edge = tf.zeros_like(when[..., :1])
    shares = tf.concat([when, edge + 1.0], -1) - tf.concat([edge, when], -1)
    ranks = tf.concat([first_rank, first_rank + tf.cumsum(turn, axis=-1)], -1)
    ranks = tf.clip_by_value(ranks, 0, size - 1)
    held = tf.gather(m, ranks, axis=-1, batch_dims=m.shape.rank - 1)
    return {0: tf.reduce_sum(shares * held, axis=-1)}


def _within_range(x: Any, r: Any) -> tuple[Any, Any]:
    """A softmax's operands at both ends, with those that contribute nothing limited to `_SOFTMAX_RANGE`.

    A mask pushes operands that it removes to −10⁹; a mask that removes everything pushes all of them.
    """
    top_x, top_r = _tops(x, r)
    far = _far(x, r)
    plain = (x - top_x > -_SOFTMAX_RANGE) & (r - top_r > -_SOFTMAX_RANGE) & ~far
    near_x, near_r = (
        tf.maximum(value - top, -_SOFTMAX_RANGE) + tf.where(far, 0.0, top)
        for value, top in ((x, top_x), (r, top_r))
    )
    return tf.where(plain, x, near_x), tf.where(plain, r, near_r)


def _from_range(m: Any, near: Any, x: Any, r: Any) -> Any:
    """Converts multipliers of a softmax's limited operands (see `_within_range`) to its original operands."""
    apart = x - r
    scaled = tf.where(near == apart, m, m * tf.math.divide_no_nan(near, apart))
    # If a mask removes everything, all operands become equal, so that operands which were already removed
    # come back. Their effect is due to the operands that moved, and is shared among the moved operands.
    moved = _far(x, r) & (apart != 0)
    lost = tf.reduce_sum(tf.where(apart == 0, m * near, 0.0), axis=-1, keepdims=True)
    total = tf.reduce_sum(tf.where(moved, apart, 0.0), axis=-1, keepdims=True)
    return scaled + tf.where(moved, tf.math.divide_no_nan(lost, total), 0.0)


def _tops(x: Any, r: Any) -> tuple[Any, Any]:
    return tf.reduce_max(x, axis=-1, keepdims=True), tf.reduce_max(r, axis=-1, keepdims=True)


def _far(x: Any, r: Any) -> Any:
    top_x, top_r = _tops(x, r)
    return tf.abs(top_x - top_r) > _SOFTMAX_FAR


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        passing, sums, linear, products, quotients, curves, largest, selects, comparisons, either, integrals,
        orders, loops,
    )
}  # fmt: skip
