"""Checksums of a folder's files, written with them: a folder that was torn or changed since is told by file and reason."""

from __future__ import annotations

from pathlib import Path

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import sha256, sync

MANIFEST = "SHA256SUMS"  # `sha256sum --check` reads it too


class DamagedCheckpointError(UserError):
    """A checkpoint whose files are not what was saved."""

    def __init__(self, directory: Path | str, reason: str) -> None:
        super().__init__(f"{directory}: damaged: {reason}")


def write_manifest(directory: Path) -> None:
    """Write the checksums of all files of a folder into `SHA256SUMS`, and wait until all of it is on the disk."""
    lines = []
    for path in _files(directory):
        sync(path)
        lines.append(f"{sha256(path)}  {path.name}\n")
    manifest = directory / MANIFEST
    manifest.write_text("".join(lines), encoding="utf-8")
    sync(manifest)
    sync(directory)


def verify(directory: Path | str) -> None:
    """Compare a folder with its `SHA256SUMS`.

    Raises:
        DamagedCheckpointError: a file is missing, was added, or has other contents; the message names it.
    """
    directory = Path(directory)
    try:
        expected = _read_manifest(directory)
        for name, checksum in expected.items():
            if not (directory / name).is_file():
                raise DamagedCheckpointError(directory, f"{name} is missing")
            if sha256(directory / name) != checksum:
                raise DamagedCheckpointError(
                    directory, f"{name} is torn or was changed: its checksum is not that of {MANIFEST}"
                )
        unknown = [path.name for path in _files(directory) if path.name not in expected]
    except OSError as error:
        raise DamagedCheckpointError(directory, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if unknown:
        raise DamagedCheckpointError(directory, f"{unknown[0]} is not listed in {MANIFEST}")


def _read_manifest(directory: Path) -> dict[str, str]:
    if not directory.is_dir():
        raise DamagedCheckpointError(directory, "is missing")
    path = directory / MANIFEST
    if not path.is_file():
        raise DamagedCheckpointError(
            directory, f"{MANIFEST} is missing" if any(directory.iterdir()) else "the folder is empty"
        )
    lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    if not expected or not all(expected) or any("/" in name or "\0" in name for name in expected):
        raise DamagedCheckpointError(directory, f"{MANIFEST} is torn")
    return expected


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name != MANIFEST)
