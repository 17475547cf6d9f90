"""From what a run said of the clips to its rows and files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from data_pipeline.files.atomic import remove_leftovers
from finetune.clips.labelled import LabelledClip, Modality
from finetune.metrics import score
from finetune.protocols import Splits
from finetune.runs.results import ResultsRow, write_case_rows, write_csv, write_row, write_text
from finetune.training.fit import Fit, Predictions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One modality case of one split, judged."""

    split: str
    case: tuple[Modality, ...]
    clips: list[LabelledClip]
    said: Predictions

    @property
    def name(self) -> str:
        """As in a row: "text+speech"."""
        return "+".join(self.case)


def judged_cases(
    result: Fit, split: Splits, cases: Sequence[tuple[Modality, ...]]
) -> tuple[Case, list[Case]]:
    """(test with all modalities in use, every other case of dev and test). `cases`: the full one
    first, as `fit` was given them."""
    found = [
        Case(split=name, case=case, clips=clips, said=said)
        for name, clips, said_K in (
            ("test", split.test, result.test_K),
            ("dev", split.dev, result.dev_K),
        )
        for case, said in zip(cases, said_K, strict=bool(said_K))
    ]
    return found[0], found[1:]


def row_of(case: Case, num_resamples: int, facts: dict[str, Any]) -> ResultsRow:
    """The scores of one case. `facts`: the columns that all rows of a run share."""
    truth_N = np.array([clip.label for clip in case.clips])
    scores = score(
        truth_N,
        case.said.prediction_N,
        facts["num_classes"],
        num_resamples=num_resamples,
        seed=facts["seed"],
    )
    intervals = {
        "wa": scores.wa_interval,
        "ua": scores.ua_interval,
        "macro_f1": scores.macro_f1_interval,
    }
    ends = {
        f"{name}_{end}": None if interval is None else interval[i]
        for name, interval in intervals.items()
        for i, end in enumerate(("low", "high"))
    }
    unseen = sum(not any(map(c.sample.has, case.case)) for c in case.clips)
    notes = list(facts["notes"])
    if unseen and case.name != facts["modalities"]:
        notes.append(
            f"fold {facts['fold']}: {unseen} of {len(case.clips)} {case.split} clips have none of "
            f"{', '.join(case.case)}: judged unseen"
        )
    own = {
        "split": case.split,
        "case": case.name,
        "classes_in_test": len(np.unique(truth_N)),
        "wa": scores.wa,
        "ua": scores.ua,
        "macro_f1": scores.macro_f1,
        "notes": tuple(notes),
    }
    return ResultsRow(**{**facts, **ends, **own})


def main_row(case: Case, result: Fit, num_resamples: int, facts: dict[str, Any]) -> ResultsRow:
    """The row of a run: `case` is test with all modalities in use. With what the oracle's step
    would have come to beside it."""
    row = row_of(case, num_resamples, facts)
    if result.oracle is None or row.selection != "dev":
        return row
    told = {name: result.oracle[name] for name in ("oracle_wa", "oracle_ua", "oracle_macro_f1")}
    return dataclasses.replace(
        row,
        oracle_step=result.oracle["step"],
        oracle_gain_ua=result.oracle["oracle_ua"] - row.ua,
        **told,
    )


def write_run(
    folder: Path,
    config: str,
    classes: tuple[str, ...],
    judged: tuple[Case, list[Case]],
    curve: list[dict[str, Any]],
    row: ResultsRow,
    case_rows: list[ResultsRow],
) -> None:
    """All files of a run, row.json last. `config`: the resolved one, as YAML."""
    main, others = judged
    remove_leftovers(folder)
    write_text(folder / "config.yaml", config)
    if curve:
        write_csv(folder / "curve.csv", list(curve[-1]), curve)
    predictions = predictions_of(main, classes)
    write_csv(folder / "predictions.csv", list(predictions[0]), predictions)
    if others:
        of_cases = [
            {"split": case.split, "case": case.name, **line}
            for case in (main, *others)
            for line in predictions_of(case, classes)
        ]
        write_csv(folder / "case_predictions.csv", list(of_cases[0]), of_cases)
        write_case_rows(folder, case_rows)
    write_row(folder, row)


def predictions_of(case: Case, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A line for each clip: truth, prediction, and the probability of each class."""
    names = (*classes, "(another word)")
    probability_NC = probabilities(case.said.scores_NC)
    return [
        {
            "clip": clip.sample.id,
            "truth": classes[clip.label],
            "prediction": names[said],
            **{f"p_{name}": f"{p:.7f}" for name, p in zip(classes, p_C, strict=True)},
        }
        for clip, said, p_C in zip(case.clips, case.said.prediction_N, probability_NC, strict=True)
    ]


def probabilities(scores_NC: np.ndarray) -> np.ndarray:
    """Logits to probabilities among the classes, float64."""
    return softmax(scores_NC.astype(np.float64), axis=-1)
