"""Words: text as it is kept, whether a table, subtitles or a recognizer gave it.

split_words("I am  on my way.")    ["I", "am", "on", "my", "way."]
"""


def normalize_text(text: str | None) -> str | None:
    """`text` with every run of white space made one space; None when nothing is left."""
    words = split_words(text or "")
    return " ".join(words) or None


def split_words(text: str) -> list[str]:
    """The words of `text`, in order: what stands between white space, as in the paper.

    Punctuation stays with its word, so a whole-word mask hides "meeting." altogether; WordPiece
    splits it off again when the word becomes pieces.
    """
    return text.split()
