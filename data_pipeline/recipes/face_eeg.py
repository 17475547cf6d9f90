"""A set of faces and EEG of made-up people: pictures of FER+, and brain waves that are made here.

No open corpus has both, so this one is **made**, to run and to test what reads and fuses the two.
Its figures say how well a fusion does where two channels err independently at the given rates, and
nothing of how well emotions are seen or measured in life.

    python -m data_pipeline.recipes.face_eeg ../shared/data --output runs/face_eeg
    python -m data_pipeline.recipes.compose runs/face_eeg/clips.csv --output runs/face_eeg/faces

The first writes the clip table and eeg/PERSON.edf, the second shards of the faces; those of the EEG
are made by data_pipeline.extract, as of any other recordings.

    people     15, with 16 clips of 4 s each, as many of neutral, sad, fear and happy (SEED-IV's)
    face       real: 8 to 20 frames held from 1 to 4 images of FER+, which in FACE_SHOWS of the
               clips show the emotion, and else a neutral face
    EEG        made: 16 channels of the 10-20 system at 200 Hz, a sum of five noises, each within
               one of the stream's bands, and of an amplifier's

The logarithm of the power of a band at a channel is what is usual for the band, plus what is the
person's own, plus EFFECT at the channels of the emotion's EFFECTS, plus chance. These are ours and
no finding: chosen so that a classifier is right of a stranger in somewhat more than half of the
clips.

Each image is one person's alone. People 1 to 9 have images of FER+ valid, 10 to 15 of test; of
neither did the expression encoder that ships learn its weights, and on valid its lap was chosen.

Shapes: N clips, C channels, B bands, T samples.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.corpora.__main__ import write_clip_table
from data_pipeline.corpora._open_data import rows_of_classes, single_images
from data_pipeline.features.eeg import BANDS
from data_pipeline.features.recording import check_mne
from data_pipeline.paths import path_argument

SEED = 0
CLASSES = {"neutral": "neutral", "sad": "sadness", "fear": "fear", "happy": "happiness"}
"""Class to the expression of FER+."""
PEOPLE = {"valid": range(1, 10), "test": range(10, 16)}
"""Split of FER+ to those whose faces come from it."""
CLIPS = 16
"""A person."""
SECONDS = 4.0
"""A clip."""
FACE_SHOWS = 0.6
"""Share of the clips whose face shows the emotion."""
FRAMES = (8, 20)
"""Least and most of a clip."""
IMAGES = (1, 4)
"""Least and most that they are held from."""
RATE = 200
CHANNELS = tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P3 Pz P4 Oz".split())
POWER = {"delta": 100.0, "theta": 40.0, "alpha": 60.0, "beta": 20.0, "gamma": 8.0}
"""Microvolts squared, usual of each band."""
EFFECT = 0.6
"""That an emotion adds to the logarithm of the power."""
EFFECTS = {
    "neutral": {"alpha": ("P3", "Pz", "P4", "Oz")},
    "sad": {"alpha": ("F3", "Fz", "F4"), "theta": ("F3", "Fz", "F4")},
    "fear": {"beta": ("Fp1", "Fp2", "F7", "F8")},
    "happy": {"beta": ("T7", "T8"), "gamma": ("F7", "F8", "T7", "T8")},
}
PERSON, BAND_CHANCE, CHANCE = 0.5, 0.3, 0.3
"""Deviations, in the logarithm of the power: of people, of a clip in a whole band, and of a clip in
one band at one channel."""
AMPLIFIER = 0.5
"""Its noise, in microvolts."""

Row = dict[str, str]


def clips_of(root: Path) -> dict[str, list[Row]]:
    """Person to the rows of the clip table, in the order of the recording; `root` holds ferplus/.

    Columns beside those of the clip table: `eeg`, the recording; `images`, "valid 17 17 402", rows
    of ferplus_valid.npz, a frame each, and what they show, `face_emotion`; `split` and `sound` tell
    the recipe compose that labels are kept and nothing is heard.
    """
    single = single_images(root / "ferplus")
    found: dict[str, list[Row]] = {}
    for split, people in PEOPLE.items():
        rng = np.random.default_rng(np.random.SeedSequence((SEED, people[0])))
        of_class = rows_of_classes(root / "ferplus", split, single[split], CLASSES)
        dealt = {
            name: np.array_split(rng.permutation(images), len(people))
            for name, images in of_class.items()
        }
        for number, person in enumerate(people):
            images = {name: parts[number] for name, parts in dealt.items()}
            name = f"person{person:02d}"
            found[name] = list(_of_person(name, root, split, images, rng))
    return found


def _of_person(
    person: str, root: Path, split: str, images: dict[str, np.ndarray], rng: np.random.Generator
) -> Iterator[Row]:
    for number, label in enumerate(rng.permutation(list(CLASSES) * (CLIPS // len(CLASSES)))):
        face = label if rng.random() < FACE_SHOWS else "neutral"
        held = rng.choice(images[face], size=rng.integers(IMAGES[0], IMAGES[1] + 1))
        at_F = np.sort(rng.integers(len(held), size=rng.integers(FRAMES[0], FRAMES[1] + 1)))
        yield {
            "id": f"face_eeg-{person}-{number:02d}",
            "video": str((root / "ferplus" / f"ferplus_{split}.npz").resolve()),
            "eeg": f"eeg/{person}.edf",
            "start": f"{number * SECONDS:g}",
            "end": f"{(number + 1) * SECONDS:g}",
            "speaker": person,
            "recording": person,
            "corpus": "face_eeg",
            "label": str(label),
            "split": "train",
            "sound": "none",
            "images": " ".join([split, *map(str, held[at_F])]),
            "face_emotion": str(face),
        }


def powers(labels: list[str], person: str) -> np.ndarray:
    """Microvolts squared [N, C, B] of one person's clips. The same name, the same person."""
    rng = np.random.default_rng(np.random.SeedSequence((SEED, *person.encode())))
    shape = len(labels), len(CHANNELS), len(BANDS)
    log_NCB = np.log([POWER[band] for band in BANDS]) + PERSON * rng.standard_normal(shape[1:])
    log_NCB = log_NCB + BAND_CHANCE * rng.standard_normal((shape[0], 1, shape[2]))
    log_NCB += CHANCE * rng.standard_normal(shape)
    for clip_CB, label in zip(log_NCB, labels, strict=True):
        for band, channels in EFFECTS[label].items():
            clip_CB[[CHANNELS.index(name) for name in channels], list(BANDS).index(band)] += EFFECT
    return np.exp(log_NCB)


