// The fused kernel of rprop: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// rprop: p float32, g float32, prev float32, step_size float32; arithmetic in float
namespace rprop_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* prev;
    float* step_size;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict prev_, float* __restrict step_size_, const double* bucket) {
    const real eta_minus = bucket[0];  // etas[0]
    const real eta_plus = bucket[1];  // etas[1]
    const real smallest = bucket[2];  // step_sizes[0]
    const real largest = bucket[3];  // step_sizes[1]
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real prev = load(prev_[i]);
            const real step_size = load(step_size_[i]);
            const real agreement = sign(g * prev);
            const bool x1 = agreement < real(0);
            const real g_new = x1 ? real(0) : g;
            const real factor = agreement > real(0) ? eta_plus : (x1 ? eta_minus : real(1));
            const real step_size_new = clip(step_size * factor, smallest, largest);
            store(p - sign(g_new) * step_size_new, p_[i]);
            store(g_new, prev_[i]);
            store(step_size_new, step_size_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.prev + start, row.step_size + start, call.bucket + row.bucket * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float prev[TILE] = {};
        float step_size[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(prev, row.prev + start + whole, rest);
        copy(step_size, row.step_size + start + whole, rest);
        pass0(TILE, p, g, prev, step_size, call.bucket + row.bucket * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.prev + start + whole, prev, rest);
        copy(row.step_size + start + whole, step_size, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void rprop(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace rprop_kernel
