// ---- the largest of a slot's values

// The fused kernel of adam: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// adam: p float32, g float32, m float32, v float32, v_max float32; arithmetic in float
namespace adam_kernel {
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
    const real s2 = bucket[2];  // 1 / (1 - power(betas[0], t))
    const real lr = bucket[3];
    const real beta2 = bucket[4];  // betas[1]
    const real s3 = bucket[5];  // 1 - betas[1]
    const real s4 = bucket[6];  // 1 / (1 - power(betas[1], t))
    const real eps = bucket[7];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real v_max = load(v_max_[i]);
            const real v = load(v_[i]);
            const real m_new = beta1 * m + s1 * g;
            const real m_hat = m_new * s2;
            const real v_new = beta2 * v + s3 * (g * g);
            const real v_max_new = maximum(v_max, v_new);
            const real v_hat = v_max_new * s4;
            store(p - lr * m_hat / (square_root(v_hat) + eps), p_[i]);
            store(m_new, m_[i]);
            store(v_new, v_[i]);
            store(v_max_new, v_max_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, row.v + start, row.v_max + start, call.bucket + row.bucket * 8);
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
        pass0(TILE, p, g, m, v, v_max, call.bucket + row.bucket * 8);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
        copy(row.v + start + whole, v, rest);
        copy(row.v_max + start + whole, v_max, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void adam(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace adam_kernel

// ---- Nesterov's momentum, and an active decay

// The fused kernel of sgd: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
// This one takes every step but the first: buf has no value then, and another kernel gives it the first.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// sgd: p float32, g float32, buf float32; arithmetic in float
namespace sgd_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, const double* bucket) {
    const real weight_decay = bucket[0];
    const real momentum = bucket[1];
    const real s1 = bucket[2];  // 1 - dampening
    const real lr = bucket[3];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real buf = load(buf_[i]);
            const real g_new = g + weight_decay * p;
            const real buf_new = momentum * buf + s1 * g_new;
            const real d = g_new + momentum * buf_new;
            store(p - lr * d, p_[i]);
            store(buf_new, buf_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.buf + start, call.bucket + row.bucket * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass0(TILE, p, g, buf, call.bucket + row.bucket * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void sgd(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace sgd_kernel

// ---- a norm of each tensor

// The fused kernel of normalized: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// normalized: p float32, g float32, m float32; arithmetic in float
namespace normalized_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* m;
};

static __attribute__((noinline)) void pass0(int64_t count, const float* __restrict p_, const float* __restrict g_, const float* __restrict m_, const double* bucket, int64_t valid, double* __restrict lanes) {
    const real momentum = bucket[1];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        real terms0[TILE];
        real terms1[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real m_new = momentum * m + g;
            terms0[j] = i < valid ? p : real(0);
            terms1[j] = i < valid ? m_new : real(0);
        }
        add_up_squares(terms0, lanes + 0 * LANES);
        add_up_squares(terms1, lanes + 1 * LANES);
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    double lanes[2 * LANES] = {};
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, call.bucket + row.bucket * 2, whole, lanes);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        pass0(TILE, p, g, m, call.bucket + row.bucket * 2, rest, lanes);
    }
    call.sums[chunk * 2 + 0] = total_of(lanes + 0 * LANES, LANES, 1);
    call.sums[chunk * 2 + 1] = total_of(lanes + 1 * LANES, LANES, 1);
}

static __attribute__((noinline)) void pass1(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict m_, const double* bucket, const double* values) {
    const real momentum = bucket[1];
    const real length_new = values[1];
    const bool s3 = values[3] != 0;
    const real s2 = values[2];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real m = load(m_[i]);
            const real g = load(g_[i]);
            const real m_new = momentum * m + g;
            store(p - s2 * (s3 ? m_new / length_new : real(0)), p_[i]);
            store(m_new, m_[i]);
        }
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass1(whole, row.p + start, row.g + start, row.m + start, call.bucket + row.bucket * 2, call.values + index * 4);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float m[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        pass1(TILE, p, g, m, call.bucket + row.bucket * 2, call.values + index * 4);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
    }
}

static void between0(const Call<Row>& call) {
    for (int64_t index = 0; index < call.count; index++) {
        const Row& row = call.rows[index];
        const double* bucket = call.bucket + row.bucket * 2;
        double* values = call.values + index * 4;
        const double lr = bucket[0];
        const double s1 = norm_of(row, call, 0, 2);
        values[0] = s1;
        const double length_new = norm_of(row, call, 1, 2);
        values[1] = length_new;
        const double s2 = lr * s1;
        values[2] = s2;
        const bool s3 = length_new > double(0);
        values[3] = s3;
    }
}

extern "C" __attribute__((visibility("default"))) void normalized(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
    between0(*call);
    for_each_chunk(*call, chunk1);
}

}  // namespace normalized_kernel

// ---- a norm of all tensors

// The fused kernel of clipped: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// clipped: p float32, g float32; arithmetic in float
namespace clipped_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
};

