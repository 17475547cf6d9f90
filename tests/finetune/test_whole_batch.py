"""A loss over the whole batch has the gradient of one process, however the clips are dealt out."""

import pytest
import torch
import torch.multiprocessing
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from finetune.whole_batch import gather_rows

BATCH = 5  # which two processes cannot share evenly


def gradient(model, inputs_BD, label_B, accelerator) -> torch.Tensor:
    """Of the spread of each class around its mean, over all clips, through the model."""
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    rows, label_B = gather_rows({"rows": model(inputs_BD[mine])}, label_B[mine], BATCH, accelerator)
    loss = sum(rows["rows"][label_B == label].var(0).sum() for label in (0, 1))
    loss.backward()
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

    class Two:
        num_processes, process_index = 2, rank

    found = gradient(DistributedDataParallel(model), inputs_BD, label_B, Two)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_have_the_gradient_of_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    alone = gradient(*model_and_clips(), Accelerator(cpu=True))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)
