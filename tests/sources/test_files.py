"""Paths: what globs find, what is said when they find nothing, writing that is all or nothing, and URLs."""

import os
import subprocess
import sys

import pytest

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.sources import globs
from transforms.storage import files


def test_a_folder_that_may_not_be_read_is_not_empty(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is made up for it."""
    real = os.listdir

    def listdir(path="."):
        if os.fspath(path) == str(tmp_path / "closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    (tmp_path / "closed").mkdir()
    with pytest.raises(UserError, match="closed is empty"):
        globs.expand(["closed/*.parquet"], str(tmp_path))
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(UserError, match=r"closed cannot be read: permission denied; change its rights"):
        globs.expand(["closed/*.parquet"], str(tmp_path))


@pytest.fixture
def tree(tmp_path):
    """A folder as Spark and people leave them."""
    names = [
        "data/b.parquet",
        "data/a.parquet",
        "data/_SUCCESS",
        "data/_draft.parquet",
        "data/.hidden.parquet",
        "data/part[1].parquet",
        "data/straße/år 2013.parquet",
        "data/straße/_temporary/x.parquet",
        "data/day=1/_col=2/p.parquet",
        "other/c.tfrecord",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def bucket():
    MemoryFileSystem.blobs.clear()
    MemoryFileSystem.opened.clear()
    for key in (
        "in/b.parquet",
        "in/a.parquet",
        "in/_SUCCESS",
        "in/deep/c.parquet",
        "model/w/x.bin",
        "model/a.pb",
    ):
        MemoryFileSystem.blobs[f"mem://bucket/{key}"] = key.encode()
    yield "mem://bucket"
    MemoryFileSystem.blobs.clear()


def names(patterns, base):
    found = globs.expand(patterns, str(base))
    for path, name in found:
        assert files.read_bytes(path).decode().endswith(os.path.basename(name))
    return [name for _, name in found]


def test_globs_are_relative_to_the_base_sorted_and_unique(tree):
    expected = ["data/a.parquet", "data/b.parquet", "data/part[1].parquet"]
    assert names(["data/*.parquet"], tree) == expected
    assert (
        names(["data/b*", "./data/*.parquet", "data/a.parquet", "other/../data/?.parquet"], tree) == expected
    )
    assert names(["../data/a.parquet"], tree / "other") == ["../data/a.parquet"]


def test_absolute_patterns_keep_absolute_names(tree):
    path = str(tree / "data/a.parquet")
    for pattern in (path, f"{tree}/data/a*", f"file://{path}"):
        assert globs.expand([pattern], "/elsewhere") == [(path, path)]


def test_a_base_folder_with_glob_characters(tmp_path):
    base = tmp_path / "run [1]*"
    base.mkdir()
    (base / "a.parquet").write_bytes(b"a.parquet")
    assert names(["*.parquet"], base) == ["a.parquet"]


def test_a_name_with_glob_characters_is_a_name_first(tree):
    assert names(["data/part[1].parquet"], tree) == ["data/part[1].parquet"]


def test_any_depth_and_unicode(tree):
    assert names(["data/**/*.parquet"], tree) == [
        "data/a.parquet",
        "data/b.parquet",
        "data/day=1/_col=2/p.parquet",
        "data/part[1].parquet",
        "data/straße/år 2013.parquet",
    ]
    assert names(["**"], tree) == [*names(["data/**/*.parquet"], tree), "other/c.tfrecord"]
    assert names(["data/straße/*"], tree) == ["data/straße/år 2013.parquet"]


@pytest.mark.parametrize("pattern", ["data", "data/", "dat*", "data/*"])
def test_a_folder_stands_for_the_files_of_one_format_below_it(tree, pattern):
    below = names(["data/**/*.parquet"], tree)
    (tree / "data" / "readme.md").write_text("readme.md")
    (tree / "data" / ".b.parquet.crc").write_bytes(b"crc")
    # What a glob matches itself is named, and said to be no Parquet when it is opened.
    more = ["data/readme.md"] if pattern == "data/*" else []
    assert names([pattern], tree) == sorted([*below, *more])
    assert names(["other"], tree) == ["other/c.tfrecord"]
    assert [name for _, name in globs.expand(["."], str(tree), "tfrecord")] == ["other/c.tfrecord"]


def test_hidden_and_underscored_files_are_found_when_asked_for(tree):
    assert names(["data/_*"], tree) == ["data/_SUCCESS", "data/_draft.parquet"]
    assert names(["data/.h*"], tree) == ["data/.hidden.parquet"]
    assert names(["data/_SUCCESS"], tree) == ["data/_SUCCESS"]
    assert names(["data/straße/_temporary/*"], tree) == ["data/straße/_temporary/x.parquet"]


def test_links_in_a_folder_are_followed_once(tree):
    """A file that is reached in two ways is read once: no row is explained twice."""
    (tree / "other" / "back").symlink_to(tree / "other")
    assert names(["other"], tree) == ["other/c.tfrecord"]
    (tree / "data" / "latest").symlink_to(tree / "data" / "straße")
    assert names(["data"], tree) == [
        "data/a.parquet",
        "data/b.parquet",
        "data/day=1/_col=2/p.parquet",
        "data/latest/år 2013.parquet",
        "data/part[1].parquet",
    ]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("data/c*.parquett", ["data/c*.parquett: no file matches"]),
        ("data/a.parqet", ["data/a.parqet: no file matches", "did you mean", "a.parquet"]),
        ("dta/*.parquet", ["did you mean data?"]),
        ("data/*.csv", ["holds a.parquet, b.parquet, "]),
        ("/nowhere/at/all/*.parquet", ["/nowhere/at/all/*.parquet: no file matches"]),
        (
            "notes",
            ["notes: is a folder without a Parquet or TFRecord file: it holds", "rows.csv", "duckdb -c"],
        ),
        ("not*", ["notes: is a folder without"]),
        ("empty/", ["empty: is a folder without a Parquet or TFRecord file: it is empty"]),
        ("saved", ["saved: is a folder that Hugging Face datasets saved", "load_from_disk('saved')"]),
        (".", [".: is a folder with both Parquet and TFRecord files; set input.format"]),
    ],
)
def test_what_is_said_of_patterns_that_match_no_file(tree, pattern, words):
    for name in (
        "notes/rows.csv",
        "notes/readme.md",
        "saved/state.json",
        "saved/dataset_info.json",
        "empty/_x",
    ):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("a,b")
    with pytest.raises(UserError) as error:
        globs.expand(["other/*", pattern], str(tree))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_join():
    assert files.join("/a/b", "c", "d.txt") == "/a/b/c/d.txt"
    assert files.join("/a/b", "/c") == "/c"
    assert files.join("/a/b", "gs://x/y") == "gs://x/y"
    assert files.join("gs://x/y/", "z") == "gs://x/y/z"
    assert files.join("gs://x", "y", "z") == "gs://x/y/z"
    assert files.join("gs://x/y", "/local") == "/local"
    assert files.join("gs://x/a/configs", "../data/m.keras") == "gs://x/a/data/m.keras"
    assert files.join("gs://x/a", "./b/../**/c.*") == "gs://x/a/**/c.*"
    assert files.join("gs://x/a", "../../../b") == "gs://x/b"


def test_is_url():
    assert files.is_url("gs://bucket/key")
    assert files.is_url("s3://bucket")
    assert not any(map(files.is_url, ["/a/b", "a:b", "C:/x", "file:///a", "a//b", "://"]))


def test_a_write_leaves_the_whole_file_or_the_old_one(tmp_path, monkeypatch):
    path = str(tmp_path / "x.json")
    files.write_atomic(path, b"old")
    files.write_atomic(path, memoryview(b"new"))
    assert files.read_bytes(path) == b"new"
    assert oct(os.stat(path).st_mode & 0o777) == oct(0o666 & ~current_umask())

    def fail(source, target):
        assert os.path.dirname(source) == str(tmp_path)  # a rename across file systems is a copy
        assert files.read_bytes(source) == b"newer"
        raise InterruptedError

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InterruptedError):
        files.write_atomic(path, b"newer")
    assert files.read_bytes(path) == b"new"
    assert os.listdir(tmp_path) == ["x.json"]


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_folders(tmp_path):
    folder = str(tmp_path / "a/b")
    files.makedirs(folder)
    files.makedirs(folder)
    files.write_atomic(files.join(folder, "x"), b"123")
    files.write_atomic(files.join(folder, "w"), b"")
    assert files.list_dir(folder) == ["w", "x"]
    assert files.list_dir(folder + "/missing") == []
    assert files.size(files.join(folder, "x")) == 3
    assert files.exists(folder)
    assert files.is_dir(folder)
    files.delete_tree(files.join(folder, "x"))
    assert files.list_dir(folder) == ["w"]
    files.delete_tree(str(tmp_path / "a"))
    files.delete_tree(str(tmp_path / "a"))
    assert not files.exists(folder)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda root: files.open_input(f"{root}/missing"), "no such file"),
        (lambda root: files.open_input(root), "folder"),
        (lambda root: files.open_arrow(f"{root}/missing"), "no such file"),
        (lambda root: files.size(f"{root}/missing"), "no such file"),
        (lambda root: files.makedirs(f"{root}/file/sub"), "in the way"),
        (lambda root: files.makedirs(f"{root}/file"), "in the way"),
        (lambda root: files.write_atomic(f"{root}/file/x", b""), "in the way"),
        (lambda root: files.write_atomic(f"{root}/none/x", b""), "no such file"),
    ],
)
def test_what_a_user_can_mend_is_a_user_error(tmp_path, call, word):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=word):
        call(str(tmp_path))


def test_no_permission_is_a_user_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(UserError, match="permission denied"):
        files.makedirs(str(tmp_path / "x"))


def test_urls_are_matched_like_paths(bucket):
    assert globs.expand([f"{bucket}/in/*.parquet"], "/etc") == [
        (f"{bucket}/in/a.parquet", f"{bucket}/in/a.parquet"),
        (f"{bucket}/in/b.parquet", f"{bucket}/in/b.parquet"),
    ]
    assert names(["in/**"], bucket) == ["in/a.parquet", "in/b.parquet", "in/deep/c.parquet"]
    assert names(["in/a.parquet"], bucket + "/") == ["in/a.parquet"]
    assert (
        names(["in"], bucket)
        == names(["i*"], bucket)
        == ["in/a.parquet", "in/b.parquet", "in/deep/c.parquet"]
    )
    with pytest.raises(UserError, match=r"did you mean a\.parquet"):
        globs.expand([f"{bucket}/in/a.parqet"], "/etc")


def test_urls_are_read_written_and_deleted(bucket):
    assert files.read_bytes(f"{bucket}/in/a.parquet") == b"in/a.parquet"
    files.makedirs(f"{bucket}/out")
    files.write_atomic(f"{bucket}/out/x.gz", b"as it is")
    assert MemoryFileSystem.blobs[f"{bucket}/out/x.gz"] == b"as it is"
    assert files.size(f"{bucket}/out/x.gz") == 8
    assert files.list_dir(f"{bucket}/in") == ["_SUCCESS", "a.parquet", "b.parquet", "deep"]
    assert files.exists(f"{bucket}/in")
    assert not files.exists(f"{bucket}/i")
    files.delete_tree(f"{bucket}/in")
    files.delete_tree(f"{bucket}/in")
    assert files.list_dir(f"{bucket}/in") == []
    assert files.exists(f"{bucket}/out/x.gz")
    with pytest.raises(UserError, match="cannot be read"):
        files.open_input(f"{bucket}/none")
    with pytest.raises(UserError, match="extra is installed"):
        files.read_bytes("nosuch://bucket/key")


def test_a_url_is_copied_once(bucket, tmp_path):
    assert files.local_copy(str(tmp_path)) == str(tmp_path)
    model = files.local_copy(f"{bucket}/model")
    assert files.read_bytes(f"{model}/w/x.bin") == b"model/w/x.bin"
    assert files.read_bytes(f"{model}/a.pb") == b"model/a.pb"
    assert files.local_copy(f"{bucket}/model") == model
    one = files.local_copy(f"{bucket}/in/a.parquet")
    assert os.path.basename(one) == "a.parquet"
    assert files.read_bytes(one) == b"in/a.parquet"
    assert len(MemoryFileSystem.opened) == 3
    with pytest.raises(UserError):
        files.local_copy(f"{bucket}/none")


def test_local_paths_need_no_beam(tmp_path):
    program = (
        "import sys; from transforms.sources import globs; from transforms.storage import files\n"
        f"files.write_atomic({str(tmp_path / 'x')!r}, b'1'); globs.expand(['x'], {str(tmp_path)!r})\n"
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
