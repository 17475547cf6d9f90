"""Does the model read the speech and the face that belong to the words?

    python -m pretrain.pairing --config configs/pretrain/pairing_grid.yaml

A short pretraining for each seed, then masked-word accuracy on held-out clips: one word of every
clip is masked at a time, at positions that the rest of the sentence does not give away, and the
model names it from its whole vocabulary, given the clip's own speech and face, one of the two,
neither, or those of another held-out clip in which another word stands there. A model that has
learnt nothing but sentences does as well in all of them.
"""

import sys

from data_pipeline.command_line import config_from_command_line, run_command
from pretrain.config import PairingConfig


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="pairing")


def _main(argv: list[str] | None) -> int:
    config = config_from_command_line(
        PairingConfig,
        argv,
        command="python -m pretrain.pairing",
        about="Masked words of held-out clips, with their own speech and face and wrong ones.",
        example="python -m pretrain.pairing --config configs/pretrain/pairing_grid.yaml \\\n"
        "      pretrain.optim.steps=300",
    )
    from pretrain.masked_words import as_markdown, run_seed, write_csv  # torch takes seconds

    rows = [row for seed in config.seeds for row in run_seed(config, seed)]
    write_csv(config.results.with_suffix(".csv"), rows)
    config.results.with_suffix(".md").write_text(as_markdown(config, rows), encoding="utf-8")
    print(as_markdown(config, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
