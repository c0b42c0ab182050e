"""The arithmetic under the generated kernels, against float64 and against torch."""

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import descend
from descend.backends import compiler
from descend.backends.random_bits import random_bits, round_stochastically

pytestmark = pytest.mark.skipif(compiler.unavailable() is not None, reason=str(compiler.unavailable()))

PRELUDE = Path(descend.__file__).parent / "backends" / "prelude.hpp"

# `map_` functions go over tiles as kernels do; `one_` functions are scalar code, for one element; in `left_` and
# `right_` the other argument of a pair is the same for all elements, which the compiler moves out of the loop
DRIVER = """
#define EXPORT extern "C" __attribute__((visibility("default")))
#define ALL(body) for (int64_t t = 0; t < n; t += 64) for (int64_t i = t; i < t + 64; i++) { body; }
#define UNARY(name, real) \\
    EXPORT void map_##name##_##real(int64_t n, const real* x, real* z) { ALL(z[i] = name(x[i])) } \\
    EXPORT void one_##name##_##real(const real* x, real* z) { *z = name(*x); }
#define BINARY(name, real) \\
    EXPORT void map_##name##_##real(int64_t n, const real* x, const real* y, real* z) \\
        { ALL(z[i] = name(x[i], y[i])) } \\
    EXPORT void left_##name##_##real(int64_t n, const real* x, const real* y, real* z) \\
        { const real a = *x; ALL(z[i] = name(a, y[i])) } \\
    EXPORT void right_##name##_##real(int64_t n, const real* x, const real* y, real* z) \\
        { const real b = *y; ALL(z[i] = name(x[i], b)) } \\
    EXPORT void one_##name##_##real(const real* x, const real* y, real* z) { *z = name(*x, *y); }
#define WORST(name) \\
    EXPORT double worst_##name(uint64_t first, uint64_t count) { \\
        double worst = 0; \\
        for (uint64_t tile = first; tile < first + count; tile += 64) { \\
            float x[64], z[64]; \\
            for (int i = 0; i < 64; i++) x[i] = float_of((uint32_t)(tile + i)); \\
            for (int i = 0; i < 64; i++) z[i] = name(x[i]); \\
            for (int i = 0; i < 64; i++) worst = __builtin_fmax(worst, ulps(z[i], name((double)x[i]))); \\
        } \\
        return worst; \\
    }
#define BOTH(kind, name) kind(name, float) kind(name, double)
#define STORED(type) \\
    EXPORT void load_##type(int64_t n, const type* x, float* z) { ALL(z[i] = load(x[i])) } \\
    EXPORT void store_float_##type(int64_t n, const float* x, type* z) { ALL(store(x[i], z[i])) } \\
    EXPORT void store_double_##type(int64_t n, const double* x, type* z) { ALL(store(x[i], z[i])) }
static double ulps(double got, double want) {  // as `ulps` in Python
    if (got != got || want != want) return got != got && want != want ? 0 : __builtin_inf();
    if (__builtin_signbit(got) != __builtin_signbit(want)) return __builtin_inf();
    const uint64_t exponent = bits_of((float)absolute(want)) >> 23;
    const uint64_t unit_bits = (exponent < 1 ? 1 : exponent > 254 ? 254 : exponent) - 150 + 1023 << 52;
    double unit;
    __builtin_memcpy(&unit, &unit_bits, sizeof unit);
    return absolute(clip(got, -0x1p128, 0x1p128) - clip(want, -0x1p128, 0x1p128)) / unit;
}
WORST(exponential) WORST(logarithm) WORST(hyperbolic_tangent)
BOTH(UNARY, exponential) BOTH(UNARY, logarithm) BOTH(UNARY, hyperbolic_tangent)
BOTH(UNARY, sign) BOTH(UNARY, absolute) BOTH(UNARY, square_root)
BOTH(BINARY, power) BOTH(BINARY, minimum) BOTH(BINARY, maximum)
EXPORT void map_clip_float(int64_t n, const float* x, const float* y, const float* w, float* z)
    { ALL(z[i] = clip(x[i], y[i], w[i])) }
EXPORT void map_clip_double(int64_t n, const double* x, const double* y, const double* w, double* z)
    { ALL(z[i] = clip(x[i], y[i], w[i])) }
STORED(bfloat16) STORED(float16)
EXPORT void round_stochastically(int64_t n, const float* x, const uint16_t* random, bfloat16* z)
    { ALL(store_stochastically(x[i], random[i], z[i])) }
EXPORT void random_tiles(uint64_t seed, uint32_t site, uint64_t step, uint32_t ordinal, int64_t first, int64_t n,
    uint16_t* out) { for (int64_t t = 0; t < n; t += 64) random_tile(seed, site, step, ordinal, first + t, out + t); }
EXPORT void one_philox(const uint32_t* c, const uint32_t* key, uint32_t* out) {
    const block b = philox({c[0], c[1], c[2], c[3]}, key[0], key[1]);
    out[0] = b.w0; out[1] = b.w1; out[2] = b.w2; out[3] = b.w3;
}
"""

