// What every generated kernel rests on: storage types, the elementary functions, random bits.
//
// Everything here is branch-free, so that a loop over a tile of elements becomes vector code and an element's result
// never depends on its position. What depends on one argument of several is integer arithmetic rather than a select:
// g++ does not vectorise a select whose condition happens to be the same for all elements. Where rounding matters the
// fused multiply-add is written out; all else may be contracted by the compiler. No header but <stdint.h>: compiling
// this costs next to nothing.

#include <stdint.h>

namespace {

// ---- bits and numbers

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

static const float infinity = __builtin_inff();
static const float not_a_number = __builtin_nanf("");

// ---- storage: what tensors hold, and float in between. Rounding is to nearest, ties to even, as torch's.

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

static inline float load(float x) { return x; }
static inline double load(double x) { return x; }
static inline float load(bfloat16 x) { return float_of((uint32_t)x.bits << 16); }

static inline float load(float16 x) {
    const uint32_t magnitude = (uint32_t)(x.bits & 0x7fff) << 13;  // the fraction where float has it
    const uint32_t rebased = magnitude + ((127 - 15) << 23);
    const uint32_t normal = magnitude >= 0x1fu << 23 ? rebased + ((128 - 16) << 23) : rebased;  // infinity, NaN
    const uint32_t subnormal = bits_of(float_of(rebased + (1 << 23)) - 0x1p-14f);  // exact
    const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16;
    return float_of((magnitude < 1u << 23 ? subnormal : normal) | sign);
}

static inline void store(float x, float& to) { to = x; }
static inline void store(double x, float& to) { to = (float)x; }
static inline void store(float x, double& to) { to = x; }
static inline void store(double x, double& to) { to = x; }

static inline void store(float x, bfloat16& to) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = (uint16_t)(x != x ? 0x7fc0 : rounded);
}

static inline void store(float x, float16& to) {
    const uint32_t bits = bits_of(x);
    const uint32_t magnitude = bits & 0x7fffffff;
    const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);  // the sum rounds at 2^-24
    const uint32_t beyond = magnitude > bits_of(infinity) ? 0x7e00 : 0x7c00;
    const uint32_t finite = magnitude < bits_of(0x1p-14f) ? subnormal : normal;
    to.bits = (uint16_t)((magnitude < bits_of(0x1p16f) ? finite : beyond) | ((bits >> 16) & 0x8000));
}

// From double by way of float, rounding twice, as torch does.
static inline void store(double x, bfloat16& to) { store((float)x, to); }
static inline void store(double x, float16& to) { store((float)x, to); }

// Rounds to one of the two neighbours, up with the probability of the part that is cut off: `random` is uniform over
// 16 bits. Infinity and NaN stay; only what lies beyond the largest finite bfloat16 may become infinite.
static inline void store_stochastically(float x, uint16_t random, bfloat16& to) {
    const uint32_t rounded = (bits_of(x) + random) >> 16;
    to.bits = (uint16_t)(x != x ? 0x7fc0 : rounded);
}

static inline void store_stochastically(double x, uint16_t random, bfloat16& to) {
    store_stochastically((float)x, random, to);
}

// ---- choices

static inline float absolute(float x) { return __builtin_fabsf(x); }
static inline double absolute(double x) { return __builtin_fabs(x); }
static inline float square_root(float x) { return __builtin_sqrtf(x); }
static inline double square_root(double x) { return __builtin_sqrt(x); }

// The sign of zero and of NaN is 0, as torch's.
static inline float sign(float x) { return absolute(x) > 0 ? __builtin_copysignf(1, x) : 0; }
static inline double sign(double x) { return absolute(x) > 0 ? __builtin_copysign(1, x) : 0; }

// NaN if one is NaN, as torch's.
static inline float minimum(float a, float b) { return __builtin_isunordered(a, b) ? a + b : a < b ? a : b; }
static inline double minimum(double a, double b) { return __builtin_isunordered(a, b) ? a + b : a < b ? a : b; }
static inline float maximum(float a, float b) { return __builtin_isunordered(a, b) ? a + b : a > b ? a : b; }
static inline double maximum(double a, double b) { return __builtin_isunordered(a, b) ? a + b : a > b ? a : b; }

