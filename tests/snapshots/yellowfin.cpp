// The fused kernel of yellowfin: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
// yellowfin: p float32, g float32, buf float32, mean float32; arithmetic in float
namespace yellowfin_kernel {
using real = float;

struct Row : Tensor {
    float* p;
    const float* g;
    float* buf;
    float* mean;
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

static __attribute__((noinline)) void pass1(int64_t count, const float* __restrict g_, float* __restrict mean_, const double* bucket, const double* values, int64_t valid, double* __restrict lanes) {
    const real beta = bucket[9];
    const real guard = values[2];
    const real s11 = bucket[11];  // 1 - beta
    for (int64_t tile = 0; tile < count; tile += TILE) {
        real terms0[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real mean = load(mean_[i]);
            const real g = load(g_[i]);
            const real g_new = guard * g;
            const real mean_new = beta * mean + s11 * g_new;
            terms0[j] = i < valid ? mean_new : real(0);
            store(mean_new, mean_[i]);
        }
        add_up_squares(terms0, lanes + 0 * LANES);
    }
}

static void chunk1(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    double lanes[1 * LANES] = {};
    if (whole) pass1(whole, row.g + start, row.mean + start, call.bucket + row.bucket * 21, call.values + index * 13, whole, lanes);
    if (rest) {
        float g[TILE] = {};
        float mean[TILE] = {};
        copy(g, row.g + start + whole, rest);
        copy(mean, row.mean + start + whole, rest);
        pass1(TILE, g, mean, call.bucket + row.bucket * 21, call.values + index * 13, rest, lanes);
        copy(row.mean + start + whole, mean, rest);
    }
    call.sums[chunk * 1 + 0] = total_of(lanes + 0 * LANES, LANES, 1);
}

static __attribute__((noinline)) void pass2(int64_t count, float* __restrict p_, const float* __restrict g_, float* __restrict buf_, const double* values, const double* shared) {
    const real guard = values[2];
    const real mu = shared[81];
    const real burst = values[10];
    const real step_new = values[12];
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int64_t j = 0; j < TILE; j++) {
            const int64_t i = tile + j;
            const real p = load(p_[i]);
            const real g = load(g_[i]);
            const real buf = load(buf_[i]);
            const real g_new = guard * g;
            const real d = burst * g_new;
            const real buf_new = mu * buf + d;
            store(p - step_new * buf_new, p_[i]);
            store(buf_new, buf_[i]);
        }
    }
}

static void chunk2(const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk) {
    const int64_t whole = length / TILE * TILE, rest = length - whole;
    if (whole) pass2(whole, row.p + start, row.g + start, row.buf + start, call.values + index * 13, call.shared);
    if (rest) {
        float p[TILE] = {};
        float g[TILE] = {};
        float buf[TILE] = {};
        copy(p, row.p + start + whole, rest);
        copy(g, row.g + start + whole, rest);
        copy(buf, row.buf + start + whole, rest);
        pass2(TILE, p, g, buf, call.values + index * 13, call.shared);
        copy(row.p + start + whole, p, rest);
        copy(row.buf + start + whole, buf, rest);
    }
}

