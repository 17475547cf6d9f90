"""From which distance on two faces are two people: films drawn from pieces of single clips.

    python -m data_pipeline.recipes.faces ../shared/data --output docs/results/faces.md

Pieces of two seconds of clips of known people go the way of an extraction (faces found, followed
and cut out small and grey), are drawn into films of one to four people, told apart by
`data_pipeline.speaker.identity`, and held against the truth. A distance that is chosen on one half
of the people is judged on the other. Beside it, what more pixels and color would give.
"""

import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.faces.crops import aligned_crop
from data_pipeline.faces.finder import FaceFinder, TrackedFace
from data_pipeline.files.atomic import atomic_file
from data_pipeline.markdown import markdown_table
from data_pipeline.media.clip_media import open_clip
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.recipes.gatherings import gatherings
from data_pipeline.schema import Clip
from data_pipeline.settings import FaceSettings
from data_pipeline.speaker.identity import (
    FARTHEST,
    FaceEncoder,
    embed_face,
    load_face_encoder,
    tell_faces_apart,
)

COMMAND = "python -m data_pipeline.recipes.faces ../shared/data --output docs/results/faces.md"
SIZE, LARGE_SIZE = 48, 141
"""Pixels of a crop as extracted, and of one that fills the encoder's picture."""
PIECE_SECONDS, PIECES_PER_CLIP = 2.0, 8
EVERY_GRID_S1 = 100
SAME_MAN = {"g01": "s1"}
"""grid_multi's first is the man of grid_s1: one of its clips lies in both."""
CROWDED = ("crowd_walking", "stage_two_people")
"""Clips of several people."""
DISTANCES = tuple(n / 40 for n in range(14, 25))
FILMS, MOST_PEOPLE, MOST_PIECES, NUM_CLOSEST = 200, 4, 12, 6


@dataclass(frozen=True, kw_only=True)
class Video:
    person: str
    path: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """N pieces."""

    people: list[str]
    clips: list[str]
    vectors: list[np.ndarray]
    """Of the crops as extracted."""
    large: list[np.ndarray]
    """Of the same faces in color, at LARGE_SIZE."""

    def only(self, people: Sequence[str]) -> "Faces":
        at = [n for n, person in enumerate(self.people) if person in people]
        kinds = (self.people, self.clips, self.vectors, self.large)
        of = [[kind[n] for n in at] for kind in kinds]
        return Faces(people=of[0], clips=of[1], vectors=of[2], large=of[3])


def videos(data: Path) -> list[Video]:
    """Clips that show one known person. Raises UserError for a corpus that is not there."""
    found = [
        Video(person=row["clip_id"], path=data / folder / row["file"])
        for folder in ("talking_heads", "expression_videos")
        for row in _rows(data / folder)
        if row["clip_id"] not in CROWDED
    ]
    for row in _rows(data / "grid_multi"):
        person = SAME_MAN.get(row["person_by_eye"], row["person_by_eye"])
        found.append(Video(person=person, path=data / "grid_multi" / row["file"]))
    for row in _rows(data / "grid_s1")[::EVERY_GRID_S1]:
        found.append(Video(person="s1", path=data / "grid_s1" / row["file"]))
    for row in _rows(data / "cremad"):
        if row["file"].endswith(".flv"):
            found.append(Video(person=f"cremad_{row['actor']}", path=data / "cremad" / row["file"]))
    for path in sorted((data / "ravdess_video").glob("*.mp4")):
        found.append(Video(person=f"ravdess_{path.stem[-2:]}", path=path))
    return found


