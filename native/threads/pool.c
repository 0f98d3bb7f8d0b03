/* pool.c - threads for kernels that share their units among them; made and ended by the harness,
 * before and after what is timed. Kernels see them through ffk_team alone.
 *
 * A pass of a small batch takes microseconds, as long as waking a thread. So a thread that has
 * ended its units spins for a while before it sleeps; the caller takes units too, and spins until
 * the last one has ended.
 */
#include "threads/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 1024, SPINS = 5000 }; /* 0.1 ms where a pause takes 60 cycles at 4 GHz */

typedef struct {
    ffk_team team;
    pthread_t *thread; /* team.threads - 1 */
    pthread_mutex_t lock;
    pthread_cond_t work;
    _Atomic uint64_t round;  /* raised for each call of parallel_for */
    _Atomic int64_t next;    /* unit to take */
    _Atomic int64_t working; /* helpers that have not ended this round */
    _Atomic int ending;
    int64_t units;
    void (*unit)(void *job, int64_t i);
    void *job;
} thread_pool;

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_units(thread_pool *s) {
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->units)
        s->unit(s->job, i);
}

static uint64_t wait_for_round(thread_pool *s, uint64_t seen) {
    for (int spin = 0; spin < SPINS; ++spin) {
        const uint64_t round = atomic_load_explicit(&s->round, memory_order_acquire);
        if (round != seen)
            return round;
        pause_briefly();
    }
    pthread_mutex_lock(&s->lock);
    while (atomic_load(&s->round) == seen)
        pthread_cond_wait(&s->work, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return atomic_load(&s->round);
}

static void *serve(void *state) {
    thread_pool *s = state;
    for (uint64_t round = 0;;) {
        round = wait_for_round(s, round);
        if (atomic_load(&s->ending))
            return NULL;
        take_units(s);
        /* A full fence, since the units may have stored past the caches, which release leaves open.
         */
        atomic_thread_fence(memory_order_seq_cst);
        atomic_fetch_sub_explicit(&s->working, 1, memory_order_release);
    }
}

static void begin_round(thread_pool *s) {
    pthread_mutex_lock(&s->lock);
    atomic_fetch_add(&s->round, 1);
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

static void parallel_for(void *state, int64_t units, void (*unit)(void *job, int64_t i),
                         void *job) {
    thread_pool *s = state;
    s->units = units;
    s->unit = unit;
    s->job = job;
    atomic_store(&s->next, 0);
    atomic_store(&s->working, s->team.threads - 1);
    begin_round(s);
    take_units(s);
    while (atomic_load_explicit(&s->working, memory_order_acquire) > 0)
        pause_briefly();
}

static void end_threads(thread_pool *s, int64_t started) {
    atomic_store(&s->ending, 1);
    begin_round(s);
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
