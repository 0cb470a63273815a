#!/usr/bin/env bash
# A HistGradientBoostingClassifier that was fitted on rows of one class.
# A reader would expect what scikit-learn promises of predict_proba: a column for each class in classes_, here
# one column of ones (as DecisionTreeClassifier and RandomForestClassifier give).
# What happens: classes_ has one class and predict_proba two columns: zip(classes_, row) and DataFrame(columns=classes_)
# lose or refuse the second one, which belongs to a class that nobody has named.
# Exits non-zero where scikit-learn behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check 'scikit-learn==1.9.1' 'numpy==2.4.6'
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

rows = np.arange(60.0).reshape(30, 2)
labels = np.full(30, "yes")
print("scikit-learn", sklearn.__version__)
forest = RandomForestClassifier(3).fit(rows, labels)
print("forest:    classes_", forest.classes_, "predict_proba", forest.predict_proba(rows[:1]))
model = HistGradientBoostingClassifier(max_iter=2).fit(rows, labels)
found = model.predict_proba(rows[:1])
print("histogram: classes_", model.classes_, "predict_proba", found)
assert len(model.classes_) == 1, "another number of classes"
assert found.shape == (1, 2), "as many columns as classes: no surprise any more"
PYTHON
