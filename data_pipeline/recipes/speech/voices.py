"""Sentences of dialogues read aloud by machines: words that no corpus of acted emotion holds.

    apt-get install flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts espeak-ng
    for sentence, voice in readings(2000): sound_T = speak(voice, sentence)

The sentences are the utterances of MELD and EmoryNLP, in an order drawn once; voices, their rate
and their pitch go with the number of the sentence. The same packages say the same.
"""

import csv
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from data_pipeline.recipes.speech.corpora import CorpusError, shared_folder
from data_pipeline.schema import SAMPLE_RATE

FEWEST_WORDS, MOST_WORDS = 4, 16
FLITE = ("slt", "rms", "awb", "kal16")
FESTIVAL = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m7", "m8", "max", "steph")
_ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": ", ", "–": ", ", "…": "..."})


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who reads."""

    program: str
    """flite, text2wave (of festival) or espeak-ng."""
    name: str
    stretch: float = 1.0
    """Duration over the usual one; festival keeps its own."""
    pitch: float = 1.0
    """Pitch over the usual one; festival keeps its own."""


def sentences(folder: Path | None = None) -> list[str]:
    """The different utterances of MELD and EmoryNLP of 4 to 16 words, sorted."""
    folder = (shared_folder() if folder is None else folder) / "text"
    found = set()
    for path in sorted(folder.glob("*/*.csv")):
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                text = row["Utterance"].translate(_ASCII).encode("ascii", "ignore").decode()
                text = re.sub(r"\([^)]*\)|[*\[\]<>|]", " ", text)  # stage directions, markup
                text = " ".join(text.split())
                if FEWEST_WORDS <= len(text.split()) <= MOST_WORDS and text[0].isalnum():
                    found.add(text)
    if not found:
        raise CorpusError(f"no sentences in {folder}; expected meld/*.csv and emorynlp/*.csv")
    return sorted(found)


def voice_of(number: int) -> Voice:
    """Of eight sentences flite's voices read three, espeak-ng's four, festival's one."""
    rng = np.random.default_rng((7, number))
    stretch, pitch = (round(float(rng.uniform(0.85, 1.2)), 2) for _ in range(2))
    if number % 8 < 3:
        return Voice(program="flite", name=str(rng.choice(FLITE)), stretch=stretch, pitch=pitch)
    if number % 8 < 7:
        name = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
        return Voice(program="espeak-ng", name=name, stretch=stretch, pitch=pitch)
    return Voice(program="text2wave", name=str(rng.choice(FESTIVAL)))


def readings(count: int, folder: Path | None = None) -> Iterator[tuple[str, Voice]]:
    """`count` different sentences, each with who reads it; more only add to the end."""
    texts = sentences(folder)
    if count > len(texts):
        raise CorpusError(f"asked for {count} sentences, found {len(texts)}")
    for number, i in enumerate(np.random.default_rng(11).permutation(len(texts))[:count]):
        yield texts[i], voice_of(number)


def command(voice: Voice, text: str, wav: Path) -> list[str]:
    if voice.program == "flite":
        mean = {"slt": 170, "rms": 95, "awb": 120, "kal16": 105}[voice.name] * voice.pitch
        settings = [f"duration_stretch={voice.stretch}", f"int_f0_target_mean={mean:.0f}"]
        flags = [word for setting in settings for word in ("--setf", setting)]
        return ["flite", "-voice", voice.name, *flags, "-t", text, "-o", str(wav)]
    if voice.program == "espeak-ng":
        pitch, rate = round(50 * voice.pitch), round(165 / voice.stretch)
        flags = ["-v", voice.name, "-p", str(pitch), "-s", str(rate)]
        return ["espeak-ng", *flags, "-w", str(wav), text]
    return ["text2wave", "-eval", f"(voice_{voice.name})", "-o", str(wav)]


def speak(voice: Voice, text: str) -> np.ndarray:
    """[T] float32 at 16 kHz. CorpusError with the program's own words if it says nothing."""
    if shutil.which(voice.program) is None:
        raise CorpusError(
            f"no program {voice.program}; apt-get install flite festival festvox-kallpc16k "
            "festvox-kdlpc16k festvox-us-slt-hts espeak-ng"
        )
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "said.wav"
        told = text if voice.program == "text2wave" else None
        done = subprocess.run(
            command(voice, text, wav), input=told, capture_output=True, text=True, timeout=60
        )
        if done.returncode or not wav.is_file():
            raise CorpusError(f"{voice} could not say {text!r}: {done.stderr.strip()[-300:]}")
        sound, rate = soundfile.read(wav, dtype="float32")
    if not len(sound) or not np.any(sound):
        raise CorpusError(f"{voice} said nothing for {text!r}: {done.stderr.strip()[-300:]}")
    from torchaudio.functional import resample

    return resample(torch.from_numpy(sound), rate, SAMPLE_RATE).numpy()
