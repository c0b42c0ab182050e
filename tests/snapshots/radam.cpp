// The fused kernel of radam: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// radam: p float32, g float32, m float32, v float32; arithmetic in float
namespace radam_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
    float* v;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, float* __restrict v_, const double* bucket) {
    const real beta1 = bucket[0];  // betas[0]
    const real s1 = bucket[1];  // 1 - betas[0]
    const real s2 = bucket[2];  // 1 / (1 - power(betas[0], t))
    const real beta2 = bucket[3];  // betas[1]
    const real s3 = bucket[4];  // 1 - betas[1]
    const real eps = bucket[5];
    const real s4 = bucket[6];  // square_root((2 / (1 - betas[1]) - 1 - 2 * t * power(betas[1], t) / (1 - power(betas[1], t)) - 4) * (2 / (1 - betas[1]) - 1 - 2 * t * power(betas[1], t) / (1 - power(betas[1], t)) - 2) * (2 / (1 - betas[1]) - 1) / ((2 / (1 - betas[1]) - 1 - 4) * (2 / (1 - betas[1]) - 1 - 2) * (2 / (1 - betas[1]) - 1 - 2 * t * power(betas[1], t) / (1 - power(betas[1], t))))) * square_root(1 - power(betas[1], t))
    const bool s5 = bucket[7] != 0;  // 2 / (1 - betas[1]) - 1 - 2 * t * power(betas[1], t) / (1 - power(betas[1], t)) > 5
    const real lr = bucket[8];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real v = load(v_[i]);
            const real m_new = beta1 * m + s1 * g;
            const real m_hat = m_new * s2;
            const real v_new = beta2 * v + s3 * (g * g);
            const real adaptive = s4 / (square_root(v_new) + eps);
            const real update = m_hat * (s5 ? adaptive : real(1));
            store(p - lr * update, p_[i]);
            store(m_new, m_[i]);
            store(v_new, v_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, row.v + start, call.bucket + row.bucket * 9);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        float v[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        pass0(TILE, p, g, m, v, call.bucket + row.bucket * 9);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
        copy(row.v + start + whole, v, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void radam(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace radam_kernel
