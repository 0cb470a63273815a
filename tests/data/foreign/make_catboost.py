"""Made catboost.cbm and catboost.json, with catboost 1.2.10; PYTHONPATH holds the root."""

import json
from pathlib import Path

from catboost import CatBoostClassifier, Pool

from tests.models.test_functions import frame, target

here = Path(__file__).parent
given = frame()[["age", "city"]]
given["city"] = given["city"].astype(object).where(given["city"].notna(), "nan")
model = CatBoostClassifier(iterations=4, depth=2, verbose=0, allow_writing_files=False, random_seed=1)
model.fit(Pool(given, target(), cat_features=["city"]))
model.save_model(str(here / "catboost.cbm"))
rows = [[None if value != value else value for value in row] for row in given.to_numpy().tolist()]
recorded = {
    "names": model.feature_names_,
    "categorical": model.get_cat_feature_indices(),
    "rows": rows,
    "raw": model.predict(given, prediction_type="RawFormulaVal").tolist(),
}
(here / "catboost.json").write_text(json.dumps(recorded, ensure_ascii=False), encoding="utf-8")
