// Many perceptrons with one hidden layer on one batch: the gradients of each row of weights, or how well each does.
//
// Python puts prelude.hpp before this. Examples stand side by side in the lanes of vectors, units below each other; a
// layer's weights are a matrix outputs x (inputs + 1), the bias its last column. A row is computed alone, so that what
// it comes to depends on no other. Numbers of examples and of inputs are multiples of LANES.

constexpr int64_t LANES = 16;
typedef float vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

struct Shape {
    int64_t inputs, hidden, classes;
    int64_t examples;  // with the padding
    int64_t valid;     // without it
};

struct Call {
    Shape shape;
    const float* params;      // rows
    float* grads;             // rows, or null where only the forward pass is wanted
    const float* across;      // inputs x examples
    const float* down;        // examples x inputs
    const int32_t* targets;   // classes of the examples
    float* scratch;           // (2 hidden + classes + 2) x examples
    double* losses;           // per row, the mean
    double* accuracies;       // per row, where only the forward pass is wanted
    int64_t count;            // rows
    int64_t stride, grad_stride;
};

// A matrix whose elements are read one by one: element (i, k) stands at i * down + k * across.
struct Numbers {
    const float* at;
    int64_t down, across;
};

// UNITS rows and VECTORS columns of vectors of a product, from bias + sum over k of a(i, k) * b[k].
template <int UNITS, int VECTORS>
static inline __attribute__((always_inline)) void panel(
    Numbers a, const float* bias, int64_t bias_stride, const float* b, int64_t b_stride, int64_t length, float* to,
    int64_t to_stride) {
    vector sums[UNITS][VECTORS];
    for (int i = 0; i < UNITS; i++)
        for (int j = 0; j < VECTORS; j++) sums[i][j] = (vector){} + (bias ? bias[i * bias_stride] : 0.0f);
    for (int64_t k = 0; k < length; k++) {
        vector row[VECTORS];
        for (int j = 0; j < VECTORS; j++) row[j] = *(const vector*)(b + k * b_stride + j * LANES);
        for (int i = 0; i < UNITS; i++) {
            const float factor = a.at[i * a.down + k * a.across];
            for (int j = 0; j < VECTORS; j++) sums[i][j] += row[j] * factor;
        }
    }
    for (int i = 0; i < UNITS; i++)
        for (int j = 0; j < VECTORS; j++) *(vector*)(to + i * to_stride + j * LANES) = sums[i][j];
}

// The product of `units` x length and length x columns numbers.
static void product(
    int64_t units, int64_t columns, int64_t length, Numbers a, const float* bias, int64_t bias_stride, const float* b,
    int64_t b_stride, float* to, int64_t to_stride) {
    for (int64_t column = 0; column < columns;) {
        const bool wide = columns - column >= 4 * LANES;
        for (int64_t unit = 0; unit < units;) {
            const bool high = units - unit >= 4;
            const Numbers rows = {a.at + unit * a.down, a.down, a.across};
            const float* from = bias ? bias + unit * bias_stride : nullptr;
            float* target = to + unit * to_stride + column;
            if (high && wide)
                panel<4, 4>(rows, from, bias_stride, b + column, b_stride, length, target, to_stride);
            else if (high)
                panel<4, 1>(rows, from, bias_stride, b + column, b_stride, length, target, to_stride);
            else if (wide)
                panel<1, 4>(rows, from, bias_stride, b + column, b_stride, length, target, to_stride);
            else
                panel<1, 1>(rows, from, bias_stride, b + column, b_stride, length, target, to_stride);
            unit += high ? 4 : 1;
        }
        column += wide ? 4 * LANES : LANES;
    }
}

