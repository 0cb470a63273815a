"""How the files beside this one were made, once, with Keras 3.15.1, in a folder called /srv/example.

Then `attribeam explain config.yaml` was run by the code before its modules moved into folders (commit
5341276): once to its end (`committed`), and once with `--output half`, killed after its second journal entry.
Input files have the modification time 1790000000, which is part of a run's fingerprint.
"""

import pathlib

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

keras.utils.set_random_seed(0)
distance, hour = keras.Input((1,), name="distance"), keras.Input((1,), name="hour")
carrier = keras.Input((1,), dtype="int32", name="carrier")
embedded = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(carrier))
hidden = keras.layers.Dense(6, activation="relu")(keras.layers.Concatenate()([distance, hour, embedded]))
late = keras.layers.Dense(1, activation="sigmoid", name="late")(hidden)
keras.Model([distance, hour, carrier], late).save("model.keras")

rng = np.random.default_rng(0)
for month in (1, 2, 3):
    rows = 150
    distances = [
        None if row == 7 else float(value)
        for row, value in enumerate(rng.normal(size=rows).astype(np.float32))
    ]
    table = pa.table(
        {
            "id": [f"2026-{month:02d}-{row:03d}" for row in range(rows)],
            "distance": pa.array(distances, pa.float32()),
            "hour": rng.normal(size=rows).astype(np.float32),
            "carrier": pa.array(rng.integers(0, 4, rows), pa.int32()),
            "origin": rng.choice(["JFK", "LGA"], rows),
        }
    )
    folder = pathlib.Path("later" if month == 3 else "input")
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"2026-{month:02d}.parquet")
