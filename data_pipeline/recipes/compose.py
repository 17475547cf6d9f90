"""Shards of composed clips (data_pipeline.corpora composed and open_pool), by shipped encoders.

    python -m data_pipeline.corpora composed ../shared/data --output runs/composed.csv
    python -m data_pipeline.recipes.compose runs/composed.csv --output runs/composed

leaves `pool`, for pretraining, and `labelled`, for finetuning with the fold file
`composed-actor`, or of the open pool `open-pool`. The faces are given, so nothing is detected; from
there on a clip goes the way of any other: the extractors of data_pipeline.features, the words, a
shard. 2 minutes on one core; the open pool 10.

Streams more, of the sound or the words, come with `--streams '{fbank: {}, sentence: {}}'`, as an
extraction's setting names them, so that every system can be judged on the same clips.

A clip has what its row has: no face where `images` is empty, no speech where `sound` is none. Other
values of `sound` are clean, as where there is no such column, and a seed: the voice is then heard
at another speed, which changes its pitch too, and half of them in noise, in a room or by telephone
(data_pipeline.recipes.speech.disturb).
"""

import csv
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import yaml

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.config import ConfigError
from data_pipeline.corpora._ferplus import default_folder, read_split
from data_pipeline.features.extractors import Evidence, Wanted, extract, load_extractors, needs_of
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.schema import EXTRACTION_VERSION, Clip, ClipSample, Passport, Stream
from data_pipeline.table.clips import ClipTableError, load_clips
from data_pipeline.table.words import split_words

CLIPS_PER_SHARD = 256
FOLDERS = {"pool": "pool", "train": "labelled", "dev": "labelled", "test": "labelled"}
"""Split to the folder that it lies in."""
CLEAN, NONE = "clean", "none"
SHORTEST, LONGEST = 88, 114
"""Length of a disturbed sound, in hundredths of its own."""


class Composer:
    """Makes the sample of a composed clip. Each sound and each image is encoded once."""

    def __init__(self, ferplus: Path, more: Wanted | None = None) -> None:
        """`more`: extractors of sound or text, with their settings. Raises ConfigError."""
        strange = [
            name for name in more or {} if not needs_of([name]) <= {"sound", "voice", "text"}
        ]
        if strange:
            raise ConfigError(
                f"--streams {strange[0]}: a composed clip has a sound and words to make streams "
                "of, and its faces stand in `face`"
            )
        self.ferplus = ferplus
        self.more = tuple(more or {})
        self.extractors = load_extractors({"face": {}, "speech": {}, **(more or {})}, "cpu")
        self.passport: Passport = {}
        for extractor in self.extractors.values():
            self.passport |= extractor.passport
        self._faces = functools.cache(self._encode_faces)
        self._speech = functools.cache(self._encode_speech)
        self._words = functools.cache(self._encode_words)

    def sample(self, clip: Clip, images: str, sound: str = CLEAN) -> ClipSample:
        """`images`: a split of FER+ and rows of it, or nothing; `sound`: clean, none or a seed."""
        streams = {} if sound == NONE else self._speech(clip.video, sound)
        return ClipSample(
            id=clip.id,
            text=clip.text,
            words=split_words(clip.text or ""),
            streams=(self._held(images) if images else {}) | streams | self._words(clip.text),
            meta={
                "corpus": clip.corpus,
                "recording": clip.recording,
                "speaker": clip.speaker,
                "label": clip.label,
            },
        )

    def _held(self, images: str) -> dict[str, Stream]:
        split, *rows = images.split()
        seconds_F = (np.arange(len(rows)) / self.passport["face"].rate_hz).astype(np.float32)
        return {
            name: Stream(values_ND=values_ND[np.array(rows, dtype=int)], seconds_N=seconds_F)
            for name, values_ND in self._faces(split).items()
        }

    def _encode_faces(self, split: str) -> dict[str, np.ndarray]:
        """`face` and `face_probs` of every image of a split."""
        images_NHW = read_split(self.ferplus, split).images_NHW
        times_N = np.arange(len(images_NHW))
        said = self.extractors["face"](Evidence(crops_KHW=images_NHW, crop_seconds_K=times_N))
        return {name: stream.values_ND for name, stream in said.items()}

    def _encode_speech(self, path: str, sound: str) -> dict[str, Stream]:
        from data_pipeline.features.extractors import Evidence
        from data_pipeline.recipes.speech.corpora import read_sound

        sound_T = read_sound(Path(path))
        if sound != CLEAN:
            name = f"{Path(path).name} {sound}".encode()
            seed = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
            sound_T = disturbed(sound_T, np.random.default_rng(seed))
        heard = Evidence(sound_T=sound_T, has_voice=True)
        return self._extract(
            heard, [n for n in ("speech", *self.more) if "text" not in needs_of([n])]
        )

    def _encode_words(self, text: str | None) -> dict[str, Stream]:
        said = Evidence(text=text)
        return self._extract(said, [name for name in self.more if "text" in needs_of([name])])

    def _extract(self, evidence: Evidence, names: Iterable[str]) -> dict[str, Stream]:
        found: dict[str, Stream] = {}
        for name in names:
            found |= extract(name, self.extractors[name], evidence)
        return found


