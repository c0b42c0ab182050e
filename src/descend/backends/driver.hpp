// How a kernel goes over all tensors of an optimizer: chunk by chunk, shared evenly among threads.

constexpr int64_t TILE = 64;      // elements that the innermost loop handles; shorter ends are padded to a tile
constexpr int64_t CHUNK = 16384;  // elements between which threads split work, and that a partial sum covers
constexpr int64_t SMALL = 256;    // elements of a tensor that is fetched as a whole, some rows ahead
constexpr int64_t AHEAD = 4;      // rows
constexpr int LANES = 16;         // partial sums that are added up side by side within a chunk

// The OpenMP runtime that torch uses, as function pointers: a kernel never brings a second one.
struct Team {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*number)();
    int (*size)();
    int64_t threads;
};

// What every row of the table begins with; the addresses of the tensor follow.
struct Tensor {
    int64_t numel;
    int64_t bucket;   // its row of bucket scalars
    int64_t ordinal;  // its place in the optimizer
    int64_t work;     // what the rows before it cost, in elements
    int64_t chunk;    // how many chunks the rows before it have
};

template <class Row>
struct Call {
    const Row* rows;
    int64_t count;
    int64_t work;               // what all rows cost
    const double* bucket;       // scalars, one row per bucket
    const double* tensor;       // scalars, one row per tensor
    double* sums;               // partial sums, one row per chunk
    double* values;             // what follows reductions, one row per tensor
    double* shared;             // what follows global reductions
    uint64_t seed;
    uint64_t step;
    Team team;
    int64_t phase;  // which passes: torch works on whole tensors between phases
};

// What is done with a chunk: a row, its index, the chunk's first element, its length and its number.
template <class Row>
using Body = void (*)(const Call<Row>&, const Row&, int64_t, int64_t, int64_t, int64_t);

template <class Row>
struct Sweep {
    const Call<Row>& call;
    Body<Row> body;
};

// Small tensors lie all over memory: ask for those that come next while the present ones are worked on.
template <class Row>
static inline void fetch(const Row& row) {
    if (row.numel > SMALL) return;
    const char* const* streams = reinterpret_cast<const char* const*>(static_cast<const Tensor*>(&row) + 1);
    for (uint64_t k = 0; k < (sizeof(Row) - sizeof(Tensor)) / sizeof(char*); k++)
        for (int64_t byte = 0; byte < row.numel * 4; byte += 64) __builtin_prefetch(streams[k] + byte, 1);
}

// Every chunk whose place in the work lies in [from, to).
template <class Row>
static void visit(const Sweep<Row>& sweep, int64_t from, int64_t to) {
    const Call<Row>& call = sweep.call;
    int64_t first = 0;
    for (int64_t step = call.count; step > 0; step /= 2)
        while (first + step < call.count && call.rows[first + step].work <= from) first += step;
    for (int64_t i = first; i < call.count && call.rows[i].work < to; i++) {
        const Row& row = call.rows[i];
        if (i + AHEAD < call.count) fetch(call.rows[i + AHEAD]);
        int64_t start = row.work >= from ? 0 : (from - row.work + CHUNK - 1) / CHUNK * CHUNK;
        for (; start < row.numel && row.work + start < to; start += CHUNK) {
            const int64_t rest = row.numel - start;
            sweep.body(call, row, i, start, rest < CHUNK ? rest : CHUNK, row.chunk + start / CHUNK);
        }
    }
}

template <class Row>
static void visit_part(void* data) {
    const Sweep<Row>& sweep = *static_cast<Sweep<Row>*>(data);
    const int64_t work = sweep.call.work, number = sweep.call.team.number(), size = sweep.call.team.size();
    visit(sweep, work / size * number + work % size * number / size,
          work / size * (number + 1) + work % size * (number + 1) / size);
}

template <class Row>
static void for_each_chunk(const Call<Row>& call, Body<Row> body) {
    Sweep<Row> sweep{call, body};
    if (call.team.threads > 1)
        call.team.parallel(visit_part<Row>, &sweep, static_cast<unsigned>(call.team.threads), 0);
    else
        visit(sweep, 0, call.work);
}

template <class T>
static void copy(T* to, const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

template <class T>
static inline void add_up(const T* terms, double* lanes) {
    for (int64_t i = 0; i < TILE; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += static_cast<double>(terms[i + k]);
}

template <class T>
static inline void add_up_squares(const T* terms, double* lanes) {
    for (int64_t i = 0; i < TILE; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += static_cast<double>(terms[i + k]) * static_cast<double>(terms[i + k]);
}

static inline double total_of(const double* terms, int64_t count, int64_t stride) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += terms[i * stride];
    return sum;
}

static inline int64_t chunks_of(int64_t numel) { return (numel + CHUNK - 1) / CHUNK; }

// Reductions from the sums of chunks, in the order of the chunks: over one tensor, and over all of them. A pass adds up
// `count` reductions side by side, of which this is the one with the number.
template <class Row>
static inline double sum_of(const Row& row, const Call<Row>& call, int64_t number, int64_t count) {
    return total_of(call.sums + row.chunk * count + number, chunks_of(row.numel), count);
}

template <class Row>
static inline double mean_of(const Row& row, const Call<Row>& call, int64_t number, int64_t count) {
    return sum_of(row, call, number, count) / static_cast<double>(row.numel);
}

template <class Row>
static inline double norm_of(const Row& row, const Call<Row>& call, int64_t number, int64_t count) {
    return __builtin_sqrt(sum_of(row, call, number, count));
}

template <class Row>
static inline double sum_of(const Call<Row>& call, int64_t number, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < call.count; i++) sum += sum_of(call.rows[i], call, number, count);
    return sum;
}

template <class Row>
static inline double mean_of(const Call<Row>& call, int64_t number, int64_t count) {
    double elements = 0;
    for (int64_t i = 0; i < call.count; i++) elements += static_cast<double>(call.rows[i].numel);
    return sum_of(call, number, count) / elements;
}

template <class Row>
static inline double norm_of(const Call<Row>& call, int64_t number, int64_t count) {
    return __builtin_sqrt(sum_of(call, number, count));
}