static inline float clip(float x, float low, float high) { return minimum(maximum(x, low), high); }
static inline double clip(double x, double low, double high) { return minimum(maximum(x, low), high); }

// ---- exponential, logarithm, hyperbolic tangent and power. In float they are within 1, 1, 1.5 and 2.5 units in the
// last place for all arguments, with coefficients that are minimax fits of our own; in double they are libm's.

// 2^(y * (high + low)), for a factor given to about 48 bits.
static inline float exp2_of_product(float y, float high, float low) {
    const float product = y * high;
    const bool beyond = absolute(product) > 160;  // infinity or 0; NaN passes
    const float held = beyond ? __builtin_copysignf(160, product) : product;
    const float error = beyond ? 0 : fused(y, low, fused(y, high, -product));
    const float magic = 0x1.8p23f;  // adding it rounds to an integer, which then stands in the lowest bits
    const float shifted = held + magic;
    const int32_t k = (int32_t)(bits_of(shifted) - bits_of(magic));
    const float r = (held - (shifted - magic)) + error;
    float q = 1.5327099e-04f;
    q = fused(q, r, 1.33912417e-03f);
    q = fused(q, r, 9.61850584e-03f);
    q = fused(q, r, 5.55035919e-02f);
    q = fused(q, r, 2.40226477e-01f);
    q = fused(q, r, 6.93147182e-01f);
    // 2^k in two factors, so that subnormal results are rounded once and the largest do not overflow too early
    const int32_t half = k >> 1;
    const float first = float_of((uint32_t)(half + 127) << 23);
    const float second = float_of((uint32_t)(k - half + 127) << 23);
    return fused(q, r, 1.0f) * first * second;
}

// A positive float as 2^exponent * fraction, with the fraction from sqrt(1/2) to sqrt(2).
struct split { float exponent, fraction; };

static inline split split_positive(float x) {
    const int32_t subnormal = x < 0x1p-126f;
    const uint32_t bits = bits_of(x * float_of((uint32_t)(127 + 24 * subnormal) << 23));  // times 2^24 if subnormal
    const int32_t exponent = (int32_t)(bits - bits_of(0x1.6a09e6p-1f)) >> 23;
    const float fraction = float_of(bits - ((uint32_t)exponent << 23));
    return {(float)(exponent - 24 * subnormal), fraction};
}

static inline float exponential(float x) { return exp2_of_product(x, 1.44269502e+00f, 1.92596303e-08f); }
static inline double exponential(double x) { return __builtin_exp(x); }

static inline float logarithm(float x) {
    const split parts = split_positive(x);
    const float f = parts.fraction - 1;  // exact
    float q = 6.75276369e-02f;
    q = fused(q, f, -1.16731167e-01f);
    q = fused(q, f, 1.18837401e-01f);
    q = fused(q, f, -1.24058276e-01f);
    q = fused(q, f, 1.42202839e-01f);
    q = fused(q, f, -1.66680023e-01f);
    q = fused(q, f, 2.00020745e-01f);
    q = fused(q, f, -2.50000089e-01f);
    q = fused(q, f, 3.33333135e-01f);
    // log(1 + f) = f + f^2 * (f * q - 1/2); ln 2 is added in two parts, the first exact times any exponent
    const float rest = fused(f * f, fused(f, q, -0.5f), parts.exponent * 1.42860677e-06f);
    const float result = fused(parts.exponent, 6.93145752e-01f, f + rest);
    const float at_the_edges = x == 0 ? -infinity : x < 0 ? not_a_number : x;
    return (x > 0) & (x < infinity) ? result : at_the_edges;
}
static inline double logarithm(double x) { return __builtin_log(x); }