def disturbed(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound played faster or slower, and half of the time in noise, in a room or narrowed."""
    from scipy.signal import resample_poly

    from data_pipeline.recipes.speech.disturb import disturb

    played_T = resample_poly(sound_T, int(rng.integers(SHORTEST, LONGEST + 1)), 100)
    return disturb("varied", played_T, (), rng).astype(np.float32)


def compose(table: Path, ferplus: Path, output: Path, more: Wanted | None = None) -> dict[str, int]:
    """Write the shards of every split, with the streams `more`; folder to number of its clips."""
    from data_pipeline.extraction.clip_extractor import library_versions
    from data_pipeline.shards import write_shard

    composer = Composer(ferplus, more)
    written: dict[str, int] = {}
    for folder in dict.fromkeys(FOLDERS.values()):
        (output / folder).mkdir(parents=True, exist_ok=True)
        clips = [c for c in _read(table) if FOLDERS[c[1]["split"]] == folder]
        for index, start in enumerate(range(0, len(clips), CLIPS_PER_SHARD)):
            part = clips[start : start + CLIPS_PER_SHARD]
            task = hashlib.sha256(f"{EXTRACTION_VERSION} {part}".encode()).hexdigest()
            samples = (
                composer.sample(clip, row["images"], row.get("sound") or CLEAN)
                for clip, row in part
            )
            write_shard(
                output / folder, index, samples, [], composer.passport, library_versions(), task
            )
        written[folder] = len(clips)
    return written


def _read(table: Path) -> Iterator[tuple[Clip, dict[str, str]]]:
    """Each clip, and its row with the columns that a clip table has not."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file) if "images" in row}
    rejects: list = []
    clips = load_clips(table, rejects)
    if rejects or not clips or any(clip.id not in rows for clip in clips):
        why = rejects[0].detail if rejects else "no column `images`, or no `id`"
        raise ClipTableError(
            f"{table}: {why}; expected what python -m data_pipeline.corpora composed writes, or "
            "open_pool"
        )
    return ((clip, rows[clip.id]) for clip in clips)


def _wanted(told: str) -> Wanted:
    try:
        wanted = yaml.safe_load(told)
    except yaml.YAMLError as error:
        raise ConfigError(f"--streams {told}: no YAML ({error})") from error
    if not isinstance(wanted, dict):
        raise ConfigError(
            f"--streams {told}: expected names with settings, such as {{fbank: {{}}}}"
        )
    return {name: said or {} for name, said in wanted.items()}


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="compose")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.compose",
        "Shards of composed clips, for pretraining (pool) and finetuning (labelled).",
        "python -m data_pipeline.recipes.compose runs/composed.csv --output runs/composed",
    )
    parser.add_argument(
        "table", type=path_argument, help="of data_pipeline.corpora composed, or open_pool"
    )
    parser.add_argument("--ferplus", type=path_argument, help="folder of ferplus_*.npz")
    parser.add_argument("--output", type=new_file_argument, required=True, help="folder to write")
    parser.add_argument(
        "--streams", default="{}", metavar="YAML", help="streams more, such as '{fbank: {}}'"
    )
    arguments = parser.parse_args(argv)
    ferplus = arguments.ferplus or default_folder()
    for folder, count in compose(
        arguments.table, ferplus, arguments.output, _wanted(arguments.streams)
    ).items():
        print(f"{count} clips in {arguments.output / folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
