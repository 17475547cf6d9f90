"""python -m finetune.systems.speech_resnet pretrain [--config FILE] [key=value ...]
python -m finetune.systems.speech_resnet table --ravdess FOLDER --emodb FOLDER --grid FOLDER

Stage 1 of the system, a trunk that tells speakers; and the table of docs/results/speech_resnet.md.
Stage 2, emotions, is finetune/run.py.
"""

import sys

from data_pipeline.command_line import (
    command_parser,
    config_from_command_line,
    leave,
    run_command,
)

COMMAND = "python -m finetune.systems.speech_resnet"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    return run_command(
        _main, argv, name="speech_resnet", go_on="the same command goes on from there"
    )


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = command_parser(
        COMMAND,
        "Stage 1 of the system, a trunk that tells speakers, and the table of what it is worth.",
        f"{COMMAND} pretrain 'shards=[runs/others/shards]' output=runs/speakers",
    )
    parser.add_argument("command", choices=("pretrain", "table"), help="each has its own --help")
    if parser.parse_args(words[:1]).command == "pretrain":
        return _pretrain(words[1:])
    from finetune.systems.speech_resnet import table

    return table.main(words[1:])


def _pretrain(words: list[str]) -> int:
    from finetune.systems.speech_resnet.config import SpeakerConfig

    config = config_from_command_line(
        SpeakerConfig,
        words,
        command=f"{COMMAND} pretrain",
        about="A trunk that tells speakers, from any shards that name them: what a setting whose\n"
        "system is speech_resnet may start from (options.trunk). Given again, it goes on.",
        example=f"{COMMAND} pretrain \\\n      'shards=[runs/others/shards]' output=runs/speakers",
    )
    from finetune.systems.speech_resnet.speakers import pretrain
    from pretrain.runtime import RuntimeSettings, start

    settings = RuntimeSettings(device=config.device, precision="fp32", seed=config.seed)
    runtime = start(settings, name="speech_resnet")
    print(pretrain(config, runtime))
    runtime.finish()
    return 0


if __name__ == "__main__":
    leave(main())
