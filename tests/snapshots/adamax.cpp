// The fused kernel of adamax: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// adamax: p float32, g float32, m float32, u float32; arithmetic in float
namespace adamax_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
    float* u;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, float* __restrict u_, const double* bucket) {
    const real beta1 = bucket[0];  // betas[0]
    const real s1 = bucket[1];  // 1 - betas[0]
    const real beta2 = bucket[2];  // betas[1]
    const real eps = bucket[3];
    const real s2 = bucket[4];  // lr / (1 - power(betas[0], t))
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real u = load(u_[i]);
            const real m_new = beta1 * m + s1 * g;
            const real u_new = maximum(beta2 * u, absolute(g) + eps);
            store(p - s2 * (m_new / u_new), p_[i]);
            store(m_new, m_[i]);
            store(u_new, u_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, row.u + start, call.bucket + row.bucket * 5);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        float u[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        copy(u, row.u + start + whole, rest);
        pass0(TILE, p, g, m, u, call.bucket + row.bucket * 5);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
        copy(row.u + start + whole, u, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void adamax(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace adamax_kernel
