import shutil

import numpy as np
import pytest

from data_pipeline.recipes.speech import voices
from data_pipeline.recipes.speech.corpora import CorpusError


@pytest.fixture
def dialogues(tmp_path):
    folder = tmp_path / "text" / "meld"
    folder.mkdir(parents=True)
    said = ["You’re late again, (sighs) Ross.", "No!", "so I told him to leave", "a b c d e " * 9]
    rows = "".join(f'{i},"{text}"\n' for i, text in enumerate([*said, *said]))
    (folder / "dev.csv").write_text("Sr No.,Utterance\n" + rows, encoding="utf-8")
    return tmp_path


def test_sentences_are_the_different_ones_of_middling_length_in_plain_letters(dialogues):
    assert voices.sentences(dialogues) == ["You're late again, Ross.", "so I told him to leave"]


def test_missing_dialogues_and_too_few_sentences_say_so(tmp_path, dialogues):
    with pytest.raises(CorpusError, match="asked for 3 sentences, found 2"):
        list(voices.readings(3, dialogues))
    with pytest.raises(CorpusError, match="expected meld"):
        voices.sentences(tmp_path / "nothing")


def test_more_readings_only_add_to_the_end(shared_data):
    few, more = (list(voices.readings(count, shared_data)) for count in (40, 90))
    assert more[:40] == few and len({text for text, _ in more}) == 90
    assert {voice.program for _, voice in few} == {"flite", "espeak-ng", "text2wave"}


@pytest.mark.parametrize("program", ["flite", "espeak-ng", "text2wave"])
def test_every_program_says_the_same_twice(program):
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    number = {"flite": 0, "espeak-ng": 3, "text2wave": 7}[program]
    voice = voices.voice_of(number)
    assert voice.program == program
    first, second = (voices.speak(voice, "so I told him to leave") for _ in range(2))
    assert first.dtype == np.float32 and 0.5 < len(first) / 16_000 < 6
    np.testing.assert_array_equal(first, second)


def test_a_missing_program_and_a_voice_that_fails_say_so():
    with pytest.raises(CorpusError, match="no program no-such; apt-get install"):
        voices.speak(voices.Voice(program="no-such", name="x"), "hello")
    if shutil.which("text2wave"):
        with pytest.raises(CorpusError, match="could not say 'hello': .*unbound variable"):
            voices.speak(voices.Voice(program="text2wave", name="no_such"), "hello")
