"""A loss over the whole batch has the gradient of one process, however the clips are dealt out."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from finetune.training.whole_batch import WholeBatch
from pretrain.data.example import Example, ExampleFrames, collate

BATCH = 5  # which two processes cannot share evenly


def gradient(model, inputs_BD, label_B, rank: int = 0, num_processes: int = 1) -> torch.Tensor:
    """Of how far each clip is from all others of its class, through the model."""
    whole = WholeBatch(label_B=label_B, rank=rank, num_processes=num_processes)
    rows_BD = whole.gather({"rows": model(inputs_BD[whole.mine])})["rows"]
    same_NB = label_B[whole.mine, None] == label_B
    apart_NBD = rows_BD[whole.mine, None] - rows_BD
    loss = (same_NB * apart_NBD.square().sum(-1)).exp().sum()
    (num_processes / BATCH * loss).backward()  # as finetune.training.fit has it
    return next(model.parameters()).grad


def model_and_clips():
    torch.manual_seed(0)
    inputs_BD, label_B = torch.randn(BATCH, 4), torch.tensor([0, 1, 0, 1, 1])
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()), inputs_BD, label_B


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    model, inputs_BD, label_B = model_and_clips()

    found = gradient(DistributedDataParallel(model), inputs_BD, label_B, rank, 2)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_have_the_gradient_of_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    alone = gradient(*model_and_clips())
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)


def test_clips_padded_beside_others_are_as_long_as_those():
    def example(name: str, pieces: int, frames: dict[str, int]) -> Example:
        return Example(
            id=name,
            objective=None,
            ids_T=np.arange(pieces),
            frames={
                stream: ExampleFrames(
                    values_FC=np.ones((n, 2), np.float32),
                    seconds_F=np.arange(n, dtype=np.float32),
                    masked_F=np.zeros(n, bool),
                )
                for stream, n in frames.items()
            },
        )

    short, long = example("short", 2, {"face": 1}), example("long", 5, {"face": 4, "speech": 3})
    mine, alone = collate([short], beside=[long]), collate([short])
    assert mine.text_ids_NT.shape == (1, 5) and mine.text_mask_NT.sum() == 2
    assert mine.frames["face"].real_NF.tolist() == [[True, False, False, False]]
    assert mine.frames["speech"].real_NF.tolist() == [[False] * 3]
    assert (mine.ids, mine.num_tokens) == (alone.ids, alone.num_tokens)
