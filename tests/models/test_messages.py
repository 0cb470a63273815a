"""The line of a library's error that says why, from errors that TensorFlow and Keras really raise."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms.models.tensorflow_errors import first_line

L = keras.layers


def raised(action: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        action()
    error = caught.value
    assert isinstance(error, Exception)
    return error


def compiled(function: Callable[..., Any], dtype: Any = tf.float32) -> Any:
    return tf.function(function, input_signature=[tf.TensorSpec([None, 1], dtype)])


def refuse(values: Any) -> Any:
    raise ValueError("rows must be sorted")


@keras.saving.register_keras_serializable("tests")
class Narrow(L.Layer):
    def call(self, values: Any) -> Any:
        return tf.matmul(values, tf.ones([3, 2]))


def test_an_id_outside_of_an_embedding() -> None:
    layer = L.Embedding(5, 2)
    error = raised(lambda: compiled(lambda x: layer(x), tf.int32)(np.array([[7]], np.int32)))
    assert "{{" in str(error)
    assert first_line(error) == "indices[0,0] = 7 is not in [0, 5)"


def test_a_word_outside_of_a_vocabulary() -> None:
    layer = L.StringLookup(vocabulary=["a"], num_oov_indices=0)
    line = first_line(raised(lambda: compiled(lambda x: layer(x), tf.string)(np.array([["zz"]]))))
    assert line.startswith("assertion failed: [When `num_oov_indices=0` all inputs should be in vocabulary")


def test_python_inside_of_a_graph() -> None:
    error = raised(lambda: compiled(lambda x: tf.py_function(refuse, [x], tf.float32))(tf.ones([2, 1])))
    assert "Traceback" in str(error)
    assert first_line(error) == "ValueError: rows must be sorted"


def test_code_that_autograph_has_rewritten() -> None:
    error = raised(lambda: tf.function(refuse)(tf.ones([1])))
    assert str(error).startswith("in user code:")
    assert first_line(error) == "ValueError: rows must be sorted"


def test_a_layer_that_cannot_be_called() -> None:
    line = first_line(raised(lambda: Narrow()(tf.ones([2, 4]))))
    assert re.match(r"\{\{function_node|Matrix size-incompatible|Dimensions must be equal", line), line
    inside = first_line(raised(lambda: tf.function(lambda x: Narrow()(x))(tf.ones([2, 4]))))
    assert inside.startswith("Dimensions must be equal, but are 4 and 3")
    assert "\x1b" not in inside


def test_a_layer_that_does_not_load(tmp_path: Path) -> None:
    def doubled(values: Any) -> Any:
        return 2 * values

    inputs = keras.Input((4,))
    keras.Model(inputs, L.Lambda(doubled)(inputs)).save(tmp_path / "model.keras")
    error = raised(lambda: keras.saving.load_model(tmp_path / "model.keras", safe_mode=False))
    assert "could not be deserialized" in str(error)
    assert first_line(error).startswith("Could not locate function 'doubled'.")


def test_a_graph_whose_history_comes_first() -> None:
    """As an error of a graph with stack traces reads: the history, and then the reason."""
    text = (
        "Graph execution error:\n\nDetected at node save/RestoreV2 defined at (most recent call last):\n"
        '  File "/home/x/train.py", line 35, in <module>\n\n  File "/home/x/train.py", line 5, in show\n\n'
        "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for /m/variables\n"
        "\t [[{{node save/RestoreV2}}]] [Op:__inference_pruned_240]"
    )
    error = tf.errors.NotFoundError(None, None, text)
    wanted = "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for /m/variables"
    assert first_line(error) == wanted
    several = (
        "Graph execution error:\n\n2 root error(s) found.\n  (0) INVALID_ARGUMENT:  indices[0] = 7 is bad\n"
    )
    assert first_line(tf.errors.InvalidArgumentError(None, None, several)) == "indices[0] = 7 is bad"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  plain\nand more"), "plain"),
        (KeyError("there is no item"), "there is no item"),
        (KeyError(3), "3"),
        (ValueError(), "ValueError"),
        (ValueError("\n \n"), "ValueError"),
        (ValueError("Graph execution error:\n"), "Graph execution error:"),
        (ValueError("x" * 500), "x" * 200),
    ],
)
def test_errors_of_few_words(error: Exception, line: str) -> None:
    assert first_line(error) == line