static inline float hyperbolic_tangent(float x) {
    const float magnitude = absolute(x);
    const float square = x * x;
    float q = -5.69555443e-03f;
    q = fused(q, square, 2.06306707e-02f);
    q = fused(q, square, -5.37371188e-02f);
    q = fused(q, square, 1.33314103e-01f);
    q = fused(q, square, -3.33332807e-01f);
    const float near_zero = fused(q * square, magnitude, magnitude);
    const float elsewhere = 1 - 2 / (exponential(2 * magnitude) + 1);
    return __builtin_copysignf(magnitude < 0.625f ? near_zero : elsewhere, x);
}
static inline double hyperbolic_tangent(double x) { return __builtin_tanh(x); }

// log2 of a magnitude as the sum of two floats, good to about 35 bits: an exponent may magnify its error by a hundred.
// Where the base is one number for all elements, the compiler does this once, outside of the loop.
struct two_floats { float high, low; };

static inline two_floats log2_of_magnitude(float x) {
    const split parts = split_positive(x);
    // log(fraction) = 2 atanh(s), s = (fraction - 1) / (fraction + 1); what s lacks to the quotient is s_low
    const float above = parts.fraction - 1;  // exact
    const float sum = parts.fraction + 1;
    const float sum_low = parts.fraction - (sum - 1);
    const float reciprocal = 1 / sum;
    const float s = above * reciprocal;
    const float s_low = fused(-s, sum_low, fused(-s, sum, above)) * reciprocal;
    const float square = s * s;
    float q = 3.3660686e-01f;
    q = fused(q, square, 4.11921889e-01f);
    q = fused(q, square, 5.77078879e-01f);
    q = fused(q, square, 9.61796701e-01f);
    const float first = s * 2.88539004f;  // 2 / ln 2, whose remainder follows
    const float first_low = fused(s, 2.88539004f, -first) + s * 3.85192607e-08f;
    const float slope = fused(square, 2.88539004f, 2.88539004f);  // of 2 / ln 2 * atanh at s
    const float rest = fused(s_low, slope, first_low) + s * square * q;
    const float leading = parts.exponent + first;
    const float trailing = (parts.exponent - leading) + first + rest;  // the difference is exact
    const float high = leading + trailing;
    const uint32_t bits = bits_of(x);  // added: minus infinity for 0, and what is itself infinite or NaN
    const float edge = float_of((bits == 0) * bits_of(-infinity) | (bits >= bits_of(infinity)) * bits);
    return {high + edge, (leading - high) + trailing};
}

static inline float power(float x, float y) {
    const float base = absolute(x);
    const two_floats log2_base = log2_of_magnitude(base);
    // an infinite exponent does as the largest number, an even integer: its bits are one less
    const float exponent = float_of(bits_of(y) - (absolute(y) == infinity));
    const float magnitude = exp2_of_product(exponent, log2_base.high, log2_base.low);
    // A negative base: the sign alternates over the integers, and between them there is no real power. What base and
    // exponent both allow is set in the result: the sign, or the bits that make it NaN.
    const uint32_t undefined = 0x7fc00000, sign = 0x80000000;
    const uint32_t fractional = __builtin_truncf(exponent) != exponent;
    const uint32_t odd = (__builtin_truncf(exponent * 0.5f) != exponent * 0.5f) & ~fractional;
    const uint32_t of_exponent = fractional * undefined | odd * sign;
    const uint32_t of_base = ((x < 0) & (base < infinity)) * undefined | (bits_of(x) & sign);
    const float result = float_of(bits_of(magnitude) | (of_base & of_exponent));
    const uint32_t ones = -(uint32_t)(y == 0);  // x^0 = 1 for every x, 1^y = 1 for every y, NaN included
    return bits_of(x) - bits_of(1.0f) <= ones ? 1 : result;
}
static inline double power(double x, double y) { return __builtin_pow(x, y); }

// ---- random bits: Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3

struct block { uint32_t w0, w1, w2, w3; };

static inline block philox_round(block b, uint32_t key0, uint32_t key1) {
    const uint64_t product0 = (uint64_t)0xd2511f53u * b.w0;
    const uint64_t product1 = (uint64_t)0xcd9e8d57u * b.w2;
    return {
        (uint32_t)(product1 >> 32) ^ b.w1 ^ key0, (uint32_t)product1,
        (uint32_t)(product0 >> 32) ^ b.w3 ^ key1, (uint32_t)product0};
}

