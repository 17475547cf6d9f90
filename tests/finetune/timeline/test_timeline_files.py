"""A timeline's own form: table, JSON and back, subtitles, page."""

import csv
import io
import json

import numpy as np
import pytest

from finetune.timeline.files import clock, subtitle_names, subtitles, write_files
from finetune.timeline.page import (
    PIXELS_PER_SECOND,
    Shown,
    colors_of,
    short_clock,
    write_timeline_page,
)
from finetune.timeline.utterance import Timeline, TimelineError, Utterance, Video, read_timeline


def utterance(start, **more):
    told = {
        "id": f"u{start}",
        "video": "a/talk.mp4",
        "start": start,
        "end": start + 1.5,
        "person": "A",
        "text": "it's < fine & so on",
        "emotion": "happy",
        "probabilities": {"happy": 0.8, "sad": 0.2},
        "modalities": ("text", "speech"),
    }
    return Utterance(**told | more)


@pytest.fixture
def timeline():
    nothing = {"emotion": None, "probabilities": {}, "modalities": (), "text": None}
    return Timeline(
        classes=("happy", "sad"),
        videos=(
            Video(path="a/talk.mp4", seconds=3725.25, notes=("it breaks off",)),
            Video(path="b/talk.mp4", seconds=2.0),
            Video(path="<b>.mp4", problem="unreadable_video: 'x' & <y>"),
        ),
        utterances=(
            utterance(0.0),
            utterance(3661.5, person=None, abstains="no_voice: <none>", **nothing),
        ),
    )


def test_a_row_an_utterance(timeline):
    frame = timeline.to_frame()
    assert list(frame.columns)[-2:] == ["p_happy", "p_sad"] and len(frame) == 2
    assert frame.loc[0, "confidence"] == 0.8 and frame.loc[0, "modalities"] == "text speech"
    assert frame.loc[1].isna()[["person", "emotion", "confidence", "p_happy"]].all()
    assert [u.emotion for u in timeline] == ["happy", None] and timeline[0].person == "A"


def test_json_comes_back_and_what_is_none_is_told(timeline, tmp_path):
    write_files(timeline, tmp_path)
    assert read_timeline(tmp_path / "timeline.json") == timeline
    with open(tmp_path / "timeline.csv", newline="") as file:
        assert [row["emotion"] for row in csv.DictReader(file)] == ["happy", ""]
    (tmp_path / "timeline.json").write_text(json.dumps({"format_version": 9}))
    with pytest.raises(TimelineError, match="expected format version 1"):
        read_timeline(tmp_path / "timeline.json")
    with pytest.raises(TimelineError, match=r"finetune\.predict writes"):
        read_timeline(tmp_path / "none.json")


def test_subtitles_are_webvtt_and_two_of_one_name_do_not_meet(timeline):
    names = subtitle_names(timeline)
    assert names["a/talk.mp4"] == "talk.vtt" and names["b/talk.mp4"] == "talk-2.vtt"
    text = subtitles(list(timeline))
    head, first, second = text.split("\n\n")
    assert head == "WEBVTT"
    assert first.splitlines() == [
        "00:00:00.000 --> 00:00:01.500",
        "<v A>[happy 0.80] it's &lt; fine &amp; so on",
    ]
    assert second.splitlines() == ["01:01:01.500 --> 01:01:03.000", "[no emotion named]"]
    assert clock(0.9996) == "00:00:01.000"
    assert (clock(7199), clock(7199.9996)) == ("01:59:59.000", "02:00:00.000")


def test_the_page_holds_all_of_it_and_nothing_of_a_user_becomes_markup(timeline, tmp_path):
    faces = {"u0.0": np.full((48, 48), 99, np.uint8)}
    page = write_timeline_page(tmp_path / "x.html", timeline, faces).read_text()
    assert "it&#39;s &lt; fine &amp; so on" in page and "<b>.mp4" not in page
    assert "unreadable_video: &#39;x&#39; &amp; &lt;y&gt;" in page
    assert page.count("data:image/jpeg") == 1 and "http" not in page.replace("http-equiv", "")
    assert "no_voice: &lt;none&gt;" in page and "1:02:05.2" in page and "it breaks off" in page
    assert page.count("<button") == 2 and "left:98.289%" in page


def test_every_class_has_a_color():
    names = ("happy", *(f"own{n}" for n in range(8)))
    assert set(colors_of(names)) == set(names)
    assert all(color.startswith("#") for color in colors_of(names).values())
    assert (short_clock(62.46), short_clock(3602.5)) == ("1:02.5", "1:00:02.5")
    assert (short_clock(3599.96), short_clock(7199.0)) == ("1:00:00.0", "1:59:59.0")


def test_the_csv_reads_as_one_table(timeline):
    text = timeline.to_frame().to_csv(index=False)
    assert len(list(csv.reader(io.StringIO(text)))) == 3


def test_the_axis_of_an_hour_names_its_minutes():
    def ticks(seconds: float) -> list[float]:
        video = Video(path="a.mp4", seconds=seconds)
        width = round(seconds * PIXELS_PER_SECOND)
        rest = dict(name="a.mp4", subtitles="a.vtt", strip=[], lanes=[], utterances=[])
        return Shown(video=video, width=width, **rest).ticks

    assert ticks(10.0) == [0, 5, 10]
    assert ticks(3600.0) == pytest.approx([60 * minute for minute in range(61)])
