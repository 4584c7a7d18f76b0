/* DESIGN: see state.h. Here: the lock, the gate, the table of tickets, the life cycle of a slot. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct avf_state avf_state;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The gate: a read-write lock, whose writer is fork(). */
#ifdef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
#else
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER; /* musl prefers writers by itself */
#endif

static _Atomic int forking;
static pid_t forking_pid; /* the parent's */

/* What the child of a fork does first: fork.c's. */
static void (*enter_child)(void);

/* THREAD any. In the child of a fork, another library's handler may run before ours, and call us: uvloop's runs
 * Python, which runs its own. It finds lock and gate held by itself. */
static void after_fork_if_due(void)
{
    if (forking && getpid() != forking_pid && enter_child)
        enter_child();
}

/* THREAD any. */
int64_t avf_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* THREAD any. */
int avf_fd_above_stdio(int fd)
{
    if (fd < 0)
        return -errno;
    if (fd > 2)
        return fd;
    int lifted = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int error = -errno;
    close(fd);
    return lifted < 0 ? error : lifted;
}

/* THREAD any. */
void avf_lock(void)
{
    after_fork_if_due();
    pthread_mutex_lock(&lock);
}

/* THREAD any. */
void avf_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* THREAD worker, under the lock. */
int avf_lock_wait(pthread_cond_t *condition, const struct timespec *until)
{
    if (until)
        return pthread_cond_timedwait(condition, &lock, until) == 0;
    return pthread_cond_wait(condition, &lock) == 0;
}

/* THREAD any. */
void avf_gate_enter(void)
{
    after_fork_if_due();
    pthread_rwlock_rdlock(&gate);
}

/* THREAD any. */
void avf_gate_leave(void)
{
    pthread_rwlock_unlock(&gate);
}

/* THREAD any. */
void avf_state_before_fork(void)
{
    pthread_rwlock_wrlock(&gate); /* without the lock: those inside may want it */
    avf_lock();
    forking_pid = getpid();
    forking = 1;
}

/* THREAD any, when the extension is loaded. */
void avf_state_watch_forks(void (*in_child)(void))
{
    enter_child = in_child;
}

/* THREAD any. */
void avf_after_fork(void)
{
    after_fork_if_due();
}

/* THREAD any. The parent unlocks; the child, where no other thread exists, makes both anew. */
void avf_state_after_fork(int in_child)
{
    forking = 0;
    if (in_child) {
        lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
        pthread_rwlock_init(&gate, NULL);
    } else {
        avf_unlock();
        pthread_rwlock_unlock(&gate);
    }
}

/* THREAD any. */
int avf_fork_is_under_way(void)
{
    return forking;
}

/* THREAD any, under the lock. */
void avf_slots_append(struct avf_slots *list, struct avf_slot *slot)
{
    slot->list = list;
    slot->next = NULL;
    slot->previous = list->tail;
    if (list->tail)
        list->tail->next = slot;
    else
        list->head = slot;
    list->tail = slot;
}

/* THREAD any, under the lock. */
void avf_slots_remove(struct avf_slot *slot)
{
    struct avf_slots *list = slot->list;
    if (slot->previous)
        slot->previous->next = slot->next;
    else
        list->head = slot->next;
    if (slot->next)
        slot->next->previous = slot->previous;
    else
        list->tail = slot->previous;
    slot->list = NULL;
    slot->previous = slot->next = NULL;
}

/* THREAD any, under the lock. */
static int slots_grow(void)
{
    struct avf_slot **chunks = realloc(avf_state.chunks, (avf_state.chunk_count + 1) * sizeof *chunks);
    if (!chunks)
        return -ENOMEM;
    avf_state.chunks = chunks;
    struct avf_slot *chunk = calloc(AVF_CHUNK, sizeof *chunk);
    if (!chunk)
        return -ENOMEM;
    for (uint32_t i = 0; i < AVF_CHUNK; i++) {
        chunk[i].ticket = (uint64_t)avf_state.chunk_count * AVF_CHUNK + i + 1;
        avf_slots_append(&avf_state.free, &chunk[i]);
    }
    avf_state.chunks[avf_state.chunk_count++] = chunk;
    return 0;
}

/* THREAD any, under the lock. */
int avf_slot_take(struct avf_slot **ret_slot)
{
    if (!avf_state.free.head && slots_grow() < 0)
        return -ENOMEM;
    struct avf_slot *slot = avf_state.free.head;
    avf_slots_remove(slot);
    *slot = (struct avf_slot){
        .ticket = slot->ticket + (1ULL << 32),
        .pid = -1,
        .pidfd = -1,
        .parent_end = {-1, -1, -1},
    };
    *ret_slot = slot;
    return 0;
}

