#!/usr/bin/env bash
# `missing` of XGBoost's wrappers is documented as the value in the data that is to be taken as missing. A reader
# would expect it to have no effect on a column of categories in which that value does not occur, and the
# prediction of a row not to depend on the order in which the data frame's dtype happens to list the categories
# (XGBoost looks categories up by their names). With missing=0 it does: the code that pandas has for a category
# is compared with `missing` before the category is looked up, so that whichever category comes first in the
# frame is taken as missing, in training and again, in another order, in prediction.
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
colours = np.array(["blue", "green", "red"])
values = colours[rng.integers(0, 3, 600)]
learns = np.select([values == "blue", values == "green"], [1.0, 2.0], 3.0)
frame = pd.DataFrame({"colour": pd.Categorical(values, categories=["blue", "green", "red"])})
rows = {order: pd.DataFrame({"colour": pd.Categorical(colours, categories=list(order))}) for order in
        (("blue", "green", "red"), ("red", "blue", "green"))}
found = {}
for missing in (np.nan, 0):
    model = xgboost.XGBRegressor(n_estimators=60, max_depth=2, missing=missing, enable_categorical=True)
    model.fit(frame, learns)
    for order, row in rows.items():
        found[missing == 0, order] = model.predict(row)
        print(f"missing={missing}, dtype lists {', '.join(order)}: blue, green, red ->",
              np.round(found[missing == 0, order], 2))
same = np.allclose(found[False, ("blue", "green", "red")], found[False, ("red", "blue", "green")])
apart = np.abs(found[True, ("blue", "green", "red")] - found[True, ("red", "blue", "green")]).max()
print(f"without `missing` the order is {'harmless' if same else 'not harmless'}; with missing=0 it moves a "
      f"prediction by {apart:.2f}")
sys.exit(0 if same and apart > 0.5 else 1)
PY
