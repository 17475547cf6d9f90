"""Whether lip movement is in the face features: words of GRID told from the face alone.

    python -m data_pipeline.recipes.lip_probe ../shared/data/grid_s1 --output docs/results/lips.md

Pretraining on GRID guesses a masked letter no better for seeing the face (docs/results/
pairing_grid.md). Either the model does not learn to read lips, or they are not in what it sees. So
a linear probe names a word from what is seen while it is said: the expression features as the model
gets them, the same at every frame, the crops that they are made of, and the picture of the mouth.
One speaker; five folds of clips. What is seen of a clip is kept under runs/lip_probe.

K times of a word, F frames, D numbers a frame, N clips.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.corpora.grid import align_spans, sentence, sentence_name
from data_pipeline.errors import UserError
from data_pipeline.faces.crops import aligned_crop
from data_pipeline.faces.finder import FaceFinder, TrackedFace
from data_pipeline.features.expression import ExpressionEncoder, load_expression_encoder
from data_pipeline.files.atomic import atomic_file
from data_pipeline.markdown import markdown_table
from data_pipeline.media.clip_media import open_clip
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.schema import Clip
from data_pipeline.settings import FaceSettings

COMMAND = (
    "python -m data_pipeline.recipes.lip_probe ../shared/data/grid_s1 --output docs/results/lips.md"
)
KEPT = Path("runs/lip_probe")
WORDS = {"preposition": 2, "letter": 3, "digit": 4}
"""To their place in the sentence."""
MARGIN = 0.08
"""Seconds before and after a word: lips move before they sound."""
NUM_TIMES, FOLDS, NUM_RESAMPLES = 8, 5, 2000
COMPONENTS = (20, 40, 80, 160)
"""Of what is seen of a word; an inner search chooses."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a probe is given of a clip."""

    told: str
    array: str
    """Of `Seen`."""
    every_frame: bool = False
    """25 a second; those that extraction takes otherwise, 10 a second."""
    is_picture: bool = True
    """Whose light is taken out."""


