"""Writes spark_vectors.parquet by PySpark 4.3.0: dense and sparse vectors in one column."""

import glob
import shutil
import sys

from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").getOrCreate()
rows = [
    (0, Vectors.dense([1.0, 0.0, 2.5])),
    (1, Vectors.sparse(3, {1: 5.0})),
    (2, Vectors.sparse(3, {})),
    (3, Vectors.dense([-1.0, 2.0, 3.0])),
]
folder = sys.argv[1]
spark.createDataFrame(rows, ["id", "features"]).coalesce(1).write.mode("overwrite").parquet(folder)
shutil.copy(glob.glob(f"{folder}/part-*.parquet")[0], sys.argv[2])