static __attribute__((noinline)) void pass0(int64_t count, const float* __restrict g_, int64_t valid, double* __restrict lanes) {
    for (int64_t tile = 0; tile < count; tile += TILE) {
        real terms0[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real g = load(g_[i]);
            terms0[j] = i < valid ? g : real(0);
        }
        add_up_squares(terms0, lanes + 0 * LANES);
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    double lanes[1 * LANES] = {};
    if (whole) pass0(whole, row.g + start, whole, lanes);
    if (rest) {
        float g[TILE] = {};
        copy(g, row.g + start + whole, rest);
        pass0(TILE, g, rest, lanes);
    }
    call.sums[chunk * 1 + 0] = total_of(lanes + 0 * LANES, LANES, 1);
}

static __attribute__((noinline)) void pass1(int64_t count, float* __restrict p_, const float* __restrict g_, const double* bucket, const double* shared) {
    const real lr = bucket[0];
    const real s2 = shared[2];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            store(p - lr * g / s2, p_[i]);
        }
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass1(whole, row.p + start, row.g + start, call.bucket + row.bucket * 1, call.shared);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        pass1(TILE, p, g, call.bucket + row.bucket * 1, call.shared);
        copy(row.p + start + whole, p, rest);
    }
}

static void between0(const Call<Row>& call) {
    double* shared = call.shared;
    const double length_new = norm_of(call, 0, 1);
    shared[0] = length_new;
    const bool s1 = length_new > double(1);
    shared[1] = s1;
    const double s2 = s1 ? length_new : double(1);
    shared[2] = s2;
}

extern "C" __attribute__((visibility("default"))) void clipped(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
    between0(*call);
    for_each_chunk(*call, chunk1);
}

}  // namespace clipped_kernel

// ---- a gradient scale, clipping by value and by norm

