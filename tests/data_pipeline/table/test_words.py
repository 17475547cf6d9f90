import pytest

from data_pipeline.table.words import normalize_text, split_words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  I am\n on\tmy way.  ", "I am on my way."),
        ("Don't stop", "Don't stop"),
        ("non\u00a0breaking\u2003space", "non breaking space"),
        ("", None),
        (" \n\t", None),
        (None, None),
    ],
)
def test_text_is_kept_with_single_spaces_or_is_none(text, kept):
    assert normalize_text(text) == kept


def test_words_are_what_stands_between_spaces():
    assert split_words(" Don't  forget a jacket. ") == ["Don't", "forget", "a", "jacket."]
    assert split_words("") == []
