// The fused kernel of amsgrad: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// amsgrad: p float32, g float32, m float32, v float32, v_max float32; arithmetic in float
namespace amsgrad_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
    float* v;
    float* v_max;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, float* __restrict v_, float* __restrict v_max_, const double* bucket) {
    const real beta1 = bucket[0];  // betas[0]
    const real s1 = bucket[1];  // 1 - betas[0]
    const real lr = bucket[2];
    const real beta2 = bucket[3];  // betas[1]
    const real s2 = bucket[4];  // 1 - betas[1]
    const real eps = bucket[5];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real v_max = load(v_max_[i]);
            const real v = load(v_[i]);
            const real m_new = beta1 * m + s1 * g;
            const real v_new = beta2 * v + s2 * (g * g);
            const real v_max_new = maximum(v_max, v_new);
            store(p - lr * m_new / (square_root(v_max_new) + eps), p_[i]);
            store(m_new, m_[i]);
            store(v_new, v_[i]);
            store(v_max_new, v_max_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, row.v + start, row.v_max + start, call.bucket + row.bucket * 6);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        float v[TILE] = {};
        float v_max[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        copy(v_max, row.v_max + start + whole, rest);
        pass0(TILE, p, g, m, v, v_max, call.bucket + row.bucket * 6);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
        copy(row.v + start + whole, v, rest);
        copy(row.v_max + start + whole, v_max, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void amsgrad(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace amsgrad_kernel
