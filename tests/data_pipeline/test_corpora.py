import csv
import hashlib
from pathlib import Path

import pytest

from data_pipeline.corpora import cremad, grid
from data_pipeline.corpora.__main__ import adapter_names, main
from data_pipeline.table.clips import ClipTableError, load_clips


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def run(name: str, root: Path, output: Path):
    code = main([name, str(root), "--output", str(output)])
    rejects = []
    return code, load_clips(output, rejects), rejects


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bbaf2n", "bin blue at f two now"),
        ("swwp2s", "set white with p two soon"),
        ("lgizza", "lay green in z zero again"),
        ("prbk9p", "place red by k nine please"),
    ],
)
def test_six_letters_spell_a_sentence(name, words):
    assert grid.sentence(name) == words.split()


@pytest.mark.parametrize("name", ["bbaw2n", "xbaf2n", "bbaf0n", "bbafan"])
def test_letters_that_spell_nothing(name):
    with pytest.raises(ValueError, match=rf"{name}: letter \d is"):
        grid.sentence(name)


def test_grid_takes_words_from_the_alignment_where_there_is_one(tmp_path):
    touch(tmp_path, "s1/bbaf2n.mpg", "s2/bbaf2n.mpg", "s2/lwbsza.mpg", "s2/._lwbsza.mpg")
    for speaker, word in (("s1", "two"), ("s2", "three")):
        align = tmp_path / "align" / speaker / "bbaf2n.align"
        align.parent.mkdir(parents=True)
        align.write_text(f"0 1000 sil\n1000 2000 bin\n2000 3000 {word}\n3000 4000 sil\n")
    code, clips, rejects = run("grid", tmp_path, tmp_path / "clips.csv")
    assert code == 0 and rejects == []
    assert [(c.speaker, c.recording, c.text) for c in clips] == [
        ("s1", "s1", "bin two"),
        ("s2", "s2", "bin three"),
        ("s2", "s2", "lay white by s zero again"),
    ]
    assert len({c.id for c in clips}) == 3


def test_grid_reports_names_and_alignments_that_cannot_be_read(tmp_path, capsys):
    touch(tmp_path, "clips/hello.mp4", "clips/bbaf2q.mp4", "clips/bbaf2n.mp4", "clips/bbaf3s.mp4")
    touch(tmp_path, "align/bbaf3s.align")
    code, clips, _ = run("grid", tmp_path, tmp_path / "out" / "clips.csv")
    said = capsys.readouterr()
    assert code == 0 and [c.text for c in clips] == ["bin blue at f two now"]
    assert clips[0].speaker == tmp_path.name
    assert clips[0].video == str(tmp_path / "clips/bbaf2n.mp4")
    for what in ("'hello' is no GRID name", "letter 6 is 'q'", "bbaf3s.align holds no word"):
        assert what in said.err
    assert "4 clips = 1 rows" in said.out and "3 rejects" in said.out


def test_grid_speakers_come_from_its_metadata(tmp_path):
    touch(tmp_path, "clips/bbaf2n.mp4")
    (tmp_path / "metadata.csv").write_text("file,speaker\nclips/bbaf2n.mp4,anna\n")
    _, [clip], _ = run("grid", tmp_path, tmp_path / "clips.csv")
    assert clip.speaker == "anna"


def test_grid_metadata_that_is_not_utf8_is_named(tmp_path, capsys):
    touch(tmp_path, "clips/bbaf2n.mp4")
    (tmp_path / "metadata.csv").write_bytes(b"file,speaker\nclips/bbaf2n.mp4,Andr\xe9\n")
    assert main(["grid", str(tmp_path), "--output", str(tmp_path / "clips.csv")]) == 2
    assert "metadata.csv is not UTF-8" in capsys.readouterr().err


def test_the_table_that_is_read_is_not_written(tmp_path, capsys):
    touch(tmp_path, "a.mp4")
    table = tmp_path / "clips.csv"
    table.write_text("video,note\na.mp4,mine\n")
    for root in (table, tmp_path):
        with pytest.raises(SystemExit):
            main(["csv", str(root), "--output", str(table)])
        assert "clips.csv is what would be read" in capsys.readouterr().err
    assert table.read_text() == "video,note\na.mp4,mine\n"


