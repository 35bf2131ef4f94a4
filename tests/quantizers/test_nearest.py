"""The nearest-code searches, against a float64 search in NumPy that must agree on every token."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smalti.kernels import nearest as nearest_kernel
from smalti.quantizers import nearest
from smalti.quantizers.nearest import chunked, compiled, nearest_codes, portable
from tests import forked
from tests.memory import LargestTensor

SEARCHES = {"chunked": chunked, "compiled": compiled}
PEERS_SHAPES = [(65_536, 64, 512), (16_384, 256, 8_192), (8_192, 8, 16_384)]
SHIFTS = [0, 10, 100]
INITS = {
    "normal": lambda rng, k, d: rng.normal(size=(k, d)),
    "tiny": lambda rng, k, d: rng.uniform(-1, 1, (k, d)) / k,
}


def oracle(tokens: torch.Tensor, codebook: torch.Tensor) -> np.ndarray:
    """argmin_j |x - e_j|^2 in float64; the lowest index where distances are equal."""
    x, e = tokens.double().numpy(), codebook.double().numpy()
    x, e = x - e.mean(0), e - e.mean(0)
    norms = (e**2).sum(1)
    found = np.empty(len(x), np.int64)
    for begin in range(0, len(x), 256):
        part = x[begin : begin + 256]
        scores = norms - 2 * part @ e.T
        # Products round as well: what they leave within 1e-11 of the minimum is decided by differences.
        limit = scores.min(1) + 1e-11 * (1 + np.abs(scores).max(1))
        for row, candidates in enumerate(scores <= limit[:, None]):
            few = np.flatnonzero(candidates)
            differences = ((tokens[begin + row].double().numpy() - codebook[few].double().numpy()) ** 2).sum(
                1
            )
            # What float64 cannot tell apart is equal, and the first of equals is meant.
            equal = differences <= differences.min() * (1 + tokens.shape[1] * 2.0**-52)
            found[begin + row] = few[equal.argmax()]
    return found


def data(num: int, dim: int, num_codes: int, shift: float = 0, init: str = "normal", seed: int = 0):
    """Tokens of unit variance and codes, float32, both moved by `shift`."""
    rng = np.random.default_rng(seed)
    tokens, codebook = rng.normal(size=(num, dim)) + shift, INITS[init](rng, num_codes, dim) + shift
    return torch.from_numpy(tokens).float(), torch.from_numpy(codebook).float()


def assert_exact(tokens: torch.Tensor, codebook: torch.Tensor, **options) -> None:
    """Each implementation gives what the oracle gives."""
    expected = oracle(tokens.float(), codebook)
    for name, search in SEARCHES.items():
        codes = search(tokens, codebook, **options)
        assert codes.dtype == torch.int64
        np.testing.assert_array_equal(codes.numpy(), expected, name)


def test_the_oracle_against_plain_differences():
    tokens, codebook = data(50, 3, 20)
    plain = ((tokens[:, None].double() - codebook.double()) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(oracle(tokens, codebook), plain.numpy())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("dim", "num_codes"), [shape[1:] for shape in PEERS_SHAPES])
def test_every_token_is_exact(dim, num_codes, init, shift):
    assert_exact(*data(96, dim, num_codes, shift, init))


@pytest.mark.slow
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("num", "dim", "num_codes"), PEERS_SHAPES)
def test_every_token_is_exact_in_full(num, dim, num_codes, init, shift):
    assert_exact(*data(num, dim, num_codes, shift, init))


@pytest.mark.parametrize("shift", SHIFTS)
def test_data_far_from_the_codes(shift):
    tokens, codebook = data(300, 16, 64, init="tiny")
    assert_exact(tokens + shift, codebook)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dim", [1, 2, 64])
def test_tokens_all_but_halfway_between_codes(dim, shift):
    _, codebook = data(0, dim, 64, shift)
    neighbours = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf).argmin(1)
    halfway = (codebook + codebook[neighbours]) / 2
    eps = torch.finfo().eps
    assert_exact(torch.cat([halfway * (1 + i * eps) for i in range(-2, 3)]), codebook)


@pytest.mark.parametrize("shift", SHIFTS)
def test_autocast_on_the_cpu_changes_nothing(shift):
    tokens, codebook = data(500, 64, 512, shift)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (tokens @ codebook.T).dtype == torch.bfloat16
        assert_exact(tokens, codebook)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    tokens, codebook = data(200, 8, 32)
    assert_exact(tokens.to(dtype), codebook)


@pytest.mark.parametrize("num_codes", [2, 3, 7, 8, 9, 63, 65, 100, 513])
def test_numbers_of_codes_that_fill_no_block(num_codes):
    assert_exact(*data(200, 5, num_codes))


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("repeat", [2, 300])
def test_of_equal_codes_the_lowest_index(repeat, search):
    tokens, codebook = data(100, 4, 5)
    once = search(tokens, codebook)
    assert torch.equal(search(tokens, codebook.repeat(repeat, 1)), once)
    assert torch.equal(search(tokens, codebook.repeat_interleave(repeat, 0)), once * repeat)
    assert not search(tokens, codebook[:1].expand(repeat, -1)).any()


@pytest.mark.parametrize("num", [0, 1])
def test_no_token_and_one(num):
    tokens, codebook = data(num, 4, 10)
    assert nearest_codes(tokens, codebook).shape == (num,)
    assert_exact(tokens, codebook)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_gets_0_and_disturbs_no_other(bad, search):
    tokens, codebook = data(50, 4, 30)
    expected = search(tokens, codebook)
    tokens[7, 2], tokens[20] = bad, bad
    expected[7] = expected[20] = 0
    assert torch.equal(search(tokens, codebook), expected)


@pytest.mark.parametrize("num", [1, 5, 6, 7, 300, 1001])
@pytest.mark.parametrize("dim", [1, 3, 200])
def test_numbers_of_tokens_that_fill_no_tile_and_no_block(num, dim):
    assert_exact(*data(num, dim, 100))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_tokens(threads, monkeypatch):
    monkeypatch.setattr(nearest_kernel, "ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert_exact(*data(1000, 8, 64))
    assert_exact(*data(2, 8, 64))


def test_tokens_that_do_not_lie_in_order():
    tokens, codebook = data(100, 8, 50)
    strided = torch.stack([tokens, tokens], 2).transpose(0, 1)[:, :, 0].t()
    assert not strided.is_contiguous()
    assert_exact(strided, codebook)


@pytest.mark.parametrize("worth", [0, 2**62])
def test_the_amount_of_work_chooses_the_search(worth, monkeypatch):
    taken = []
    monkeypatch.setattr(nearest, "WORTH_COMPILING", worth)
    for name, search in SEARCHES.items():

        def noted(*arguments, name=name, search=search):
            taken.append(name)
            return search(*arguments)

        monkeypatch.setattr(nearest, name, noted)
    tokens, codebook = data(10, 4, 8)
    nearest_codes(tokens, codebook)
    assert taken[0] == ("compiled" if worth == 0 else "chunked")


@pytest.mark.filterwarnings("ignore:smalti.quantizers.nothing")
def test_where_nothing_can_be_compiled_the_plain_search_serves(monkeypatch):
    monkeypatch.setattr(nearest, "WORTH_COMPILING", 0)
    monkeypatch.setattr(nearest, "KERNEL", "smalti.quantizers.nothing")
    tokens, codebook = data(50, 4, 30)
    assert torch.equal(nearest_codes(tokens, codebook), chunked(tokens, codebook))


def test_the_portable_form_of_what_is_equal_and_of_what_is_not_finite():
    tokens, codebook = data(100, 5, 37)
    once = portable(tokens, codebook)
    assert torch.equal(portable(tokens, codebook.repeat(3, 1)), once)
    assert torch.equal(portable(tokens, codebook.repeat_interleave(3, 0)), once * 3)
    tokens[3, 2], tokens[4, 1], tokens[5] = torch.inf, -torch.inf, torch.nan
    once[3:6] = 0
    assert torch.equal(portable(tokens, codebook), once)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_portable_form_differs_at_most_where_float64_does(shift):
    tokens, codebook = data(500, 16, 64, shift)
    np.testing.assert_array_equal(portable(tokens, codebook).numpy(), oracle(tokens, codebook))


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-21, 1e-20, 1e-15, 1e15, 1e19, 1e25, 1e30])
def test_scores_that_leave_the_range_of_float32(scale):
    tokens, codebook = data(500, 4, 30)
    assert_exact(tokens * scale, codebook * scale)


def test_tokens_much_larger_than_the_codes():
    tokens, codebook = data(50, 4, 30)
    assert_exact(tokens * 1e6, codebook)


@pytest.mark.parametrize("chunk_bytes", [1, 64, 4096, 10**9])
def test_any_size_of_chunk(chunk_bytes):
    assert_exact(*data(77, 6, 50), chunk_bytes=chunk_bytes)


@settings(max_examples=60, deadline=None)
@example(num=40, dim=15, num_codes=3, values=4, chunk_bytes=None, seed=40)
@given(
    num=st.integers(0, 40),
    dim=st.integers(1, 20),
    num_codes=st.integers(2, 80),
    values=st.integers(1, 4),
    chunk_bytes=st.sampled_from([None, 1, 1000]),
    seed=st.integers(0, 2**16),
)
def test_grids_of_whole_numbers_full_of_ties(num, dim, num_codes, values, chunk_bytes, seed):
    rng = np.random.default_rng(seed)
    tokens, codebook = (
        torch.from_numpy(rng.integers(-values, values + 1, (n, dim)) / 3).float() for n in (num, num_codes)
    )
    assert_exact(tokens, codebook, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("ties", [False, True])
def test_memory_does_not_grow_with_tokens_times_codes(ties):
    """Also where every token is decided again in float64."""
    num, dim, num_codes, budget = (4_000 if ties else 40_000), 2, 1024, 2**18
    tokens, codebook = data(num, dim, num_codes)
    if ties:
        codebook[num_codes // 2 :] = codebook[: num_codes // 2]
    with LargestTensor() as largest:
        chunked(tokens, codebook, chunk_bytes=budget)
    inputs_and_outputs = 8 * num * dim
    assert budget / 2 < largest.nbytes <= max(budget, inputs_and_outputs)
    assert max(budget, inputs_and_outputs) < num * num_codes / 4


def test_the_default_chunk_is_small():
    tokens, codebook = data(8_192, 2, 2048)
    with LargestTensor() as largest:
        chunked(tokens, codebook)
    assert largest.nbytes <= nearest.CHUNK_BYTES["cpu"] <= 16 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_compiled_search_holds_no_scores():
    """Neither in tensors nor in what the loop allocates; in a process of its own, for the peak is its."""
    program = """
import torch
from pathlib import Path
from smalti.quantizers.nearest import compiled

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])

tokens, codebook = torch.randn(32_768, 4), torch.randn(4096, 4)
compiled(tokens[:100], codebook)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
compiled(tokens, codebook)
print(resident("VmHWM") - before)
"""
    printed = forked.run("-c", program)
    scores_kib = 32_768 * 4096 * 4 / 1024
    assert int(printed) < scores_kib / 16


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_the_margin_follows_the_precision_of_products_on_a_gpu(setting):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = setting
    try:
        on_gpu, on_cpu = (nearest.rounding_margin(64, torch.device(name)) for name in ("cuda", "cpu"))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert (on_gpu > on_cpu) == (setting == "tf32")
