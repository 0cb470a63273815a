"""What a model file is, by what it holds: files that other tools wrote, and what to do with them."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from tests.support.models import trees_zoo as zoo
from transforms.errors import UserError
from transforms.models.kinds.detect import model_kind, top_keys
from transforms.models.load import ModelRequest

#: Written by the libraries themselves: see make.py there.
FOREIGN = Path(__file__).resolve().parents[1] / "data" / "foreign"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        model_kind(str(path))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        ("cat.cbm", ("m.cbm", "m.model", "m", "m.json"), ["a CatBoost model", "--function catboost"]),
        ("cat.pmml", ("m.pmml", "m.xml", "m.txt"), ["a PMML model", "python: module:function"]),
        ("ebm.json", ("m.json", "m.model", "ebm"), ["(EBM) as JSON", "--function ebm"]),
        ("linear.onnx", ("m.onnx", "m.bin", "m.model", "m.pb"), ["an ONNX model", "--function onnx"]),
        ("ydf.bytes", ("m.ydf", "m.bin", "m.txt"), ["a YDF model", "--function ydf"]),
        ("ydf", ("m", "m.model"), ["a model of YDF", "--function ydf"]),
    ],
)
def test_files_of_other_libraries(
    tmp_path: Path, name: str, names: tuple[str, ...], words: list[str]
) -> None:
    for other in names:
        target = tmp_path / other
        (shutil.copytree if name == "ydf" else shutil.copy)(FOREIGN / name, target)
        line = refusal(target)
        assert all(word in line for word in words), line


def test_json_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    data = lightgbm.Dataset(zoo.data(), zoo.values(zoo.data()))
    dumped = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 2).dump_model()
    path.write_text(json.dumps(dumped))
    assert "the output of LightGBM's dump_model" in refusal(path)
    assert "model.txt" in refusal(path)
    # What CatBoost's save_model(format="json") begins with, and the end of it.
    path.write_text('{\n"features_info":\n{"float_features": [{"learner": 1}]}, "oblivious_trees": []}')
    assert "a CatBoost model as JSON" in refusal(path)
    path.write_text('\ufeff{"features_info": {}, "oblivious_trees": []}')  # as editors on Windows save it
    assert "is a CatBoost model as JSON" in refusal(path)
    path.write_text('{"format": "layers-model", "modelTopology": {"class_name": "x"}, "weightsManifest": []}')
    assert "TensorFlow.js" in refusal(path)
    path.write_text('{"module": "keras", "class_name": "Functional", "config": {"learner": 1}}')
    assert "architecture of a Keras model" in refusal(path)
    path.write_text('{"rows": 3, "learner of": {"learner": 1}}')
    assert "its keys are rows, learner of" in refusal(path)
    path.write_text("[]")
    assert "a text dump of trees" in refusal(path)
    for text in (Path(zoo.xgb("binary", "json", objective="binary:logistic")).read_text(), '{"learner": {}}'):
        path.write_text(text)
        assert model_kind(str(path)) == "XGBoost"


def test_the_keys_of_an_object_are_its_own() -> None:
    nested = {"a": {"b": [{"c": 1}], 'd"e': "f:{"}, 'g"h\n': 2, "i": [{"j": "k"}, "l"], "": None}
    for indent in (None, 2):
        assert top_keys(json.dumps(nested, indent=indent)) == list(nested)
    assert top_keys('{"a": {"b": "unfinished') == ["a"]
    assert top_keys("") == []


def test_known_by_magic_bytes(tmp_path: Path) -> None:
    """The bytes are those of the formats' own specifications."""
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    cases = {
        "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(24), "a TFLite model"),
        "m.safetensors": (len(header).to_bytes(8, "little") + header + bytes(4), "safetensors"),
        "m.npy": (b"\x93NUMPY\1\0v\0", "a numpy array"),
        "m.parquet": (b"PAR1" + bytes(20), "a Parquet file"),
        "m.gguf": (b"GGUF\3\0\0\0", "GGUF"),
        "m.keras": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        "m.model": (b"<!DOCTYPE html>\n<html></html>", "a web page"),
        "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch model"),
        "frozen.pb": (b"\n\x1f\n\x01x\x12\x0bPlaceholder", "a frozen graph"),
        "saved_model.pb": (b"\x08\x01\x12\x90\x01", "name its folder"),
        "old.xgb": (b"binf\0\0", "old binary format"),
        "m.h5": (b"", "is empty"),
        "score.py": (b"def score(columns): ...", "{python: score:FUNCTION}"),
        "m.txt": (b"words", "does not hold a model that XGBoost or LightGBM wrote"),
        "m.xyz": (b"words", ".xyz is not a known kind of model; known kinds: .keras"),
        "m": (b"words", "a file without a suffix is not a known kind of model"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert words in refusal(tmp_path / name), name


def test_zip_files(tmp_path: Path) -> None:
    cases = {
        "m.pt": ("archive/data.pkl", "a PyTorch model"),
        "m.zip": ("config.json", "name it .keras"),
        "m.skops": ("schema.json", "skops.io.load"),
        "m.npz": ("a.npy", "numpy arrays"),
        "other.zip": ("words.txt", "unpack it"),
    }
    for name, (member, words) in cases.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "x")
        assert words in refusal(tmp_path / name), name
    (tmp_path / "cut.pt").write_bytes((tmp_path / "m.pt").read_bytes()[:40])
    assert "a damaged zip file" in refusal(tmp_path / "cut.pt")


def test_folders(tmp_path: Path) -> None:
    cases = {
        ("MLmodel", "conda.yaml"): "MLflow",
        ("config.json", "model.weights.h5", "metadata.json"): "a .keras file, unpacked",
        ("config.json", "model.safetensors"): "Hugging Face",
        ("checkpoint", "ckpt-1.index"): "a TensorFlow checkpoint",
        ("words.txt",): "does not hold a saved_model.pb",
    }
    for number, (names, words) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"x")
        assert words in refusal(folder)
    nested = tmp_path / "versions" / "7"
    nested.mkdir(parents=True)
    (nested / "saved_model.pb").write_bytes(b"x")
    assert f"did you mean {nested}?" in refusal(nested.parent)
    assert model_kind(str(nested)) == "saved_model.pb"


def test_boosters_and_pickles_may_be_called_anything(tmp_path: Path) -> None:
    for source, kind in ((zoo.xgb("xgboost"), "XGBoost"), (zoo.lgb("lightgbm"), "LightGBM")):
        for name in ("m", "m.bin", "m.mdl", "m.bst"):
            shutil.copy(source, tmp_path / name)
            assert model_kind(str(tmp_path / name)) == kind
            assert not ModelRequest(str(tmp_path / name)).needs_tensorflow
    packed = tmp_path / "m.txt.gz"
    packed.write_bytes(gzip.compress(Path(zoo.lgb("lightgbm")).read_bytes()))
    assert "is compressed" in refusal(packed)
    with (tmp_path / "a.pkl").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    assert "numpy arrays" in refusal(tmp_path / "a.pkl")
