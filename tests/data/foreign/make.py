"""Made the models here, with catboost 1.2.10, ydf 0.16.1, interpret-core 0.7.8 and skl2onnx 1.20.0."""

import catboost
import numpy as np
import pandas as pd
import ydf
from interpret.glassbox import ExplainableBoostingClassifier
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

rows = np.random.default_rng(0).normal(size=(60, 2))
labels = (rows.sum(axis=1) > 0).astype(int)
cat = catboost.CatBoostClassifier(iterations=2, depth=1, verbose=0, allow_writing_files=False)
cat.fit(rows, labels)
cat.save_model("cat.cbm")
cat.save_model("cat.pmml", format="pmml")
frame = pd.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "y": labels})
trees = ydf.GradientBoostedTreesLearner(label="y", num_trees=2, max_depth=2).train(frame, verbose=0)
trees.save("ydf")
with open("ydf.bytes", "wb") as file:
    file.write(trees.serialize())
ebm = ExplainableBoostingClassifier(outer_bags=1, max_rounds=2, interactions=0, max_bins=4)
ebm.fit(rows, labels).to_json("ebm.json")
with open("linear.onnx", "wb") as file:
    file.write(
        to_onnx(LogisticRegression().fit(rows, labels), rows[:1].astype(np.float32)).SerializeToString()
    )
