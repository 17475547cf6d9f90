"""python -m finetune.app

The emotion timeline in a browser: drop a video, or use the webcam. Extra `app` (gradio). It listens
on this machine alone unless host= says otherwise; what is uploaded stays in a temporary folder.
"""

import functools
import html
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from data_pipeline.command_line import config_from_command_line, leave, run_command
from data_pipeline.errors import UserError
from data_pipeline.paths import PathText

if TYPE_CHECKING:
    import gradio

    from finetune.recognizer import Recognizer

TITLE = "Emotion timeline"
NOTHING_YET = "Drop a video, or record one. It is looked at on this machine."


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What the app can be told."""

    recognizer: PathText | None = None
    """Folder of a recognizer, or OWNER/NAME of one on the hub; null is the one that ships."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets the network in."""
    port: NonNegativeInt = 7860


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 where gradio, the recognizer or the port is not to be had."""
    return run_command(_main, argv, name="app")


def _main(argv: list[str] | None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = config_from_command_line(
        AppConfig,
        argv,
        command="python -m finetune.app",
        about="The emotion timeline in a browser: drop a video, or use the webcam.",
        example="python -m finetune.app port=8000",
    )
    from finetune.recognizer import load_recognizer

    app = build_app(load_recognizer(config.recognizer))
    try:
        app.launch(server_name=config.host, server_port=config.port, quiet=True)
    except OSError as error:
        raise UserError(f"{error}; port={config.port + 1} may be free") from error
    return 0


def build_app(recognizer: "Recognizer") -> "gradio.Blocks":
    """One input, one page. Raises UserError without gradio."""
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"no gradio ({error}); pip install -e .[app]") from error
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as app:
        gradio.Markdown(f"# {TITLE}")
        with gradio.Tab("File"):
            file = gradio.File(label="Video or sound", file_count="single", type="filepath")
        with gradio.Tab("Webcam"):
            camera = gradio.Video(label="Webcam", sources=["webcam"])
        page = gradio.HTML(f"<p>{NOTHING_YET}</p>")
        answer = functools.partial(show, recognizer)
        file.upload(answer, file, page)
        camera.stop_recording(answer, camera, page)
    return app


def show(recognizer: "Recognizer", path: str | None) -> str:
    """The page of a video as HTML to put into another page, or what is wrong with the file."""
    from finetune.timeline.config import PredictConfig
    from finetune.timeline.run import predict

    if path is None:
        return f"<p>{NOTHING_YET}</p>"
    with tempfile.TemporaryDirectory() as folder:
        try:
            timeline, page = predict(recognizer, [Path(path)], PredictConfig(output=folder))
        except UserError as error:
            return f"<p role='alert'>{html.escape(str(error))}</p>"
        text = page.read_text(encoding="utf-8")
    problems = "".join(
        f"<p role='alert'>{html.escape(video.problem)}</p>"
        for video in timeline.videos
        if video.problem
    )
    frame = f"<iframe title='{TITLE}' srcdoc='{html.escape(text)}'"
    return problems or f"{frame} style='width:100%;height:80vh;border:0'></iframe>"


if __name__ == "__main__":
    leave(main())
