#!/usr/bin/env bash
# A SavedModel whose signature takes four tensors and returns four is loaded in eight processes, all with the same
# PYTHONHASHSEED. A reader would expect the signature's structured_input_signature and structured_outputs to list names
# in one order (the order of the function, or that of the alphabet): they are dicts, and the same file is read. They come
# in another order in nearly every process, while the graph's own list of inputs is the same in all. Whoever numbers
# outputs, or digests a signature, as the dicts have it gets another result in each process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 PYTHONHASHSEED=0
cat > "$folder/save.py" <<'PYTHON'
import sys

import tensorflow as tf

names = ("alpha", "beta", "gamma", "delta")


class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in names])
    def call(self, alpha, beta, gamma, delta):
        return {"sum": alpha + beta, "product": gamma * delta, "difference": alpha - delta, "half": beta / 2}


module = Module()
tf.saved_model.save(module, sys.argv[1], signatures=module.call)
print("tensorflow", tf.__version__)
PYTHON
cat > "$folder/load.py" <<'PYTHON'
import sys

import tensorflow as tf

signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
inputs = [tensor.name for tensor in signature.inputs if tensor.dtype != tf.resource]
print(*signature.structured_input_signature[1], "|", *signature.structured_outputs, "|", *inputs)
PYTHON
"$folder/venv/bin/python" "$folder/save.py" "$folder/model" 2> /dev/null
for _ in 1 2 3 4 5 6 7 8; do
  "$folder/venv/bin/python" "$folder/load.py" "$folder/model" 2> /dev/null
done | tee "$folder/seen"
orders() { cut -d '|' -f "$1" "$folder/seen" | sort -u | wc -l; }
echo "orders seen: of the inputs $(orders 1), of the outputs $(orders 2), of the graph's own inputs $(orders 3)"
[ "$(orders 1)" -gt 1 ] && [ "$(orders 2)" -gt 1 ] && [ "$(orders 3)" -eq 1 ]
