"""Recognition of a model by its content, and of other programs' files, so that errors can name them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence

from transforms.errors import UserError
from transforms.models.kinds.function import is_function
from transforms.wording import meant

#: Suffixes of the TensorFlow kinds; tree models and pickles are recognized by content alone.
KERAS = (".keras", ".h5", ".hdf5")
PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".p")
#: Suffixes of tree models that XGBoost and LightGBM write.
BOOSTERS = (".ubj", ".json", ".xgb", ".txt", ".lgb", ".model")
_KNOWN = (
    f"known kinds: {', '.join((*KERAS, *PICKLES[:3], *BOOSTERS))} files, SavedModel folders and "
    "python: package.module:function"
)
#: Number of bytes read to recognize a file; a JSON file needs more, because its keys may be far apart.
_START, _JSON = 4096, 1 << 20


def printed_by(function: str) -> str:
    """The remedy for a model for which `attribeam methods --function` prints a Python function."""
    return f"explain it as a function: attribeam methods --function {function} prints one"


_SAVE_BOOSTER = "save it with Booster.save_model"
_ANY = "explain it as a function: model: {python: module:function}"

#: The first bytes of a file, what the file is, and the remedy.
_MAGIC: Sequence[tuple[bytes, str, str]] = (
    (b"CBM1", "is a CatBoost model", printed_by("catboost")),
    (b"binf", "is in XGBoost's old binary format", "save it as .ubj with the XGBoost that wrote it"),
    (b"BS\x01\x00\x00\x00\x00\x00", "is a YDF model, serialized", printed_by("ydf")),
    (b"\x93NUMPY", "is a numpy array, not a model", "name the model's file"),
    (b"PAR1", "is a Parquet file, not a model", "name the model's file"),
    (b"ARROW1", "is an Arrow file, not a model", "name the model's file"),
    (b"GGUF", "holds the weights of a language model (GGUF)", _ANY),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "is a PyTorch model", _ANY),
)  # fmt: skip
#: A pattern for the name of a member of a zip file, what the zip file is, and the remedy.
_ZIPPED: Sequence[tuple[str, str, str]] = (
    (r"(.*/)?data\.pkl", "is a PyTorch model", _ANY),
    (r"config\.json", "is a Keras model under another name", "name it .keras"),
    (r"schema\.json", "is a model of skops", "load it with skops.io.load and save it with joblib.dump"),
    (r"model\.ini", "is a MOJO of H2O", _ANY),
    (r".*\.npy", "holds numpy arrays, not a model", "name the model's file"),
)
#: Keys that must all be in a JSON object, what the file is, and the remedy.
_KEYS: Sequence[tuple[frozenset[str], str, str]] = (
    (
        frozenset({"tree_info"}),
        "is the output of LightGBM's dump_model, which LightGBM itself cannot load",
        "save the model with Booster.save_model('model.txt')",
    ),
    (frozenset({"features_info"}), "is a CatBoost model as JSON", printed_by("catboost")),
    (frozenset({"oblivious_trees"}), "is a CatBoost model as JSON", printed_by("catboost")),
    (frozenset({"ebm"}), "is an explainable boosting machine (EBM) as JSON", printed_by("ebm")),
    (
        frozenset({"modelTopology"}),
        "is a model of TensorFlow.js",
        "save the Keras model that it was made from as .keras",
    ),
    (
        frozenset({"class_name", "config"}),
        "is the architecture of a Keras model, without its weights",
        "save the model with model.save('model.keras')",
    ),
    (frozenset({"irVersion"}), "is an ONNX model as JSON", printed_by("onnx")),
)
#: Files that must all be in a folder, what the folder is, and the remedy.
_FOLDERS: Sequence[tuple[tuple[str, ...], str, str]] = (
    (("data_spec.pb", "header.pb"), "is a model of YDF", printed_by("ydf")),
    (("MLmodel",), "is a folder of MLflow", "name the model's own file in it"),
    (("learner.pkl",), "is a predictor of AutoGluon", _ANY),
    (("config.json", "model.weights.h5"), "is a .keras file, unpacked", "zip its files as model.keras"),
    (("config.json", "model.safetensors"), "is a model of Hugging Face transformers", _ANY),
    (("config.json", "pytorch_model.bin"), "is a model of Hugging Face transformers", _ANY),
    (
        ("checkpoint",),
        "holds a TensorFlow checkpoint, which has weights but no graph",
        "save the model with model.save('model.keras') or as a SavedModel",
    ),
    (("metadata", "stages"), "is a pipeline of Spark ML", _ANY),
    (("metadata", "data"), "is a model of Spark ML", _ANY),
)  # fmt: skip
#: Suffixes of files that cannot be recognized by their content.
_SUFFIXES: dict[str, tuple[str, str]] = {
    ".onnx": ("is an ONNX model", printed_by("onnx")),
    ".mlmodel": ("is a Core ML model", _ANY),
    ".pt": ("is a PyTorch model", _ANY),
    ".pth": ("is a PyTorch model", _ANY),
    ".rds": ("is an object of R", _ANY),
    ".rda": ("is an object of R", _ANY),
}
_PROTOCOL = re.compile(rb"\x80[\x02-\x05]")
#: Pickles of protocol 0 and 1 begin with `(`, the opcode of a mark, or with `c`, the opcode of a global.
_OLD_PICKLE = re.compile(rb"(\(.)?c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n", re.DOTALL)
_UNPACKING: Sequence[tuple[bytes, Callable[[bytes], bytes]]] = (
    (b"\x1f\x8b", lambda data: zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _START)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, _START)),
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor().decompress(data, _START)),
    (b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor().decompress(data, _START)),
    (b"\x78", lambda data: zlib.decompressobj().decompress(data, _START)),
    (b"ZF0x", lambda data: b""),
    (b"\x04\x22\x4d\x18", lambda data: b""),
)
#: Number of bytes read of a compressed file: bzip2 unpacks whole blocks of up to 900 kB only.
_PACKED = 2 << 20


def model_kind(path: str) -> str:
    """The kind of a model, given as a local path or as `python:` and a function's name: its key in MODELS.

    Content takes precedence over the suffix: pickles and boosters may have any name.

    Raises:
      UserError: The kind of model is unknown; the message says what the file is, if it can be recognized.
    """
    if is_function(path):
        return "python:"
    if os.path.isdir(path):
        return _of_folder(path)
    with open(path, "rb") as file:
        start = file.read(_START)
    lower = path.lower()
    if not start:
        raise UserError("is empty", path, "save the model again")
    _refuse(path, start, _MAGIC)
    suffix = os.path.splitext(lower)[1]
    if suffix not in KERAS or not start.startswith((b"\x89HDF", b"PK\x03\x04")):
        kind = _of_content(path, start, suffix)
        if kind is not None:
            return kind
    if suffix in KERAS:
        return suffix
    if suffix in PICKLES:
        return "pickle"  # load_pickle will say what is wrong with the file
    if suffix == ".py":
        module = os.path.splitext(os.path.basename(path))[0]
        raise UserError(
            "is Python code", path, f"name a function in it: model: {{python: {module}:FUNCTION}}"
        )
    if suffix in _SUFFIXES:
        raise UserError(_SUFFIXES[suffix][0], path, _SUFFIXES[suffix][1])
    if suffix in BOOSTERS:
        raise UserError("does not hold a model that XGBoost or LightGBM wrote", path, _SAVE_BOOSTER)
    raise UserError(f"{suffix or 'a file without a suffix'} is not a known kind of model", path, _KNOWN)


def _refuse(path: str, start: bytes, known: Sequence[tuple[bytes, str, str]]) -> None:
    for magic, description, remedy in known:
        if start.startswith(magic):
            raise UserError(description, path, remedy)


def _of_content(path: str, start: bytes, suffix: str) -> str | None:
    """The kind of model according to a file's first bytes; None if these bytes do not identify a kind.

    Raises:
      UserError: The bytes identify something that cannot be loaded.
    """
    if _PROTOCOL.match(start) or _OLD_PICKLE.match(start):
        return "pickle"
    inner = _unpacked(path, start)
    if inner is not None:
        if not inner or suffix in PICKLES or _PROTOCOL.match(inner) or _OLD_PICKLE.match(inner):
            return "pickle"
        raise UserError("is compressed and not a pickle", path, "unpack it, and name the model in it")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"tree\n", b"tree\r\n")):
        return "LightGBM"
    if text.startswith(b"{"):
        return _of_object(path, text)
    if text.startswith((b"[", b"booster[")) and suffix in BOOSTERS:
        raise UserError("is a text dump of trees, not a model", path, _SAVE_BOOSTER)
    if start.startswith(b"PK\x03\x04"):
        _refuse_zip(path)
    elif text.startswith(b"<"):
        _refuse_markup(path, text)
    elif start.startswith(b"\x89HDF"):
        raise UserError("is an HDF5 file", path, "name it .h5, if Keras wrote it")
    _refuse_binary(path, start, suffix)
    return None


def _of_object(path: str, text: bytes) -> str | None:
    """The kind of model by the keys of a JSON or UBJSON object; `text` begins with the object's brace."""
    if re.match(rb"\{\s*\"", text) is None:  # UBJSON, where XGBoost's keys come in alphabetical order
        return "XGBoost" if b"learner" in text else None
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        keys = top_keys(file.read(_JSON))
    if "learner" in keys:
        return "XGBoost"
    for wanted, description, remedy in _KEYS:
        if wanted <= set(keys):
            raise UserError(description, path, remedy)
    shown = ", ".join(keys[:6]) + (" …" if len(keys) > 6 else "")
    raise UserError(
        f"is JSON that no known library wrote: its keys are {shown}" if keys else "is JSON without keys",
        path,
        _SAVE_BOOSTER,
    )


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]', re.DOTALL)


