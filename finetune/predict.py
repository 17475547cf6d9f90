"""python -m finetune.predict VIDEO... --output FOLDER

Own video in, emotion timeline out: who speaks from when to when, the words, an emotion with its
probabilities, or why none is named. VIDEO is a video or sound file, a folder of them, a clip table,
or a .txt with a path a line. In FOLDER:

    timeline.html        one page, with its pictures inside
    timeline.json .csv   all numbers; NAME.vtt: subtitles of each video
    cuts/ spoken/ silent/   what each file was cut into, and the shards of it

Stopped, the same command goes on from there.
"""

import logging
import os
import re
import sys
from pathlib import Path

from data_pipeline.command_line import config_from_command_line, leave, run_command
from data_pipeline.errors import UserError
from finetune.timeline.config import PredictConfig
from finetune.timeline.utterance import Utterance, Video

ABOUT = (
    "Own video in, emotion timeline out. VIDEO: a video or sound file, a folder, a clip table, or\n"
    "a .txt with a path a line. Stopped, the same command goes on from there."
)
EXAMPLE = "python -m finetune.predict interview.mp4 --output runs/interview"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 where a file could not be looked at, or nothing could."""
    return run_command(_main, argv, name="predict", go_on="the same command goes on from here")


def _main(argv: list[str] | None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers are the parallelism
    inputs, words = split_words(sys.argv[1:] if argv is None else argv)
    config = config_from_command_line(
        PredictConfig,
        words,
        command="python -m finetune.predict VIDEO... --output FOLDER",
        about=ABOUT,
        example=EXAMPLE,
    )
    if not inputs:
        raise UserError(f"no video is named; for example {EXAMPLE}")
    # Torch takes seconds: a slip in the words is told before.
    from finetune.recognizer import load_recognizer
    from finetune.timeline.run import predict

    timeline, page = predict(load_recognizer(config.recognizer), inputs, config)
    problems = [video for video in timeline.videos if video.problem]
    for video in timeline.videos:
        if not video.problem:
            print("\n".join(lines_of(video, list(timeline.of(video)))))
    print(page)
    for video in problems:
        print(f"predict: {video.path}: {video.problem}", file=sys.stderr)
    return 2 if problems else 0


def lines_of(video: Video, utterances: list[Utterance]) -> list[str]:
    """Of one video: its path, what was odd, and a line an utterance."""
    notes = [*video.notes, *([] if utterances else ["there is nothing in it to judge"])]
    lines = [": ".join(filter(None, [video.path, "; ".join(notes)]))]
    for u in utterances:
        said = f"{u.emotion} {u.confidence:.2f}" if u.emotion else "none named"
        why = f"({u.abstains})" if u.abstains else ""
        words = " ".join(filter(None, [u.text, why]))
        lines.append(
            f"{u.start:8.1f} {u.end:8.1f}  {u.person or '-':<3} {said:<14} {words}".rstrip()
        )
    return lines


def split_words(words: list[str]) -> tuple[list[Path], list[str]]:
    """Files, and settings: `--output X` is output=X, and what looks like name=value is a setting
    unless there is such a file."""
    inputs, settings = [], []
    rest = iter(words)
    for word in rest:
        if word == "--output":
            settings.append(f"output={next(rest, '')}")
        elif word.startswith("--output="):
            settings.append(word.removeprefix("--"))
        elif word in ("-h", "--help"):
            settings.append(word)
        elif word == "--config":
            settings += [word, next(rest, "")]
        elif re.match(r"[a-z_][a-z0-9_.]*=", word) and not os.path.lexists(word):
            settings.append(word)
        elif word.startswith("-") and not os.path.lexists(word):
            settings.append(word)
        else:
            inputs.append(Path(os.path.expanduser(word)))
    return inputs, settings


if __name__ == "__main__":
    leave(main())
