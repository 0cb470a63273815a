"""Small architectures of every kind, with random weights and rows; for deep_shap's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tests.support.models.models_zoo import scored
from transforms.models.base import ScoredModel

L, ops = keras.layers, keras.ops
Draw = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
Body = Callable[[Any], Any]

ROWS, BACKGROUND = 6, 5


@dataclass(frozen=True)
class Made:
    model: ScoredModel
    rows: dict[str, np.ndarray]
    background: dict[str, np.ndarray]


def made(model: Any, draw: Draw, seed: int, score: str = "auto") -> Made:
    """The model with all of its weights moved at random, and rows drawn for it."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = np.asarray(variable)
        if not np.issubdtype(value.dtype, np.floating):
            continue
        if "variance" in variable.name:
            variable.assign(rng.uniform(0.4, 2.0, value.shape))
        else:
            variable.assign(value + 0.25 * rng.normal(size=value.shape))
    return Made(scored(model, score), draw(rng, ROWS), draw(rng, BACKGROUND))


def normal(*shape: int, scale: float = 1.5) -> tuple[Any, Draw]:
    """A float input "x" and rows of it."""
    return keras.Input(shape, name="x"), lambda rng, rows: {
        "x": (scale * rng.normal(size=(rows, *shape))).astype(np.float32)
    }


def numbers(body: Body, *shape: int, scale: float = 1.5) -> Callable[[], tuple[Any, Draw]]:
    """A model of one float input; its body is followed by a dense layer of two outputs."""

    def build() -> tuple[Any, Draw]:
        inputs, draw = normal(*shape, scale=scale)
        found = body(inputs)
        if len(found.shape) > 2:
            found = L.Flatten()(found)
        return keras.Model(inputs, L.Dense(2)(found)), draw

    return build


def dense(activation: Any) -> Callable[[], tuple[Any, Draw]]:
    return numbers(lambda x: L.Dense(6, activation=activation)(L.Dense(6, activation=activation)(x)), 5)


def image(*layers: Any) -> Callable[[], tuple[Any, Draw]]:
    def body(x: Any) -> Any:
        for layer in layers:
            x = layer()(x) if callable(layer) and not isinstance(layer, keras.Layer) else layer(x)
        return x

    return numbers(body, 7, 6, 2)


def tokens(body: Body, *, mask: bool, length: int = 6) -> Callable[[], tuple[Any, Draw]]:
    """Token sequences of different lengths, padded with 0, through an embedding."""

    def build() -> tuple[Any, Draw]:
        ids = keras.Input((length,), dtype="int64", name="tokens")
        seen = L.Embedding(9, 4, mask_zero=mask, embeddings_initializer="normal")(ids)
        found = body(seen)
        if len(found.shape) > 2:
            found = L.Flatten()(found)

        def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
            drawn = rng.integers(1, 9, (rows, length))
            kept = rng.integers(1, length + 1, (rows, 1))
            return {"tokens": np.where(np.arange(length) < kept, drawn, 0)}

        return keras.Model(ids, L.Dense(2)(found)), draw

    return build


# -- bodies that take more than a line ---------------------------------------------------------------------


def residual(x: Any) -> Any:
    hidden = L.Dense(5, activation="relu")(x)
    return L.Add()([x, L.Dense(5)(L.BatchNormalization()(hidden))])


def gated(x: Any) -> Any:
    return L.Multiply()([L.Dense(6, activation="sigmoid")(x), L.Dense(6, activation="tanh")(x)])


def glu(x: Any) -> Any:
    a, b = ops.split(L.Dense(8)(x), 2, axis=-1)
    return a * ops.sigmoid(b)


def ratio(x: Any) -> Any:
    return L.Dense(4, activation="tanh")(x) / (1.5 + L.Dense(4, activation="sigmoid")(x))


def softmax_gate(x: Any) -> Any:
    return L.Multiply()([L.Dense(5, activation="softmax")(L.Dense(5)(x) * 3.0), x])


def squeeze_excite(x: Any) -> Any:
    hidden = L.Conv2D(4, 3, activation="swish")(x)
    scale = L.Dense(4, activation="sigmoid")(
        L.Dense(2, activation="relu")(L.GlobalAveragePooling2D()(hidden))
    )
    return L.Multiply()([hidden, L.Reshape((1, 1, 4))(scale)])


