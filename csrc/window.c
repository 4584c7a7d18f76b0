/* DESIGN: seats of the window.
 *
 * What: a bound on the workers that are in the window at a time, which grows past those that are stuck (a
 *     hung exec, a dead file server); a report in shared memory for each.
 * Where: any thread, under the lock.
 * Invariants: a report is written by the child of its seat, and by whoever cancels it; nobody else has the
 *     memory. What a forked process could write there would decide what its parent believes of its
 *     spawns, so forked processes do not get it: the kernel leaves it out (MADV_DONTFORK), or, where vfork
 *     itself is a fork and the child needs it, the handler of fork() unmaps it. */
#include "window.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WINDOW_REPORTS_SIZE = AVF_SEATS * sizeof(struct avf_report) };

/* guarded by lock */
static struct avf_seat seats[AVF_SEATS];
static struct avf_seat *seats_free, *seats_oldest, *seats_newest;
static struct avf_report *reports; /* MAP_SHARED, one for each seat */
static uint32_t bound;             /* max(4, 2 * cpus) */
static _Atomic int shared_with_forks;

/* THREAD any, under the lock. */
int avf_window_open(void)
{
    if (reports)
        return 0;
    void *memory = mmap(NULL, WINDOW_REPORTS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(memory, WINDOW_REPORTS_SIZE, MADV_DONTFORK); /* if not, the handler unmaps it */
    reports = memory;
    shared_with_forks = 0;
    seats_free = seats_oldest = seats_newest = NULL;
    for (int i = 0; i < AVF_SEATS; i++) {
        seats[i] = (struct avf_seat){.report = &reports[i], .next = seats_free};
        seats_free = &seats[i];
    }
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    bound = cpus > 2 ? 2 * (uint32_t)cpus : 4;
    if (bound > AVF_SEATS)
        bound = AVF_SEATS;
    return 0;
}

/* THREAD any, under the lock. The bound counts only workers that are not stuck: those must starve nobody.
 * Where several loops wait, each may hold its share. */
int avf_window_admits(uint32_t port_in_flight, int waits, int64_t now)
{
    uint32_t in_flight = (uint32_t)avf_state.counters.in_flight;
    uint32_t others = avf_state.waiting_ports - (waits != 0);
    uint32_t share = bound / (1 + others);
    if (!seats_free)
        return 0;
    for (struct avf_seat *seat = seats_oldest; seat && in_flight >= bound; seat = seat->next) {
        if (now - seat->started_ns < AVF_STUCK_NS)
            return 0;
        in_flight--;
    }
    return in_flight < bound && (others == 0 || port_in_flight < (share ? share : 1));
}

/* THREAD any, under the lock. */
int avf_window_has_room(void)
{
    return avf_state.counters.in_flight < bound;
}

/* THREAD any, under the lock. */
struct avf_seat *avf_window_enter(int64_t now)
{
    struct avf_seat *seat = seats_free;
    seats_free = seat->next;
    seat->started_ns = now;
    seat->next = NULL;
    seat->previous = seats_newest;
    if (seats_newest)
        seats_newest->next = seat;
    else
        seats_oldest = seat;
    seats_newest = seat;
    memset(seat->report, 0, sizeof *seat->report);
    return seat;
}

/* THREAD any, under the lock. */
void avf_window_leave(struct avf_seat *seat)
{
    if (seat->previous)
        seat->previous->next = seat->next;
    else
        seats_oldest = seat->next;
    if (seat->next)
        seat->next->previous = seat->previous;
    else
        seats_newest = seat->previous;
    seat->next = seats_free;
    seats_free = seat;
}

/* THREAD worker. */
void avf_window_share_with_forks(void)
{
    if (!shared_with_forks) {
        shared_with_forks = 1; /* late for whoever clones just now: its child dies, and the spawn fails */
        (void)madvise(reports, WINDOW_REPORTS_SIZE, MADV_DOFORK);
    }
}

/* THREAD any, in the child of a fork. */
void avf_window_after_fork(void)
{
    if (reports)
        (void)munmap(reports, WINDOW_REPORTS_SIZE); /* nothing is there if the kernel has left it out */
    reports = NULL;
}
