"""On a GPU: check and proxies in bfloat16 as on the CPU, without a wait for the host."""

import pytest
import torch

from finetune.heads.modality_check import Agreement, Proxies

from .test_m3er import WIDTHS, as_tensors, correlated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_check_and_proxies_are_those_of_the_cpu_and_wait_for_nothing():
    agreement, proxies = Agreement(WIDTHS, 3), Proxies(WIDTHS, 200, 8)
    for part in (agreement, proxies):
        part.fit(*correlated(200))
    means, has = map(as_tensors, correlated(50, seed=1))
    valid = {**has, "speech": torch.zeros(50, dtype=torch.bool)}

    def found(*given) -> tuple[torch.Tensor, torch.Tensor]:
        means, valid = given
        return agreement(means, ("text", "speech")), proxies(means, valid, "speech")[0]

    expected = found(means, valid)
    agreement.cuda(), proxies.cuda()
    given = [{name: x.cuda() for name, x in part.items()} for part in (means, valid)]
    with torch.autocast("cuda", torch.bfloat16):
        found(*given)  # libraries are loaded at the first call
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            on_gpu = found(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(on_gpu, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)
