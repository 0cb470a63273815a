#!/usr/bin/env bash
# A GradientBoostingClassifier that scikit-learn 1.7.2 pickled, loaded by 1.9.1; a forest beside it.
# A reader would expect what scikit-learn's guide says of pickles of another version: InconsistentVersionWarning, as the
# forest gives, and then perhaps an error that names scikit-learn.
# What happens: ModuleNotFoundError: No module named '_loss', before any warning. No package of that name was ever
# installed or is to be had: 1.7.2 pickles its compiled losses under the module name "_loss", not
# "sklearn._loss._loss", and it is found there only because importing sklearn has put it into sys.modules.
# Exits non-zero where scikit-learn behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 1.7.2 1.9.1; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "scikit-learn==$version" 'numpy==2.3.5'
done
"$folder/1.7.2/bin/python" - "$folder" <<'PYTHON'
import pickle
import sys

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

rows = np.random.default_rng(0).normal(size=(60, 2))
labels = (rows.sum(axis=1) > 0).astype(int)
for kind, name in ((GradientBoostingClassifier, "boosting"), (RandomForestClassifier, "forest")):
    data = pickle.dumps(kind(n_estimators=2).fit(rows, labels))
    print("written:", name, "names the module _loss:", b"\x8c\x05_loss" in data)
    open(f"{sys.argv[1]}/{name}.pkl", "wb").write(data)
PYTHON
"$folder/1.9.1/bin/python" - "$folder" <<'PYTHON'
import pickle
import sys
import warnings

import sklearn

print("read by scikit-learn", sklearn.__version__)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pickle.load(open(f"{sys.argv[1]}/forest.pkl", "rb"))
print("forest:  ", sorted({item.category.__name__ for item in caught}))
try:
    pickle.load(open(f"{sys.argv[1]}/boosting.pkl", "rb"))
except ModuleNotFoundError as error:
    print("boosting:", type(error).__name__, error)
    assert error.name == "_loss", "another module is missing"
else:
    raise SystemExit("boosting: loads")
PYTHON
