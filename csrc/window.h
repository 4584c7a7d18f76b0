/* The window, from the start of a worker to its post: how many may be in it, and where they report. */
#ifndef AVF_WINDOW_H
#define AVF_WINDOW_H

#include "child.h"
#include "state.h"

enum {
    AVF_SEATS = 256,                 /* hard cap of workers in the window */
    AVF_STUCK_NS = 20 * 1000 * 1000, /* a worker longer in the window does not count to the bound */
};

/* guarded by lock, but for the report */
struct avf_seat {
    struct avf_report *report;
    struct avf_seat *previous, *next; /* taken: oldest first; free: any */
    int64_t started_ns;
};

/* THREAD any, under the lock. First use of the process (or of a forked child): the shared memory and
 * the bound. RETURNS 0 or -ENOMEM. */
int avf_window_open(void);

/* THREAD any, under the lock. Whether a port with so many workers in the window may have one more now;
 * waits tells whether it is itself among those that wait. */
int avf_window_admits(uint32_t port_in_flight, int waits, int64_t now);

/* THREAD any, under the lock. Whether fewer workers are in the window than the bound. */
int avf_window_has_room(void);

/* THREAD any, under the lock. A seat, with a clean report, for a slot that is STARTED. */
struct avf_seat *avf_window_enter(int64_t now);
void avf_window_leave(struct avf_seat *seat);

/* THREAD worker. vfork does not share memory here, it is a fork: so let forked processes have the reports. */
void avf_window_share_with_forks(void);

/* THREAD any, in the child of a fork: it has no window, and no access to the parent's reports. */
void avf_window_after_fork(void);

#endif