def _rows(folder: Path) -> list[dict[str, str]]:
    table = folder / "metadata.csv"
    if not table.is_file():
        raise UserError(f"no {table}; expected the corpus there")
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_faces(encoder: FaceEncoder, found: list[Video]) -> Faces:
    """Of each video the face seen longest in each of its pieces."""
    finder = FaceFinder(FaceSettings(crop_size=SIZE))
    faces = Faces(people=[], clips=[], vectors=[], large=[])
    for video in tqdm(found, desc="faces", disable=None):
        for piece in _pieces(video):
            tracked = finder.find(open_clip(piece))
            if not tracked:
                continue
            face = max(tracked, key=lambda face: len(face.track))
            faces.people.append(video.person)
            faces.clips.append(video.path.stem)
            faces.vectors.append(embed_face(encoder, face.crops_KHW))
            faces.large.append(embed_face(encoder, _in_color(piece, face)))
    return faces


def _pieces(video: Video) -> Iterator[Clip]:
    seconds = open_clip(Clip(id="whole", video=str(video.path))).duration
    count = int(np.clip(seconds // PIECE_SECONDS, 1, PIECES_PER_CLIP))
    for start in np.arange(count) * seconds / count:
        end = min(seconds, start + PIECE_SECONDS)
        yield Clip(id="piece", video=str(video.path), start=float(start), end=float(end))


def _in_color(piece: Clip, face: TrackedFace) -> np.ndarray:
    """[K, LARGE_SIZE, LARGE_SIZE, 3] uint8: its crops once more."""
    cropped = dict(zip(face.track.frame_F.tolist(), face.track.points_F52, strict=True))
    wanted = np.isin(face.track.seconds_F, face.crop_seconds_K)
    wanted = set(face.track.frame_F[wanted].tolist())
    crops = []
    for window in open_clip(piece).windows():
        for index, frame_HW3 in zip(window.index_N.tolist(), window.frames_NHW3, strict=True):
            if index in wanted:
                grey = [np.repeat(frame_HW3[..., c : c + 1], 3, axis=2) for c in range(3)]
                planes = [aligned_crop(plane, cropped[index], LARGE_SIZE) for plane in grey]
                crops.append(np.stack(planes, axis=-1))
    return np.stack(crops)


def films(faces: Faces, seed: int) -> Iterator[list[int]]:
    """Pieces of one to MOST_PEOPLE people, in a drawn order."""
    most = {"most_people": MOST_PEOPLE, "most_pieces": MOST_PIECES}
    return gatherings(faces.people, count=FILMS, seed=seed, **most)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a distance does to some films."""

    rand: float
    """Mean adjusted Rand index."""
    too_many: float
    """Share of the films with people too many."""
    too_few: float

    def __str__(self) -> str:
        return f"{self.rand:.3f}, {self.too_many:.0%}, {self.too_few:.0%}"


def judge(faces: Faces, vectors: list[np.ndarray], farthest: float, seed: int) -> Judged:
    from sklearn.metrics import adjusted_rand_score

    scores, surplus = [], []
    for drawn in films(faces, seed):
        truth = [faces.people[n] for n in drawn]
        found = tell_faces_apart([vectors[n] for n in drawn], farthest)
        scores.append(adjusted_rand_score(truth, found))
        surplus.append(len(set(found)) - len(set(truth)))
    surplus_N = np.array(surplus)
    return Judged(
        rand=float(np.mean(scores)),
        too_many=float(np.mean(surplus_N > 0)),
        too_few=float(np.mean(surplus_N < 0)),
    )


def middle_of_the_best(judged: dict[float, Judged]) -> float:
    """Of the distances with the greatest index."""
    best = max(found.rand for found in judged.values())
    among = [farthest for farthest, found in judged.items() if found.rand == best]
    return among[len(among) // 2]


def pair_distances(faces: Faces, vectors: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Of pairs of pieces: of one person in one clip, of one person in two clips, of two people."""
    stacked = np.stack(vectors)
    first, second = np.triu_indices(len(stacked), 1)
    apart = np.linalg.norm(stacked[first] - stacked[second], axis=1)
    people, clips = np.array(faces.people), np.array(faces.clips)
    same = people[first] == people[second]
    across = clips[first] != clips[second]
    return apart[same & ~across], apart[same & across], apart[~same]


def closest_people(faces: Faces) -> list[tuple[str, str, float]]:
    """Pairs of people of the least mean distance."""
    stacked, people = np.stack(faces.vectors), np.array(faces.people)
    found = []
    for one, other in itertools.combinations(sorted(set(faces.people)), 2):
        difference = stacked[people == one][:, None] - stacked[people == other]
        found.append((one, other, float(np.linalg.norm(difference, axis=-1).mean())))
    return sorted(found, key=lambda pair: pair[2])[:NUM_CLOSEST]


def page_of(faces: Faces, seed: int) -> str:
    names = sorted(set(faces.people))
    halves = faces.only(names[::2]), faces.only(names[1::2])
    judged = [{d: judge(half, half.vectors, d, seed) for d in DISTANCES} for half in halves]
    rows = []
    for farthest in DISTANCES:
        mark = " (as it is)" if farthest == FARTHEST else ""
        at_once = [
            len(set(tell_faces_apart(vectors, farthest)))
            for vectors in (faces.vectors, faces.large)
        ]
        halves_at = [str(found[farthest]) for found in judged]
        rows.append((f"{farthest:.3f}{mark}", *halves_at, *map(str, at_once)))
    heads = (
        "distance",
        *(f"half {n}, {len(set(half.people))} people" for n, half in enumerate(halves, 1)),
        f"people found of all {len(names)}",
        f"the same, {LARGE_SIZE} px in color",
    )
    chosen = [middle_of_the_best(found) for found in judged]
    blind = [
        f"Chosen on half {n} (the middle of the best) it is {farthest:.3f}, which gives half {m} "
        f"{judged[m - 1][farthest]}."
        for n, m, farthest in ((1, 2, chosen[0]), (2, 1, chosen[1]))
    ]
    pairs = [(one, other, f"{apart:.3f}") for one, other, apart in closest_people(faces)]
    return "\n".join(
        [
            "# Faces told apart",
            "",
            f"    {COMMAND}",
            "",
            f"{len(faces.people)} pieces of {PIECE_SECONDS:g} s, of {len(set(faces.clips))} clips "
            f"of {len(names)} people, in two halves of people: of each {FILMS} films of one to "
            f"{MOST_PEOPLE} people, up to {MOST_PIECES} pieces, drawn with seed {seed}. Adjusted "
            "Rand index (1 is right, 0 is chance), share of films with people too many, and with "
            "people too few, by the distance from which on two groups are two people. Last, all "
            "pieces grouped at once.",
            "",
            markdown_table(heads, rows),
            "",
            *blind,
            "",
            "Distances of two pieces:",
            "",
            _distance_table(faces),
            "",
            "The people nearest to each other:",
            "",
            markdown_table(("one", "other", "mean distance"), pairs),
            "",
        ]
    )


def _distance_table(faces: Faces) -> str:
    rows = []
    for what, vectors in (
        (f"as extracted, {SIZE} px in grey", faces.vectors),
        (f"{LARGE_SIZE} px in color", faces.large),
    ):
        within, across, other = pair_distances(faces, vectors)
        for kind, apart, shares in (
            ("one person, one clip", within, (50, 95, 100)),
            ("one person, two clips", across, (50, 95, 100)),
            ("two people", other, (50, 1, 0)),
        ):
            shown = [f"{x:.3f}" for x in np.percentile(apart, shares)]
            rows.append((what, kind, str(len(apart)), *shown))
    heads = ("crops", "pair", "pairs", "median", "hardest 5%, of two people 1%", "hardest")
    return markdown_table(heads, rows)


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="faces")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.faces",
        "From which distance on two faces are two people.",
        COMMAND,
    )
    parser.add_argument("data", type=path_argument, help="folder of the corpora")
    parser.add_argument("--output", type=new_file_argument, required=True, help="page to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    page = page_of(read_faces(load_face_encoder(), videos(args.data)), args.seed)
    with atomic_file(args.output) as file:
        file.write(page.encode())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
