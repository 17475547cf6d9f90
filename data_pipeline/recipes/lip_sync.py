"""Recipe of the lip-sync maps that ship: canonical correlations of mouths and their sounds.

    python -m data_pipeline.recipes.lip_sync GRID_CLIPS --output data_pipeline/assets/lip_sync

GRID_CLIPS is a folder of clips of people who talk, one face each; every sixth clip (by name) is
held out, and the run prints how often a held-out mouth fits its own sound better than another
clip's. The clips that ship's weights were made of, and what they reach on other people, is in the
card beside them. Takes about a second a clip.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.faces.finder import FaceFinder, TrackedFace
from data_pipeline.faces.mouth import movement
from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.schema import Clip
from data_pipeline.speaker.synchrony import (
    USUAL_LEAD_SECONDS,
    LipSync,
    mouth_features,
    mouth_pictures,
    sound_features,
    time_grid,
)

NUM_BASIS, NUM_PAIRS = 16, 6
RIDGE = 0.3  # of the mean variance
HELD_OUT = 6

Talk = tuple[TrackedFace, np.ndarray]


def face_movement(face: TrackedFace) -> np.ndarray:
    """[F] movement of the mouth, less that of the upper face."""
    return movement(face.mouth_FHW) - movement(face.upper_FHW)


def fit(talks: list[Talk]) -> LipSync:
    """Canonical correlation analysis with a ridge (Vinod, 1976) over all frames of all clips."""
    grids = [time_grid(face.track.seconds_F) for face, _ in talks]
    pictures = [
        mouth_pictures(face.mouth_FHW, face.track.seconds_F, grid)
        for (face, _), grid in zip(talks, grids, strict=True)
    ]
    _, basis_BP = np.linalg.eigh(sum(p.T @ p for p in pictures))
    basis_PB = basis_BP[:, ::-1][:, :NUM_BASIS]
    mouths, sounds = [], []
    for (face, sound_T), grid_N in zip(talks, grids, strict=True):
        inside_N = grid_N + USUAL_LEAD_SECONDS <= len(sound_T) / 16_000
        mouths.append(
            mouth_features(
                face.mouth_FHW, face_movement(face), face.track.seconds_F, grid_N, basis_PB
            )[inside_N]
        )
        sounds.append(sound_features(sound_T, grid_N[inside_N] + USUAL_LEAD_SECONDS))
    mouth_NV, sound_NA = np.concatenate(mouths), np.concatenate(sounds)
    white_V, white_A = _whiten(mouth_NV), _whiten(sound_NA)
    left, strength, right = np.linalg.svd(
        white_V @ (mouth_NV.T @ sound_NA / len(mouth_NV)) @ white_A.T
    )
    return LipSync(
        basis_PB=basis_PB,
        mouth_VC=white_V.T @ left[:, :NUM_PAIRS],
        sound_AC=white_A.T @ right[:NUM_PAIRS].T,
        weight_C=strength[:NUM_PAIRS] / strength[:NUM_PAIRS].sum(),
    )


def _whiten(x_NX: np.ndarray) -> np.ndarray:
    covariance = x_NX.T @ x_NX / len(x_NX)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return np.linalg.inv(np.linalg.cholesky(covariance))


def own_sound_wins(model: LipSync, talks: list[Talk]) -> float:
    """Share of (mouth, other clip's sound) in which the mouth's own sound fits better."""
    scores = np.array(
        [
            [
                model.score(face.mouth_FHW, face_movement(face), face.track.seconds_F, sound_T)
                for _, sound_T in talks
            ]
            for face, _ in talks
        ]
    )
    others = ~np.eye(len(talks), dtype=bool)
    return float((np.diag(scores)[:, None] > scores)[others].mean())


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.lip_sync"
    parser = command_parser(name, __doc__.splitlines()[0], f"{name} my/clips --output runs/maps")
    parser.add_argument("clips", type=Path, help="folder of clips of single people who talk")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--num-clips", type=int, default=120, help="evenly spaced, by name")
    args = parser.parse_args(argv)
    paths = sorted(p for p in args.clips.iterdir() if p.is_file())
    if len(paths) < 2 * HELD_OUT:
        parser.error(f"{len(paths)} files in {args.clips}; expected at least {2 * HELD_OUT} clips")
    paths = paths[:: max(1, len(paths) // args.num_clips)][: args.num_clips]
    finder, talks = FaceFinder(), []
    for path in paths:
        try:
            media = open_clip(Clip(id="talk", video=str(path)))
            faces = finder.find(media)
        except MediaError as error:
            print(f"left out: {path.name}: {error.detail}")
            continue
        if len(faces) != 1 or media.sound_T is None:
            print(f"left out: {path.name}: {len(faces)} faces, sound: {media.sound_T is not None}")
            continue
        talks.append((faces[0], media.sound_T))
    held_out = talks[::HELD_OUT]
    model = fit([t for k, t in enumerate(talks) if k % HELD_OUT])
    print(
        f"{len(talks)} clips; own sound wins on {len(held_out)} held out: "
        f"{own_sound_wins(model, held_out):.3f}"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    tensors = {k: np.ascontiguousarray(v, np.float32) for k, v in vars(model).items()}
    save_file(tensors, args.output / "model.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="lip_sync"))