def test_cremad_names_tell_everything():
    row = cremad.describe("1001_TSI_HAP_HI")
    assert row["text"] == "The surface is slick." and row["label"] == "happiness"
    assert row["speaker"] == row["recording"] == "1001" and row["level"] == "high"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1001_XYZ_ANG_XX", "no sentence XYZ"),
        ("1001_DFA_JOY_XX", "no emotion JOY"),
        ("1001_DFA_ANG_ZZ", "no level ZZ"),
        ("readme", "no CREMA-D name"),
    ],
)
def test_cremad_names_that_tell_nothing(name, message):
    with pytest.raises(ValueError, match=message):
        cremad.describe(name)


def test_cremad_sound_is_a_clip_only_without_its_video(tmp_path, caplog):
    touch(tmp_path, "VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav")
    touch(tmp_path, "copy/1001_DFA_ANG_XX.flv")
    touch(tmp_path, "AudioWAV/1002_DFA_SAD_XX.wav", "VideoFlash/broken.flv")
    rejects = []
    rows = cremad.clips(tmp_path, rejects.append)
    assert [Path(r["video"]).suffix for r in rows] == [".flv", ".wav"]
    assert [(r.clip, r.reason) for r in rejects] == [
        ("copy/1001_DFA_ANG_XX.flv", "duplicate_id"),
        ("VideoFlash/broken.flv", "bad_name"),
    ]
    assert "1 sounds of videos are left out: 1001_DFA_ANG_XX.wav" in caplog.text


def test_cremad_counts_are_compared_where_all_actors_are_there(tmp_path, caplog):
    touch(tmp_path, *(f"AudioWAV/{actor}_DFA_ANG_XX.wav" for actor in range(1001, 1091)))
    cremad.clips(tmp_path, print)
    assert not caplog.text
    touch(tmp_path, "AudioWAV/1091_DFA_ANG_XX.wav")
    cremad.clips(tmp_path, print)
    assert "CREMA-D: other counts than in the release: clips 91 (published: 7,442)" in caplog.text


@pytest.mark.parametrize("adapter", [grid, cremad])
def test_a_folder_without_the_corpus(tmp_path, adapter):
    with pytest.raises(ClipTableError, match="expected"):
        adapter.clips(tmp_path, lambda reject: None)


def test_csv_gives_back_the_clips_it_reads(tmp_path):
    touch(tmp_path, "a/x.mp4", "a/y.mp4")
    table = tmp_path / "in.csv"
    table.write_text("video,start,text,label,id\na/x.mp4,0.5,hi,sad,one\na/y.mp4,bad,,,\n")
    code, clips, rejects = run("csv", table, tmp_path / "out" / "clips.csv")
    assert code == 0 and rejects == []
    direct = load_clips(table, rejects)
    assert clips == direct and len(rejects) == 1


def test_an_unknown_corpus_names_the_nearest(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["gird", str(tmp_path), "--output", str(tmp_path / "c.csv")])
    assert "is grid" in capsys.readouterr().err
    assert {"csv", "grid", "cremad"} <= set(adapter_names())


def test_the_samples_that_ship_are_what_their_table_says(root, tmp_path):
    folder = root / "data_pipeline/assets/samples"
    code, clips, rejects = run("cremad", folder, tmp_path / "clips.csv")
    assert code == 0 and rejects == []
    shipped = load_clips(folder, [])
    assert clips == shipped and len(shipped) == 12
    assert {c.label for c in shipped} == set(cremad.EMOTIONS.values())
    assert all(Path(c.video).is_file() for c in shipped)
    assert (folder / "LICENSE.txt").is_file()


@pytest.mark.parametrize(
    ("name", "folder", "number"),
    [("grid", "grid_s1", 800), ("grid", "grid_multi", 8), ("cremad", "cremad", 12)],
)
def test_real_corpora(shared_data, tmp_path, name, folder, number):
    code, clips, rejects = run(name, shared_data / folder, tmp_path / "clips.csv")
    assert code == 0 and rejects == [] and len(clips) == number
    with open(shared_data / folder / "metadata.csv", newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    for clip in clips:
        row = rows[Path(clip.video).name]
        assert clip.text == (row.get("transcript") or row["transcript_from_align"])


def test_the_samples_are_the_shared_ones(shared_data, root):
    for file in sorted((root / "data_pipeline/assets/samples").glob("100*")):
        folder = "clips" if file.suffix == ".flv" else "audio_only"
        digests = [
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (file, shared_data / "cremad" / folder / file.name)
        ]
        assert digests[0] == digests[1]
