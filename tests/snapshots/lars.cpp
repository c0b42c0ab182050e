// The fused kernel of lars: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
// This one takes every step but the first: buf has no value then, and another kernel gives it the first.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// lars: p float32, g float32, buf float32; arithmetic in float
namespace lars_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
};

static __attribute__((noinline)) void pass0(int64_t count, const float* __restrict p_, const float* __restrict g_, int64_t valid, double* __restrict lanes) {
    for (int64_t tile = 0; tile < count; tile += TILE) {
        real terms0[TILE];
        real terms1[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            terms0[j] = i < valid ? p : real(0);
            terms1[j] = i < valid ? g : real(0);
        }
        add_up_squares(terms0, lanes + 0 * LANES);
        add_up_squares(terms1, lanes + 1 * LANES);
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    double lanes[2 * LANES] = {};
    if (whole) pass0(whole, row.p + start, row.g + start, whole, lanes);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        pass0(TILE, p, g, rest, lanes);
    }
    call.sums[chunk * 2 + 0] = total_of(lanes + 0 * LANES, LANES, 1);
    call.sums[chunk * 2 + 1] = total_of(lanes + 1 * LANES, LANES, 1);
}

static __attribute__((noinline)) void pass1(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, const double* bucket, const double* values) {
    const real momentum = bucket[0];
    const real weight_decay = bucket[2];
    const real ratio = values[10];
    const real s1 = bucket[4];  // 1 - dampening
    const real lr = bucket[5];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real g_new = ratio * (g + weight_decay * p);
            const real buf_new = momentum * buf + s1 * g_new;
            store(p - lr * buf_new, p_[i]);
            store(buf_new, buf_[i]);
        }
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass1(whole, row.p + start, row.g + start, row.buf + start, call.bucket + row.bucket * 6, call.values + index * 11);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass1(TILE, p, g, buf, call.bucket + row.bucket * 6, call.values + index * 11);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

static void between0(const Call<Row>& call) {
    for (int64_t index = 0; index < call.count; index++) {
        const Row& row = call.rows[index];
        const double* bucket = call.bucket + row.bucket * 6;
        double* values = call.values + index * 11;
        const double trust_coefficient = bucket[1];
        const double weight_decay = bucket[2];
        const double trust_eps = bucket[3];
        const double s2 = norm_of(row, call, 0, 2);
        values[0] = s2;
        const double s3 = norm_of(row, call, 1, 2);
        values[1] = s3;
        const bool s4 = s2 > double(0);
        values[2] = s4;
        const bool s5 = s3 > double(0);
        values[3] = s5;
        const double s6 = trust_coefficient * s2;
        values[4] = s6;
        const double s7 = weight_decay * s2;
        values[5] = s7;
        const double s8 = s3 + s7;
        values[6] = s8;
        const double whole_new = s8 + trust_eps;
        values[7] = whole_new;
        const double s9 = s6 / whole_new;
        values[8] = s9;
        const double s10 = s5 ? s9 : double(1);
        values[9] = s10;
        const double ratio = s4 ? s10 : double(1);
        values[10] = ratio;
    }
}

extern "C" __attribute__((visibility("default"))) void lars(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
    between0(*call);
    for_each_chunk(*call, chunk1);
}

}  // namespace lars_kernel