// sgd: p float32, g float32, buf float32; arithmetic in float
namespace sgd_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, const double* bucket) {
    const real momentum = bucket[0];
    const real s1 = bucket[1];  // 1 / gradient_scale
    const real s2 = bucket[2];  // -clip_value
    const real clip_value = bucket[3];
    const real clip_coefficient = bucket[4];
    const real s3 = bucket[5];  // 1 - dampening
    const real lr = bucket[6];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real g_new = clip(g * s1, s2, clip_value) * clip_coefficient;
            const real buf_new = momentum * buf + s3 * g_new;
            store(p - lr * buf_new, p_[i]);
            store(buf_new, buf_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.buf + start, call.bucket + row.bucket * 7);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass0(TILE, p, g, buf, call.bucket + row.bucket * 7);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void sgd(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace sgd_kernel

// ---- an average of the weights

// sgd: p float32, g float32, buf float32, weights_average float32; arithmetic in float
namespace sgd_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
    float* weights_average;
};

static __attribute__((noinline)) void pass0(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, float* __restrict weights_average_, const double* bucket) {
    const real momentum = bucket[0];
    const real s1 = bucket[1];  // 1 - dampening
    const real lr = bucket[2];
    const real ema_decay = bucket[3];
    const real s2 = bucket[4];  // 1 - ema_decay
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real weights_average = load(weights_average_[i]);
            const real buf_new = momentum * buf + s1 * g;
            const real x1 = p - lr * buf_new;
            store(x1, p_[i]);
            store(buf_new, buf_[i]);
            store(ema_decay * weights_average + s2 * x1, weights_average_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.buf + start, row.weights_average + start, call.bucket + row.bucket * 5);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        float weights_average[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        copy(weights_average, row.weights_average + start + whole, rest);
        pass0(TILE, p, g, buf, weights_average, call.bucket + row.bucket * 5);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
        copy(row.weights_average + start + whole, weights_average, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void sgd(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace sgd_kernel

// ---- bfloat16, rounded stochastically

// sgd: p bfloat16, g bfloat16, buf bfloat16; arithmetic in float
namespace sgd_kernel {
using real = float;

struct Row : Tensor {
    bfloat16* p;
    const bfloat16* g;
    bfloat16* buf;
};

static __attribute__((noinline)) void pass0(int64_t count, bfloat16* __restrict p_, const bfloat16* __restrict g_, bfloat16* __restrict buf_, const double* bucket, const Call<Row>& call, const Row& row, int64_t first) {
    const real momentum = bucket[0];
    const real s1 = bucket[1];  // 1 - dampening
    const real lr = bucket[2];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        uint16_t random_p[TILE];
        random_tile(call.seed, 0, call.step, static_cast<uint32_t>(row.ordinal), first + tile, random_p);
        uint16_t random_buf[TILE];
        random_tile(call.seed, 1, call.step, static_cast<uint32_t>(row.ordinal), first + tile, random_buf);
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real buf = load(buf_[i]);
            const real g = load(g_[i]);
            const real buf_new = momentum * buf + s1 * g;
            store_stochastically(p - lr * buf_new, random_p[j], p_[i]);
            store_stochastically(buf_new, random_buf[j], buf_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.buf + start, call.bucket + row.bucket * 3, call, row, start);
    if (rest) {
        bfloat16 p[TILE] = {};
        bfloat16 g[TILE] = {};
        bfloat16 buf[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass0(TILE, p, g, buf, call.bucket + row.bucket * 3, call, row, start + whole);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void sgd(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace sgd_kernel

// ---- float64

// powersign: p float64, g float64, m float64; arithmetic in double
namespace powersign_kernel {
using real = double;

struct Row : Tensor {
    double* p;
    const double* g;
    double* m;
};

static __attribute__((noinline)) void pass0(int64_t count, double* __restrict p_, const double* __restrict g_, double* __restrict m_, const double* bucket) {
    const real f = bucket[0];
    const real beta = bucket[1];
    const real s1 = bucket[2];  // 1 - beta
    const real base = bucket[3];
    const real lr = bucket[4];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real m = load(m_[i]);
            const real m_new = beta * m + s1 * g;
            const real x1 = lr * power(base, f * sign(g) * sign(m_new)) * g;
            store(p - x1, p_[i]);
            store(m_new, m_[i]);
        }
    }
}

static void chunk0(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass0(whole, row.p + start, row.g + start, row.m + start, call.bucket + row.bucket * 5);
    if (rest) {
        double p[TILE] = {};
        double g[TILE] = {};
        double m[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(m, row.m + start + whole, rest);
        pass0(TILE, p, g, m, call.bucket + row.bucket * 5);
        copy(row.p + start + whole, p, rest);
        copy(row.m + start + whole, m, rest);
    }
}

extern "C" __attribute__((visibility("default"))) void powersign(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
}

}  // namespace powersign_kernel
