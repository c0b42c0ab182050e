"""Random bits that are a function of their arguments, and rounding with them."""

import math

import pytest
import torch

from descend.backends.random_bits import philox, random_bits, round_stochastically, stochastically

PLACE = dict(seed=3, step=7, ordinal=2, site=1)

# counter, key and result, from the known-answer vectors that its authors publish (Random123, kat_vectors)
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = tuple(torch.tensor([int(word, 16)]) for word in counter.split())
    got = philox(words, *(int(word, 16) for word in key.split()))
    assert [f"{word.item():08x}" for word in got] == answer.split()


def words_of(block, *, seed, step, ordinal, site):
    """The words of one block, its counter and key assembled from the definition."""
    numbers = (block % 2**32, block >> 32, step % 2**32, ordinal)
    counter = tuple(torch.tensor([number]) for number in numbers)
    return [word.item() for word in philox(counter, seed % 2**32, (seed >> 32) ^ site)]


@pytest.mark.parametrize("first", [0, 5, 64, 2**16 - 3, 2**35 - 70, 2**41 + 1])
def test_elements_take_half_words_of_their_blocks(first):
    place = dict(seed=2**63 + 11, step=2**33 + 3, ordinal=2**20, site=4)
    got = random_bits(150, first=first, **place)
    assert got.dtype == torch.int32
    for i in range(first, first + 150):
        word = words_of(i // 64 * 8 + i % 8, **place)[i % 64 // 16]
        assert got[i - first] == (word >> 16 if i % 64 // 8 % 2 else word & 0xFFFF)


def test_bits_do_not_depend_on_how_they_are_drawn():
    whole = random_bits(200_000, **PLACE)
    pieces = [random_bits(50_001, first=start, **PLACE) for start in (0, 50_001, 100_002)]
    assert torch.equal(whole[:150_003], torch.cat(pieces))
    assert random_bits(0, **PLACE).shape == (0,)


@pytest.mark.parametrize("argument", ["seed", "step", "ordinal", "site", "first"])
def test_every_argument_changes_the_bits(argument):
    n = 2**16
    a, b = random_bits(n, **PLACE), random_bits(n, **{**PLACE, argument: PLACE.get(argument, 0) + 1})
    agreeing = (a == b).sum().item()  # one in 2^16 by chance: Poisson with mean 1
    assert agreeing < 12
    correlation = torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(n)


def test_bits_are_uniform():
    n = 2**20
    bits = random_bits(n, **PLACE)
    assert bits.min() >= 0
    assert bits.max() < 2**16
    for position in range(16):
        ones = (bits >> position & 1).sum().item()
        assert abs(ones - n / 2) < 5 * math.sqrt(n / 4)
    for byte in (bits & 255, bits >> 8):  # chi-square with 255 degrees of freedom: mean 255, variance 510
        counts = torch.bincount(byte, minlength=256).double()
        chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum().item()
        assert abs(chi_square - 255) < 5 * math.sqrt(510)
    for distance in (1, 8, 64):
        pair = torch.stack([bits[:-distance], bits[distance:]]).double()
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / math.sqrt(n)


@pytest.mark.parametrize("x", [1.0, 1.001, -1.001, 3.1e-38, -7e-41, 1e-45, 0.0, -0.0, 3.3e38, 123456.789])
def test_rounding_is_to_a_neighbour_and_unbiased(x):
    bits = torch.arange(2**16, dtype=torch.int32)
    x = torch.tensor(x)
    rounded = round_stochastically(x.expand(2**16), bits).double()
    assert rounded.mean() == x.double()  # over all draws: exact, since the sum fits into a double
    values = rounded.unique()
    assert len(values) <= 2
    assert values.min() <= x <= values.max()
    if len(values) == 1:
        assert values[0] == x
        assert torch.equal(rounded.signbit(), x.signbit().expand(2**16))
    else:
        both = values.bfloat16().view(torch.int16)
        assert abs(int(both[0]) - int(both[1])) == 1 or values.abs().min() == 0


def test_rounding_of_what_is_not_finite():
    x = torch.tensor([math.inf, -math.inf, math.nan, -math.nan, torch.finfo(torch.bfloat16).max])
    signalling = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    for draw in (0, 1, 2**15, 2**16 - 1):
        rounded = round_stochastically(x, torch.full((5,), draw, dtype=torch.int32)).float()
        torch.testing.assert_close(rounded, x, rtol=0, atol=0, equal_nan=True)
        assert round_stochastically(signalling, torch.tensor([draw], dtype=torch.int32)).isnan()
    beyond = torch.tensor([torch.finfo(torch.float32).max])
    assert round_stochastically(beyond, torch.tensor([2**16 - 1], dtype=torch.int32)).isinf()
    assert round_stochastically(beyond, torch.tensor([0], dtype=torch.int32)).isfinite()


def test_a_rounded_tensor_keeps_its_mean():
    n = 2**20
    x = torch.full((n,), 1 + 0.3 * 2**-7)  # three tenths of the way to the next bfloat16
    up = (stochastically(x, **PLACE) > 1).sum().item()
    assert abs(up - 0.3 * n) < 5 * math.sqrt(n * 0.3 * 0.7)


def flat_reference(values, first=0):
    return round_stochastically(values, random_bits(values.numel(), first=first, **PLACE))


@pytest.mark.parametrize("first", [0, 64, 1000])
def test_dense_tensors_are_numbered_in_memory_order(first):
    x = torch.randn(5, 6, 1, 7, generator=torch.Generator().manual_seed(0))
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)):
        permuted = (
            x.permute(order).contiguous().permute(*(order.index(i) for i in range(4)))
        )  # same values, other memory
        rounded = stochastically(permuted, first=first, **PLACE)
        assert rounded.stride() == permuted.stride()
        want = flat_reference(x.permute(order).reshape(-1), first)
        assert torch.equal(rounded.permute(order).reshape(-1), want)


def test_other_tensors_are_numbered_in_logical_order():
    base = torch.randn(12, 10, generator=torch.Generator().manual_seed(1))
    for x in (base[:, ::2], base[:, :7].t(), base[:1].expand(3, 10), base[3:5, 0]):
        rounded = stochastically(x, **PLACE)
        assert rounded.shape == x.shape
        assert torch.equal(rounded.reshape(-1), flat_reference(x.reshape(-1)))


def test_pieces_are_rounded_as_the_whole():
    x = torch.randn(2**16 + 500, generator=torch.Generator().manual_seed(2))
    pieces = [stochastically(x[a:b], first=a, **PLACE) for a, b in ((0, 100), (100, 2**16 + 3), (2**16 + 3, x.numel()))]
    assert torch.equal(torch.cat(pieces), stochastically(x, **PLACE))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1)])
def test_small_shapes(shape):
    x = torch.full(shape, 1.001)
    rounded = stochastically(x, **PLACE)
    assert rounded.shape == x.shape
    assert rounded.dtype == torch.bfloat16


def test_what_cannot_be_rounded_says_so():
    with pytest.raises(TypeError, match=r"float32.*x\.float\(\)"):
        stochastically(torch.ones(2, dtype=torch.float64), **PLACE)
    with pytest.raises(ValueError, match="first must be at least 0"):
        random_bits(3, first=-1, **PLACE)
