"""A Beam filesystem in a dictionary, `mem://bucket/key`: flat like an object store, and offline."""

import io
import re

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem


class _Upload(io.BytesIO):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def close(self):
        if not self.closed:
            MemoryFileSystem.blobs[self.path] = self.getvalue()
        super().close()


class MemoryFileSystem(FileSystem):
    """Beam finds it by its scheme, among FileSystem's subclasses."""

    blobs: dict[str, bytes] = {}  # noqa: RUF012
    opened: list[str] = []  # noqa: RUF012

    @classmethod
    def scheme(cls):
        return "mem"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        pass

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for path, data in sorted(self.blobs.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data), 1.0)

    def open(self, path, mime_type="application/octet-stream", compression_type="auto"):
        if path not in self.blobs:
            raise BeamIOError("not found", {path: "404"})
        self.opened.append(path)
        return self._decoded(io.BytesIO(self.blobs[path]), path, compression_type)

    def create(self, path, mime_type="application/octet-stream", compression_type="auto"):
        return self._decoded(_Upload(path), path, compression_type)

    def _decoded(self, file, path, compression_type):
        if compression_type == "auto" and re.search(r"\.gz$", path):
            raise AssertionError("bytes must be read as they are stored")
        return file

    def copy(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.blobs[target] = self.blobs[source]

    def rename(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            assert target not in self.blobs, "not every store replaces what stands at a target"
            self.blobs[target] = self.blobs.pop(source)

    def exists(self, path):
        return path in self.blobs

    def size(self, path):
        return len(self.blobs[path])

    def last_updated(self, path):
        return 1.0

    def checksum(self, path):
        raise NotImplementedError

    def metadata(self, path):
        if path not in self.blobs:
            raise BeamIOError("not found", {path: "404"})
        return FileMetadata(path, len(self.blobs[path]), 1.0)

    def delete(self, paths):
        for path in paths:
            del self.blobs[path]