def inception(x: Any) -> Any:
    return L.Concatenate()(
        [
            L.Conv2D(2, 1, activation="relu")(x),
            L.Conv2D(2, 3, padding="same", activation="relu")(x),
            L.MaxPooling2D(3, strides=1, padding="same")(x),
        ]
    )


def transformer(x: Any) -> Any:
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 3)(x, x))
    return L.LayerNormalization()(x + L.Dense(x.shape[-1])(L.Dense(6, activation="gelu")(x)))


def causal(x: Any) -> Any:
    return L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)


def additive(x: Any) -> Any:
    return L.AdditiveAttention()([L.Dense(3)(x), L.Dense(3)(x), x])


def scaled(x: Any) -> Any:
    return L.Attention(use_scale=True)([L.Dense(3)(x), x])


def grouped_queries(x: Any) -> Any:
    return L.GroupQueryAttention(3, 4, 2)(x, x)


def mixture(x: Any) -> Any:
    gate = L.Dense(3, activation="softmax")(x)
    experts = ops.stack([L.Dense(4, activation="relu")(x) for _ in range(3)], axis=1)
    return ops.einsum("be,bed->bd", gate, experts)


def cross(x: Any) -> Any:
    hidden = x
    for _ in range(2):
        hidden = x * L.Dense(5)(hidden) + hidden
    return hidden


def distances(x: Any) -> Any:
    a, b = L.Dense(4)(x), L.Dense(4, activation="relu")(x)
    return ops.exp(-ops.sum(ops.square(a - b), axis=-1, keepdims=True) / 4.0)


def cosine(x: Any) -> Any:
    a, b = L.UnitNormalization()(L.Dense(4)(x)), L.UnitNormalization()(L.Dense(4, activation="tanh")(x))
    return L.Dot(axes=1)([a, b])


def extremes(x: Any) -> Any:
    a, b = L.Dense(4)(x), L.Dense(4)(x)
    return L.Concatenate()(
        [L.Maximum()([a, b]), L.Minimum()([a, b]), ops.max(a, axis=-1, keepdims=True), ops.min(b, 1, True)]
    )


def chosen(x: Any) -> Any:
    a, b = L.Dense(4)(x), L.Dense(4, activation="tanh")(x)
    return ops.where(a > b, a * 2.0, ops.abs(b) - 1.0)


def logic(x: Any) -> Any:
    yes = ops.logical_or(ops.logical_and(x[:, :2] > 0, x[:, 2:4] > 0), ops.logical_not(x[:, 3:5] > 0.5))
    return ops.cast(yes, "float32") * x[:, :1]


def steps(x: Any) -> Any:
    return L.Concatenate()([ops.floor(x), ops.sign(x), ops.round(2 * x), ops.clip(x, -0.5, 0.5)])


def statistics(x: Any) -> Any:
    return L.Concatenate()(
        [ops.std(x, 1, keepdims=True), ops.var(x, 1, keepdims=True), ops.logsumexp(x, 1, keepdims=True)]
    )


def powers(x: Any) -> Any:
    base = ops.softplus(L.Dense(4)(x)) + 0.2
    return L.Concatenate()(
        [base ** ops.sigmoid(x[:, :4]), ops.sqrt(base), ops.log(base), ops.prod(base, 1, True)]
    )


# -- models of more than one plain input -------------------------------------------------------------------