def noise(power_CB: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Microvolts [C, T] with exactly this power in each band, and the amplifier's noise."""
    signal_CT = AMPLIFIER * rng.standard_normal((len(power_CB), num_samples))
    hertz_F = np.fft.rfftfreq(num_samples, 1 / RATE)
    for power_C, (low, high) in zip(power_CB.T, BANDS.values(), strict=True):
        spectrum_CF = np.fft.rfft(rng.standard_normal(signal_CT.shape))
        spectrum_CF[:, (hertz_F < low) | (hertz_F >= high)] = 0
        band_CT = np.fft.irfft(spectrum_CF, num_samples)
        signal_CT += band_CT * (np.sqrt(power_C) / band_CT.std(1))[:, None]
    return signal_CT


def write_recording(path: Path, labels: list[str]) -> None:
    """The clips of one person, whose name the file has, one after the other, as EDF."""
    check_mne()
    import mne

    rng = np.random.default_rng(np.random.SeedSequence((SEED, 1, *path.stem.encode())))
    clips = [noise(power_CB, round(SECONDS * RATE), rng) for power_CB in powers(labels, path.stem)]
    info = mne.create_info(list(CHANNELS), RATE, "eeg")
    raw = mne.io.RawArray(1e-6 * np.concatenate(clips, axis=1), info, verbose="error")
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.export.export_raw(path, raw, fmt="edf", overwrite=True, verbose="error")


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="face_eeg")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.face_eeg",
        "A made set of faces and EEG: the clip table, and a recording for each person.",
        "python -m data_pipeline.recipes.face_eeg ../shared/data --output runs/face_eeg",
    )
    parser.add_argument("root", type=path_argument, help="folder with ferplus/")
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    people = clips_of(arguments.root)
    for rows in people.values():
        write_recording(arguments.output / rows[0]["eeg"], [row["label"] for row in rows])
    table = arguments.output / "clips.csv"  # last: whoever reads it finds the recordings
    write_clip_table(table, [row for rows in people.values() for row in rows])
    print(f"{sum(map(len, people.values()))} clips of {len(people)} people in {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