FACE = {"array": "face_FD", "is_picture": False}
VIEWS = {
    "face": View(told="expression features, 10 a second: what the model gets", **FACE),
    "face25": View(told="expression features, 25 a second", every_frame=True, **FACE),
    "crops25": View(
        told="the aligned crops that these are made of, 25 a second",
        array="crops_FHW",
        every_frame=True,
    ),
    "mouth": View(told="pictures of the mouth, 10 a second", array="mouth_FHW"),
    "mouth25": View(told="pictures of the mouth, 25 a second", array="mouth_FHW", every_frame=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A clip while its three words are said."""

    name: str
    spans_W2: np.ndarray
    """Start and end of the words, in seconds."""
    seconds_F: np.ndarray
    is_tick_F: np.ndarray
    """Which frames extraction takes, 10 a second."""
    face_FD: np.ndarray
    crops_FHW: np.ndarray
    mouth_FHW: np.ndarray

    def view(self, name: str, word: str) -> np.ndarray:
        """[K * D]: at NUM_TIMES times from before the word to after it, frames between them."""
        view = VIEWS[name]
        taken_F = np.ones_like(self.is_tick_F) if view.every_frame else self.is_tick_F
        values_FD = getattr(self, view.array)[taken_F].reshape(taken_F.sum(), -1)
        values_FD = values_FD.astype(np.float32)
        if view.is_picture:
            values_FD -= values_FD.mean(1, keepdims=True)
            values_FD /= values_FD.std(1, keepdims=True) + 1
        start, end = self.spans_W2[list(WORDS).index(word)]
        wanted_K = np.linspace(start - MARGIN, end + MARGIN, NUM_TIMES)
        return between(wanted_K, self.seconds_F[taken_F], values_FD).ravel()


def between(wanted_K: np.ndarray, seconds_F: np.ndarray, values_FD: np.ndarray) -> np.ndarray:
    """[K, D]: linear between frames, the outermost beyond them."""
    place_K = np.interp(wanted_K, seconds_F, np.arange(len(seconds_F)))
    low_K = np.minimum(place_K.astype(int), max(len(seconds_F) - 2, 0))
    high_K = np.minimum(low_K + 1, len(seconds_F) - 1)
    share_K1 = (place_K - low_K)[:, None]
    return values_FD[low_K] * (1 - share_K1) + values_FD[high_K] * share_K1


def word_spans(path: Path) -> np.ndarray:
    """[W, 2] seconds of the words of WORDS. Raises UserError for a file that has not six words."""
    try:
        said = align_spans(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    if len(said) != 6:
        raise UserError(f"{path} has {len(said)} words; expected the six of a GRID sentence")
    return np.array([said[at][:2] for at in WORDS.values()])


def look(clip: Path, align: Path, finder: FaceFinder, encoder: ExpressionEncoder) -> Seen | None:
    """What is seen while the words are said; None where no face is."""
    spans_W2 = word_spans(align)
    tracked = finder.find(open_clip(Clip(id="clip", video=str(clip))))
    if not tracked:
        return None
    face = max(tracked, key=lambda face: len(face.track))
    seconds_F = face.track.seconds_F
    # A tick of 10 a second may lie a frame before the first word.
    inside_F = (seconds_F > spans_W2.min() - 0.2) & (seconds_F < spans_W2.max() + 0.2)
    if inside_F.sum() < 2:
        return None
    crops_FHW = _crops(clip, face, inside_F, encoder.crop_size)
    return Seen(
        name=clip.stem,
        spans_W2=spans_W2,
        seconds_F=seconds_F[inside_F],
        is_tick_F=np.isin(seconds_F, face.crop_seconds_K)[inside_F],
        face_FD=encoder(crops_FHW)[0],
        crops_FHW=crops_FHW,
        mouth_FHW=face.mouth_FHW[inside_F],
    )


def _crops(clip: Path, face: TrackedFace, inside_F: np.ndarray, size: int) -> np.ndarray:
    """[F, size, size] uint8, as an extraction cuts them, of every frame inside."""
    at = dict(zip(face.track.frame_F[inside_F].tolist(), face.track.points_F52[inside_F], strict=1))
    return np.stack(
        [
            aligned_crop(frame_HW3, at[index], size)
            for window in open_clip(Clip(id="clip", video=str(clip))).windows()
            for index, frame_HW3 in zip(window.index_N.tolist(), window.frames_NHW3, strict=True)
            if index in at
        ]
    )


def look_at_all(root: Path) -> list[Seen]:
    """Every clip, kept for another time. Raises UserError where there is none."""
    clips = sorted((root / "clips").glob("*.mp4"))
    if not clips:
        raise UserError(f"no clips/*.mp4 in {root}; expected GRID's speaker with align/ beside")
    KEPT.mkdir(parents=True, exist_ok=True)
    encoder = load_expression_encoder()
    finder = FaceFinder(FaceSettings(crop_size=encoder.crop_size))
    found = []
    for clip in tqdm(clips, desc="clips", disable=None):
        kept = KEPT / f"{clip.stem}.npz"
        if not kept.is_file():
            seen = look(clip, root / "align" / f"{clip.stem}.align", finder, encoder)
            with atomic_file(kept) as file:
                np.savez(file, **({} if seen is None else vars(seen)))
        with np.load(kept) as arrays:
            if "name" in arrays:
                found.append(Seen(**{key: arrays[key] for key in arrays}))
    return found


def probe(vector_NC: np.ndarray, truth_N: np.ndarray, seed: int = 0) -> np.ndarray:
    """[N] bool, whether each clip's word is named right by a probe that never saw it: principal
    components and a linear discriminant with shrinkage (Ledoit and Wolf 2004)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    right_N = np.zeros(len(truth_N), bool)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(
        vector_NC, truth_N
    ):
        part_TP, test_SP = components(vector_NC[train], vector_NC[test])
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        inner = StratifiedKFold(3, shuffle=True, random_state=seed)
        best = max(
            (count for count in COMPONENTS if count <= part_TP.shape[1]),
            key=lambda n, x=part_TP, y=truth_N[train], m=model, cv=inner: cross_val_score(
                m, x[:, :n], y, cv=cv
            ).mean(),
        )
        said = model.fit(part_TP[:, :best], truth_N[train]).predict(test_SP[:, :best])
        right_N[test] = said == truth_N[test]
    return right_N


def components(train_TC: np.ndarray, test_SC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both on the principal components of train: [T, P], [S, P]."""
    from sklearn.decomposition import PCA

    pca = PCA(min(COMPONENTS[-1], len(train_TC) - 1), svd_solver="randomized", random_state=0)
    return pca.fit_transform(train_TC), pca.transform(test_SC)


def page_of(found: list[Seen]) -> str:
    truth = {
        word: np.array([sentence(sentence_name(str(seen.name)))[at] for seen in found])
        for word, at in WORDS.items()
    }
    right = {
        (view, word): probe(np.stack([seen.view(view, word) for seen in found]), truth[word])
        for view in tqdm(VIEWS, desc="probes", disable=None)
        for word in WORDS
    }
    rows = [
        (view.told, *(_percent(right[name, word]) for word in WORDS))
        for name, view in VIEWS.items()
    ]
    common = [np.unique(truth[word], return_counts=True)[1].max() / len(found) for word in WORDS]
    rows.append(("(always the most common word)", *(f"{100 * share:.1f}" for share in common)))
    pairs = [("mouth", "face"), ("mouth25", "face25"), ("crops25", "face25"), ("face25", "face")]
    apart = [
        (f"{a} - {b}", *(_percent(right[a, w].astype(int) - right[b, w]) for w in WORDS))
        for a, b in pairs
    ]
    return "\n\n".join(
        [
            "# Are lips in the face features?",
            f"```sh\n{COMMAND}\n```",
            f"{len(found)} clips of GRID's speaker s1, whose words have times. Percent of words "
            f"named right from the face alone, between {MARGIN:g} s before and after the word, in "
            f"{FOLDS} folds of clips; 95 % bootstrap interval over clips. The probe is linear: "
            "principal components, their number from an inner search, and a linear discriminant "
            "with shrinkage.",
            markdown_table(("seen", *WORDS), rows),
            "Differences in points, over the same clips:",
            markdown_table(("", *WORDS), apart),
        ]
    )


def _percent(value_N: np.ndarray) -> str:
    """Mean and its interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(value_N), (NUM_RESAMPLES, len(value_N)))
    low, high = np.percentile(value_N[drawn].mean(1), (2.5, 97.5))
    return f"{100 * value_N.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="lip_probe", go_on="the same command does what is missing")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.lip_probe",
        "Whether lip movement is in the face features: words of GRID from the face alone.",
        COMMAND,
    )
    parser.add_argument("grid", type=path_argument, help="folder with clips/ and align/")
    parser.add_argument("--output", type=new_file_argument, required=True, help="page to write")
    args = parser.parse_args(argv)
    page = page_of(look_at_all(args.grid)) + "\n"
    with atomic_file(args.output) as file:
        file.write(page.encode())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
