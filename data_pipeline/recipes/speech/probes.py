"""What a frozen speech encoder knows, by linear probes; and what it costs.

    python -m data_pipeline.recipes.speech.probes table     # writes probes.csv and probes.md
    python -m data_pipeline.recipes.speech.probes table --only encoder     # the other rows stay
    python -m data_pipeline.recipes.speech.probes table --beside FOLDER    # and another encoder
    python -m data_pipeline.recipes.speech.probes layers    # the same for every hidden state
    python -m data_pipeline.recipes.speech.probes bench     # writes bench.csv
    python -m data_pipeline.recipes.speech.probes scale     # deviations of the features

They go to docs/results/wav2vec2_small. Rows: the encoder that ships, every state and the mean of
every 3, its teachers, log-mel statistics, an untrained network of the same shape. A probe is
logistic regression on the mean and the standard deviation of the states over time, z-normalized on
its training part.

    folds      5 folds by speaker, 3 seeds of the folds. The encoder may have heard the sound of a
               test speaker while it was distilled, never a label.
    folds, 20 %   the same, trained on every fifth of the training utterances, drawn by the seed
    held out   tested on the speakers that took no part in the distillation, trained on the others
    words      GRID, one speaker: a word by the states of its interval; trained on the words of 80
               clips, tested on those of all other clips, 3 draws of the 80. The encoder heard all
               of these clips, without their words.
    pitch, energy, talking heads   by `readout`, on speakers kept out
"""

import csv
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import Wav2Vec2Config, Wav2Vec2Model

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.features.wav2vec2 import SpeechEncoder, load_speech_encoder
from data_pipeline.recipes.speech.corpora import Utterance, read_corpus, read_sound
from data_pipeline.recipes.speech.readout import Describe, prosody_r2, sampled, teacher_cosine
from data_pipeline.recipes.speech.scores import Score, read_scores, write_scores
from data_pipeline.recipes.speech.teachers import TEACHER_SECONDS, LogMel, Teacher, base, tiny_en
from data_pipeline.schema import SAMPLE_RATE, FeatureSpec

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results" / "wav2vec2_small"
SEEDS = (0, 1, 2)
FOLDS = 5
WORD_CLIPS = 80
EMOTIONAL = ("ravdess", "emodb")
FEW_LABELS = 0.2
HEARD_SOUNDS = 60
"""Of each corpus, to fit the map to the teacher."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the table."""

    name: str
    describe: Describe
    """A sound [T] to its states [S, D]."""
    rate_hz: float
    """States per second."""
    strength: float = 0.1
    """Inverse regularization C of its probes."""


def probe(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def moments(state_SD: np.ndarray) -> np.ndarray:
    """[2 D] mean and standard deviation over time."""
    state_SD = state_SD.astype(np.float32)
    return np.concatenate([state_SD.mean(0), state_SD.std(0)])


def fold_uar(
    x_ND: np.ndarray,
    y_N: np.ndarray,
    speaker_N: np.ndarray,
    strength: float,
    label_share: float = 1.0,
) -> list[float]:
    """UAR over all utterances, each predicted by the probe that saw no sound of its speaker; a seed
    deals the speakers to the folds, and draws the share of the training utterances that have a
    label. Returns one value a seed."""
    values = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
        predicted_N = np.empty_like(y_N)
        for train, test in folds.split(x_ND, y_N, speaker_N):
            train = rng.permutation(train)[: round(label_share * len(train))]
            predicted_N[test] = probe(strength).fit(x_ND[train], y_N[train]).predict(x_ND[test])
        values.append(balanced_accuracy_score(y_N, predicted_N))
    return values


def emotion_scores(
    system: System, corpus: str, utterances: list[Utterance], sounds: list[np.ndarray]
) -> list[Score]:
    x_ND = np.stack([moments(system.describe(sound)) for sound in sounds])
    y_N = np.array([u.label for u in utterances])
    held_N = np.array([u.held_out for u in utterances])
    speaker_N = np.array([u.speaker for u in utterances])
    fitted = probe(system.strength).fit(x_ND[~held_N], y_N[~held_N])
    held = balanced_accuracy_score(y_N[held_N], fitted.predict(x_ND[held_N]))
    rows = [
        ("folds", fold_uar(x_ND, y_N, speaker_N, system.strength), len(y_N)),
        ("folds, 20 %", fold_uar(x_ND, y_N, speaker_N, system.strength, FEW_LABELS), len(y_N)),
        ("held out", [held], int(held_N.sum())),
    ]
    return [
        Score(
            system=system.name,
            probe=f"{corpus} {name}",
            measure="UAR",
            mean=statistics.mean(values),
            spread=statistics.stdev(values) if len(values) > 1 else 0.0,
            tested=tested,
        )
        for name, values, tested in rows
    ]


def word_states(system: System, utterance: Utterance, sound_T: np.ndarray) -> np.ndarray:
    """[words, 2 D] moments of the states inside each word's interval."""
    state_SD = system.describe(sound_T)
    rows = []
    for word in utterance.words:
        start = min(int(word.start * system.rate_hz), len(state_SD) - 1)
        stop = max(start + 1, int(np.ceil(word.end * system.rate_hz)))
        rows.append(moments(state_SD[start:stop]))
    return np.stack(rows)


def word_score(system: System, utterances: list[Utterance], sounds: list[np.ndarray]) -> Score:
    pairs = list(zip(utterances, sounds, strict=True))
    x_WD = np.concatenate([word_states(system, u, sound) for u, sound in pairs])
    y_W = np.array([word.text for u in utterances for word in u.words])
    clip_W = np.array([i for i, u in enumerate(utterances) for _ in u.words])
    values = []
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).permutation(len(utterances))[:WORD_CLIPS]
        train = np.isin(clip_W, chosen)
        fitted = probe(system.strength).fit(x_WD[train], y_W[train])
        values.append(accuracy_score(y_W[~train], fitted.predict(x_WD[~train])))
    return Score(
        system=system.name,
        probe="grid words",
        measure="accuracy",
        mean=statistics.mean(values),
        spread=statistics.stdev(values),
        tested=int((~train).sum()),
    )


