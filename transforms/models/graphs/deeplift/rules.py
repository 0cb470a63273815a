"""DeepLIFT's rules: what each kind of op makes of the multipliers behind it. Called while tracing.

A multiplier m of a tensor y says how much the score gains for a unit of y between a row and a background
row: Σ m Δy is the score's difference, and every rule keeps that sum, Σ m_in Δin = Σ m_out Δout.
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

#: Rounding of a value and of its curve's start, as a share of them: a few units of float32's last place.
_ROUNDING = 4e-7
#: Nodes of a panel of a local integral, and the most panels: from one on they are doubled.
_NODES, _MOST_PANELS = 8, 64
#: What a local integral's sum may be off, as a share of what it sums.
_EXACT = 2e-6
#: An operand this far below a softmax's largest one has no part in it.
_SOFTMAX_RANGE = 40.0
#: Operands of a softmax that all move this far together are moved by a mask.
_SOFTMAX_FAR = 1e4

Multipliers = dict[int, Any]


def passing(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """The operand's values are the output's."""
    if step.op.type == "IdentityN":
        return {place: given[step.op.outputs[place].name] for place in step.operands}
    (m,), (operand,) = given.values(), step.operands.values()
    return {0: walk.like(m, operand)}


def sums(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Every term gets the same multiplier; the second term of a difference gets it negated."""
    (m,) = given.values()
    multipliers = {}
    for place, operand in step.operands.items():
        part = walk.sum_to(m, step.outputs[0], operand)
        multipliers[place] = -part if step.op.type == "Sub" and place == 1 else part
    return multipliers


