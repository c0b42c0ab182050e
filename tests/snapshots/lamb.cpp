// The fused kernel of lamb: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// lamb: p float32, g float32, m float32, v float32; arithmetic in float
namespace lamb_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
    float* v;
};

static __attribute__((noinline)) void pass0(int64_t count, const float* __restrict p_, const float* __restrict g_, const float* __restrict m_, const float* __restrict v_, const double* bucket, int64_t valid, double* __restrict lanes) {
    const real beta1 = bucket[0];  // betas[0]
    const real s1 = bucket[1];  // 1 - betas[0]
    const real s2 = bucket[2];  // 1 / (1 - power(betas[0], t))
    const real beta2 = bucket[3];  // betas[1]
    const real s3 = bucket[4];  // 1 - betas[1]
    const real s4 = bucket[5];  // 1 / (1 - power(betas[1], t))
    const real eps = bucket[6];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        real terms0[TILE];
        real terms1[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real v = load(v_[i]);
            const real m_new = beta1 * m + s1 * g;
            const real m_hat = m_new * s2;
            const real v_new = beta2 * v + s3 * (g * g);
            const real v_hat = v_new * s4;
            const real u = m_hat / (square_root(v_hat) + eps);
            terms0[j] = i < valid ? p : real(0);
            terms1[j] = i < valid ? u : real(0);
        }
        add_up_squares(terms0, lanes + 0 * LANES);
        add_up_squares(terms1, lanes + 1 * LANES);
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    double lanes[2 * LANES] = {};
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, row.v + start, call.bucket + row.bucket * 9, whole, lanes);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        float v[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        pass0(TILE, p, g, m, v, call.bucket + row.bucket * 9, rest, lanes);
    }
    call.sums[chunk * 2 + 0] = total_of(lanes + 0 * LANES, LANES, 1);
    call.sums[chunk * 2 + 1] = total_of(lanes + 1 * LANES, LANES, 1);
}

static __attribute__((noinline)) void pass1(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, float* __restrict v_, const double* bucket, const double* values) {
    const real beta1 = bucket[0];  // betas[0]
    const real s1 = bucket[1];  // 1 - betas[0]
    const real s2 = bucket[2];  // 1 / (1 - power(betas[0], t))
    const real beta2 = bucket[3];  // betas[1]
    const real s3 = bucket[4];  // 1 - betas[1]
    const real s4 = bucket[5];  // 1 / (1 - power(betas[1], t))
    const real eps = bucket[6];
    const real ratio = values[7];
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
            const real v_hat = v_new * s4;
            const real u = m_hat / (square_root(v_hat) + eps);
            const real u_new = ratio * u;
            store(p - lr * u_new, p_[i]);
            store(m_new, m_[i]);
            store(v_new, v_[i]);
        }
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass1(whole, row.p + start, row.g + start, row.m + start, row.v + start, call.bucket + row.bucket * 9, call.values + index * 8);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        float v[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        copy(v, row.v + start + whole, rest);
        pass1(TILE, p, g, m, v, call.bucket + row.bucket * 9, call.values + index * 8);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
        copy(row.v + start + whole, v, rest);
    }
}

static void between0(const Call<Row>& call) {
    for (int64_t index = 0; index < call.count; index++) {
        const Row& row = call.rows[index];
        const double* bucket = call.bucket + row.bucket * 9;
        double* values = call.values + index * 8;
        const double trust_eps = bucket[7];
        const double size = norm_of(row, call, 0, 2);
        values[0] = size;
        const double s5 = norm_of(row, call, 1, 2);
        values[1] = s5;
        const bool s6 = size > double(0);
        values[2] = s6;
        const bool s7 = s5 > double(0);
        values[3] = s7;
        const double s8 = s5 + trust_eps;
        values[4] = s8;
        const double s9 = size / s8;
        values[5] = s9;
        const double s10 = s7 ? s9 : double(1);
        values[6] = s10;
        const double ratio = s6 ? s10 : double(1);
        values[7] = ratio;
    }
}

extern "C" __attribute__((visibility("default"))) void lamb(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
    between0(*call);
    for_each_chunk(*call, chunk1);
}

}  // namespace lamb_kernel