// Counter in, random words out. The rounds are written one by one: a loop inside of a loop is not vectorised.
static inline block philox(block b, uint32_t key0, uint32_t key1) {
    const uint32_t next0 = 0x9e3779b9, next1 = 0xbb67ae85;
    b = philox_round(b, key0, key1);
    b = philox_round(b, key0 + next0, key1 + next1);
    b = philox_round(b, key0 + 2 * next0, key1 + 2 * next1);
    b = philox_round(b, key0 + 3 * next0, key1 + 3 * next1);
    b = philox_round(b, key0 + 4 * next0, key1 + 4 * next1);
    b = philox_round(b, key0 + 5 * next0, key1 + 5 * next1);
    b = philox_round(b, key0 + 6 * next0, key1 + 6 * next1);
    b = philox_round(b, key0 + 7 * next0, key1 + 7 * next1);
    b = philox_round(b, key0 + 8 * next0, key1 + 8 * next1);
    return philox_round(b, key0 + 9 * next0, key1 + 9 * next1);
}

// 16 random bits for each element of a tile of 64, a function of the arguments alone. Element i has block
// (i / 64) * 8 + i % 8 and takes the half word (i % 64) / 8 of the eight that a block yields, low halves first.
static inline void random_tile(
    uint64_t seed, uint32_t site, uint64_t step, uint32_t ordinal, int64_t first_element, uint16_t* __restrict out) {
    const uint64_t first_block = (uint64_t)first_element / 8;  // a multiple of 8: adding the lane carries nothing
    for (uint32_t lane = 0; lane < 8; lane++) {
        const block counter = {
            (uint32_t)first_block + lane, (uint32_t)(first_block >> 32), (uint32_t)step, ordinal};
        const block words = philox(counter, (uint32_t)seed, (uint32_t)(seed >> 32) ^ site);
        out[lane] = (uint16_t)words.w0;
        out[8 + lane] = (uint16_t)(words.w0 >> 16);
        out[16 + lane] = (uint16_t)words.w1;
        out[24 + lane] = (uint16_t)(words.w1 >> 16);
        out[32 + lane] = (uint16_t)words.w2;
        out[40 + lane] = (uint16_t)(words.w2 >> 16);
        out[48 + lane] = (uint16_t)words.w3;
        out[56 + lane] = (uint16_t)(words.w3 >> 16);
    }
}

// ---- random numbers

// The middle of one of 2^23 equal parts of (0, 1), exact, by the upper 23 of 32 random bits.
template <class real>
static inline real uniform(uint16_t high, uint16_t low) {
    const int32_t part = (int32_t)((uint32_t)high << 7 | (uint32_t)low >> 9);
    return ((real)part + (real)0.5) * (real)0x1p-23;
}

// The standard normal number below which a share u of all lies, for u from 2^-24 to 1 - 2^-24: Wichura 1988, "Algorithm
// AS 241", Applied Statistics 37, its PPND7, which has 7 digits.
template <class real>
static inline real normal_quantile(real u) {
    const real q = u - (real)0.5;
    const real r = (real)0.180625 - q * q;
    const real upper =
        (((real)59.109374720 * r + (real)159.29113202) * r + (real)50.434271938) * r + (real)3.3871327179;
    const real lower = (((real)67.187563600 * r + (real)78.757757664) * r + (real)17.895169469) * r + 1;
    const real s = square_root(-logarithm((real)0.5 - absolute(q))) - (real)1.6;  // of the smaller share, exact
    const real upper_tail =
        (((real)0.17023821103 * s + (real)1.3067284816) * s + (real)2.7568153900) * s + (real)1.4234372777;
    const real lower_tail = ((real)0.12021132975 * s + (real)0.73700164250) * s + 1;
    const real tail = upper_tail / lower_tail;
    return absolute(q) <= (real)0.425 ? q * upper / lower : q < 0 ? -tail : tail;
}

}  // namespace