static void between0(const Call<Row>& call) {
    double* shared = call.shared;
    const double* bucket = call.bucket;  // constants, the same in every row
    const double s1 = bucket[0];  // 10 * square_root(exponential(high / (1 - power(beta, n)))) + 1e-06
    const bool s2 = bucket[1] != 0;  // n > 1
    const double s3 = bucket[2];  // 1 - beta
    const double s4 = bucket[3];  // beta * norms
    const double s5 = bucket[4];  // beta * squares
    const double s6 = bucket[5];  // beta * distances
    const double s7 = bucket[6];  // 1 - power(beta, n + 1)
    const double s8 = bucket[7];  // lowest(window)
    const double s9 = bucket[8];  // beta * low
    const double s12 = bucket[12];  // highest(window)
    const double s13 = bucket[13];  // beta * high
    const double size_new = norm_of(call, 0, 1);
    shared[0] = size_new;
    const double s27 = size_new + double(1e-06);
    shared[1] = s27;
    const double s28 = s1 / s27;
    shared[2] = s28;
    const double s29 = minimum(double(1), s28);
    shared[3] = s29;
    const double s30 = s2 ? s29 : double(1);
    shared[4] = s30;
    const double s31 = s30 * size_new;
    shared[5] = s31;
    const double s32 = s3 * s31;
    shared[6] = s32;
    const double norms = static_cast<float>(s4 + s32);
    shared[7] = norms;
    const double s33 = static_cast<float>(s31 * s31);
    shared[8] = s33;
    const double s34 = s3 * s33;
    shared[9] = s34;
    const double squares = static_cast<float>(s5 + s34);
    shared[10] = squares;
    const double s35 = squares + double(1e-06);
    shared[11] = s35;
    const double s36 = norms / s35;
    shared[12] = s36;
    const double s37 = s3 * s36;
    shared[13] = s37;
    const double distances = static_cast<float>(s6 + s37);
    shared[14] = distances;
    const double s38 = distances / s7;
    shared[15] = s38;
    const double s39 = s38 + double(1e-06);
    shared[16] = s39;
    const double s40 = minimum(s8, s33);
    shared[17] = s40;
    const double s41 = s40 + double(1e-06);
    shared[18] = s41;
    const double s42 = logarithm(s41);
    shared[19] = s42;
    const double s43 = s3 * s42;
    shared[20] = s43;
    const double low = static_cast<float>(s9 + s43);
    shared[21] = low;
    const double s44 = low / s7;
    shared[22] = s44;
    const double s45 = exponential(s44);
    shared[23] = s45;
    const double s46 = s45 + double(1e-06);
    shared[24] = s46;
    const double s47 = s39 * s46;
    shared[25] = s47;
    const double s48 = power(s47, double(2));
    shared[26] = s48;
    const double s49 = squares / s7;
    shared[27] = s49;
    const double s50 = maximum(s12, s33);
    shared[28] = s50;
    const double s51 = s50 + double(1e-06);
    shared[29] = s51;
    const double s52 = logarithm(s51);
    shared[30] = s52;
    const double s53 = s3 * s52;
    shared[31] = s53;
    const double high = static_cast<float>(s13 + s53);
    shared[32] = high;
    const double s54 = high / s7;
    shared[33] = s54;
    const double s55 = exponential(s54);
    shared[34] = s55;
    const double s56 = s55 + double(1e-06);
    shared[35] = s56;
    const double s57 = s56 / s46;
    shared[36] = s57;
    const double s58 = maximum(s57, double(1.000001));
    shared[37] = s58;
    const double s59 = square_root(s58);
    shared[38] = s59;
    const double s60 = s59 - double(1);
    shared[39] = s60;
    const double s61 = s59 + double(1);
    shared[40] = s61;
    const double s62 = s60 / s61;
    shared[41] = s62;
    const double s63 = power(s62, double(2));
    shared[42] = s63;
    for (int64_t index = 0; index < call.count; index++) {
        const Row& row = call.rows[index];
        const double* bucket = call.bucket + row.bucket * 21;
        double* values = call.values + index * 13;
        const double s10 = bucket[10];  // 10 * square_root(exponential(high / (1 - power(beta, n)))) + 1e-06
        const double s27 = shared[1];
        const bool s2 = bucket[1] != 0;  // n > 1
        const double size_new = shared[0];
        const double h_before = bucket[18];  // exponential(high / (1 - power(beta, n)))
        const double s16 = bucket[19];  // square_root(exponential(high / (1 - power(beta, n))))
        const bool s17 = bucket[20] != 0;  // n > 0
        const double s18 = s10 / s27;
        values[0] = s18;
        const double s19 = minimum(double(1), s18);
        values[1] = s19;
        const double guard = s2 ? s19 : double(1);
        values[2] = guard;
        const double size = guard * size_new;
        values[3] = size;
        const double s20 = size + double(1e-06);
        values[4] = s20;
        const double s21 = double(100) / s20;
        values[5] = s21;
        const double s22 = size * size;
        values[6] = s22;
        const bool s23 = s22 >= h_before;
        values[7] = s23;
        const double s24 = s16 / s20;
        values[8] = s24;
        const double s25 = s23 ? s24 : double(1);
        values[9] = s25;
        const double burst = s17 ? s25 : double(1);
        values[10] = burst;
    }
}

