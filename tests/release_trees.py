"""Trees of the layout of corpora's releases, which are under licence or too large to be here."""

from collections.abc import Iterable
from pathlib import Path

from data_pipeline.corpora.__main__ import main
from data_pipeline.table.clips import load_clips

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"


def read(adapter, root: Path):
    """(rows by name of what they were made of, rejects as (where, reason))."""
    rejects = []
    rows = adapter.clips(root, rejects.append)
    return rows, [(reject.clip, reject.reason) for reject in rejects]


def through_the_table(name: str, root: Path, output: Path):
    """The clips that an extraction would see."""
    code = main([name, str(root), "--output", str(output)])
    rejects = []
    clips = load_clips(output, rejects)
    assert code == 0 and rejects == []
    return clips


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root: Path, name: str, text: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def iemocap_dialogue(
    root: Path,
    name: str,
    turns: Iterable[tuple[str, str]],
    *,
    words: bool = True,
    video: bool = True,
    seconds: float = 2.0,
) -> None:
    """One dialogue; `turns` are (F000, label), one after the other, each of `seconds`."""
    dialog = f"Session{int(name[3:5])}/dialog"
    rated, said = [HEADER, ""], []
    for n, (turn, label) in enumerate(turns):
        start, end = n * seconds, (n + 1) * seconds
        rated += [
            f"[{start:.4f} - {end:.4f}]\t{name}_{turn}\t{label}\t[2.5000, 3.0000, 2.0000]",
            "C-E2:\tNeutral;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "",
        ]
        said.append(f"{name}_{turn} [{start:08.4f}-{end:08.4f}]: Words of {turn}.")
    said += [f"{name}_FXX0 [001.0000-001.5000]: Aside.", "M: Without an id."]
    write(root, f"{dialog}/EmoEvaluation/{name}.txt", "\n".join(rated) + "\n")
    write(root, f"{dialog}/EmoEvaluation/._{name}.txt", b"\0\5\26\7")
    write(root, f"{dialog}/EmoEvaluation/Categorical/{name}_e2_cat.txt", "not this one\n")
    if words:
        write(root, f"{dialog}/transcriptions/{name}.txt", "\n".join(said) + "\n")
        write(root, f"{dialog}/transcriptions/._{name}.txt", b"\0\5\26\7")
    if video:
        touch(root, f"{dialog}/avi/DivX/{name}.avi", f"{dialog}/avi/DivX/._{name}.avi")


def msp_improv_turn(root: Path, name: str, code: str | None, suffix: str = ".avi") -> None:
    """One turn, MSP-IMPROV-S01A-F01-S-FM01; `code` None leaves it out of the labels."""
    _, _, sentence, speaker, scenario, _ = name.split("-")
    touch(root, f"session{speaker[-1]}/{sentence}/{scenario}/{name}{suffix}")
    write(root, f"All_human_transcriptions/{name}.txt", f"Words of\n{name[-4:]}\n")
    if code is not None:
        line = (
            f"UTD-{name[4:]}.avi; {code}; A:2.500000; V:3.000000; D:1.5; N:NaN;\n"
            "rater-1; Happy; Happy,Excited; A:2; V:4; D:3; N:5;\n\n"
        )
        with open(root / "Evalution.txt", "a") as file:
            file.write(line)


def meld_split(root: Path, split: str, folder: str, rows: Iterable[tuple[int, int, str]]) -> None:
    """One split; `rows` are (dialogue, utterance, words)."""
    lines = ["Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season"]
    for dialogue, utterance, text in rows:
        lines.append(f'1,"{text}",Monica,joy,positive,{dialogue},{utterance},4')
        touch(root, f"{folder}/dia{dialogue}_utt{utterance}.mp4")
    write(root, f"{split}_sent_emo.csv", "\r\n".join(lines) + "\r\n")
