/* The completion port, for those who post to it and those who end things. */
#ifndef AVF_PORT_H
#define AVF_PORT_H

#include "request.h"

struct avf_port {
    /* immutable after open, until close */
    int epoll_fd, event_fd, timer_fd;
    /* guarded by lock */
    struct avf_port *previous, *next; /* all open ports */
    struct avf_slots queue;           /* QUEUED, oldest first */
    struct avf_slots done;            /* POSTED */
    struct avf_slots unreaped;        /* ALIVE, readable but without a status: ptraced */
    uint32_t in_flight;
    uint32_t references; /* Python's one, one for each worker, one for a drain */
    uint8_t closed, draining, signalled, timer_armed;
    /* loop only */
    avf_batch batch;
};

/* THREAD any, under the lock. A request without a seat joins the queue. */
void avf_port_enqueue(struct avf_port *port, struct avf_slot *slot);
/* THREAD any, under the lock. avf_slot_move for a slot of this port, which may thereby leave its queue. */
void avf_port_move(struct avf_port *port, struct avf_slot *slot, enum avf_slot_state to,
                   struct avf_slots *list);

/* THREAD any, under the lock. Gives the slot's request a seat, and the port a reference that goes with it. */
void avf_port_seat(struct avf_port *port, struct avf_slot *slot, int64_t now);
/* THREAD any, under the lock. Takes both away again. */
void avf_port_unseat(struct avf_port *port, struct avf_seat *seat);

/* THREAD any, under the lock. The next request in the queue that may enter the window now, seated; NULL
 * where there is none. Only what was submitted before the time `before` is considered. */
struct avf_request *avf_port_next(struct avf_port *port, int64_t before, int64_t now);

/* THREAD any, under the lock. A slot is posted, as a failure or as it has been filled: makes the port readable. */
void avf_port_post_failure(struct avf_port *port, struct avf_slot *slot, int32_t error, int32_t step);
void avf_port_post(struct avf_port *port, struct avf_slot *slot);
/* THREAD any, under the lock. Makes the port readable. */
void avf_port_signal(struct avf_port *port);
/* THREAD any, under the lock. Wakes a port, other than this, that waits for a place in the window. */
void avf_port_wake_waiting(const struct avf_port *except);
/* THREAD any, under the lock. The last one frees the port; not on a worker, see avf_port_unreference. */
void avf_port_unreference(struct avf_port *port);

/* THREAD any, under the lock. The timer brings the loop back when something may have changed that
 * nobody posts: a stuck worker, the end of a ptrace. */
void avf_port_arm_timer(struct avf_port *port);

/* THREAD loop, in the gate. RETURNS 0 or -errno; what is open by then is noted in the port. */
int avf_port_open_fds(struct avf_port *port);
/* THREAD any, under the lock, in the gate. Closes the descriptors of a closed port, unless a drain uses them: then
 * it does that at its end. */
void avf_port_close_fds(struct avf_port *port);

/* THREAD loop. Frees the ports whose last reference a worker has given back. */
void avf_port_free_retired(void);

/* epoll data: a ticket, which is never one of these. */
enum { AVF_PORT_EVENT = 0, AVF_PORT_TIMER = ~0U };

#endif