REALS = {np.float32: "float", np.float64: "double"}
NUMPY = {"exponential": np.exp, "logarithm": np.log, "hyperbolic_tangent": np.tanh, "power": np.power}
TORCH = {"sign": torch.sign, "absolute": torch.abs, "minimum": torch.minimum, "maximum": torch.maximum}
BOUNDS = {"exponential": 1.0, "logarithm": 1.0, "hyperbolic_tangent": 1.5, "power": 2.5}  # ulp
LARGEST = np.finfo(np.float32).max
TINY = np.finfo(np.float32).tiny
INF, NAN = math.inf, math.nan


@pytest.fixture(scope="module")
def library():
    return compiler.load(f"// the prelude under test\n{PRELUDE.read_text()}\n{DRIVER}")


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def padded(array):
    return np.ascontiguousarray(np.resize(array, -(-array.size // 64) * 64))


def call(function, *inputs, out):
    """A function of the driver over arrays of any length; they are padded to whole tiles."""
    n = inputs[0].size
    inputs = [padded(x) for x in inputs]
    result = np.empty(inputs[0].size, out)
    function(ctypes.c_int64(result.size), *(pointer(x) for x in inputs), pointer(result))
    return result[:n]


def mapped(library, name, *inputs, how="map"):
    real = inputs[0].dtype.type
    return call(getattr(library, f"{how}_{name}_{REALS[real]}"), *inputs, out=real)


def ulps(got, want):
    """The distance in units of the last place of float32; infinity stands for 2^128, and NaN must meet NaN."""
    exponent = np.frexp(np.minimum(np.abs(want), float(LARGEST)))[1]
    unit = np.ldexp(1.0, np.maximum(exponent, -125) - 24)
    with np.errstate(invalid="ignore"):
        error = np.abs(np.clip(got.astype(np.float64), -(2.0**128), 2.0**128) - np.clip(want, -(2.0**128), 2.0**128))
    error = np.where(np.signbit(got) == np.signbit(want), error / unit, INF)
    return np.where(np.isnan(want) | np.isnan(got), np.where(np.isnan(want) & np.isnan(got), 0, INF), error)


def reference(name, *inputs):
    with np.errstate(all="ignore"):
        return NUMPY[name](*(x.astype(np.float64) for x in inputs))


def assert_close(library, name, *inputs, within=None, how="map"):
    error = ulps(mapped(library, name, *inputs, how=how), reference(name, *inputs))
    worst = int(np.argmax(error))
    assert error[worst] <= (within or BOUNDS[name]), (name, error[worst], [float(x[worst]).hex() for x in inputs])


def same(a, b):
    """Equal bits, all NaN taken for one."""
    whole = np.uint32 if a.dtype == np.float32 else np.uint64
    return bool(np.all((a.view(whole) == b.view(whole)) | (np.isnan(a) & np.isnan(b))))


def floats(bits):
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def neighbours(values, reach=300):
    """Float32 values and those next to them on both sides, with both signs."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.int64)
    around = np.unique(np.clip(bits[:, None] + np.arange(-reach, reach + 1), 0, 2**31 - 1))
    return floats(np.concatenate([around, around + 2**31]))


SPECIAL = np.array(
    [
        *(0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, -1.5, 1e-3, INF, -INF, NAN),
        *(LARGEST, -LARGEST, TINY, -TINY, 1e-45, -1e-45, 3e-42, 1 + 2**-23, 1 - 2**-24),
        *(2**23 - 0.5, 2**23 + 1, -(2**23) - 1, 2**24 - 1, -(2**24) + 1, 2**24),
    ],
    dtype=np.float32,
)
TURNS = [  # where a function changes its course: domain edges, over- and underflow, where code takes another side
    *(0, 1, 0.5, 0.625, 2, math.sqrt(0.5), math.sqrt(2), TINY, LARGEST, INF),
    *(88.7228, 87.3365, 103.2789, 103.972, 160 / math.log2(math.e), 9.0109, 10, 0.3465736, 1.0397, 2.0**24),
]


@pytest.mark.parametrize("name", ["exponential", "logarithm", "hyperbolic_tangent"])
def test_functions_of_one_number(library, name):
    every = np.arange(0, 2**32, 977, dtype=np.uint64).astype(np.uint32)
    assert_close(library, name, floats(every))
    assert_close(library, name, np.concatenate([SPECIAL, neighbours(TURNS)]))


@pytest.mark.long
@pytest.mark.parametrize("name", ["exponential", "logarithm", "hyperbolic_tangent"])
def test_functions_of_one_number_for_all_floats(library, name):
    worst = getattr(library, f"worst_{name}")  # against the mathematics of C's library in double
    worst.restype = ctypes.c_double
    assert worst(ctypes.c_uint64(0), ctypes.c_uint64(2**32)) <= BOUNDS[name]
    assert worst(ctypes.c_uint64(0x3F000000), ctypes.c_uint64(2**20)) > 0.4  # rounding alone is half a unit


def pairs(generator, n):
    """Bases and exponents: any floats, results over the whole range, bases near 1, integers, frequent exponents."""
    bits = floats(generator.integers(0, 2**32, n, dtype=np.uint32))
    near_one = (1 + generator.uniform(-1, 1, n) * 2.0 ** -generator.integers(0, 24, n)).astype(np.float32)
    result = generator.uniform(-155, 130, n)
    yield bits, floats(generator.integers(0, 2**32, n, dtype=np.uint32))
    for base in (np.abs(bits), near_one):
        with np.errstate(all="ignore"):
            yield base, (result / np.log2(base.astype(np.float64))).astype(np.float32)
    yield bits, generator.integers(-60, 60, n).astype(np.float32)
    yield np.abs(bits), generator.choice(np.array([0.5, -0.5, 0.25, 2 / 3, 0.75, -0.8], dtype=np.float32), n)


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 101), marks=pytest.mark.long)])
def test_power(library, seed):
    for number in seed if isinstance(seed, range) else [seed]:
        generator = np.random.default_rng(number)
        for x, y in pairs(generator, 200_000):
            assert_close(library, "power", x, y)


@pytest.mark.parametrize("how", ["map", "left", "right"])
def test_power_of_special_numbers(library, how):
    around = np.concatenate([SPECIAL, neighbours([1.0], reach=2)])
    if how == "map":
        x, y = (a.ravel() for a in np.meshgrid(around, around))
        assert_close(library, "power", x, y)
    for value in around:
        one = np.full_like(around, value)
        assert_close(library, "power", *((one, around) if how == "left" else (around, one)), how=how)


def test_power_is_exact_where_the_result_is_a_power_of_two(library):
    exponents = np.arange(-149, 128, dtype=np.float32)
    for base, scale in ((2, 1), (0.5, -1), (4, 2), (0.25, -2)):
        y = exponents / np.float32(scale)
        whole = y == np.trunc(y)
        got = mapped(library, "power", np.full_like(y, base), y)
        assert same(got[whole], np.exp2(exponents.astype(np.float64)).astype(np.float32)[whole])


@pytest.mark.parametrize("name", list(NUMPY))
def test_a_result_does_not_depend_on_its_position(library, name):
    generator = np.random.default_rng(1)
    arity = 2 if name == "power" else 1
    for scale in (1.0, 30.0):
        inputs = [np.concatenate([SPECIAL, scale * generator.standard_normal(600, dtype=np.float32)])]
        inputs.append(np.flip(inputs[0]).copy())
        inputs = inputs[:arity]
        together = mapped(library, name, *inputs)
        alone = np.empty_like(together)
        one = getattr(library, f"one_{name}_float")
        for i in range(alone.size):
            one(*(pointer(x[i:]) for x in inputs), pointer(alone[i:]))
        assert same(alone, together)


def test_an_argument_that_all_elements_share_changes_no_result(library):
    generator = np.random.default_rng(2)
    elements = np.concatenate([SPECIAL, 3 * generator.standard_normal(600, dtype=np.float32)])
    for value in (*SPECIAL, *generator.uniform(0.01, 20, 10).astype(np.float32)):
        shared = np.full_like(elements, value)
        for name in ("power", "minimum", "maximum"):
            for how, inputs in (("left", (shared, elements)), ("right", (elements, shared))):
                assert same(mapped(library, name, *inputs, how=how), mapped(library, name, *inputs))


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_choices_are_those_of_torch(library, real):
    generator = np.random.default_rng(3)
    x, y = (np.concatenate([a.ravel(), generator.standard_normal(200)]) for a in np.meshgrid(SPECIAL, SPECIAL))
    x, y = x.astype(real), y.astype(real)
    for name, function in TORCH.items():
        inputs = (x, y) if name in ("minimum", "maximum") else (x,)
        want = function(*(torch.from_numpy(a) for a in inputs)).numpy()
        np.testing.assert_array_equal(mapped(library, name, *inputs), want, strict=True)
    assert not np.signbit(mapped(library, "sign", np.array([-0.0, NAN, -NAN], dtype=real))).any()
    z = np.flip(y).copy()
    want = torch.clamp(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(z)).numpy()
    np.testing.assert_array_equal(mapped(library, "clip", x, y, z), want, strict=True)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(mapped(library, "square_root", x), np.sqrt(x), strict=True)


@pytest.mark.parametrize("name", list(NUMPY))
def test_functions_in_double(library, name):
    generator = np.random.default_rng(4)
    x = np.concatenate([SPECIAL.astype(np.float64), 10 * generator.standard_normal(500)])
    inputs = (x, np.flip(x).copy())[: 2 if name == "power" else 1]
    np.testing.assert_allclose(mapped(library, name, *inputs), reference(name, *inputs), rtol=1e-15, atol=0)


LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("name", LOW)
def test_low_precision_is_loaded_exactly(library, name):
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16)
    want = patterns.view(LOW[name]).float().numpy()
    assert same(call(getattr(library, f"load_{name}"), patterns.numpy(), out=np.float32), want)


def assert_stored_as_torch_does(library, name, x):
    got = call(getattr(library, f"store_{REALS[x.dtype.type]}_{name}"), x, out=np.int16)
    want = torch.from_numpy(x).to(LOW[name])
    nan = want.isnan()
    assert torch.equal(torch.from_numpy(got).view(LOW[name]).isnan(), nan)
    assert torch.equal(torch.from_numpy(got)[~nan], want.view(torch.int16)[~nan])


@pytest.mark.parametrize("name", LOW)
def test_low_precision_is_rounded_as_torch_rounds(library, name):
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(LOW[name])
    values = values[values.isfinite()].double().sort().values.numpy()
    halves = (values[1:] + values[:-1]) / 2  # ties between neighbours, exact in float32
    edges = np.array([65519, 65520, 65535, 65536, LARGEST, INF, NAN, 2.0**-25, 2.0**-26, 1e-45], dtype=np.float64)
    exact = np.concatenate([values, halves, edges, -edges]).astype(np.float32)
    bits = exact.view(np.uint32)
    assert_stored_as_torch_does(library, name, np.concatenate([exact, floats(bits + 1), floats(bits - 1)]))
    assert_stored_as_torch_does(library, name, floats(np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32)))
    # in double, what lies next to a tie becomes one in float
    doubles = np.concatenate(
        [halves, halves * (1 + 2.0**-40), halves * (1 - 2.0**-40), edges, -edges, [1e300, -1e-300]]
    )
    assert_stored_as_torch_does(library, name, doubles)


def test_stochastic_rounding_is_that_of_torch(library):
    x = np.concatenate(
        [SPECIAL, neighbours(TURNS, reach=50), floats(np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32))]
    )
    for draw in (np.zeros(x.size), np.full(x.size, 65535), np.random.default_rng(5).integers(0, 2**16, x.size)):
        got = call(library.round_stochastically, x, draw.astype(np.uint16), out=np.int16)
        want = round_stochastically(torch.from_numpy(x), torch.from_numpy(draw.astype(np.int32)))
        nan = want.isnan()
        assert torch.equal(torch.from_numpy(got).view(torch.bfloat16).isnan(), nan)
        assert torch.equal(torch.from_numpy(got)[~nan], want.view(torch.int16)[~nan])


# counter, key and result, from the known-answer vectors that its authors publish (Random123, kat_vectors)
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(library, counter, key, answer):
    words = [np.array([int(word, 16) for word in text.split()], dtype=np.uint32) for text in (counter, key, answer)]
    got = np.empty(4, dtype=np.uint32)
    library.one_philox(*(pointer(x) for x in words[:2]), pointer(got))
    np.testing.assert_array_equal(got, words[2])


@pytest.mark.parametrize(
    ("seed", "site", "step", "ordinal", "first"),
    [(0, 0, 1, 0, 0), (2**63 + 5, 3, 2**33 + 7, 2**20, 64), (1, 2, 3, 4, 2**35 - 128), (7, 1, 2**32 - 1, 9, 2**41)],
)
def test_the_random_bits_are_those_of_torch(library, seed, site, step, ordinal, first):
    got = np.empty(256, dtype=np.uint16)
    numbers = (ctypes.c_uint64(seed), ctypes.c_uint32(site), ctypes.c_uint64(step), ctypes.c_uint32(ordinal))
    library.random_tiles(*numbers, ctypes.c_int64(first), ctypes.c_int64(got.size), pointer(got))
    want = random_bits(got.size, seed=seed, site=site, step=step, ordinal=ordinal, first=first)
    np.testing.assert_array_equal(got, want.numpy())
