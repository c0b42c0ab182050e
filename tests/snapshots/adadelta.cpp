// The fused kernel of adadelta: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// adadelta: p float32, g float32, v float32, u float32; arithmetic in float
namespace adadelta_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* v;
    float* u;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict v_, float* __restrict u_, const double* bucket) {
    const real eps = bucket[0];
    const real rho = bucket[1];
    const real s1 = bucket[2];  // 1 - rho
    const real lr = bucket[3];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real u = load(u_[i]);
            const real v = load(v_[i]);
            const real g = load(g_[i]);
            const real v_new = rho * v + s1 * (g * g);
            const real delta = square_root(u + eps) / square_root(v_new + eps) * g;
            const real u_new = rho * u + s1 * (delta * delta);
            store(p - lr * delta, p_[i]);
            store(v_new, v_[i]);
            store(u_new, u_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.v + start, row.u + start, call.bucket + row.bucket * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float v[TILE] = {};
        float u[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        copy(u, row.u + start + whole, rest);
        pass0(TILE, p, g, v, u, call.bucket + row.bucket * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.v + start + whole, v, rest);
        copy(row.u + start + whole, u, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void adadelta(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace adadelta_kernel
