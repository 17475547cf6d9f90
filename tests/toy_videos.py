"""Videos made on the spot: every picture bears its number, so that a decoder can be held to it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip

RATE = 25
BITS = 10


def picture(number: int, width: int, height: int) -> np.ndarray:
    frame = np.full((height, width, 3), 60, np.uint8)
    frame[: height // 2, : width // 2] = (180, 60, 40)
    side = width // BITS
    for bit in range(BITS):
        if number >> bit & 1:
            frame[-side:, bit * side : (bit + 1) * side] = 255
        else:
            frame[-side:, bit * side : (bit + 1) * side] = 0
    return frame


def number_of(frame: np.ndarray) -> int:
    height, width, _ = frame.shape
    side = width // BITS
    row = frame[height - side // 2, side // 2 : BITS * side : side].mean(axis=-1)
    return int(sum(1 << bit for bit in range(BITS) if row[bit] > 128))


def make(
    path: Path,
    *,
    seconds: float = 2.0,
    video: str | None = "libx264",
    audio: str | None = "aac",
    size: tuple[int, int] = (160, 96),
    pix_fmt: str | None = None,
    times: list[float] | None = None,
    sound: tuple[float, float] | None = None,
    tone_at: float = 0.0,
    rotation: int = 0,
    container_options: dict | None = None,
    video_options: dict | None = None,
    aspect: Fraction | None = None,
    audio_rate: int = 44100,
    layout: str = "stereo",
) -> Path:
    """`times`: of the frames; `sound`: from, to; `tone_at`: where the tone begins in it."""
    times = [i / RATE for i in range(round(seconds * RATE))] if times is None else times
    begin, end = sound or (0.0, seconds)
    with av.open(str(path), "w", options=container_options or {}) as out:
        packets = []
        if video:
            v = out.add_stream(video, rate=RATE, options=video_options or {})
            v.width, v.height = size
            v.pix_fmt = pix_fmt or "yuv420p"
            v.codec_context.time_base = Fraction(1, 1000 if times_vary(times) else RATE)
            if aspect:
                v.codec_context.sample_aspect_ratio = aspect
            if rotation:
                v.set_display_rotation(rotation)
        if audio:
            a = out.add_stream(audio, rate=audio_rate, layout=layout, bit_rate=128_000)
        if video:
            for i, second in enumerate(times):
                frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
                frame.time_base = v.codec_context.time_base
                frame.pts = round(second / frame.time_base)
                packets += v.encode(frame)
            packets += v.encode()
        if audio:
            second = begin + np.arange(round((end - begin) * audio_rate)) / audio_rate
            wave = np.where(second >= tone_at, 0.5 * np.sin(2 * np.pi * 440 * second), 0.0)
            planes = np.ascontiguousarray(
                np.tile(wave.astype(np.float32), (a.layout.nb_channels, 1))
            )
            fifo = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.rate = audio_rate
            frame.pts = None
            fifo.write(frame)
            resampler = av.AudioResampler(format=a.format.name, layout=layout, rate=audio_rate)
            position = round(begin * audio_rate)
            while chunk := fifo.read(a.codec_context.frame_size or 1024, partial=True):
                chunk.pts, chunk.time_base = None, Fraction(1, audio_rate)
                for ready in resampler.resample(chunk):
                    ready.pts, ready.time_base = position, Fraction(1, audio_rate)
                    position += ready.samples
                    packets += a.encode(ready)
            packets += a.encode()
        packets.sort(key=lambda p: float(p.dts * p.time_base) if p.dts is not None else 1e9)
        for packet in packets:
            out.mux(packet)
    return path


def times_vary(times: list[float]) -> bool:
    return any(abs(t * RATE - round(t * RATE)) > 1e-6 for t in times)


def read(path, decoder="pyav", start=0.0, end=None, region=None, **settings):
    clip = Clip(id="x", video=str(path), start=start, end=end, region=region)
    media = open_clip(clip, decoder=decoder, **settings)
    windows = list(media.windows())
    if not windows:
        return media, np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    index = np.concatenate([w.index_N for w in windows])
    assert index.tolist() == list(range(len(index)))
    seconds = np.concatenate([w.seconds_N for w in windows])
    assert (np.diff(seconds) > 0).all()
    return media, np.concatenate([w.frames_NHW3 for w in windows]), seconds


def tone_start(sound_T: np.ndarray) -> float:
    return int(np.argmax(np.abs(sound_T) > 0.1)) / 16_000