static inline float total(vector x) {
    float lanes[LANES];
    __builtin_memcpy(lanes, &x, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

static inline float sum_of(const float* row, int64_t length) {
    vector sum = {};
    for (int64_t k = 0; k < length; k += LANES) sum += *(const vector*)(row + k);
    return total(sum);
}

static inline float dot(const float* a, const float* b, int64_t length) {
    vector sum = {};
    for (int64_t k = 0; k < length; k += LANES) sum += *(const vector*)(a + k) * *(const vector*)(b + k);
    return total(sum);
}

struct Layers {
    const float *first, *second;
    int64_t wide, narrow;  // numbers of a row of each
};

static void forward(const Call& call, const Layers& layers, float* hidden, float* logits) {
    const Shape& shape = call.shape;
    const int64_t n = shape.examples;
    product(shape.hidden, n, shape.inputs, {layers.first, layers.wide, 1}, layers.first + shape.inputs, layers.wide,
            call.across, n, hidden, n);
    for (int64_t i = 0; i < shape.hidden * n; i++) hidden[i] = hidden[i] <= 0 ? 0 : hidden[i];  // NaN passes
    product(shape.classes, n, shape.hidden, {layers.second, layers.narrow, 1}, layers.second + shape.hidden,
            layers.narrow, hidden, n, logits, n);
}

// The mean cross entropy; logits become exp(logits - largest), `sums` their sums, and what follows it the largest.
static double cross_entropy(const Call& call, float* logits, float* sums) {
    const Shape& shape = call.shape;
    const int64_t n = shape.examples;
    float* largest = sums + n;
    double found = 0;
    for (int64_t e = 0; e < n; e++) largest[e] = logits[e];
    for (int64_t c = 1; c < shape.classes; c++)
        for (int64_t e = 0; e < n; e++) largest[e] = maximum(largest[e], logits[c * n + e]);
    for (int64_t e = 0; e < shape.valid; e++) found += (double)largest[e] - (double)logits[call.targets[e] * n + e];
    for (int64_t e = 0; e < n; e++) sums[e] = 0;
    for (int64_t c = 0; c < shape.classes; c++)
        for (int64_t e = 0; e < n; e++) {
            const float power = exponential(logits[c * n + e] - largest[e]);
            logits[c * n + e] = power;
            sums[e] += power;
        }
    for (int64_t e = 0; e < n; e++) largest[e] = logarithm(sums[e]);
    for (int64_t e = 0; e < shape.valid; e++) found += (double)largest[e];
    return found / (double)shape.valid;
}

// The share of examples whose class has the largest logit; of equal ones the first counts.
static double accuracy(const Call& call, const float* logits) {
    const Shape& shape = call.shape;
    int64_t right = 0;
    for (int64_t e = 0; e < shape.valid; e++) {
        int64_t best = 0;
        for (int64_t c = 1; c < shape.classes; c++)
            if (logits[c * shape.examples + e] > logits[best * shape.examples + e]) best = c;
        right += best == call.targets[e];
    }
    return (double)right / (double)shape.valid;
}

// From exp(logits - largest) and their sums: the gradients of all weights.
static void backward(const Call& call, const Layers& layers, float* hidden, float* logits, float* sums, float* back,
                     float* grads) {
    const Shape& shape = call.shape;
    const int64_t n = shape.examples;
    float* second = grads + shape.hidden * layers.wide;
    for (int64_t e = 0; e < n; e++) sums[e] = 1 / (sums[e] * (float)n);
    for (int64_t c = 0; c < shape.classes; c++)
        for (int64_t e = 0; e < n; e++) logits[c * n + e] *= sums[e];
    for (int64_t e = 0; e < n; e++) logits[call.targets[e] * n + e] -= 1 / (float)n;
    for (int64_t c = 0; c < shape.classes; c++) {
        for (int64_t h = 0; h < shape.hidden; h++)
            second[c * layers.narrow + h] = dot(logits + c * n, hidden + h * n, n);
        second[c * layers.narrow + shape.hidden] = sum_of(logits + c * n, n);
    }
    product(shape.hidden, n, shape.classes, {layers.second, 1, layers.narrow}, nullptr, 0, logits, n, back, n);
    for (int64_t i = 0; i < shape.hidden * n; i++) back[i] = hidden[i] <= 0 ? 0 : back[i];
    product(shape.hidden, shape.inputs, n, {back, n, 1}, nullptr, 0, call.down, shape.inputs, grads, layers.wide);
    for (int64_t h = 0; h < shape.hidden; h++) grads[h * layers.wide + shape.inputs] = sum_of(back + h * n, n);
}

extern "C" __attribute__((visibility("default"))) void perceptrons(const Call* given) {
    const Call& call = *given;
    const Shape& shape = call.shape;
    const int64_t n = shape.examples;
    float *hidden = call.scratch, *back = hidden + shape.hidden * n, *logits = back + shape.hidden * n;
    float* sums = logits + shape.classes * n;
    for (int64_t row = 0; row < call.count; row++) {
        const float* params = call.params + row * call.stride;
        const Layers layers = {
            params, params + shape.hidden * (shape.inputs + 1), shape.inputs + 1, shape.hidden + 1};
        forward(call, layers, hidden, logits);
        if (!call.grads) call.accuracies[row] = accuracy(call, logits);
        call.losses[row] = cross_entropy(call, logits, sums);
        if (call.grads) backward(call, layers, hidden, logits, sums, back, call.grads + row * call.grad_stride);
    }
}
