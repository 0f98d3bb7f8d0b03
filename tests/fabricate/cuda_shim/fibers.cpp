/* fibers.cpp - the scheduler of shim.h: lets those fibers go on whose company is there. */
#include "stacks.h"

extern "C" { /* set by the linker where a kernel has shared memory */
extern char __start_shim_shared[] __attribute__((weak));
extern char __stop_shim_shared[] __attribute__((weak));
}

static void start() {
    Fiber &scheduler = shim.scheduler;
    const void *bottom = nullptr;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &scheduler.stack_bytes);
    scheduler.stack = static_cast<char *>(const_cast<void *>(bottom));
    shim.kernel(shim.arguments);
    shim.current->wait = Wait::RETURNED;
    leave(*shim.current, scheduler, true);
}

void shim_wait(Wait wait, int line, unsigned mask, unsigned source, unsigned value) {
    Fiber &me = *shim.current;
    const unsigned lane = shim_lane();
    if (wait != Wait::BLOCK && !(mask >> lane & 1))
        shim_fault("line %d: lane %u is not in its own mask %08x", line, lane, mask);
    if (wait == Wait::SHUFFLE && (source >= SHIM_LANES || !(mask >> source & 1)))
        shim_fault("line %d: lane %u reads lane %u, which is not in the mask", line, lane, source);
    me.wait = wait, me.line = line, me.mask = mask, me.source = source, me.value = value;
    leave(me, shim.scheduler, false);
}

static void resume(Fiber &fiber) {
    const int thread = &fiber - shim.fibers;
    shim.current = &fiber;
    threadIdx = {(unsigned)thread, 0, 0};
    leave(shim.scheduler, fiber, false);
}

/* Say whether all lanes of a waiting lane's mask wait for the same thing as it does. */
static bool is_complete(const Fiber *warp, int lanes, const Fiber &one) {
    for (int i = 0; i < SHIM_LANES; ++i)
        if (one.mask >> i & 1 && (i >= lanes || warp[i].wait != one.wait ||
                                  warp[i].line != one.line || warp[i].mask != one.mask))
            return false;
    return true;
}

static bool release_lanes(Fiber *warp, int lanes) {
    for (int i = 0; i < lanes; ++i) {
        const Fiber one = warp[i];
        if ((one.wait != Wait::SHUFFLE && one.wait != Wait::BALLOT) ||
            !is_complete(warp, lanes, one))
            continue;
        unsigned ballot = 0;
        for (int j = 0; j < lanes; ++j)
            ballot |= (one.mask >> j & 1 & warp[j].value) << j;
        for (int j = 0; j < lanes; ++j)
            if (one.mask >> j & 1) {
                warp[j].result = one.wait == Wait::BALLOT ? ballot : warp[warp[j].source].value;
                warp[j].wait = Wait::NONE;
            }
        return true;
    }
    return false;
}

/* Return where the next round begins in this launch's order. */
static int draw() {
    shim.random = shim.random * 1664525u + 1013904223u;
    return shim.order < 2 ? 0 : shim.random >> 16;
}

/* Return the i-th of n: forwards, backwards, or from anywhere on. */
static int pick(int i, int n, int first) { return shim.order == 1 ? n - 1 - i : (first + i) % n; }

/* Let a warp run until each of its lanes has returned or waits for somebody. */
static void run_warp(Fiber *warp, int lanes) {
    do {
        const int first = draw();
        for (int i = 0; i < lanes; ++i)
            if (Fiber &fiber = warp[pick(i, lanes, first)]; fiber.wait == Wait::NONE)
                resume(fiber);
    } while (release_lanes(warp, lanes));
}

/* Let all threads pass the barrier that they have reached; a thread that is elsewhere is a fault.
 */
static void release_block() {
    const Fiber *one = nullptr;
    for (int i = 0; i < shim.threads; ++i) {
        const Fiber &fiber = shim.fibers[i];
        if (fiber.wait == Wait::BLOCK || (fiber.wait != Wait::RETURNED && !one))
            one = &fiber;
    }
    if (one->wait != Wait::BLOCK)
        shim_fault("thread %d waits at line %d for lanes of mask %08x that do not come",
                   int(one - shim.fibers), one->line, one->mask);
    for (int i = 0; i < shim.threads; ++i) {
        const Fiber &other = shim.fibers[i];
        if (other.wait == Wait::RETURNED)
            shim_fault("divergent barrier at line %d: thread %d has returned", one->line, i);
        if (other.wait != Wait::BLOCK || other.line != one->line)
            shim_fault("divergent barrier at line %d: thread %d waits at line %d", one->line, i,
                       other.line);
    }
    for (int i = 0; i < shim.threads; ++i)
        shim.fibers[i].wait = Wait::NONE;
}

/* What a block finds in shared memory is nobody's: NaN. Written past the sanitizer's red zones too.
 */
__attribute__((no_sanitize("address"))) static void poison_shared() {
    for (volatile char *p = __start_shim_shared; p < __stop_shim_shared; ++p)
        *p = char(0xff);
}

static void run_block() {
    poison_shared();
    for (int i = 0; i < shim.threads; ++i) {
        Fiber &fiber = shim.fibers[i];
        if (!fiber.stack)
            fiber.stack = static_cast<char *>(aligned_alloc(64, SHIM_STACK));
        fiber.stack_bytes = SHIM_STACK;
        /* The last block's threads left their lowest frame without returning from it. */
        ASAN_UNPOISON_MEMORY_REGION(fiber.stack, SHIM_STACK);
        fiber.wait = Wait::NONE;
        shim.current = &fiber;
        fiber.stack_pointer = prepare_stack(fiber.stack, start);
    }
    for (;;) {
        const int warps = (shim.threads + SHIM_LANES - 1) / SHIM_LANES, drawn = draw();
        for (int i = 0; i < warps; ++i) {
            const int first = pick(i, warps, drawn) * SHIM_LANES;
            const int left = shim.threads - first;
            run_warp(shim.fibers + first, left < SHIM_LANES ? left : SHIM_LANES);
        }
        int returned = 0;
        for (int i = 0; i < shim.threads; ++i)
            returned += shim.fibers[i].wait == Wait::RETURNED;
        if (returned == shim.threads)
            return;
        release_block();
    }
}

void shim_run_grid(dim3 grid, int block, uint32_t order) {
    gridDim = grid;
    blockDim = {(unsigned)block, 1, 1};
    shim.threads = block;
    shim.order = shim.random = order;
    for (unsigned row = 0; row < grid.y; ++row)
        for (unsigned column = 0; column < grid.x; ++column) {
            blockIdx = {column, row, 0};
            run_block();
        }
}
