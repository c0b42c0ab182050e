// The fused kernel of rmsprop: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// rmsprop: p float32, g float32, v float32; arithmetic in float
namespace rmsprop_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* v;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict v_, const double* bucket) {
    const real alpha = bucket[0];
    const real s1 = bucket[1];  // 1 - alpha
    const real eps = bucket[2];
    const real lr = bucket[3];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real v = load(v_[i]);
            const real v_new = alpha * v + s1 * (g * g);
            const real update = g / (square_root(v_new) + eps);
            store(p - lr * update, p_[i]);
            store(v_new, v_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.v + start, call.bucket + row.bucket * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float v[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        pass0(TILE, p, g, v, call.bucket + row.bucket * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.v + start + whole, v, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void rmsprop(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace rmsprop_kernel
