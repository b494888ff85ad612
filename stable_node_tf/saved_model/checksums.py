"""Checksums of the files of an export, for `sha256sum --check` too.

TensorFlow ends the whole process when it runs some damaged graphs, so damage
has to be found before.
"""

import hashlib
import re
from pathlib import Path

NAME = "SHA256SUMS"


def write(directory: str | Path) -> Path:
    r"""Writes the SHA-256 of every file under a directory to SHA256SUMS in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = (Path(directory) / "a").write_bytes(b"content")
    ...     path = write(directory)
    ...     verify(directory)
    ...     path.read_text()
    'ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73  a\n'
    """
    root = Path(directory)
    (root / NAME).unlink(missing_ok=True)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{_sha256(p)}  {p.relative_to(root).as_posix()}\n" for p in files]
    (root / NAME).write_text("".join(lines))
    return root / NAME


def verify(directory: str | Path) -> None:
    """Compares listed files with their checksums; others do not matter.

    Raises:
      ValueError: if a listed file has another content or is missing, or
        SHA256SUMS itself is damaged.
      OSError: if a file cannot be read.
    """
    root = Path(directory)
    try:
        lines = (root / NAME).read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{NAME} must be a text file") from error
    if not lines:
        raise ValueError(f"{NAME} must list files. Received: an empty file")
    for line in lines:
        listed = re.fullmatch("([0-9a-f]{64})  ([^\0]+)", line)
        if not listed:
            raise ValueError(
                f"{NAME} must have lines of a checksum, two spaces and a file. "
                f"Received: {line[:100]!r}"
            )
        checksum, name = listed.groups()
        if not (root / name).is_file():
            raise ValueError(f"the file {name} is missing")
        if _sha256(root / name) != checksum:
            raise ValueError(
                f"the file {name} must have the checksum in {NAME}. "
                "Received: another content"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
