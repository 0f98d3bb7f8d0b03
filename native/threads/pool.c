/* pool.c - threads for kernels that share their units among them; made and ended by the harness,
 * before and after what is timed. Kernels see them through ffk_team alone.
 *
 * A pass of a small batch takes microseconds, less than waking a thread. So a thread that has ended
 * its units spins for a while before it sleeps; the caller takes units too, and waits for those
 * that others have begun, never for a thread that sleeps or comes late: it finds no unit left.
 *
 * A ticket names the round and the next unit in one word. A thread reads what the round's units are
 * and then takes one by raising the ticket, which fails where a later round has begun meanwhile:
 * the caller closes the ticket before it writes what the units of the next round are.
 */
#include "threads/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 1024, SPINS = 5000 }; /* 0.1 ms where a pause takes 60 cycles at 4 GHz */

#define CLOSED UINT32_MAX /* the next unit of a round that is being written */

typedef void (*unit_fn)(void *job, int64_t i);

typedef struct {
    ffk_team team;
    pthread_t *thread; /* team.threads - 1 */
    pthread_mutex_t lock;
    pthread_cond_t work;
    _Atomic uint64_t ticket;  /* round << 32 | next unit */
    _Atomic int64_t done;     /* units of this round that have ended */
    _Atomic int64_t sleeping; /* threads that have to be woken */
    _Atomic int ending;
    _Atomic int64_t units;
    _Atomic(unit_fn) unit;
    void *_Atomic job;
} thread_pool;

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Run units of the round that is open until none is left, and count them as done. */
static void take_units(thread_pool *s) {
    int64_t taken = 0;
    for (;;) {
        uint64_t ticket = atomic_load_explicit(&s->ticket, memory_order_acquire);
        const int64_t i = (int64_t)(uint32_t)ticket;
        const unit_fn unit = atomic_load_explicit(&s->unit, memory_order_relaxed);
        void *job = atomic_load_explicit(&s->job, memory_order_relaxed);
        if (i >= atomic_load_explicit(&s->units, memory_order_relaxed))
            break;
        if (atomic_compare_exchange_strong(&s->ticket, &ticket, ticket + 1)) {
            unit(job, i);
            ++taken;
        }
    }
    if (taken == 0)
        return;
    /* A full fence, since the units may have stored past the caches, which release leaves open. */
    atomic_thread_fence(memory_order_seq_cst);
    atomic_fetch_add_explicit(&s->done, taken, memory_order_release);
}

/* Say whether a round is open that is not the one of `seen`. */
static int is_new(thread_pool *s, uint32_t seen) {
    const uint64_t ticket = atomic_load(&s->ticket);
    return (uint32_t)(ticket >> 32) != seen && (uint32_t)ticket != CLOSED;
}

static uint32_t wait_for_round(thread_pool *s, uint32_t seen) {
    for (int spin = 0; spin < SPINS && !is_new(s, seen); ++spin)
        pause_briefly();
    if (!is_new(s, seen)) {
        pthread_mutex_lock(&s->lock);
        atomic_fetch_add(&s->sleeping, 1);
        while (!is_new(s, seen))
            pthread_cond_wait(&s->work, &s->lock);
        atomic_fetch_sub(&s->sleeping, 1);
        pthread_mutex_unlock(&s->lock);
    }
    return (uint32_t)(atomic_load(&s->ticket) >> 32);
}

static void *serve(void *state) {
    thread_pool *s = state;
    for (uint32_t round = 0;;) {
        round = wait_for_round(s, round);
        if (atomic_load(&s->ending))
            return NULL;
        take_units(s);
    }
}

/* Open a round. A thread that goes to sleep counts itself before it looks at the ticket once more,
 * and the ticket is written before they are counted: one of the two sees the other. */
static void begin_round(thread_pool *s, int64_t units, unit_fn unit, void *job) {
    const uint64_t round = ((atomic_load(&s->ticket) >> 32) + 1) << 32;
    atomic_store(&s->ticket, round | CLOSED);
    atomic_store(&s->units, units);
    atomic_store(&s->unit, unit);
    atomic_store(&s->job, job);
    atomic_store(&s->done, 0);
    atomic_store(&s->ticket, round);
    if (atomic_load(&s->sleeping) > 0) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->work);
        pthread_mutex_unlock(&s->lock);
    }
}

static void parallel_for(void *state, int64_t units, unit_fn unit, void *job) {
    thread_pool *s = state;
    if (units >= CLOSED) { /* beyond what a ticket counts */
        for (int64_t i = 0; i < units; ++i)
            unit(job, i);
        return;
    }
    begin_round(s, units, unit, job);
    take_units(s);
    for (int spin = 0; atomic_load_explicit(&s->done, memory_order_acquire) < units; ++spin) {
        if (spin < SPINS)
            pause_briefly();
        else
            sched_yield(); /* the last unit's thread may be waiting for this processor */
    }
}

static void end_threads(thread_pool *s, int64_t started) {
    atomic_store(&s->ending, 1);
    begin_round(s, 0, NULL, NULL);
    for (int64_t i = 0; i < started; ++i)
        pthread_join(s->thread[i], NULL);
}

void ffk_pool_end(const ffk_team *team) {
    if (team == NULL)
        return;
    thread_pool *s = team->state;
    end_threads(s, team->threads - 1);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s->thread);
    free(s);
}

const ffk_team *ffk_pool_make(int64_t threads) {
    if (threads < 1 || threads > MOST_THREADS)
        return NULL;
    thread_pool *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->thread = calloc((size_t)threads, sizeof *s->thread);
    s->team = (ffk_team){.threads = threads, .share = parallel_for, .state = s};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    int64_t started = 0;
    while (s->thread != NULL && started < threads - 1 &&
           pthread_create(&s->thread[started], NULL, serve, s) == 0)
        ++started;
    if (s->thread != NULL && started == threads - 1)
        return &s->team;
    end_threads(s, started);
    free(s->thread);
    free(s);
    return NULL;
}
