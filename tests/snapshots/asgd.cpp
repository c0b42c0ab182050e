// The fused kernel of asgd: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// asgd: p float32, g float32, ax float32; arithmetic in float
namespace asgd_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* ax;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict ax_, const double* tensor) {
    const real s1 = tensor[0];  // 1 - lambd * eta
    const real eta = tensor[1];
    const real mu = tensor[2];
    const bool s2 = tensor[3] != 0;  // mu == 1
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real ax = load(ax_[i]);
            const real p_new = p * s1 - eta * g;
            const real ax_new = s2 ? p_new : ax + mu * (p_new - ax);
            store(p_new, p_[i]);
            store(ax_new, ax_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.ax + start, call.tensor + index * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float ax[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(ax, row.ax + start + whole, rest);
        pass0(TILE, p, g, ax, call.tensor + index * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.ax + start + whole, ax, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void asgd(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace asgd_kernel
