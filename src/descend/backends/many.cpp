// How one kernel steps rows that each have a formula of their own: an interpreter of instructions on whole tiles.
//
// Python puts prelude.hpp before this, and the enumeration Code, whose entries are the operations. An instruction is a
// loop over a tile, so that reading it costs little beside the work. Its operands are numbers of registers: first the
// row's own memory (parameter, gradient, slots), then constants and the scalars of the step, each filling a register,
// then temporaries. All of a row's memory begins at a multiple of 64 bytes, and is padded to whole tiles.

constexpr int64_t TILE = 256;        // elements: a register is 1 KiB, so that all of them fit the nearest cache
constexpr int64_t RANDOM_TILE = 64;  // elements whose random bits are drawn together
constexpr int64_t REGISTERS = 128;

struct Instruction {
    int32_t code, to, a, b, c;
    uint32_t site;
};

struct Program {
    const Instruction* instructions;
    const float* constants;
    int64_t length;
    int64_t constant_count, scalar_count, slot_count;
};

// What is read of every row, and where its numbers stand.
struct Row {
    int64_t program;  // its index; negative: the row is left as it is
    int64_t scalars;  // where its scalars of this step begin
    uint64_t seed;
    uint64_t step;  // from 1
};

struct Call {
    const Program* programs;
    const Row* rows;
    const float* scalars;
    float* params;
    const float* grads;
    float* state;       // slots, rows, elements
    uint8_t* finite;    // per row: whether all its parameters are, the padding apart
    int64_t count;      // rows
    int64_t width;      // elements of a row
    int64_t stride;     // the same with the padding
};

template <class F>
static inline __attribute__((always_inline)) void each(float* to, const float* a, F f) {
    to = (float*)__builtin_assume_aligned(to, 64), a = (const float*)__builtin_assume_aligned(a, 64);
#pragma GCC ivdep
    for (int64_t i = 0; i < TILE; i++) to[i] = f(a[i]);
}

template <class F>
static inline __attribute__((always_inline)) void each(float* to, const float* a, const float* b, F f) {
    to = (float*)__builtin_assume_aligned(to, 64);
    a = (const float*)__builtin_assume_aligned(a, 64), b = (const float*)__builtin_assume_aligned(b, 64);
#pragma GCC ivdep
    for (int64_t i = 0; i < TILE; i++) to[i] = f(a[i], b[i]);
}

template <class F>
static inline __attribute__((always_inline)) void each(
    float* to, const float* a, const float* b, const float* c, F f) {
    to = (float*)__builtin_assume_aligned(to, 64), a = (const float*)__builtin_assume_aligned(a, 64);
    b = (const float*)__builtin_assume_aligned(b, 64), c = (const float*)__builtin_assume_aligned(c, 64);
#pragma GCC ivdep
    for (int64_t i = 0; i < TILE; i++) to[i] = f(a[i], b[i], c[i]);
}

static void fill(float* to, float value) {
    for (int64_t i = 0; i < TILE; i++) to[i] = value;
}

// A uniform number for each element of a tile, by the draw's number among those of the rule. See draws.py.
static void draw(float* to, const Row& row, uint32_t number, int64_t first) {
    uint16_t high[RANDOM_TILE], low[RANDOM_TILE];
    for (int64_t begin = 0; begin < TILE; begin += RANDOM_TILE) {
        random_tile(row.seed, FIRST_SITE + 2 * number, row.step, 0, first + begin, high);
        random_tile(row.seed, FIRST_SITE + 2 * number + 1, row.step, 0, first + begin, low);
        for (int64_t i = 0; i < RANDOM_TILE; i++) to[begin + i] = uniform<float>(high[i], low[i]);
    }
}

#define UNARY(CODE, VALUE) \
    case CODE: each(to, a, [](float x) { return VALUE; }); break;
#define BINARY(CODE, VALUE) \
    case CODE: each(to, a, b, [](float x, float y) { return VALUE; }); break;
#define TERNARY(CODE, VALUE) \
    case CODE: each(to, a, b, c, [](float x, float y, float z) { return VALUE; }); break;

// One tile of a row, from the element `first` on.
static void interpret(const Program& program, float* const* at, const Row& row, int64_t first) {
    alignas(64) float drawn[TILE];
    for (int64_t k = 0; k < program.length; k++) {
        const Instruction& next = program.instructions[k];
        float* to = at[next.to];
        const float *a = at[next.a], *b = at[next.b], *c = at[next.c];
        switch (next.code) {
            UNARY(COPY, x)
            BINARY(ADD, x + y)
            BINARY(SUB, x - y)
            BINARY(MUL, x * y)
            BINARY(DIV, x / y)
            BINARY(POW, power(x, y))
            UNARY(NEG, -x)
            UNARY(ABS, absolute(x))
            UNARY(SIGN, sign(x))
            UNARY(SQRT, square_root(x))
            UNARY(EXP, exponential(x))
            UNARY(LOG, logarithm(x))
            UNARY(TANH, hyperbolic_tangent(x))
            BINARY(MINIMUM, minimum(x, y))
            BINARY(MAXIMUM, maximum(x, y))
            TERNARY(CLIP, clip(x, y, z))
            TERNARY(WHERE, x != 0 ? y : z)
            BINARY(LT, x < y ? 1.0f : 0.0f)
            BINARY(LE, x <= y ? 1.0f : 0.0f)
            BINARY(GT, x > y ? 1.0f : 0.0f)
            BINARY(GE, x >= y ? 1.0f : 0.0f)
            BINARY(EQ, x == y ? 1.0f : 0.0f)
            BINARY(NE, x != y ? 1.0f : 0.0f)
            case NORMAL:
                draw(drawn, row, next.site, first);
                each(to, a, drawn, [](float std, float u) { return std * normal_quantile(u); });
                break;
            case KEEP:
                draw(drawn, row, next.site, first);
                each(to, a, b, drawn, [](float x, float q, float u) { return u < q ? x : 0; });
                break;
        }
    }
}

static bool is_finite(const float* x, int64_t width) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < width; i++) {
        const uint32_t magnitude = bits_of(x[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < bits_of(infinity);
}

extern "C" __attribute__((visibility("default"))) void step_rows(const Call* call) {
    alignas(64) float registers[REGISTERS][TILE];
    for (int64_t index = 0; index < call->count; index++) {
        const Row& row = call->rows[index];
        if (row.program < 0) continue;
        const Program& program = call->programs[row.program];
        const int64_t begin = index * call->stride, streams = 2 + program.slot_count;
        float* at[REGISTERS + 16];
        for (int64_t k = 0; k < REGISTERS; k++) at[streams + k] = registers[k];
        float* constants = registers[0];
        for (int64_t k = 0; k < program.constant_count; k++) fill(constants + k * TILE, program.constants[k]);
        float* scalars = registers[program.constant_count];
        for (int64_t k = 0; k < program.scalar_count; k++) fill(scalars + k * TILE, call->scalars[row.scalars + k]);
        for (int64_t first = 0; first < call->stride; first += TILE) {
            at[0] = call->params + begin + first;
            at[1] = const_cast<float*>(call->grads) + begin + first;
            for (int64_t k = 0; k < program.slot_count; k++)
                at[2 + k] = call->state + k * call->count * call->stride + begin + first;
            interpret(program, at, row, first);
        }
        call->finite[index] = is_finite(call->params + begin, call->width);
    }
}
