"""Text files as users have them: UTF-8, UTF-16 and UTF-32, and Windows-1252 for western letters.

    text, encoding = decode_text(path.read_bytes())

No guess goes further: what is neither keeps its foreign bytes as surrogates (U+DC80 to U+DCFF), for
`is_text` to find, so that a reader can refuse the one line that holds them. Detectors that guess
among all code pages took French for Polish and Russian for Macintosh in files of five lines.
"""

import codecs

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
MAX_ACCENTED = 0.5
"""Of the letters, in a western language; Greek or Russian read as Windows-1252 has nearly all."""


def decode_text(raw: bytes) -> tuple[str, str]:
    """The text of `raw`, without its byte order mark, and the encoding that it was read in."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
            return raw.decode(encoding, errors), encoding
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        # In every western text of 16-bit units one byte of two is zero.
        half = raw[first:4096:2]
        if half and half.count(0) > len(half) / 2:
            return raw.decode(encoding, "replace"), encoding
    text = raw.decode("utf-8", "surrogateescape")
    if is_text(text):
        return text, "utf-8"
    western = _as_western(raw)
    # Where some letters are whole UTF-8, a stray byte is damage and no other encoding.
    damaged = any(c > "\x7f" and is_text(c) for c in text)
    return (text, "utf-8") if damaged or western is None else (western, "windows-1252")


def is_text(text: str) -> bool:
    """Whether `text` is free of bytes that could not be read."""
    return text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text)


def _as_western(raw: bytes) -> str | None:
    try:
        text = raw.decode("windows-1252")
    except UnicodeDecodeError:
        return None
    letters = [c for c in text if c.isalpha()]
    accented = sum(c > "\x7f" for c in letters)
    return text if accented <= MAX_ACCENTED * len(letters) else None
