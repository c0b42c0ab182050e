// The fused kernel of signum: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// signum: p float32, g float32, m float32; arithmetic in float
namespace signum_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, const double* bucket) {
    const real beta = bucket[0];
    const real s1 = bucket[1];  // 1 - beta
    const real lr = bucket[2];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real m_new = beta * m + s1 * g;
            store(p - lr * sign(m_new), p_[i]);
            store(m_new, m_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, call.bucket + row.bucket * 3);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        pass0(TILE, p, g, m, call.bucket + row.bucket * 3);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void signum(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace signum_kernel