def encoder_system(name: str, encoder: SpeechEncoder) -> System:
    return System(name=name, describe=encoder, rate_hz=encoder.spec.rate_hz)


def untrained_encoder(config: Wav2Vec2Config, seed: int = 0) -> SpeechEncoder:
    """A network of random weights behind the same door."""
    torch.manual_seed(seed)
    model = Wav2Vec2Model(config)
    spec = FeatureSpec(
        name="untrained",
        weights_sha256="",
        layer=-1,
        pooling=1,
        rate_hz=50.0,
        width=config.hidden_size,
    )
    return SpeechEncoder(model, spec, normalize=True)


def systems(name: str, beside: Path | None) -> dict[str, list[System]]:
    """The rows of the table by the names that --only knows."""
    log_mel, untrained = LogMel(), untrained_encoder(load_speech_encoder(name).model.config)
    rows = {
        "encoder": pooled_systems(name, name),
        "teachers": [
            System(name="Whisper tiny.en (teacher)", describe=Teacher(tiny_en()), rate_hz=50.0),
            System(name="Whisper base (teacher)", describe=Teacher(base()), rate_hz=50.0),
        ],
        "log-mel": [
            System(name="log-mel, 80 bands", describe=lambda x: log_mel(x).T, rate_hz=100.0)
        ],
        "untrained": [encoder_system("untrained, same shape", untrained)],
    }
    return rows | ({"beside": pooled_systems(beside.name, str(beside))} if beside else {})


def pooled_systems(name: str, folder: str) -> list[System]:
    """The encoder at 50 states a second, and as features are made, at a third of that."""
    return [
        encoder_system(title, load_speech_encoder(folder, pooling=pooling))
        for title, pooling in ((name, 1), (f"{name}, mean of every 3", 3))
    ]


def readout_scores(system: System) -> list[Score]:
    """Pitch and energy on RAVDESS's kept out actors; the first teacher on talking heads."""
    most = TEACHER_SECONDS * SAMPLE_RATE
    ravdess = [u for u in read_corpus("ravdess")]
    utterances = sampled([u for u in ravdess if not u.held_out], 4 * HEARD_SOUNDS)
    utterances += [u for u in ravdess if u.held_out]
    sounds, held = [read_sound(u.path) for u in utterances], [u.held_out for u in utterances]
    found = {
        f"{name}, new speakers": ("R2", *value)
        for name, value in prosody_r2(system.describe, system.rate_hz, sounds, held).items()
    }
    heard = [
        read_sound(u.path)
        for corpus in (*EMOTIONAL, "grid")
        for u in sampled([u for u in read_corpus(corpus) if not u.held_out], HEARD_SOUNDS)
    ]
    heads = [read_sound(u.path)[:most] for u in read_corpus("talking_heads")]
    cosine = teacher_cosine(system.describe, system.rate_hz, Teacher(tiny_en()), heard, heads)
    found["talking heads, tiny.en"] = ("cosine", *cosine)
    return [
        Score(system=system.name, probe=name, measure=measure, mean=mean, spread=0.0, tested=tested)
        for name, (measure, mean, tested) in found.items()
    ]