def linear(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """TensorFlow's own gradient, which is the same everywhere; the commonest ops by hand, in fewer steps."""
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
    """The Shapley value of two players: of ab it is (a_x + a_r)/2 · Δb to b, the gradient half way.

    That gradient is right for any function of the second degree.
    """
    op = step.op
    if op.type == "Mul" and walk.alike(op.outputs[0], *step.operands.values()):
        m = walk.flat(next(iter(given.values())), op.outputs[0])
        halves = [0.5 * tf.expand_dims(sum(walk.pair(tensor)), 1) for tensor in op.inputs]
        return {place: walk.like(m * halves[1 - place], tensor) for place, tensor in step.operands.items()}
    operands = {place: 0.5 * sum(walk.ends(tensor)) for place, tensor in step.operands.items()}
    return walk.gradients(step, operands, given)


def quotients(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """a/b as the product of a and 1/b, and 1/b by its difference quotient −1/(b_x b_r)."""
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
    """The rescale rule, Δout/Δin; where rounding drowns it, the mean of the derivatives at the two ends.

    The quotient is known up to the rounding of the ends; within that the derivative is as exact, and free
    of noise, and past that the quotient is right, a kink lying between the ends or not.
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
    if step.op.type == "Relu":  # both differences are of the same two numbers, or of one and nothing
        q = tf.where(same, slope, quotient)
    else:
        size = tf.abs(f_x) + tf.abs(f_r) + tf.abs(slope) * (tf.abs(x) + tf.abs(r))
        noise = _ROUNDING * size / tf.abs(width)
        # The quotient itself, to the last digit, where the derivatives are of no use: in a layer norm of few
        # values, which cancel, multipliers are so large that a bound on the rounding is felt in the sum.
        q = tf.where(same, slope, tf.where(tf.abs(slope - quotient) <= noise, slope, quotient))
    q, flat = tf.expand_dims(q, 1), walk.flat(m, end)
    multiplied = tf.math.multiply_no_nan(q, flat) if walk.guarded else q * flat
    return {0: walk.like(multiplied, start)}


def largest(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Δout by way of the larger of the two outputs: from it to the row's at the row's largest, and so on.

    DeepLIFT's cross-max. With y_r first rising to max(y_x, y_r) where the row's largest operand is and then
    falling to y_x where the background's is, nothing is attributed to an operand that does not differ.
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
    """The choice c a + (1 − c) b, with c in {0, 1}, is two products, each between its two players.

    Where the choice is the same at both ends, what is not chosen counts for nothing; where it is another and
    what was not chosen is not a number, the choice bears the whole difference.
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
    """A step of a − b: the rescale rule on that difference."""
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
    """The disjunction of a and b, 1 − (1 − a)(1 − b), is a product."""
    (m,) = given.values()
    halves = [0.5 * sum(walk.ends(tensor)) for tensor in step.op.inputs]
    return {
        place: walk.sum_to(m * (1.0 - halves[1 - place]), step.outputs[0], tensor)
        for place, tensor in step.operands.items()
    }


def integrals(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """The op's gradient averaged along the straight line between the two ends, panel by panel.

    Panels are doubled until the sum is exact, for all pairs of a call.
    """
    (m,) = given.values()
    ends = {place: walk.ends(tensor) for place, tensor in step.operands.items()}
    whole = ends
    if step.op.type == "Softmax":
        # What a mask takes away would need panels without end, and rounding would leave nothing of it.
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
            at = (tf.cast(node // _NODES, tf.float32) + inside) / tf.cast(panels, tf.float32)
            weight = tf.gather(tf.constant(weights), node % _NODES) / tf.cast(panels, tf.float32)
            points = {place: starts[place] + at * apart[place] for place in places}
            found = walk.gradients(step, points, {name: m})
            return (node + 1, *[t + weight * found[k] for t, k in zip(total, places, strict=True)])

        state = (tf.constant(0), *[tf.zeros_like(apart[place]) for place in places])
        return list(
            tf.while_loop(lambda node, *_: node < _NODES * panels, add, state, parallel_iterations=1)[1:]
        )

    def off(found: list[Any]) -> Any:
        terms = [value * apart[place] for value, place in zip(found, places, strict=True)]
        tensors = [step.operands[place] for place in places]
        total = sum(walk.per_pair(term, t) for term, t in zip(terms, tensors, strict=True))
        size = sum(walk.per_pair(tf.abs(term), t) for term, t in zip(terms, tensors, strict=True))
        return tf.reduce_any(tf.abs(total - wanted) > _EXACT * (size + tf.abs(wanted)))

    def more(panels: Any, again: Any, *_: Any) -> Any:
        return tf.logical_and(again, panels <= _MOST_PANELS)

    def refine(panels: Any, again: Any, *_: Any) -> tuple[Any, ...]:
        found = mean(panels)
        return (2 * panels, off(found), *found)

    begin = (tf.constant(1), tf.constant(True), *[tf.zeros_like(apart[place]) for place in places])
    found = tf.while_loop(more, refine, begin, parallel_iterations=1)[2:]
    result = dict(zip(places, found, strict=True))
    if step.op.type != "Softmax":
        return result
    return {0: _from_range(result[0], apart[0], *whole[0])}


def orders(walk: Walk, step: Step, given: Mapping[str, Any]) -> Multipliers:
    """Each sorted operand gets the multipliers of the ranks that it holds along the straight line.

    Between two ends an operand's rank changes where it crosses another, once for each at most: what it gets
    is the mean of the multipliers of its ranks, by the shares of the line that it holds them. That is the
    local integral, exactly.
    """
    (m,), (operand,) = given.values(), step.operands.values()
    x, r = walk.ends(operand)
    size = x.shape[-1]
    m = tf.concat([m, tf.zeros_like(x)[..., m.shape[-1] :]], axis=-1)
    # [..., i, j]: how far the other, j, is above i, at the two ends; of equals, the first is above.
    start, end = (v[..., tf.newaxis, :] - v[..., :, tf.newaxis] for v in (r, x))
    first = tf.linalg.band_part(tf.ones([size, size], tf.bool), -1, 0)
    above_r, above_x = (tf.where(tf.equal(v, 0), first, v > 0) for v in (start, end))
    first_rank = tf.reduce_sum(tf.cast(above_r, tf.int32), axis=-1, keepdims=True) - 1  # not counting itself
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
    """A softmax's operand at both ends, without what has no part in it.

    A mask pushes what it takes away to −10⁹, and everything where it takes all.
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
    """Multipliers of a softmax's whole operand from those of the part of it that was walked along."""
    apart = x - r
    scaled = tf.where(near == apart, m, m * tf.math.divide_no_nan(near, apart))
    # Where a mask takes all, what it had already taken comes back as one of equals: by the others' doing.
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