def twin_towers() -> tuple[Any, Draw]:
    """Two inputs by name through one shared tower, compared."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    tower = keras.Sequential([L.Dense(5, activation="relu"), L.Dense(3, activation="tanh")])
    left, right = tower(a), tower(b)
    outputs = L.Dense(1)(L.Concatenate()([ops.abs(left - right), left * right]))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {name: rng.normal(size=(rows, 4)).astype(np.float32) for name in "ab"}

    return keras.Model({"a": a, "b": b}, outputs), draw


def two_heads() -> tuple[Any, Draw]:
    inputs, draw = normal(5)
    hidden = L.Dense(6, activation="elu")(inputs)
    heads = {"odds": L.Dense(1, activation="sigmoid")(hidden), "classes": L.Dense(3, "softmax")(hidden)}
    return keras.Model(inputs, heads), draw


def listed() -> tuple[Any, Draw]:
    a, b = keras.Input((3,), name="a"), keras.Input((4, 2), name="b")
    seen = L.GlobalMaxPooling1D()(L.Conv1D(4, 2, activation="relu")(b))
    model = keras.Model(
        [a, b], [L.Dense(1)(L.Dense(5, "selu")(L.Concatenate()([a, seen]))), L.Dense(2)(seen)]
    )

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {
            "a": rng.normal(size=(rows, 3)).astype(np.float32),
            "b": rng.normal(size=(rows, 4, 2)).astype(np.float32),
        }

    return model, draw


def nested() -> tuple[Any, Draw]:
    """A model in a model in a model."""
    inputs, draw = normal(5)
    small, wide = keras.Input((6,)), keras.Input((5,))
    inner = keras.Model(small, L.LayerNormalization()(L.Dense(6, activation="gelu")(small)), name="inner")
    hidden = inner(L.Dense(6, activation="relu")(wide))
    block = keras.Model(wide, L.Dense(6, activation="tanh")(hidden), name="block")
    return keras.Model(inputs, L.Dense(2)(L.Add()([block(inputs), L.Dense(6)(inputs)]))), draw


@keras.saving.register_keras_serializable("deep_zoo")
class Subclassed(keras.Model):
    """A subclassed model with a residual and a product."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second, self.last = L.Dense(5, "relu"), L.Dense(5, "sigmoid"), L.Dense(2)
        self.norm = L.LayerNormalization()

    def call(self, x: Any) -> Any:
        return self.last(self.norm(x + self.first(x) * self.second(x)))


def subclassed() -> tuple[Any, Draw]:
    _, draw = normal(5)
    model = Subclassed()
    model(np.zeros((1, 5), np.float32))
    return model, lambda rng, rows: {"input": draw(rng, rows)["x"]}


def categories() -> tuple[Any, Draw]:
    """Every preprocessing layer: strings, ids, hashes, buckets and numbers."""
    carrier = keras.Input((1,), dtype="string", name="carrier")
    airport = keras.Input((1,), dtype="string", name="airport")
    month, day = (keras.Input((1,), dtype="int64", name=name) for name in ("month", "day"))
    age, distance = keras.Input((1,), name="age"), keras.Input((1,), name="distance")
    lookup = L.StringLookup(vocabulary=["AA", "UA", "DL"])(carrier)
    hashed = L.Hashing(6)(airport)
    month_id = L.IntegerLookup(vocabulary=[1, 2, 3, 5, 8])(month)
    parts = [
        L.Flatten()(L.Embedding(5, 3, embeddings_initializer="normal")(lookup)),
        L.Flatten()(L.Embedding(6, 2, embeddings_initializer="normal")(hashed)),
        L.Flatten()(L.Embedding(7, 2, embeddings_initializer="normal")(month_id)),
        L.CategoryEncoding(8, output_mode="one_hot")(day),
        L.CategoryEncoding(4, output_mode="one_hot")(L.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])(age)),
        L.Normalization(mean=[1.0], variance=[4.0])(distance),
    ]
    hidden = L.Dense(8, activation="relu")(L.Concatenate()(parts))
    inputs = [carrier, airport, month, day, age, distance]
    outputs = L.Dense(1, activation="sigmoid")(L.BatchNormalization()(hidden))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {
            "carrier": rng.choice(np.array([b"AA", b"UA", b"DL", b"never seen"], object), (rows, 1)),
            "airport": rng.choice(np.array([b"JFK", b"SFO", b"ATL", b"ORD"], object), (rows, 1)),
            "month": rng.integers(1, 9, (rows, 1)),
            "day": rng.integers(0, 8, (rows, 1)),
            "age": rng.normal(size=(rows, 1)).astype(np.float32),
            "distance": rng.normal(1, 2, (rows, 1)).astype(np.float32),
        }

    return keras.Model(inputs, outputs), draw


def wide_and_deep() -> tuple[Any, Draw]:
    """One-hot ids of a fixed length, an embedding of them, and numbers, multiplied."""
    ids, x = keras.Input((3,), dtype="int64", name="ids"), keras.Input((3,), name="x")
    seen = L.Embedding(6, 3, embeddings_initializer="normal")(ids)
    outputs = L.Dense(1)(L.Flatten()(L.Multiply()([seen, L.Reshape((3, 1))(L.Dense(3, "relu")(x))])))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {"ids": rng.integers(0, 6, (rows, 3)), "x": rng.normal(size=(rows, 3)).astype(np.float32)}

    return keras.Model([ids, x], outputs), draw


