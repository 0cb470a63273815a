"""Made the pickles here, with scikit-learn 1.2.2 and 1.7.2."""

import joblib
import numpy as np
import sklearn
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

rows = np.random.default_rng(0).normal(size=(60, 2))
labels = (rows.sum(axis=1) > 0).astype(int)
for kind, name in ((RandomForestClassifier, "forest"), (GradientBoostingClassifier, "boosting")):
    model = kind(n_estimators=2, max_depth=1, random_state=0).fit(rows, labels)
    joblib.dump(model, f"{name}-{sklearn.__version__}.joblib", compress=3)
