#!/usr/bin/env bash
# A Pipeline of SimpleImputer, OneHotEncoder and LogisticRegression on a data frame with a column of words, of which
# some are None. All of its steps work row by row.
# A reader would expect a row to be scored alike alone and among others.
# What happens: pandas makes a column of words and None one of strings, where None is NaN and is imputed; of a single
# None it makes a column of objects, where None stays, and SimpleImputer's missing_values=nan does not take it
# for missing. The row is encoded as an unknown word, and its probability is another. No warning is given.
# Exits non-zero where the libraries behave otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check 'scikit-learn==1.9.1' 'pandas==3.1.1' 'numpy==2.4.6'
"$folder/env/bin/python" - <<'PYTHON'
import warnings

import pandas as pd
import sklearn
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

warnings.simplefilter("error")
print("scikit-learn", sklearn.__version__, "pandas", pd.__version__)
words = ["a", "a", "a", "b", "b", None, "a", "b"] * 5
frame = pd.DataFrame({"word": words})
labels = [1, 1, 1, 0, 0, 1, 1, 0] * 5
model = make_pipeline(
    SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"), LogisticRegression()
).fit(frame, labels)
among = pd.DataFrame({"word": [None, "b"]})
alone = pd.DataFrame({"word": [None]})
first, second = model.predict_proba(among)[0, 1], model.predict_proba(alone)[0, 1]
print("among others:", among["word"].dtype, "probability", first)
print("alone:       ", alone["word"].dtype, "probability", second)
assert abs(first - second) > 0.05, "the same row has the same score"
PYTHON
