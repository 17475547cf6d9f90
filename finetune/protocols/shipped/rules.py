"""How each fold file that ships is made.

    python -c "from finetune.protocols.shipped.rules import write_all; write_all()"

After a change to a rule, raise its `version` and run that: a result names the digest of its folds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipeline.corpora.composed import ACTORS
from finetune.protocols.files import Fold, Protocol, save_protocol
from finetune.protocols.shipped import FOLDER

DYADS = (
    "Each session has two speakers, who meet in all of its recordings: one is dev, the other test, "
    "then the other way round; train is the other sessions."
)


def iemocap_speaker10() -> Protocol:
    """MEmoBERT's ten folds."""
    dyads = [[f"iemocap/Ses{session:02d}{letter}" for letter in "FM"] for session in range(1, 6)]
    return _by_speaker("iemocap-speaker10", _swapped(dyads), f"IEMOCAP, ten folds. {DYADS}")


def iemocap_session5() -> Protocol:
    """Leave one session out. The speakers of a session share its recordings, which training may
    not share with dev: dev is both of the next session, and neither of them is trained on."""
    dyads = [[f"iemocap/Ses{session:02d}{letter}" for letter in "FM"] for session in range(1, 6)]
    note = (
        "IEMOCAP, leave one session out. Dev is the next session, never the test session, and "
        "whole: its two speakers share their recordings, so that one could not be trained on while "
        "the other is dev. Train is the other three sessions."
    )
    return _by_speaker("iemocap-session5", _in_turn(dyads), note)


def msp_improv_speaker12() -> Protocol:
    """MEmoBERT's twelve folds."""
    dyads = [[f"msp_improv/{letter}{number:02d}" for letter in "FM"] for number in range(1, 7)]
    note = (
        f"MSP-IMPROV, twelve folds. {DYADS} MEmoBERT keeps the rows of scenario S alone, a column "
        "of the adapter's table."
    )
    return _by_speaker("msp-improv-speaker12", _swapped(dyads), note)


def meld_official() -> Protocol:
    """The release's own split; its train has no dialogue 60."""
    numbers = {"train": [n for n in range(1039) if n != 60], "dev": range(114), "test": range(280)}
    return Protocol(
        name="meld-official",
        group="recording",
        allow_shared_speakers=True,
        note="MELD's own split, by dialogue. The six friends speak in all three parts: a result "
        "is of known speakers, as every published one.",
        folds=(
            Fold(**{s: tuple(f"meld/{s}_dia{n}" for n in dias) for s, dias in numbers.items()}),
        ),
    )


def composed_actor() -> Protocol:
    """One fold, divided as the composed benchmark's sources were."""
    units = {
        split: tuple(f"composed/actor{number:02d}" for number in ACTORS[split])
        for split in ("train", "dev", "test")
    }
    note = "The composed benchmark, by RAVDESS actor; faces and sentences are divided alike."
    return _by_speaker("composed-actor", [Fold(**units)], note)


def open_pool() -> Protocol:
    """One fold: the pool's own splits, which are the recordings of its clips."""
    corpora = ("open_pool", "ravdess", "emodb", "ferplus", "meld")
    learned = ("grid", "emorynlp")  # taught, never judged
    fold = Fold(
        train=tuple(f"{corpus}/train" for corpus in (*corpora, *learned)),
        dev=tuple(f"{corpus}/dev" for corpus in corpora),
        test=tuple(f"{corpus}/test" for corpus in corpora),
    )
    note = "The open pool, whose sources were divided before its clips were made."
    return Protocol(name="open-pool", group="recording", note=note, folds=(fold,))


def cremad_actor() -> Protocol:
    """Five folds by the number of the actor."""
    parts = [[f"cremad/{actor}" for actor in range(1001 + k, 1092, 5)] for k in range(5)]
    note = "CREMA-D by actor, whose number modulo 5 tells the part: one is test, the next dev."
    return _by_speaker("cremad-actor", _in_turn(parts), note)


def ravdess_actor() -> Protocol:
    """Five folds by the number of the actor; each has men and women, as sexes alternate."""
    parts = [[f"ravdess/{actor:02d}" for actor in range(1 + k, 25, 5)] for k in range(5)]
    note = "RAVDESS by actor, whose number modulo 5 tells the part: one is test, the next dev."
    return _by_speaker("ravdess-actor", _in_turn(parts), note)


def emodb_speaker10() -> Protocol:
    """Leave one speaker out."""
    parts = [[f"emodb/{n:02d}"] for n in (3, *range(8, 17))]
    note = "EmoDB, leave one speaker out: he is test, the next one dev, the other eight train."
    return _by_speaker("emodb-speaker10", _in_turn(parts), note)


RULES: dict[str, Callable[[], Protocol]] = {
    "composed-actor": composed_actor,
    "cremad-actor": cremad_actor,
    "emodb-speaker10": emodb_speaker10,
    "iemocap-session5": iemocap_session5,
    "iemocap-speaker10": iemocap_speaker10,
    "meld-official": meld_official,
    "msp-improv-speaker12": msp_improv_speaker12,
    "open-pool": open_pool,
    "ravdess-actor": ravdess_actor,
}


def write_all(folder: Path = FOLDER) -> None:
    """Write every fold file that ships."""
    for name, rule in RULES.items():
        save_protocol(rule(), folder / f"{name}.json")


def _by_speaker(name: str, folds: Sequence[Fold], note: str) -> Protocol:
    return Protocol(name=name, group="speaker", note=note, folds=tuple(folds))


def _in_turn(parts: list[list[str]]) -> list[Fold]:
    """Fold k is judged on part k and chooses on the next one."""
    folds = []
    for k, test in enumerate(parts):
        dev = parts[(k + 1) % len(parts)]
        train = [unit for part in parts if part not in (test, dev) for unit in part]
        folds.append(Fold(train=tuple(sorted(train)), dev=tuple(dev), test=tuple(test)))
    return folds


def _swapped(dyads: list[list[str]]) -> list[Fold]:
    """Two folds a dyad: each of the two is dev once and test once."""
    return [
        Fold(
            train=tuple(unit for other in dyads if other is not dyad for unit in other),
            dev=(dev,),
            test=(test,),
        )
        for dyad in dyads
        for dev, test in (dyad, dyad[::-1])
    ]
