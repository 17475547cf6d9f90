"""What a file is that was taken for a video and is none: told by how it begins."""

from pathlib import Path

_BEGINNINGS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer and not the file itself; git lfs pull fetches it",
    ),
    (b"<!doctype html", "a web page; what came of its download? Fetch it again"),
    (b"<html", "a web page; what came of its download? Fetch it again"),
    (b"<?xml", "XML; expected the video itself"),
    (b"pk\x03\x04", "a ZIP archive or an office document; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; gunzip it"),
    (b"\xfd7zxz", "compressed by xz; unxz it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"rar!", "a RAR archive; unpack it"),
    (b"%pdf", "a PDF"),
    (b"\x89png", "a picture (PNG); expected a video or sound"),
    (b"\xff\xd8\xff", "a picture (JPEG); expected a video or sound"),
    (b"bm", "a picture (BMP); expected a video or sound"),
    (b"ii*\0", "a picture (TIFF); expected a video or sound"),
    (b"mm\0*", "a picture (TIFF); expected a video or sound"),
)


def other_kind(path: Path) -> str | None:
    """What `path` is, in words to follow "is"; None where it may be a video after all."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "empty, 0 bytes; copy it again"
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, kind in _BEGINNINGS:
        if start.startswith(beginning):
            return kind
    if start[:4] == b"riff" and start[8:12] == b"webp":
        return "a picture (WebP); expected a video or sound"
    return None