def explicit_mask() -> tuple[Any, Draw]:
    """A sequence with its mask as an input of its own."""
    x, seen = keras.Input((4, 3), name="x"), keras.Input((4,), dtype="bool", name="seen")
    outputs = L.Dense(1)(L.GlobalAveragePooling1D()(L.MultiHeadAttention(1, 3)(x, x, key_mask=seen)))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        kept = np.arange(4) < rng.integers(1, 5, (rows, 1))
        return {"x": rng.normal(size=(rows, 4, 3)).astype(np.float32), "seen": kept}

    return keras.Model([x, seen], outputs), draw


def masked_floats() -> tuple[Any, Draw]:
    """Padded series of numbers under a Masking layer."""
    inputs = keras.Input((4, 2), name="x")
    outputs = L.Dense(2)(L.GRU(4)(L.Masking()(inputs)))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        kept = np.arange(4) < rng.integers(1, 5, (rows, 1))
        return {"x": np.where(kept[..., None], rng.normal(size=(rows, 4, 2)), 0).astype(np.float32)}

    return keras.Model(inputs, outputs), draw


ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "softplus", "softsign", "tanh",
    "sigmoid", "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink",
    "exponential", "log_sigmoid", "mish", "sparse_plus", "sparse_sigmoid", "squareplus", "softmax",
    "log_softmax",
)  # fmt: skip

