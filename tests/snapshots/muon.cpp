// The fused kernel of muon: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// muon: p float32, g float32, buf float32, orthogonalize1 bfloat16; arithmetic in float
namespace muon_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
    bfloat16* orthogonalize1;
};

static __attribute__((noinline)) void pass0(int64_t count, const float* __restrict g_, const float* __restrict buf_, bfloat16* __restrict orthogonalize1_, const double* bucket) {
    const real momentum = bucket[1];
    const real s2 = bucket[2];  // 1 - momentum
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real x1 = s2 * g;
            const real buf_new = momentum * buf + x1;
            const real m = momentum * buf_new + x1;
            store(m, orthogonalize1_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.g + start, row.buf + start, row.orthogonalize1 + start, call.bucket + row.bucket * 8);
    if (rest) {
        float g[TILE] = {};
        float buf[TILE] = {};
        bfloat16 orthogonalize1[TILE] = {};
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass0(TILE, g, buf, orthogonalize1, call.bucket + row.bucket * 8);
        copy(row.orthogonalize1 + start + whole, orthogonalize1, rest);
    }
}

static __attribute__((noinline)) void pass1(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, const bfloat16* __restrict orthogonalize1_, const double* bucket, const double* tensor) {
    const real s1 = bucket[0];  // 1 - lr * weight_decay
    const real momentum = bucket[1];
    const real s2 = bucket[2];  // 1 - momentum
    const real s3 = tensor[0];  // lr * square_root(maximum(1, rows / (numel / rows)))
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real orthogonalize1 = load(orthogonalize1_[i]);
            const real buf_new = momentum * buf + s2 * g;
            store(p * s1 - s3 * orthogonalize1, p_[i]);
            store(buf_new, buf_[i]);
        }
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass1(whole, row.p + start, row.g + start, row.buf + start, row.orthogonalize1 + start, call.bucket + row.bucket * 8, call.tensor + index * 1);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        bfloat16 orthogonalize1[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        copy(orthogonalize1, row.orthogonalize1 + start + whole, rest);
        pass1(TILE, p, g, buf, orthogonalize1, call.bucket + row.bucket * 8, call.tensor + index * 1);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void muon(const Call<Row>* call) {
    if (call->phase == 0) for_each_chunk(*call, chunk0);
    if (call->phase == 1) for_each_chunk(*call, chunk1);
}

}  // namespace muon_kernel