def top_keys(text: str) -> list[str]:
    """The top-level keys of a JSON object; the text may be cut off.

    Cost: one pass over the text; the values are not parsed.
    """
    depth, keys, last = 0, [], None
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
        elif mark == ":" and depth == 1 and last is not None:
            keys.append(last)
        if mark[0] == '"' and depth == 1:
            try:
                last = json.loads(mark, strict=False)
            except ValueError:
                last = mark[1:-1]
        else:
            last = None
    return keys


def _refuse_zip(path: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError("is a damaged zip file", path, "save the model again") from error
    for pattern, description, remedy in _ZIPPED:
        if any(re.fullmatch(pattern, name) for name in names):
            raise UserError(description, path, remedy)
    raise UserError("is a zip file", path, "unpack it, and name the model in it")


def _refuse_markup(path: str, text: bytes) -> None:
    if b"<PMML" in text:
        raise UserError("is a PMML model", path, "name the model that it was made from, or " + _ANY)
    if text[:200].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError("is a web page, not a model", path, "download the file itself")
    raise UserError("is XML, not a known kind of model", path, _KNOWN)


def _refuse_binary(path: str, start: bytes, suffix: str) -> None:
    if start[4:8] == b"TFL3":
        raise UserError("is a TFLite model", path, "name the Keras model or SavedModel that it was made from")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= os.path.getsize(path) - 8:
        description = "holds weights alone (safetensors), not a model"
        raise UserError(description, path, "load them into their model and save that, or " + _ANY)
    if start.startswith(b"\x08\x01\x12") and suffix == ".pb":
        raise UserError("is the graph of a SavedModel", path, "name its folder")
    # ONNX's ModelProto begins with its version, 3 or more; then come the producer, graph or operators.
    if re.match(rb"\x08[\x03-\x14][\x12\x3a\x42]", start) and suffix not in (".mlmodel", ".coreml"):
        raise UserError("is an ONNX model", path, printed_by("onnx"))
    if suffix in (".pb", ".pbtxt"):
        raise UserError(
            "is a frozen graph of TensorFlow 1",
            path,
            "import it with tf.compat.v1 and save a SavedModel",
        )


def _unpacked(path: str, start: bytes) -> bytes | None:
    """The first bytes of a compressed file, unpacked; None if it is not compressed or cannot be unpacked.

    Returns b"" for compression formats that only joblib reads.
    """
    if not is_packed(start):
        return None
    unpack = next(unpack for magic, unpack in _UNPACKING if start.startswith(magic))
    with open(path, "rb") as file:
        packed = file.read(_PACKED)
    try:
        return unpack(packed)
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        return None


def is_packed(start: bytes) -> bool:
    """True if a file that begins with these bytes is compressed."""
    # zlib's first two bytes are a multiple of 31. A first byte 0x78 is not enough: a text may begin with x.
    zlibbed = start[:1] != b"\x78" or int.from_bytes(start[:2], "big") % 31 == 0
    return zlibbed and any(start.startswith(magic) for magic, _ in _UNPACKING)


def unpacked_whole(data: bytes) -> bytes:
    """A file's content, unpacked if it is compressed in a format that Python supports; else unchanged."""
    packed: Sequence[tuple[bytes, Callable[[bytes], bytes]]] = (
        (b"\x1f\x8b", gzip.decompress),
        (b"BZh", bz2.decompress),
        (b"\xfd7zXZ\x00", lzma.decompress),
        (b"\x5d\x00\x00", lzma.decompress),
        (b"\x78", zlib.decompress),
    )
    for magic, unpack in packed:
        if data.startswith(magic):
            try:
                return unpack(data)
            except (zlib.error, OSError, EOFError, lzma.LZMAError):
                return data
    return data


def _of_folder(path: str) -> str:
    names = set(os.listdir(path))
    if "saved_model.pb" in names:
        return "saved_model.pb"
    if "saved_model.pbtxt" in names:
        raise UserError("is a SavedModel as text", path, "save it again as saved_model.pb")
    for wanted, description, remedy in _FOLDERS:
        if names.issuperset(wanted):
            raise UserError(description, path, remedy)
    within = sorted(name for name in names if os.path.isfile(os.path.join(path, name, "saved_model.pb")))
    raise UserError(
        "the folder does not hold a saved_model.pb",
        path,
        meant(
            [os.path.join(path, name) for name in within[-1:]], "name a SavedModel folder or a .keras file"
        ),
    )
