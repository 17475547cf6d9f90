"""Videos as IEMOCAP has them: two talkers of other corpora side by side, who both move their mouths
all the time, and of whom one is heard in a turn."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from toy_videos import read

WIDTH, HEIGHT, TOP, BOTTOM = 720, 480, 112, 368
"""Of the release's picture, and the rows that people are in."""
RATE, SECONDS, SOUND_RATE = 25, 3.0, 16_000


class Person:
    """A talker: his pictures, as tall as people are in the release, and his voice."""

    def __init__(self, path: Path, start: float = 0.0, seconds: float = SECONDS) -> None:
        media, frames_NHW3, _ = read(path, start=start, end=start + seconds)
        height = BOTTOM - TOP
        width = round(frames_NHW3.shape[2] * height / frames_NHW3.shape[1])
        num = round(RATE * seconds)
        frames = [Image.fromarray(frame).resize((width, height)) for frame in frames_NHW3]
        self.frames = [np.asarray(frames[min(n, len(frames) - 1)]) for n in range(num)]
        self.sound_T = np.resize(media.sound_T, round(SOUND_RATE * seconds))

    def half(self, n: int) -> np.ndarray:
        """[480, 360, 3]: the n-th picture in a half of the release's, black above and below."""
        half = np.zeros((HEIGHT, WIDTH // 2, 3), np.uint8)
        x = (WIDTH // 2 - self.frames[n].shape[1]) // 2
        half[TOP:BOTTOM, x : x + self.frames[n].shape[1]] = self.frames[n]
        return half


def write_dialogue(path: Path, turns: list[tuple[Person, Person, Person]]) -> None:
    """The two of a turn, left and right, in one picture, with the voice of the third named."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=RATE, bit_rate=8_000_000)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        for left, right, _ in turns:
            for n in range(len(left.frames)):
                picture = np.concatenate([left.half(n), right.half(n)], axis=1)
                out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode())
        wave = (np.concatenate([speaks.sound_T for *_, speaks in turns]) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
