// addresses
// Where the tensors of an optimizer lie, read and checked once per step, without Python in the loop.
//
// Python's objects are read by its stable C interface, tensors by torch's stable C interface, whose functions come in as
// pointers. Only where a Python object holds its tensor is not part of either: Python finds that out and passes it in.
#include <stdint.h>

extern "C" {
typedef struct object Object;
Object* PyObject_GetAttr(Object*, Object*);
Object* PyObject_Type(Object*);
Object* PyList_GetItem(Object*, long);
long PyList_Size(Object*);
Object* PyDict_GetItemWithError(Object*, Object*);
int PyDict_Next(Object*, long*, Object**, Object**);
void PyErr_Clear(void);
void Py_DecRef(Object*);
extern Object _Py_NoneStruct;
}

#define EXPORT extern "C" __attribute__((visibility("default")))

// torch's functions take an opaque handle and return 0 unless they fail.
struct Torch {
    int (*data)(void*, void**);
    int (*dimensions)(void*, int64_t*);
    int (*sizes)(void*, int64_t**);
    int (*strides)(void*, int64_t**);
    int (*dtype)(void*, int32_t*);
    int (*device)(void*, int32_t*);
    int (*layout)(void*, int32_t*);
    int64_t offset;  // of the tensor in the Python object
};

struct Table {
    int64_t count;          // parameters
    int64_t streams;        // state entries shaped like the parameter, which stand first
    int64_t entries;        // state entries
    Object* params;         // list of tensors
    Object* states;         // list of dicts
    Object** keys;          // names of the entries
    Object** held;          // the tensors that the entries must be, a row per parameter
    Object** types;         // tensor, parameter
    const int64_t* dtypes;  // of parameter, gradient, and the entries that are streams
    const int64_t* shapes;  // per parameter: dimensions, sizes, strides, one after another
    int64_t* addresses;     // per parameter: of parameter, gradient, entries
    uint8_t* active;        // per parameter: has a gradient
    Object** kept;          // per parameter: its gradient, held from here until `release`
    const int64_t* lines;   // per parameter: memory that is read on the way to all this
    int64_t width;          // how many lines a parameter has
};

constexpr int64_t AHEAD = 6;

enum { SAME = 0, MOVED = 1, OTHER_GRADIENTS = 2, STALE = -1 };

static void* handle(const Torch& torch, Object* tensor) { return reinterpret_cast<char*>(tensor) + torch.offset; }

static bool lies_at(const Torch& torch, Object* tensor, int64_t& address, int& change) {
    void* data;
    if (torch.data(handle(torch, tensor), &data)) return false;
    if (reinterpret_cast<int64_t>(data) != address) {
        address = reinterpret_cast<int64_t>(data);
        change |= MOVED;
    }
    return true;
}

// Whether a tensor is dense memory of the shape, order and type that the kernel takes.
static bool is_alike(const Torch& torch, Object* tensor, int64_t dtype, const int64_t* shape) {
    void* of = handle(torch, tensor);
    int32_t found, device, layout;
    int64_t dimensions, *sizes, *strides;
    if (torch.layout(of, &layout) || layout != 0) return false;
    if (torch.dtype(of, &found) || found != dtype || torch.device(of, &device) || device != 0) return false;
    if (torch.dimensions(of, &dimensions) || dimensions != shape[0]) return false;
    if (torch.sizes(of, &sizes) || torch.strides(of, &strides)) return false;
    for (int64_t k = 0; k < dimensions; k++)
        if (sizes[k] != shape[1 + k] || (sizes[k] > 1 && strides[k] != shape[1 + dimensions + k])) return false;
    return true;
}

// Nothing stands at address 0: not even the elements of a tensor of zeros that were never written.
static bool is_empty(const int64_t* shape) {
    for (int64_t k = 1; k <= shape[0]; k++)
        if (shape[k] == 0) return true;
    return false;
}

static bool has_type(Object* tensor, Object** types) {
    Object* type = PyObject_Type(tensor);
    Py_DecRef(type);
    return type == types[0] || type == types[1];
}

// The objects of thousands of parameters lie all over memory: ask for those that come next while the present ones are
// looked at. The lines are only a hint; a wrong one does no harm.
static void fetch_ahead(const Table& table, int64_t i) {
    if (i >= table.count) return;
    for (int64_t k = 0; k < table.width; k++)
        __builtin_prefetch(reinterpret_cast<const void*>(table.lines[i * table.width + k]));
}

EXPORT int refresh(const Torch* torch, const Table* table, Object* name_of_gradient) {
    int change = SAME;
    const int64_t* shape = table->shapes;
    for (int64_t i = 0; i < table->count; i++) {
        fetch_ahead(*table, i + AHEAD);
        int64_t* addresses = table->addresses + i * (2 + table->entries);
        Object* param = PyList_GetItem(table->params, i);
        if (!has_type(param, table->types) || !is_alike(*torch, param, table->dtypes[0], shape)) return STALE;
        if (!lies_at(*torch, param, addresses[0], change)) return STALE;

        Object* gradient = PyObject_GetAttr(param, name_of_gradient);
        if (!gradient) return PyErr_Clear(), STALE;
        const bool active = gradient != &_Py_NoneStruct;
        bool fits = true;
        if (active)
            fits = has_type(gradient, table->types) && is_alike(*torch, gradient, table->dtypes[1], shape) &&
                   lies_at(*torch, gradient, addresses[1], change) && (addresses[1] || is_empty(shape));
        Py_DecRef(table->kept[i]);
        table->kept[i] = gradient;
        if (!fits) return STALE;
        if (active != table->active[i]) {
            table->active[i] = active;
            change |= OTHER_GRADIENTS;
        }

        Object* state = PyList_GetItem(table->states, i);
        for (int64_t k = 0; k < table->entries; k++) {
            Object* entry = PyDict_GetItemWithError(state, table->keys[k]);
            if (!entry || entry != table->held[i * table->entries + k]) return PyErr_Clear(), STALE;
            int moved = SAME;
            if (!lies_at(*torch, entry, addresses[2 + k], moved)) return STALE;
            if (k >= table->streams && moved) return STALE;  // a view that is one no longer
            if (k < table->streams && !is_alike(*torch, entry, table->dtypes[2 + k], shape)) return STALE;
            change |= moved;
        }
        shape += 1 + 2 * shape[0];
    }
    return change;
}

// Lets go of the gradients: they are needed while a kernel reads them, and no longer.
EXPORT void release(const Table* table) {
    for (int64_t i = 0; i < table->count; i++) {
        Py_DecRef(table->kept[i]);
        table->kept[i] = nullptr;
    }
}

// Whether the groups hold these parameters, and the optimizer's state these entries, in the same order.
EXPORT int is_unchanged(Object* lists, Object* params, Object* state, Object* keys, Object* entries) {
    const long groups = PyList_Size(lists), count = PyList_Size(params), known = PyList_Size(keys);
    long next = 0;
    for (long i = 0; i < groups; i++) {
        Object* list = PyList_GetItem(lists, i);
        const long size = PyList_Size(list);
        if (size < 0 || next + size > count) return PyErr_Clear(), 0;
        for (long k = 0; k < size; k++)
            if (PyList_GetItem(list, k) != PyList_GetItem(params, next++)) return 0;
    }
    long position = 0, number = 0;
    Object *key, *value;
    while (PyDict_Next(state, &position, &key, &value)) {
        if (number >= known || key != PyList_GetItem(keys, number) || value != PyList_GetItem(entries, number)) return 0;
        number++;
    }
    return next == count && number == known;
}
