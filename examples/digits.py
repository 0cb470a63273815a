"""Makes the digits example: handwritten digits as PNG images in a TFRecord file and a model that reads them.

    python -m examples.digits --out data/digits

Writes the 1,797 images of 8 by 8 pixels that ship with scikit-learn, and a small convolutional network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples import is_built, mark_built, quiet_tensorflow

if TYPE_CHECKING:
    import keras

DESCRIPTION = "Makes the digits example: images as a TFRecord file, and a model that reads them."
SEED = 0
TRAINING_SHARE = 0.8


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, uint8 `[1797, 8, 8, 1]` with 255 for ink, and the digits, int64 `[1797]`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")[..., None]  # they come with 0 to 16
    return images, digits.target.astype("int64")


def write_tfrecord(images: np.ndarray, digits: np.ndarray, path: Path) -> None:
    """Writes one gzipped file of tf.train.Examples: `id`, `image` (encoded PNG) and `digit`."""
    import tensorflow as tf

    feature = tf.train.Feature
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row, (image, digit) in enumerate(zip(images, digits, strict=True)):
            png = tf.io.encode_png(image).numpy()
            known = {
                "id": feature(bytes_list=tf.train.BytesList(value=[f"digit-{row:04d}".encode()])),
                "image": feature(bytes_list=tf.train.BytesList(value=[png])),
                "digit": feature(int64_list=tf.train.Int64List(value=[int(digit)])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=known))
            writer.write(example.SerializeToString(deterministic=True))


def build_model() -> keras.Model:
    """Builds the untrained network, from pixels of 0 to 255 to a probability for each of the ten digits."""
    import keras

    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Rescaling(1 / 255)(image)
    hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
    hidden = keras.layers.MaxPooling2D(2)(hidden)
    hidden = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(hidden)
    hidden = keras.layers.Flatten()(hidden)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(hidden)
    model = keras.Model({"image": image}, digit, name="digits")
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy")
    return model


def train(images: np.ndarray, digits: np.ndarray, epochs: int, path: Path) -> str:
    """Trains on a random four fifths of the images, saves the model and returns how good it is."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()  # else threads add gradients up in the order they finish
    is_training = np.random.default_rng(SEED).random(len(images)) < TRAINING_SHARE
    pixels = images.astype("float32")

    model = build_model()
    model.fit({"image": pixels[is_training]}, digits[is_training], batch_size=32, epochs=epochs, verbose=0)
    model.save(path)
    read = model.predict({"image": pixels[~is_training]}, verbose=0).argmax(axis=1)
    right = float(np.mean(read == digits[~is_training]))
    return f"{len(read):,} held-out images: accuracy {right:.3f} (guessing: 0.100)"


def make(out: Path, epochs: int = 25, force: bool = False) -> None:
    """Makes whatever of the example is missing in the folder `out`.

    Args:
      out: Created if it is missing.
      epochs: Passes over the training images.
      force: Makes everything again.
    """
    out.mkdir(parents=True, exist_ok=True)
    data, model = out / ".tfrecord.built", out / ".model.built"
    settings = {"epochs": epochs}
    if not force and is_built(data, {}) and is_built(model, settings):
        print(f"tfrecord, model: already in {out}", flush=True)
        return
    quiet_tensorflow()
    images, digits = load_images()
    if force or not is_built(data, {}):
        started = time.monotonic()
        path = out / "digits.tfrecord.gz"
        write_tfrecord(images, digits, path)
        mark_built(data, {}, [path])
        print(f"tfrecord: {len(images):,} images in {path} ({time.monotonic() - started:.0f} s)", flush=True)
    started = time.monotonic()
    path = out / "model.keras"
    quality = train(images, digits, epochs, path)
    mark_built(model, settings, [path])
    print(f"model: {path} ({time.monotonic() - started:.0f} s)\n  {quality}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("data/digits"), help="folder (%(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="passes over the images (%(default)s)")
    parser.add_argument("--force", action="store_true", help="make again what is already there")
    arguments = parser.parse_args()
    make(arguments.out, arguments.epochs, arguments.force)


if __name__ == "__main__":
    main()
