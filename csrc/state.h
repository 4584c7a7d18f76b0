/* What the threads share: one lock, the table of tickets, the seats of the window.
 *
 * DESIGN
 *
 * A spawn has three lives. A *request* (request.c) holds everything needed to start a child; it lives
 * from submit until its worker has posted the outcome. A *slot* is what a ticket names; it lives from
 * submit until Python has drained FAILED or EXITED, and is small, since there is one for each living
 * child. A *seat* is a place in the window, with a report in shared memory; it is held from the start
 * of a worker until the worker posts.
 *
 *     QUEUED --start--> STARTED --post--> POSTED --drain--> ALIVE --drain EXITED--> free
 *                                            `--drain FAILED--> free
 *
 * One lock guards all of it. Every critical section is short: no loop over more than what it
 * delivers, no system call that can block (epoll_ctl, eventfd write and pidfd_send_signal can not).
 * One lock is also what makes fork() simple: pthread_atfork takes it, so the child sees whole lists.
 *
 * A descriptor is closed by whoever took it out of a slot or request under the lock, after unlocking:
 * so nobody signals, and the child of a fork never closes, a number that is somebody else's by now.
 *
 * Deliberately absent: a thread that serves later calls. A worker is created by the thread that asks,
 * and inherits that thread's confinement, scheduling and credentials, exactly as fork would. */
#ifndef AVF_STATE_H
#define AVF_STATE_H

#include <pthread.h>

#include "child.h"

enum {
    AVF_SEATS = 256,                 /* hard cap of workers in the window */
    AVF_STUCK_NS = 20 * 1000 * 1000, /* a worker longer in the window does not count to the bound */
    AVF_PARKED = 64,                 /* workers that outlive their spawns for their children's sake */
    AVF_CHILD_STACK = 32 * 1024,     /* of which child_run uses well under 4 KiB */
    AVF_WORKER_STACK = 128 * 1024,   /* the child's included */
};

struct avf_streams;

/* A worker, as the kernel's parent of its children: while it lives, none of them gets a parent-death
 * signal. Freed by the worker, or after it by the end of its last child. */
struct avf_parent {
    /* guarded by lock */
    uint32_t living; /* children posted and not yet over */
    uint8_t asleep;  /* the worker waits for `gone` without a time limit */
    uint8_t left;    /* the worker has ended */
    pthread_cond_t gone;
};

enum avf_slot_state { AVF_SLOT_FREE, AVF_SLOT_QUEUED, AVF_SLOT_STARTED, AVF_SLOT_POSTED, AVF_SLOT_ALIVE };

/* guarded by lock, all of it */
struct avf_slot {
    uint64_t ticket;                  /* generation << 32 | index + 1; the generation is kept while free */
    struct avf_slot *previous, *next; /* in one of: free, port->queue, port->done, port->unreaped */
    struct avf_port *port;            /* NULL once the port closed */
    struct avf_request *request;      /* QUEUED, STARTED */
    struct avf_parent *parent;        /* POSTED, ALIVE; NULL once its worker has ended */
    int32_t state;                    /* enum avf_slot_state */
    int32_t pid, pidfd;               /* pidfd -1 where there is none */
    int32_t error, step, status, flags;
    int32_t parent_end[3];
    int64_t queue_ns, clone_ns, exec_ns;
};

struct avf_slots {
    struct avf_slot *head, *tail;
};

/* guarded by lock, but for the report */
struct avf_seat {
    struct avf_report *report;
    struct avf_seat *previous, *next; /* taken: oldest first; free: any */
    int64_t started_ns;
};

struct avf_state {
    pthread_mutex_t lock;
    /* guarded by lock */
    struct avf_slot **chunks; /* of AVF_CHUNK slots, never freed */
    uint32_t chunk_count;
    struct avf_slots free;
    struct avf_seat seats[AVF_SEATS];
    struct avf_seat *seats_free, *seats_oldest, *seats_newest;
    struct avf_report *reports; /* MAP_SHARED, one for each seat */
    struct avf_port *ports;
    struct avf_streams *streams; /* the newest set that is in use, or NULL */
    uint32_t parked;             /* workers that wait for their children */
    uint32_t bound;              /* max(4, 2 * cpus) */
    uint32_t waiting_ports;      /* ports whose queue is not empty */
    avf_counters counters;
};

enum { AVF_CHUNK = 256 };

extern struct avf_state avf_state;

/* THREAD any. Nanoseconds of CLOCK_MONOTONIC, through the vdso. */
int64_t avf_now(void);

/* THREAD any. OWNS fd. RETURNS it on a number above 2, or -errno, fd then closed. Where 0 to 2 were closed new
 * descriptors get those numbers: libuv never closes them, and others dup2 over them. An fd < 0 is -errno. */
int avf_fd_above_stdio(int fd);

/* THREAD any. The one lock. */
void avf_lock(void);
void avf_unlock(void);

/* THREAD any, under the lock. */
void avf_slots_append(struct avf_slots *list, struct avf_slot *slot);
void avf_slots_remove(struct avf_slots *list, struct avf_slot *slot);

/* THREAD any, under the lock. RETURNS 0 or -ENOMEM; the slot is QUEUED, in no list. */
int avf_slot_take(struct avf_slot **ret_slot);
void avf_slot_release(struct avf_slot *slot);
/* THREAD any, under the lock. The child has, for its parent, ended. */
void avf_slot_orphan(struct avf_slot *slot);
/* THREAD any, under the lock. RETURNS NULL for a ticket that is over. */
struct avf_slot *avf_slot_find(uint64_t ticket);

/* THREAD any, under the lock. First use of the process (or of a forked child): the shared memory and
 * the bound. RETURNS 0 or -ENOMEM. */
int avf_state_ready(void);

/* THREAD any, under the lock. Whether a port with so many workers in the window may have one more now;
 * waits tells whether it is itself among those that wait. */
int avf_window_admits(uint32_t port_in_flight, int waits, int64_t now);
struct avf_seat *avf_window_enter(int64_t now);
void avf_window_leave(struct avf_seat *seat);

#endif
