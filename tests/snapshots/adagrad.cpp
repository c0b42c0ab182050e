// The fused kernel of adagrad: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// adagrad: p float32, g float32, total float32; arithmetic in float
namespace adagrad_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* total;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict total_, const double* bucket) {
    const real rate = bucket[0];  // lr / (1 + (t - 1) * lr_decay)
    const real eps = bucket[1];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real total = load(total_[i]);
            const real total_new = total + g * g;
            store(p - rate * g / (square_root(total_new) + eps), p_[i]);
            store(total_new, total_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.total + start, call.bucket + row.bucket * 2);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float total[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(total, row.total + start + whole, rest);
        pass0(TILE, p, g, total, call.bucket + row.bucket * 2);
        copy(row.p + start + whole, p, rest);
        copy(row.total + start + whole, total, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void adagrad(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace adagrad_kernel
