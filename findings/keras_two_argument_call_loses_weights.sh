#!/usr/bin/env bash
# A Keras model whose call takes two tensors, call(self, x, z), is saved to a .keras file and loaded again. A reader
# would expect the loaded model to predict what the saved one did, or loading to fail. Loading succeeds with a warning
# about a build config; the loaded model says that it is built and has no weights, and its first call draws new ones at
# random: it predicts other numbers. Its twin whose call takes both tensors as one list predicts what it did before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import keras
import numpy as np

print("keras", keras.__version__, "backend", keras.backend.backend())


class Parts(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = keras.layers.Dense(3, activation="tanh")
        self.out = keras.layers.Dense(1)

    def build(self, shapes):  # of the twin alone
        self.hidden.build(shapes[0])
        self.out.build(shapes[1])
        self.built = True


@keras.saving.register_keras_serializable("finding")
class TwoArguments(Parts):
    build = keras.Model.build

    def call(self, x, z):
        return self.out(self.hidden(x) + z)


@keras.saving.register_keras_serializable("finding")
class OneList(Parts):
    def call(self, inputs):
        return self.out(self.hidden(inputs[0]) + inputs[1])


x, z = np.ones((1, 4), "float32"), np.ones((1, 3), "float32")
kept = {}
for kind, arguments in ((TwoArguments, (x, z)), (OneList, ([x, z],))):
    model = kind()
    before = float(np.asarray(model(*arguments))[0, 0])
    path = f"{sys.argv[1]}/{kind.__name__}.keras"
    model.save(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = keras.saving.load_model(path)
    print(f"{kind.__name__}: loaded with {len(told)} warning(s), built={loaded.built}, {len(loaded.weights)} weights")
    after = float(np.asarray(loaded(*arguments))[0, 0])
    print(f"{kind.__name__}: predicted {before:.6f}, predicts {after:.6f} after loading")
    kept[kind] = abs(before - after) < 1e-6
sys.exit(0 if kept == {TwoArguments: False, OneList: True} else 1)
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/run.py" "$folder"
