#!/usr/bin/env bash
# XGBoost 3.4 writes a dart model's weights of its trees (weight_drop) in another place than XGBoost 3.2 reads them.
#
# A reader would expect of an older release either the same predictions or an error: the file names the version that
# wrote it. XGBoost 3.2 loads it without a word, takes every weight as 1, and predicts something else. The other way
# round, and for gbtree both ways, predictions are the same.
#
# Exit status 0: the behaviour is as described; 1: it is another. It needs Python 3.12 or newer, as XGBoost 3.4 does;
# PYTHON=… names one.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for version in 3.2.0 3.4.1; do
  "${PYTHON:-python3}" -m venv "$place/$version"
  "$place/$version/bin/python" -m pip install --quiet --disable-pip-version-check "xgboost-cpu==$version" numpy==2.4.6
done
cat >"$place/write.py" <<'PY'
import sys

import numpy as np
import xgboost

rng = np.random.default_rng(0)
rows = rng.normal(size=(300, 5))
learns = 2 * rows[:, 0] + np.sin(rows[:, 1])
for booster in ("dart", "gbtree"):
    keys = {"max_depth": 3, "seed": 1} | ({"booster": "dart", "rate_drop": 0.3} if booster == "dart" else {})
    model = xgboost.train(keys, xgboost.DMatrix(rows, learns), 10)
    model.save_model(f"{sys.argv[1]}/{booster}.json")
    np.save(f"{sys.argv[1]}/{booster}.npy", model.predict(xgboost.DMatrix(rows)))
np.save(f"{sys.argv[1]}/rows.npy", rows)
PY
cat >"$place/read.py" <<'PY'
import json
import sys
import warnings

import numpy as np
import xgboost

expected = sys.argv[2:]
found = []
for booster in ("dart", "gbtree"):
    path = f"{sys.argv[1]}/{booster}"
    with open(f"{path}.json") as file:
        by = ".".join(map(str, json.load(file)["version"]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = xgboost.Booster()
        model.load_model(f"{path}.json")
        given = model.predict(xgboost.DMatrix(np.load(f"{sys.argv[1]}/rows.npy")))
    apart = float(np.abs(given - np.load(f"{path}.npy")).max())
    print(f"{booster} written by {by}, read by {xgboost.__version__}: predictions differ by up to {apart:.3g}")
    found.append("other" if apart > 0.1 and not said else "same" if apart < 1e-5 else "near or warned of")
sys.exit(found != expected)
PY
mkdir "$place/old" "$place/new"
"$place/3.2.0/bin/python" "$place/write.py" "$place/old"
"$place/3.4.1/bin/python" -W ignore "$place/write.py" "$place/new"
"$place/3.4.1/bin/python" "$place/read.py" "$place/old" same same
"$place/3.2.0/bin/python" "$place/read.py" "$place/new" other same