def all_scores(rows: list[System]) -> list[Score]:
    sounds = {c: [read_sound(u.path) for u in read_corpus(c)] for c in (*EMOTIONAL, "grid")}
    scores = []
    for system in rows:
        found = []
        for corpus in EMOTIONAL:
            found += emotion_scores(system, corpus, read_corpus(corpus), sounds[corpus])
        found += [word_score(system, read_corpus("grid"), sounds["grid"]), *readout_scores(system)]
        for score in found:
            cell = f"{score.mean:.3f} +- {score.spread:.3f}"
            print(f"{score.system:32} {score.probe:24} {cell}", flush=True)
        scores += found
    return scores


def bench(name: str, seconds: float, repeats: int, out: Path) -> None:
    """Seconds of sound encoded per second of one core, in turns with wav2vec2-base of random
    weights on the same sound."""
    torch.set_num_threads(1)
    sounds = [read_sound(u.path) for u in read_corpus("ravdess")[:8]]
    sound_T = np.resize(np.concatenate(sounds), int(seconds * SAMPLE_RATE))
    rivals = {
        name: load_speech_encoder(name, pooling=1),
        "wav2vec2-base (random weights)": untrained_encoder(Wav2Vec2Config()),
    }
    times: dict[str, list[float]] = {key: [] for key in rivals}
    for turn in range(repeats + 1):
        for key, encoder in rivals.items():
            start = time.perf_counter()
            encoder(sound_T)
            if turn:  # the first turn warms up
                times[key].append(time.perf_counter() - start)
    base = statistics.median(times["wav2vec2-base (random weights)"])
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "bench.csv", "w", newline="") as file:
        table = csv.writer(file)
        head = ["system", "weights", "sound_s", "median_s", "fastest_s", "slowest_s"]
        table.writerow([*head, "times_real_time", "times_base"])
        for key, taken in times.items():
            size = sum(p.numel() for p in rivals[key].model.parameters())
            middle = statistics.median(taken)
            row = [middle, min(taken), max(taken), seconds / middle, base / middle]
            table.writerow([key, size, seconds, *(f"{x:.4g}" for x in row)])
            print(
                f"{key:32} {size / 1e6:5.1f} M weights: {middle:.3f} s ({min(taken):.3f} to "
                f"{max(taken):.3f}) for {seconds:g} s, {seconds / middle:.0f} x real time, "
                f"{base / middle:.1f} x base"
            )


def scale(encoder: SpeechEncoder) -> None:
    """The deviations of the features' numbers over the speakers kept out: near 1, as pretraining
    needs, which normalizes nothing."""
    for corpus in EMOTIONAL:
        sounds = [read_sound(u.path) for u in read_corpus(corpus) if u.held_out]
        deviation_D = np.concatenate([encoder(sound) for sound in sounds]).astype(float).std(0)
        print(
            f"{corpus:10} {len(sounds)} sounds: deviations {deviation_D.min():.2f} to "
            f"{deviation_D.max():.2f}, median {np.median(deviation_D):.2f}"
        )


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.speech.probes"
    parser = command_parser(name, __doc__.splitlines()[0], f"{name} table --only encoder")
    parser.add_argument("command", choices=("table", "layers", "bench", "scale"))
    parser.add_argument("--encoder", default="wav2vec2_small", help="name, folder or hub name")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("encoder", "teachers", "log-mel", "untrained", "beside"),
        help="table: measure these rows again and keep the others of probes.csv",
    )
    parser.add_argument("--beside", type=Path, help="table: folder of another encoder")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for CSV and Markdown")
    parser.add_argument("--seconds", type=float, default=10.0, help="bench: length of the sound")
    parser.add_argument("--repeats", type=int, default=9, help="bench: timed turns")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.command == "bench":
        bench(args.encoder, args.seconds, args.repeats, args.out)
    elif args.command == "scale":
        scale(load_speech_encoder(args.encoder))
    elif args.command == "table":
        rows = systems(args.encoder, args.beside)
        measured = all_scores([row for key in args.only or rows for row in rows[key]])
        path = args.out / "probes.csv"
        kept = read_scores(path) if args.only and path.exists() else []
        found = {(s.system, s.probe): s for s in [*kept, *measured]}
        write_scores(list(found.values()), "probes", args.out)
    else:
        depth = load_speech_encoder(args.encoder).model.config.num_hidden_layers
        rows = [
            encoder_system(f"layer {k}", load_speech_encoder(args.encoder, layer=k, pooling=1))
            for k in range(depth + 1)
        ]
        write_scores(all_scores(rows), "layers", args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="speech.probes"))
