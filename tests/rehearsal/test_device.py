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
    assert module(x).sum().item() == module.cpu()(x.cpu()).sum().item()


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


def test_memory_that_was_not_written_holds_nothing_of_use(gpu: Device) -> None:
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.ones(3, device="cuda").new_empty(2).isnan().all()
    assert torch.empty(3, dtype=torch.int32, device="cuda").tolist() == [-1] * 3


def test_memory_that_another_stream_may_still_use_is_not_freed(gpu: Device) -> None:
    """An allocator gives it to the next tensor of its own stream at once."""
    for waits in (True, False):
        x, beside = torch.ones(3, device="cuda"), torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            y = x + 1
        if waits:
            torch.cuda.current_stream().wait_stream(beside)
        del x
        assert (gpu.streams.races == []) == waits
        del y


def test_a_replay_needs_what_it_reads(gpu: Device) -> None:
    kept = [torch.ones(3, device="cuda")]
    graph = capture(lambda: kept[0] * 2)
    graph.replay()
    assert gpu.streams.races == []
    kept.clear()
    graph.replay()
    assert gpu.streams.races == ["a replay uses memory that was freed after the capture"]


def _launch(gpu: Device, x: torch.Tensor) -> None:
    gpu.launch("a kernel", lambda x: x.add_(1), [x], (0,))


def test_what_a_launch_forbids(gpu: Device) -> None:
    """Tensors of the host, and a first launch of its kind while capturing: other addresses are another kind."""
    memory = torch.zeros(64, device="cuda")
    with pytest.raises(ValueError, match="cpu tensor"):
        _launch(gpu, torch.zeros(4))
    _launch(gpu, memory[:16])
    capture(lambda: _launch(gpu, memory[16:32]))  # begins at a multiple of 16 bytes, too
    with pytest.raises(torch.AcceleratorError) as caught:
        capture(lambda: _launch(gpu, memory[1:17]))
    assert "compiled and loaded" in str(caught.value.__context__)
    _launch(gpu, memory[1:17])
    capture(lambda: _launch(gpu, memory[1:17]))


def _int8(gpu: Device, rows: int, columns: int, begin: int = 0) -> torch.Tensor:
    flat = torch.zeros(begin + rows * columns, dtype=torch.int8, device="cuda")
    return flat[begin:].view(rows, columns)


@pytest.mark.parametrize(
    ("M", "K", "begin", "reason"),
    [
        (32, 32, 0, ""),
        (16, 32, 0, "greater than 16"),
        (32, 36, 0, "multiples of 8"),
        (32, 32, 8, "misaligned address"),
    ],
)
def test_what_a_product_of_int8_needs(gpu: Device, M: int, K: int, begin: int, reason: str) -> None:
    a, b = _int8(gpu, M, K, begin), _int8(gpu, 32, K).T
    if not reason:
        assert torch._int_mm(a, b).is_cuda
        return
    with pytest.raises(RuntimeError, match=reason):
        torch._int_mm(a, b)


@pytest.mark.parametrize("gpu", [{"capability": (7, 5)}], indirect=True)
def test_what_an_old_device_has_not(gpu: Device) -> None:
    x = torch.ones(1, 2, 4, 4, device="cuda").bfloat16()
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        torch.nn.functional.conv2d(x, x[:, :, :3, :3])
    torch.nn.functional.conv2d(x.float(), x[:, :, :3, :3].float())
    eight = torch.ones(16, 16, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    with pytest.raises(RuntimeError, match="compute capability"):
        torch._scaled_mm(eight, eight.T, scale_a=one, scale_b=one)
