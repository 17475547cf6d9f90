"""From what a user names to pieces: what is no list, no file, or the name of two."""

import os
import wave

import numpy as np
import pytest
from toy_videos import make

from data_pipeline.errors import UserError
from data_pipeline.files.weights import ASSETS
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import SAMPLE_RATE, Clip
from finetune.predict import lines_of
from finetune.recognizer import Recognizer
from finetune.timeline.config import PredictConfig
from finetune.timeline.cutting import cut_all, find_clips
from finetune.timeline.run import predict
from finetune.timeline.utterance import TimelineError

SOUND = next((ASSETS / "samples").glob("*.mp3"))
FILM = next((ASSETS / "samples").glob("*.flv"))


@pytest.fixture
def cut(tmp_path):
    def cut(*paths):
        clips, rejects = find_clips(list(paths))
        return cut_all(clips, tmp_path / "out", diarize=False), rejects

    return cut


def linked(path, to):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def copied(path, source=SOUND):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
    return path


def write(path, sound_T):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((np.clip(sound_T, -1, 1) * 32767).astype("<i2").tobytes())


def test_two_files_of_one_name_are_two(cut, tmp_path):
    first, second = copied(tmp_path / "a/one/talk.mp3"), copied(tmp_path / "b/one/talk.mp3")
    pieces, _ = cut(first, second)
    assert [clip.video for clip in pieces.spoken] == [str(first), str(second)]
    assert len({clip.id for clip in pieces.spoken}) == 2
    assert len(list((tmp_path / "out/cuts").iterdir())) == 2
    again, _ = cut(first, second)
    assert again == pieces
    alone, _ = cut(first)
    assert alone.spoken[0].id == "one-talk-000300"


def test_one_file_through_a_link_is_one(cut, tmp_path):
    file = copied(tmp_path / "talk.mp3")
    pieces, _ = cut(file, linked(tmp_path / "b/other.mp3", file))
    assert len(pieces.videos) == len(pieces.spoken) == 1


def test_what_a_table_cuts_is_not_cut_again(cut, tmp_path, caplog):
    file = copied(tmp_path / "talk.mp3")
    (tmp_path / "rows.csv").write_text("video,start,end\ntalk.mp3,0.5,1.5\n")
    pieces, _ = cut(file, tmp_path / "rows.csv")
    assert [(clip.start, clip.end) for clip in pieces.spoken] == [(0.5, 1.5)]
    assert len(pieces.videos) == 1 and "as its table or subtitles say" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbftalk.mp3\r\n", "talk.mp3\n".encode("utf-16"), b"\n  talk.mp3  \n\n"],
    ids=["a mark of UTF-8", "UTF-16", "blanks"],
)
def test_lists_come_in_every_encoding(cut, tmp_path, content):
    copied(tmp_path / "talk.mp3")
    (tmp_path / "list.txt").write_bytes(content)
    pieces, rejects = cut(tmp_path / "list.txt")
    assert len(pieces.spoken) == 1 and rejects == []


def test_one_name_of_no_use_costs_itself_alone(cut, tmp_path):
    good = copied(tmp_path / "talk.mp3")
    (tmp_path / "list.txt").write_bytes(os.urandom(64) + b"\xff\0")
    ring = linked(tmp_path / "ring.mp4", tmp_path / "ring.mp4")
    bad = [tmp_path / "list.txt", ring, tmp_path / ("n" * 300 + ".mp4"), tmp_path / ("m" * 300)]
    (tmp_path / "rows.csv").write_text(f"video\n{'r' * 300}.mp4\n")
    pieces, rejects = cut(*bad, tmp_path / "rows.csv", good)  # the ring lies beside it
    assert len(pieces.spoken) == 1 and "missing_file" in pieces.videos[0].problem
    assert [reject.clip for reject in rejects] == [str(path) for path in bad]
    assert "is no text; expected a path a line" in rejects[0].detail
    assert "it is a link to nothing" in rejects[1].detail
    with pytest.raises(TimelineError, match="is no text.*link to nothing.*; and 1 more"):
        find_clips(bad)


def test_a_row_without_a_file_is_named_by_its_place(tmp_path):
    (tmp_path / "t.csv").write_text("video,text\n,well\n,then\n")
    with pytest.raises(TimelineError, match=r"t\.csv:2: the column `video` is empty.*t\.csv:3: "):
        find_clips([tmp_path / "t.csv"])


def test_nothing_in_a_file_is_said(cut, tmp_path):
    make(tmp_path / "quiet.wav", seconds=8, video=None, audio="pcm_s16le", tone_at=99)
    make(tmp_path / "dark.mp4", seconds=8, audio=None)
    pieces, _ = cut(tmp_path / "quiet.wav", tmp_path / "dark.mp4")
    quiet, dark = pieces.videos
    notes = "the file has no picture; no voice was heard; there is nothing in it to judge"
    assert lines_of(quiet, []) == [f"{quiet.path}: {notes}"]
    assert dark.notes == ("the file has no sound",)
    assert [(c.start, c.end) for c in pieces.silent] == [(0, 4), (4, 8)] and not pieces.spoken


def test_sound_that_goes_on_after_the_picture(cut, tmp_path):
    make(tmp_path / "a.mp4", seconds=2, sound=(0.0, 32.0), tone_at=99)
    pieces, _ = cut(tmp_path / "a.mp4")
    assert pieces.videos[0].seconds == pytest.approx(32, abs=0.1)
    assert pieces.silent[-1].end == pytest.approx(32, abs=0.1)


def test_a_name_may_hold_anything(cut, tmp_path):
    odd = copied(tmp_path / "100% of \N{GRINNING FACE}\nnew 'line', <b>.mp3")
    pieces, _ = cut(odd)
    (clip,) = pieces.spoken
    assert clip.video == str(odd) and clip.id.isascii() and "\n" not in clip.id


def test_two_who_speak_at_once_are_one_piece(cut, tmp_path):
    sound_T, other_T = (open_clip(Clip(id="a", video=str(p))).sound_T for p in (SOUND, FILM))
    length = min(len(sound_T), len(other_T))
    write(tmp_path / "both.wav", sound_T[:length] + other_T[:length])
    pieces, _ = cut(tmp_path / "both.wav")
    assert len(pieces.spoken) == 1 and pieces.videos[0].problem == ""


def test_an_output_that_may_not_be_written_is_told_first(tmp_path):
    config = PredictConfig(output="/proc")  # nobody makes a folder there, not even root
    with pytest.raises(UserError, match="cannot write to output=/proc: .*; name another folder"):
        predict(Recognizer, [SOUND], config)


def test_broken_subtitles_are_told_with_what_to_do(cut, tmp_path):
    good = copied(tmp_path / "good.mp3")
    video = copied(tmp_path / "in/talk.mp3")
    video.with_suffix(".srt").write_text("this is no subtitle\n")
    pieces, (reject,) = cut(video, good)
    assert len(pieces.spoken) == 1 and reject.clip == "talk.mp3"
    assert "holds no subtitle line" in reject.detail
    assert reject.detail.endswith("mend it, or move it away from the video")
