"""A cheap extractor for tests of the executor: what happens to a clip is said in its text.

Run as a script it is one extraction run in its own process, to be killed:
    python toy_extractor.py FOLDER NUM_CLIPS [KILL_AT]
With KILL_AT it ends itself by SIGKILL at that file operation (open, flush, rename).
"""

import builtins
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import time
import zlib

import numpy as np

from data_pipeline.runs.executor import execute
from data_pipeline.runs.worker_pool import Extraction, Preview
from data_pipeline.schema import Clip, ClipSample, FeatureSpec, Reject, Stream

SPEC = FeatureSpec(name="toy", weights_sha256="0" * 64, layer=-1, pooling=1, rate_hz=16.0, width=64)


class OutOfMemoryError(RuntimeError):
    """Called as torch's is."""


class ToyExtractor:
    def __init__(
        self, number: int, *, spec: FeatureSpec = SPEC, log_path=None, version="1", mended=False
    ):
        self.passport = {"speech": spec}
        self.versions = {"toy": version}
        self.log_path = log_path
        self.mended = mended

    def __call__(self, clip: Clip, *, preview: bool = False) -> Extraction:
        if self.log_path:
            with open(self.log_path, "a") as file:
                file.write(clip.id + "\n")
        if clip.text == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if "lock" in clip.text.split():
            self.lock = multiprocessing.RLock()  # as tqdm makes for a bar that is not shown
        if clip.text.startswith("hang"):
            time.sleep(3600)
        if clip.text == "exit":
            os._exit(7)
        if clip.text == "gpu" and not self.mended:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        time.sleep(0.004)
        if clip.text in ("reject", "error"):
            reject = Reject(clip=clip.id, stage="faces", reason=clip.text, detail="as asked for")
            return Extraction(reject=reject, seconds={"media": 0.1})
        rng = np.random.default_rng(zlib.crc32(clip.id.encode()))
        sample = ClipSample(
            id=clip.id,
            text=clip.text,
            words=clip.text.split(),
            streams={"speech": self._stream(rng)},
            meta={"start": clip.start},
        )
        shown = Preview(about={"clip": clip.id}, frames=[b"jpeg"]) if preview else None
        return Extraction(
            sample=sample, preview=shown, seconds={"media": 0.1, "speech": 0.2}, media_seconds=1.0
        )

    def _stream(self, rng: np.random.Generator) -> Stream:
        spec = self.passport["speech"]
        values_ND = rng.normal(size=(20, spec.width)).astype(np.float16)
        return Stream(values_ND=values_ND, seconds_N=spec.seconds(20))


def fails_to_load(number: int) -> ToyExtractor:
    raise FileNotFoundError("no weights at assets/toy")


def dies_while_loading(number: int) -> ToyExtractor:
    os.kill(os.getpid(), signal.SIGKILL)


def has_no_room(number: int) -> ToyExtractor:
    raise RuntimeError("CUDA error: out of memory")


def mends_itself(path: str, number: int) -> ToyExtractor:
    """The first process fails at the clip `gpu`, those after it do not."""
    try:
        open(path, "x").close()
        return ToyExtractor(number)
    except FileExistsError:
        return ToyExtractor(number, mended=True)


def make_clips(texts: list[str]) -> list[Clip]:
    return [
        Clip(id=f"toy-{n:03d}", video=f"/nowhere/{n}.mp4", start=float(n), text=text)
        for n, text in enumerate(texts)
    ]


def run_toy(folder, clips, make_extractor=ToyExtractor, rejects=(), **options):
    arguments = {"clips_per_shard": 4, "num_workers": 2} | options
    settings = {"clips_per_shard": arguments["clips_per_shard"]}
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    return execute(
        clips,
        list(rejects),
        folder,
        make_extractor,
        settings=settings,
        config_text=text,
        **arguments,
    )


def kill_self_at(moment: int) -> None:
    """SIGKILL this process just before its `moment`-th file operation that changes the disk."""
    count = itertools.count(1)

    def counted(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            writes = function is not builtins_open or "x" in "".join(map(str, args[1:2]))
            if writes and next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    builtins_open = builtins.open
    builtins.open = counted(builtins.open)
    os.fsync, os.replace, os.unlink = map(counted, (os.fsync, os.replace, os.unlink))


def main() -> None:
    folder, num_clips, *kill_at = sys.argv[1:]
    texts = ["reject" if n % 7 == 3 else f"word {n}" for n in range(int(num_clips))]
    if kill_at:
        kill_self_at(int(kill_at[0]))
    print(run_toy(folder, make_clips(texts), num_previews=2))


if __name__ == "__main__":
    main()