/* THREAD any, under the lock. */
static void count(uint64_t *now, uint64_t *peak)
{
    if (++*now > *peak)
        *peak = *now;
}

/* THREAD any, under the lock. */
void avf_slot_move(struct avf_slot *slot, enum avf_slot_state to, struct avf_slots *list)
{
#define STATE(name) (1U << AVF_SLOT_##name)
    static const uint32_t allowed[AVF_SLOT_STATES] = {
        [AVF_SLOT_FREE] = STATE(QUEUED) | STATE(STARTED) | STATE(CAPTURED),
        [AVF_SLOT_QUEUED] = STATE(STARTED) | STATE(POSTED) | STATE(FREE),
        [AVF_SLOT_STARTED] = STATE(CAPTURED) | STATE(POSTED) | STATE(ORPHANED) | STATE(FREE),
        [AVF_SLOT_CAPTURED] = STATE(POSTED) | STATE(ORPHANED) | STATE(FREE),
        [AVF_SLOT_POSTED] = STATE(ALIVE) | STATE(HELD) | STATE(ORPHANED) | STATE(FREE),
        [AVF_SLOT_ALIVE] = STATE(HELD) | STATE(DETACHED) | STATE(FREE),
        [AVF_SLOT_HELD] = STATE(FREE),
        [AVF_SLOT_DETACHED] = STATE(ORPHANED) | STATE(FREE),
        [AVF_SLOT_ORPHANED] = STATE(FREE),
    };
#undef STATE
    avf_counters *counters = &avf_state.counters;
    enum avf_slot_state from = slot->state;
    if (!(allowed[from] >> to & 1))
        abort(); /* a defect of the core: better here than as somebody else's child */
    if (slot->list)
        avf_slots_remove(slot);
    counters->queued -= from == AVF_SLOT_QUEUED;
    counters->in_flight -= from == AVF_SLOT_STARTED;
    if (to == AVF_SLOT_QUEUED)
        count(&counters->queued, &counters->queued_peak);
    if (to == AVF_SLOT_STARTED)
        count(&counters->in_flight, &counters->in_flight_peak);
    if (!slot->counted && (to == AVF_SLOT_ALIVE || (to == AVF_SLOT_CAPTURED && slot->pid > 0))) {
        count(&counters->alive, &counters->alive_peak);
        slot->counted = 1;
    } else if (to == AVF_SLOT_ORPHANED || to == AVF_SLOT_FREE) {
        counters->alive -= slot->counted;
        slot->counted = 0;
    }
    slot->state = (uint8_t)to;
    if (to == AVF_SLOT_FREE) {
        slot->port = NULL;
        slot->request = NULL;
        slot->pid = slot->pidfd = -1;
        list = &avf_state.free;
    }
    if (list)
        avf_slots_append(list, slot);
}

/* THREAD any, under the lock. */
static void count_time(avf_histogram *histogram, int64_t time_ns)
{
    uint64_t ns = time_ns > 0 ? (uint64_t)time_ns : 0;
    uint32_t bucket =
        ns > 1ULL << AVF_BUCKET_SHIFT ? 64 - AVF_BUCKET_SHIFT - (uint32_t)__builtin_clzll(ns - 1) : 0;
    histogram->sum_ns += ns;
    histogram->buckets[bucket < AVF_BUCKETS ? bucket : AVF_BUCKETS - 1]++;
}

/* THREAD any, under the lock. */
void avf_slot_count_spawned(const struct avf_slot *slot)
{
    avf_counters *counters = &avf_state.counters;
    counters->spawned++;
    count_time(&counters->queue_time, slot->queue_ns);
    count_time(&counters->exec_time, slot->exec_ns);
}

/* THREAD any, under the lock. */
struct avf_slot *avf_slot_find(uint64_t ticket)
{
    uint32_t index = (uint32_t)ticket - 1;
    if (index / AVF_CHUNK >= avf_state.chunk_count)
        return NULL;
    struct avf_slot *slot = &avf_state.chunks[index / AVF_CHUNK][index % AVF_CHUNK];
    return slot->ticket == ticket && slot->state != AVF_SLOT_FREE ? slot : NULL;
}

/* THREAD any. */
void avf_stats(avf_counters *ret_counters)
{
    avf_lock();
    *ret_counters = avf_state.counters;
    avf_unlock();
}
