#!/usr/bin/env bash
# TensorFlow, grouped convolution + bias, oneDNN off (as it is by default on processors without AVX-512; the
# variable TF_ENABLE_ONEDNN_OPTS=0 shows the same anywhere).
#
# A reader would expect that a function of two ops gives what the two ops give one after another, and that what
# can be evaluated can be differentiated. Run op by op, the convolution and the bias work. In a tf.function the
# graph optimiser fuses the two into a kernel that refuses groups ("Fused conv implementation does not support
# grouped convolutions for now."), and the gradient of the convolution alone is refused as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "tensorflow-cpu==2.21.0"
TF_ENABLE_ONEDNN_OPTS=0 TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import tensorflow as tf

print("Python", sys.version.split()[0], "TensorFlow", tf.__version__)
rng = np.random.default_rng(0)
values = tf.constant(rng.normal(size=(2, 6, 6, 4)), tf.float32)
filters = tf.constant(rng.normal(size=(3, 3, 2, 4)), tf.float32)  # 2 of the 4 channels each: two groups
bias = tf.constant(rng.normal(size=4), tf.float32)


def layer(given):
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(given, filters, 1, "VALID"), bias))


def said(call):
    try:
        call()
    except tf.errors.OpError as error:
        lines = [line for line in (error.message or "").splitlines() if "group" in line]
        return f"{type(error).__name__}: {(lines or ['no word of groups'])[0][:140]}"
    return "works"


def gradient():
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(tf.nn.conv2d(values, filters, 1, "VALID"))
    return tape.gradient(total, values)


found = {"op by op": said(lambda: layer(values)), "in a tf.function": said(lambda: tf.function(layer, autograph=False)(values))}
found["its gradient, traced"] = said(tf.function(gradient, autograph=False))
for name, line in found.items():
    print(f"{name}: {line}")
as_told = (
    found["op by op"] == "works"
    and "grouped convolutions" in found["in a tf.function"]
    and "grouped convolutions" in found["its gradient, traced"]
)
sys.exit(0 if as_told else 1)
PYTHON
