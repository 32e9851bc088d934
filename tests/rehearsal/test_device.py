"""The simulated device forbids what a device forbids: else nothing that it lets pass is proved."""

import threading
from collections.abc import Callable

import pytest
import torch

from tests.rehearsal.device import Device

CUDA = torch.device("cuda")


def test_tensors_say_where_they_are(gpu: Device) -> None:
    x = torch.ones(2, 3).to(CUDA)
    made = torch.zeros(2, 3, device="cuda")
    for tensor in (
        x,
        made,
        x + made,
        x[0],
        x.view(-1),
        torch.cat([x, made]),
        x.new_zeros(2),
        torch.nn.Parameter(x),
    ):
        assert tensor.device == torch.device("cuda", 0)
        assert tensor.is_cuda
    assert x.cpu().device == x.to("cpu").device == torch.device("cpu")
    module = torch.nn.Linear(3, 2).cuda()
    assert module.weight.is_cuda
    assert module(x).is_cuda
    assert float(module(x).sum()) == float(module.cpu()(x.cpu()).sum())


def test_host_and_device_do_not_mix(gpu: Device) -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    assert (x + torch.tensor(1.0)).is_cuda, "numbers may"
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


@pytest.mark.parametrize("gpu", [{"total": 2**20}], indirect=True)
def test_memory_runs_out_and_comes_back(gpu: Device) -> None:
    x = torch.empty(2**17, device="cuda")  # half of it
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2**18, device="cuda")
    y = x + 0
    assert gpu.memory.live == 2**20
    with pytest.raises(torch.OutOfMemoryError):
        x * 2
    del y
    assert torch.cuda.memory_allocated() == 2**19
    assert x.view(2, -1).sum().is_cuda, "views take nothing"


def test_a_stream_that_does_not_wait_is_a_race(gpu: Device) -> None:
    x, beside = torch.ones(3, device="cuda"), torch.cuda.Stream()
    with torch.cuda.stream(beside):
        y = x + 1
    assert gpu.streams.races
    gpu.streams.races.clear()
    torch.cuda.current_stream().wait_stream(beside)
    y + 1
    torch.cuda.synchronize()
    with torch.cuda.stream(beside):
        x + 1
    assert gpu.streams.races == []


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, stream=torch.cuda.Stream()),
    ):
        run()
    return graph


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x.sum()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.ones(3).to("cuda"),
        lambda x: x.tolist(),
        lambda x: torch.randn(3, device="cuda"),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.empty_cache(),
    ],
    ids=[
        "item", "bool", "float", "cpu", "to", "nonzero", "equal", "copy_", "upload", "tolist", "random", "synchronize",
        "empty_cache",
    ],
)  # fmt: skip
def test_what_a_capture_forbids(gpu: Device, forbidden: Callable[[torch.Tensor], object]) -> None:
    x, before = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    with pytest.raises(torch.AcceleratorError):
        capture(lambda: forbidden(x))
    assert torch.cuda.current_stream() is before
    x.sum().item()


def test_a_replay_reads_what_is_there_then(gpu: Device) -> None:
    x, results = torch.ones(3, device="cuda"), []

    def work() -> None:
        x.add_(1)
        results.append(x * 2)

    graph = capture(work)
    assert x.tolist() == [1, 1, 1], "nothing has run"
    assert results[0].isnan().all()
    for expected in (4, 6):
        graph.replay()
        assert results[0].tolist() == [expected] * 3
    del graph
    assert results[0].isnan().all(), "its memory went with it"


def test_threads_see_the_device(gpu: Device) -> None:
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).to("cuda")))
    thread.start()
    thread.join()
    assert found[0].is_cuda
