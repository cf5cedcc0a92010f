"""Where outputs go and inputs come from: a folder of this machine, or any store that fsspec knows ("s3://bucket/a")."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from proxyclip.errors import InputError, NotFound
from proxyclip.files import writable_folder, write_whole


def is_address(path: str) -> bool:
    return "://" in path


@dataclass(frozen=True)
class Folder:
    """A folder of this machine; names are relative to it, with "/"."""

    root: Path

    def names(self, folder: str = "") -> set[str]:
        """Of all files that exist in a folder, relative to it; none if the folder does not exist."""
        root, found = os.path.join(self.root, folder), set()
        for place, _, files in os.walk(root):
            start = "" if place == root else os.path.relpath(place, root).replace(os.sep, "/") + "/"
            found.update(start + name for name in files)
        return found

    def check(self) -> None:
        """InputError if nothing can be written."""
        writable_folder(self.root)

    def write(self, name: str, data) -> None:
        """Bytes, or an iterator of bytes; the file is complete or does not exist."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.writelines([data] if isinstance(data, bytes) else data))
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from None

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """If it is there and empty."""
        with contextlib.suppress(OSError):
            (self.root / name).rmdir()


@dataclass(frozen=True)
class Store:
    """A folder in an object store. An object appears when it is complete."""

    address: str

    @property
    def opened(self):
        """The file system, and the path in it."""
        return opened(self.address)

    def names(self, folder: str = "") -> set[str]:
        files, root = self.opened
        files.invalidate_cache()
        place = f"{root}/{folder}".rstrip("/")
        return {path[len(place) :].lstrip("/") for path in files.find(place)}

    def check(self) -> None:
        self.opened  # noqa: B018 - raises where the address is unknown

    def write(self, name: str, data) -> None:
        files, root = self.opened
        path = f"{root}/{name}"
        try:
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with files.transaction, files.open(path, "wb") as file:
                for part in [data] if isinstance(data, bytes) else data:
                    file.write(part)
        except OSError as error:
            raise InputError(f"cannot write {self.address}/{name}: {error}") from None

    def has(self, name: str) -> bool:
        files, root = self.opened
        return files.exists(f"{root}/{name}")

    def read(self, name: str) -> bytes:
        files, root = self.opened
        return files.cat_file(f"{root}/{name}")

    def remove(self, name: str) -> None:
        files, root = self.opened
        if files.exists(f"{root}/{name}"):
            files.rm_file(f"{root}/{name}")

    def remove_folder(self, name: str) -> None:
        """A store has no empty folders."""


def open_storage(location: str) -> Folder | Store:
    return Store(location.rstrip("/")) if is_address(location) else Folder(Path(location))


def opened(address: str):
    """fsspec's file system for an address, and the path in it; InputError if there is none."""
    import fsspec

    try:
        files, root = fsspec.url_to_fs(address)
    except ImportError as error:
        raise InputError(f"cannot open {address}: {error}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {address}: {error}") from None
    return files, root.rstrip("/")


def read_address(address: str) -> bytes:
    """The contents of an object; NotFound or InputError."""
    files, path = opened(address)
    try:
        return files.cat_file(path)
    except FileNotFoundError:
        raise NotFound(f"{address} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {address}: {error}") from None


def list_addresses(given: str) -> list[str]:
    """Everything below an address, or everything that matches a pattern."""
    files, path = opened(given)
    try:
        found = files.glob(path) if any(letter in path for letter in "*?[") else files.find(path)
    except OSError as error:
        raise InputError(f"cannot list {given}: {error}") from None
    scheme, rest = given.split("://", 1)
    start = (
        f"{scheme}:///" if rest.startswith("/") else f"{scheme}://"
    )  # as given: fsspec writes some with more slashes
    return [start + entry.lstrip("/") for entry in found]
