#!/usr/bin/env bash
# XGBoost 3.2 promises an error for a category that the training data did not have ("Found a category not in the
# training set"). A reader would expect it of every such category. It comes only for one that sorts after all
# others: any other is silently taken for its next larger neighbour, whole numbers and strings alike, and gets
# that one's prediction.
#
# Exit status 0: the behaviour is as described; 1: it is another.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check xgboost-cpu==3.2.0 pandas==3.1.1 numpy==2.4.6 scikit-learn==1.9.1
"$place/venv/bin/python" - <<'PY'
import sys

import numpy as np
import pandas as pd
import xgboost

print("xgboost", xgboost.__version__, "pandas", pd.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
kinds = {
    "whole numbers": (np.array([10, 20, 35, 47]), [5, 15, 30, 40, 50]),
    "strings": (np.array(["east", "north", "south"]), ["a", "mars", "o", "west"]),
}
silent = loud = 0
for name, (known, strange) in kinds.items():
    values = known[rng.integers(0, len(known), 400)]
    worth = {value: 100.0 * (place + 1) for place, value in enumerate(known.tolist())}
    learns = np.array([worth[value] for value in values.tolist()])
    frame = pd.DataFrame({"place": pd.Categorical(values)})
    model = xgboost.XGBRegressor(n_estimators=60, max_depth=3, enable_categorical=True).fit(frame, learns)
    print(f"{name}: trained on {worth}")
    for value in strange:
        row = pd.DataFrame({"place": pd.Categorical([value])})
        try:
            given = float(model.predict(row)[0])
        except xgboost.core.XGBoostError as error:
            loud += 1
            print(f"  {value!r}: refused: {str(error).splitlines()[0].rpartition(': ')[2]}")
            assert value > max(worth)
            continue
        neighbour = min(other for other in worth if other > value)
        print(f"  {value!r}: {given:.1f}, as for {neighbour!r}, and no error")
        assert abs(given - worth[neighbour]) < 1
        silent += 1
sys.exit(0 if (silent, loud) == (7, 2) else 1)
PY
