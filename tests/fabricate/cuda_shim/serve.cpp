/* serve.cpp - run launches that come on standard input; every array in memory of its own, for ASan.
 *
 * A launch: Header, the entry's name, the bytes of each array behind their number, the extents (int
 * each). The answer: the length of the fault's text (0 for none), then the text or the bytes of
 * each array. A fault ends the process, since it leaves threads in the middle of the kernel.
 */
#include "shim.h"
#include <unistd.h>

extern const ShimEntry shim_entries[];

extern "C" const char *__asan_default_options() { return "detect_leaks=0:exitcode=99"; }

struct Header {
    int32_t name_bytes, columns, rows, block, order, arrays, extents;
};
enum { MOST_ARRAYS = 8, MOST_EXTENTS = 16, NAME_BYTES = 128, MOST_SECONDS = 120 };

static FILE *answer;

static void read_all(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes)
        exit(0); /* the other side is done */
}
static void write_all(const void *from, size_t bytes) {
    if (fwrite(from, 1, bytes, answer) != bytes)
        exit(1);
}

void shim_fault(const char *format, ...) {
    char text[200];
    va_list values;
    va_start(values, format);
    const int32_t length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    write_all(&length, sizeof length);
    write_all(text, length);
    fflush(answer);
    _exit(98);
}

static void serve_one() {
    Header h;
    read_all(&h, sizeof h);
    char name[NAME_BYTES] = {};
    read_all(name, h.name_bytes);
    void *arrays[MOST_ARRAYS], *arguments[MOST_ARRAYS + MOST_EXTENTS];
    int64_t sizes[MOST_ARRAYS];
    int32_t extents[MOST_EXTENTS];
    for (int i = 0; i < h.arrays; ++i) {
        read_all(sizes + i, sizeof *sizes);
        if (posix_memalign(arrays + i, 64, sizes[i]))
            exit(1);
        read_all(arrays[i], sizes[i]);
        arguments[i] = arrays + i;
    }
    read_all(extents, h.extents * sizeof *extents);
    for (int i = 0; i < h.extents; ++i)
        arguments[h.arrays + i] = extents + i;
    const ShimEntry *entry = shim_entries;
    while (entry->name && strcmp(entry->name, name))
        ++entry;
    if (!entry->name)
        shim_fault("there is no entry %s", name);
    shim.kernel = entry->call;
    shim.arguments = arguments;
    alarm(MOST_SECONDS); /* a kernel that never ends ends the process */
    shim_run_grid({(unsigned)h.columns, (unsigned)h.rows, 1}, h.block, h.order);
    alarm(0);
    const int32_t none = 0;
    write_all(&none, sizeof none);
    for (int i = 0; i < h.arrays; ++i) {
        write_all(arrays[i], sizes[i]);
        free(arrays[i]);
    }
    fflush(answer);
}

int main() {
    /* Whatever a library prints must not stand among the answers. */
    answer = fdopen(dup(1), "w");
    dup2(2, 1);
    for (;;)
        serve_one();
}