static void between1(const Call<Row>& call) {
    double* shared = call.shared;
    const double* bucket = call.bucket;  // constants, the same in every row
    const double s7 = bucket[6];  // 1 - power(beta, n + 1)
    const double s49 = shared[27];
    const double s48 = shared[26];
    const double s63 = shared[42];
    const double s46 = shared[24];
    const double s14 = bucket[14];  // minimum(1, (n + 1) / 200)
    const bool s15 = bucket[15] != 0;  // n + 1 > 1
    const double first_lr = bucket[16];
    const double s64 = norm_of(call, 0, 1);
    shared[43] = s64;
    const double s65 = s64 / s7;
    shared[44] = s65;
    const double s66 = power(s65, double(2));
    shared[45] = s66;
    const double s67 = s49 - s66;
    shared[46] = s67;
    const double s68 = maximum(double(1e-06), s67);
    shared[47] = s68;
    const double s69 = s68 + double(1e-06);
    shared[48] = s69;
    const double s70 = double(2) * s69;
    shared[49] = s70;
    const double s71 = s48 / s70;
    shared[50] = s71;
    const double s72 = power(s71, double(2));
    shared[51] = s72;
    const double s73 = power(s71, double(3));
    shared[52] = s73;
    const double s74 = double(0.14814814814814814) * s73;
    shared[53] = s74;
    const double s75 = s72 + s74;
    shared[54] = s75;
    const double s76 = square_root(s75);
    shared[55] = s76;
    const double s77 = s76 + s71;
    shared[56] = s77;
    const double s78 = s77 / double(2);
    shared[57] = s78;
    const double s79 = power(s78, double(0.3333333333333333));
    shared[58] = s79;
    const double s80 = -s79;
    shared[59] = s80;
    const double s81 = double(1) + s80;
    shared[60] = s81;
    const double s82 = double(3) * s80;
    shared[61] = s82;
    const double s83 = s71 / s82;
    shared[62] = s83;
    const double s84 = s81 - s83;
    shared[63] = s84;
    const double s85 = double(1) - s84;
    shared[64] = s85;
    const double s86 = power(s85, double(3));
    shared[65] = s86;
    const double s87 = s71 * s84;
    shared[66] = s87;
    const double s88 = s86 - s87;
    shared[67] = s88;
    const double s89 = power(s85, double(2));
    shared[68] = s89;
    const double s90 = double(3) * s89;
    shared[69] = s90;
    const double s91 = s90 + s71;
    shared[70] = s91;
    const double s92 = s88 / s91;
    shared[71] = s92;
    const double s93 = s84 + s92;
    shared[72] = s93;
    const double s94 = power(s93, double(2));
    shared[73] = s94;
    const double s95 = maximum(s94, s63);
    shared[74] = s95;
    const double s96 = square_root(s95);
    shared[75] = s96;
    const double s97 = double(1) - s96;
    shared[76] = s97;
    const double s98 = power(s97, double(2));
    shared[77] = s98;
    const double s99 = s98 / s46;
    shared[78] = s99;
    const double s100 = s99 * s14;
    shared[79] = s100;
    const double rate = static_cast<float>(s15 ? s100 : first_lr);
    shared[80] = rate;
    const double mu = static_cast<float>(s15 ? s95 : double(0));
    shared[81] = mu;
    for (int64_t index = 0; index < call.count; index++) {
        const Row& row = call.rows[index];
        const double* bucket = call.bucket + row.bucket * 21;
        double* values = call.values + index * 13;
        const double lr = bucket[17];
        const double rate = shared[80];
        const double s21 = values[5];
        const double s26 = lr * rate;
        values[11] = s26;
        const double step_new = minimum(s26, s21);
        values[12] = step_new;
    }
}

extern "C" __attribute__((visibility("default"))) void yellowfin(const Call<Row>* call) {
    for_each_chunk(*call, chunk0);
    between0(*call);
    for_each_chunk(*call, chunk1);
    between1(*call);
    for_each_chunk(*call, chunk2);
}

}  // namespace yellowfin_kernel
