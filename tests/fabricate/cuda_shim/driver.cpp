/* driver.cpp - a libcuda.so.1 of the calls that the harness makes: a launch runs in the shim, at
 * once.
 *
 * The kernels are those it was built with; of a cubin it sees only that it is one. So the way to a
 * GPU runs as it is up to the driver's door: compilation, bindings, arguments, stream.
 */
#include "shim.h"

extern const ShimEntry shim_entries[];
enum { OK = 0, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_SUPPORTED = 801 };

void shim_fault(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    abort();
}

extern "C" {
void *last_stream;

int cuModuleLoadData(void **module, const void *image) {
    *module = const_cast<void *>(image);
    return memcmp(image,
                  "\x7f"
                  "ELF",
                  4)
               ? INVALID_IMAGE
               : OK;
}

int cuModuleGetFunction(void **function, void *, const char *name) {
    for (const ShimEntry *entry = shim_entries; entry->name; ++entry)
        if (!strcmp(entry->name, name)) {
            *function = const_cast<ShimEntry *>(entry);
            return OK;
        }
    return NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned, void *stream,
                   void **arguments, void **) {
    if (grid_z != 1 || block_y != 1 || block_z != 1 || block_x > SHIM_THREADS)
        return NOT_SUPPORTED;
    last_stream = stream;
    shim.kernel = static_cast<ShimEntry *>(function)->call;
    shim.arguments = arguments;
    shim_run_grid({grid_x, grid_y, 1}, block_x, 0);
    return OK;
}

static int unsupported() { return NOT_SUPPORTED; }

/* The bindings ask for every call by name. */
int cuGetProcAddress_v2(const char *symbol, void **address, int, uint64_t, int *) {
    static const struct {
        const char *name;
        void *address;
    } known[] = {
        {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
        {"cuModuleLoadData", (void *)cuModuleLoadData},
        {"cuModuleGetFunction", (void *)cuModuleGetFunction},
        {"cuLaunchKernel", (void *)cuLaunchKernel},
    };
    *address = (void *)unsupported;
    for (const auto &call : known)
        if (!strcmp(call.name, symbol))
            *address = call.address;
    return OK;
}
}
