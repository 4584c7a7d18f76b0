/* DESIGN: see state.h. Here: the table of tickets, admission to the window, and fork(). */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

struct avf_state avf_state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int fork_watched;

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
    pthread_mutex_lock(&avf_state.lock);
}

/* THREAD any. */
void avf_unlock(void)
{
    pthread_mutex_unlock(&avf_state.lock);
}

/* THREAD any, under the lock. */
void avf_slots_append(struct avf_slots *list, struct avf_slot *slot)
{
    slot->next = NULL;
    slot->previous = list->tail;
    if (list->tail)
        list->tail->next = slot;
    else
        list->head = slot;
    list->tail = slot;
}

/* THREAD any, under the lock. */
void avf_slots_remove(struct avf_slots *list, struct avf_slot *slot)
{
    if (slot->previous)
        slot->previous->next = slot->next;
    else
        list->head = slot->next;
    if (slot->next)
        slot->next->previous = slot->previous;
    else
        list->tail = slot->previous;
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
        chunk[i].pidfd = -1;
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
    avf_slots_remove(&avf_state.free, slot);
    *slot = (struct avf_slot){
        .ticket = slot->ticket + (1ULL << 32),
        .state = AVF_SLOT_QUEUED,
        .pidfd = -1,
        .parent_end = {-1, -1, -1},
    };
    *ret_slot = slot;
    return 0;
}

/* THREAD any, under the lock. */
void avf_slot_orphan(struct avf_slot *slot)
{
    struct avf_parent *parent = slot->parent;
    slot->parent = NULL;
    if (!parent || --parent->living > 0)
        return;
    if (parent->left)
        free(parent);
    else if (parent->asleep)
        pthread_cond_signal(&parent->gone);
}

/* THREAD any, under the lock. */
void avf_slot_release(struct avf_slot *slot)
{
    avf_slot_orphan(slot);
    slot->state = AVF_SLOT_FREE;
    slot->port = NULL;
    slot->pidfd = -1;
    avf_slots_append(&avf_state.free, slot);
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

/* THREAD any, under the lock. */
static void seats_reset(void)
{
    avf_state.seats_free = avf_state.seats_oldest = avf_state.seats_newest = NULL;
    for (int i = 0; i < AVF_SEATS; i++) {
        avf_state.seats[i] = (struct avf_seat){.report = &avf_state.reports[i], .next = avf_state.seats_free};
        avf_state.seats_free = &avf_state.seats[i];
    }
}

/* THREAD any. The lock is held across fork(), so that both sides see whole lists. */
static void fork_prepare(void)
{
    avf_lock();
}

/* THREAD any. */
static void fork_parent(void)
{
    avf_unlock();
}

/* THREAD any (the only one there is in the child of a fork). Forgets the parent's children, workers
 * and ports: their descriptors are closed here, so that no pipe is held open, and every ticket is
 * over, so that nothing of the parent's can be signalled. An epoll instance is shared with the
 * parent: it is closed, never changed. */
static void fork_child(void)
{
    pthread_mutex_init(&avf_state.lock, NULL); /* held since fork_prepare; there is no other thread */
    for (uint32_t c = 0; c < avf_state.chunk_count; c++)
        for (uint32_t i = 0; i < AVF_CHUNK; i++) {
            struct avf_slot *slot = &avf_state.chunks[c][i];
            if (slot->state == AVF_SLOT_FREE)
                continue;
            slot->parent = NULL; /* the workers are not here */
            if (slot->request)
                avf_request_free(slot->request);
            if (slot->pidfd >= 0)
                close(slot->pidfd);
            if (slot->state == AVF_SLOT_POSTED)
                for (int end = 0; end < 3; end++)
                    if (slot->parent_end[end] >= 0)
                        close(slot->parent_end[end]);
            slot->request = NULL;
            avf_slot_release(slot);
        }
    for (struct avf_port *port = avf_state.ports; port; port = port->next) {
        close(port->epoll_fd);
        close(port->event_fd);
        close(port->timer_fd);
        port->closed = 1;
        port->references = 1; /* Python's; the workers are not here */
        port->queue = port->done = port->unreaped = (struct avf_slots){0};
    }
    avf_state.ports = NULL;
    avf_state.waiting_ports = 0;
    avf_state.parked = 0;
    memset(&avf_state.counters, 0, sizeof avf_state.counters);
    /* The parent's children in the window still write to the shared reports: leave them to it. */
    avf_state.reports = NULL;
}

/* THREAD any, when the extension is loaded, before any lock can be held: a fork() that runs while the
 * first port is opened must already know of the lock. */
__attribute__((constructor)) static void fork_watch(void)
{
    fork_watched = pthread_atfork(fork_prepare, fork_parent, fork_child) == 0;
}

/* THREAD any, under the lock. */
int avf_state_ready(void)
{
    if (avf_state.reports)
        return 0;
    void *memory = mmap(NULL, AVF_SEATS * sizeof(struct avf_report), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || !fork_watched)
        return -ENOMEM;
    avf_state.reports = memory;
    seats_reset();
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    avf_state.bound = cpus > 2 ? 2 * (uint32_t)cpus : 4;
    if (avf_state.bound > AVF_SEATS)
        avf_state.bound = AVF_SEATS;
    return 0;
}

/* THREAD any, under the lock. The bound counts only workers that are not stuck (a hung exec, a dead
 * NFS server): those must starve nobody. Where several loops wait, each may hold its share. */
int avf_window_admits(uint32_t port_in_flight, int waits, int64_t now)
{
    uint32_t in_flight = (uint32_t)avf_state.counters.in_flight;
    uint32_t others = avf_state.waiting_ports - (waits != 0);
    uint32_t share = avf_state.bound / (1 + others);
    if (!avf_state.seats_free)
        return 0;
    for (struct avf_seat *seat = avf_state.seats_oldest; seat && in_flight >= avf_state.bound;
         seat = seat->next) {
        if (now - seat->started_ns < AVF_STUCK_NS)
            return 0;
        in_flight--;
    }
    return in_flight < avf_state.bound && (others == 0 || port_in_flight < (share ? share : 1));
}

/* THREAD any, under the lock. */
struct avf_seat *avf_window_enter(int64_t now)
{
    struct avf_seat *seat = avf_state.seats_free;
    avf_state.seats_free = seat->next;
    seat->started_ns = now;
    seat->next = NULL;
    seat->previous = avf_state.seats_newest;
    if (avf_state.seats_newest)
        avf_state.seats_newest->next = seat;
    else
        avf_state.seats_oldest = seat;
    avf_state.seats_newest = seat;
    memset(seat->report, 0, sizeof *seat->report);
    if (++avf_state.counters.in_flight > avf_state.counters.in_flight_peak)
        avf_state.counters.in_flight_peak = avf_state.counters.in_flight;
    return seat;
}

/* THREAD any, under the lock. */
void avf_window_leave(struct avf_seat *seat)
{
    if (seat->previous)
        seat->previous->next = seat->next;
    else
        avf_state.seats_oldest = seat->next;
    if (seat->next)
        seat->next->previous = seat->previous;
    else
        avf_state.seats_newest = seat->previous;
    seat->next = avf_state.seats_free;
    avf_state.seats_free = seat;
    avf_state.counters.in_flight--;
}

/* THREAD any. */
void avf_stats(avf_counters *ret_counters)
{
    avf_lock();
    *ret_counters = avf_state.counters;
    avf_unlock();
}