ZOO: dict[str, Callable[[], tuple[Any, Draw]]] = {
    **{f"dense {name}": dense(name) for name in ACTIVATIONS},
    "prelu": numbers(lambda x: L.PReLU()(L.Dense(6)(x)), 5),
    "glu": numbers(glu, 5),
    "batch normalization": numbers(lambda x: L.Dense(4, "relu")(L.BatchNormalization()(L.Dense(5)(x))), 5),
    "layer normalization": numbers(lambda x: L.Dense(4, "relu")(L.LayerNormalization()(L.Dense(5)(x))), 5),
    "group normalization": numbers(
        lambda x: L.GroupNormalization(2)(L.Conv2D(4, 2, activation="relu")(x)), 5, 5, 2
    ),
    "rms normalization": numbers(lambda x: L.RMSNormalization()(L.Dense(5, "tanh")(x)), 5),
    "unit normalization": numbers(lambda x: L.UnitNormalization()(L.Dense(5)(x)), 5),
    "batch normalization 2d": image(
        L.Conv2D(3, 3), L.BatchNormalization(), L.ReLU(), L.GlobalAveragePooling2D()
    ),
    "conv2d max pooling": image(L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(2)),
    "conv2d average pooling": image(
        L.Conv2D(4, 3, strides=2, padding="same", activation="elu"), L.AveragePooling2D(2)
    ),
    "conv2d overlapping max": image(L.Conv2D(2, 2), L.MaxPooling2D(3, strides=1, padding="same"), L.ReLU()),
    "conv2d dilated": image(L.Conv2D(3, 3, dilation_rate=2, activation="relu"), L.GlobalMaxPooling2D()),
    "conv2d transposed": image(
        L.Conv2D(2, 3, activation="relu"), L.Conv2DTranspose(2, 3, strides=2, activation="tanh")
    ),
    "depthwise": image(L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"), L.MaxPooling2D(2)),
    "separable": image(L.SeparableConv2D(4, 3, activation="swish"), L.AveragePooling2D(2, padding="same")),
    "upsampling": image(
        L.Conv2D(2, 3, activation="relu"), L.UpSampling2D(2), L.ZeroPadding2D(1), L.Conv2D(2, 3)
    ),
    "bilinear": image(
        L.Conv2D(2, 3, activation="tanh"), L.UpSampling2D(2, interpolation="bilinear"), L.Cropping2D(1)
    ),
    "adaptive pooling": image(L.Conv2D(2, 2, activation="relu"), L.AdaptiveAveragePooling2D(2)),
    "squeeze and excite": numbers(squeeze_excite, 6, 6, 2),
    "inception": numbers(inception, 5, 5, 2),
    "conv1d causal": numbers(
        lambda x: L.Conv1D(4, 2, dilation_rate=2, padding="causal", activation="relu")(x), 6, 2
    ),
    "conv1d max pooling": numbers(lambda x: L.MaxPooling1D(2)(L.Conv1D(4, 3, activation="relu")(x)), 8, 2),
    "conv1d average pooling": numbers(
        lambda x: L.AveragePooling1D(2)(L.SeparableConv1D(4, 3, activation="relu")(x)), 8, 2
    ),
    "conv1d transposed": numbers(lambda x: L.Conv1DTranspose(3, 2, strides=2, activation="gelu")(x), 4, 2),
    "depthwise 1d": numbers(lambda x: L.DepthwiseConv1D(2, activation="relu")(x), 6, 3),
    "conv3d max pooling": numbers(
        lambda x: L.MaxPooling3D(2)(L.Conv3D(2, 2, activation="relu")(x)), 4, 4, 4, 1
    ),
    "conv3d average pooling": numbers(
        lambda x: L.AveragePooling3D(2)(L.Conv3D(2, 2, activation="tanh")(x)), 4, 4, 4, 1
    ),
    "conv3d transposed": numbers(
        lambda x: L.GlobalMaxPooling3D()(L.Conv3DTranspose(2, 2, activation="relu")(x)), 3, 3, 3, 1
    ),
    "lstm": numbers(lambda x: L.LSTM(4)(x), 4, 3),
    "lstm unrolled": numbers(lambda x: L.LSTM(4, unroll=True)(x), 3, 3),
    "lstm stacked": numbers(lambda x: L.LSTM(3)(L.LSTM(4, return_sequences=True)(x)), 3, 2),
    "gru": numbers(lambda x: L.GRU(4, return_sequences=True)(x), 4, 3),
    "gru reset before": numbers(lambda x: L.GRU(4, reset_after=False)(x), 4, 3),
    "simple rnn": numbers(lambda x: L.SimpleRNN(4, activation="relu", go_backwards=True)(x), 5, 3),
    "bidirectional": numbers(lambda x: L.Bidirectional(L.LSTM(3, return_sequences=True))(x), 3, 3),
    "convolutional lstm": numbers(lambda x: L.ConvLSTM2D(2, 2)(x), 3, 4, 4, 1),
    "time distributed": numbers(lambda x: L.TimeDistributed(L.Dense(3, "relu"))(x), 4, 3),
    "masked floats": masked_floats,
    "multi-head attention": numbers(transformer, 4, 3),
    "causal attention": numbers(causal, 4, 3),
    "dot attention": numbers(scaled, 4, 3),
    "self attention": numbers(lambda x: L.Attention()([x, x]), 4, 3),
    "additive attention": numbers(additive, 4, 3),
    "grouped-query attention": numbers(grouped_queries, 4, 3),
    "explicit mask": explicit_mask,
    "embedding": tokens(lambda seen: L.Dense(4, "relu")(L.Flatten()(seen)), mask=False),
    "embedding pooled": tokens(lambda seen: L.GlobalAveragePooling1D()(seen), mask=True),
    "embedding lstm": tokens(lambda seen: L.LSTM(3)(seen), mask=True, length=4),
    "embedding gru": tokens(lambda seen: L.Bidirectional(L.GRU(2))(seen), mask=True, length=3),
    "embedding attention": tokens(lambda seen: L.GlobalAveragePooling1D()(transformer(seen)), mask=True),
    "embedding convolution": tokens(
        lambda seen: L.GlobalMaxPooling1D()(L.Conv1D(4, 2, activation="relu")(seen)), mask=False
    ),
    "residual": numbers(residual, 5),
    "gated": numbers(gated, 5),
    "ratio": numbers(ratio, 5),
    "softmax gate": numbers(softmax_gate, 5),
    "mixture of experts": numbers(mixture, 5),
    "cross network": numbers(cross, 5),
    "distances": numbers(distances, 5),
    "cosine": numbers(cosine, 5),
    "extremes": numbers(extremes, 5),
    "chosen": numbers(chosen, 5),
    "logic": numbers(logic, 5),
    "steps": numbers(steps, 5),
    "statistics": numbers(statistics, 5),
    "powers": numbers(powers, 5),
    "twin towers": twin_towers,
    "two heads": two_heads,
    "listed": listed,
    "nested": nested,
    "subclassed": subclassed,
    "categories": categories,
    "wide and deep": wide_and_deep,
    "sparsemax": numbers(lambda x: L.Activation("sparsemax")(0.4 * L.Dense(6)(x)), 5),
}
