/* What the threads share: the lock, the gate, the table of tickets.
 *
 * DESIGN
 *
 * A spawn has three lives. A *request* (request.c) holds everything needed to start a child; it lives from
 * submit until its worker has posted the outcome. A *slot* is what a ticket names; it lives from submit until
 * Python has drained FAILED or EXITED, and is small, since there is one for each living child. A *seat*
 * (window.c) is a place in the window, with a report; it is held from the start of a worker until the worker
 * posts.
 *
 *     QUEUED --start--> STARTED --post--> POSTED --drain SPAWNED--> ALIVE --drain EXITED--> free
 *                                            `--drain FAILED--> free  `--AVF_GROUP_LIVES--> HELD --release--> free
 *     with a capture:  STARTED --a worker--> CAPTURED --the collector--> POSTED --drain CAPTURED--> free, or ALIVE
 *     when its port closes:  POSTED, ALIVE --> DETACHED      and when nobody wants it: --> ORPHANED --> free
 *
 * slot_move() is the one place where a slot changes state, list and counters.
 *
 * One lock guards all of it. Every critical section is short: no loop over more than what it delivers, no
 * system call that can block (epoll_ctl, eventfd write and pidfd_send_signal can not).
 *
 * The gate is for fork(). A thread that makes or closes a descriptor of ours, and has not yet noted that
 * where fork.c finds it, is inside the gate; fork() waits until nobody is, and keeps everybody out. So
 * the forked child can close exactly what it has inherited. Inside the gate nobody blocks. The lock is taken
 * inside the gate, never the other way round.
 *
 * A number (fd, pid, pidfd) is closed by whoever took it out of a slot or request under the lock: so nobody
 * signals, and the child of a fork never closes, a number that is somebody else's by now.
 *
 * Words: *take* gives the caller what it must then close, free or pass on; *consume* does that to an
 * argument; *orphan* gives a child to the reaper.
 *
 * Deliberately absent: a thread that serves later calls. A worker is created by the thread that asks,
 * and inherits that thread's confinement, scheduling and credentials, exactly as fork would. */
#ifndef AVF_STATE_H
#define AVF_STATE_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "binding.h"

enum avf_slot_state {
    AVF_SLOT_FREE,
    AVF_SLOT_QUEUED,   /* waits for a place in the window */
    AVF_SLOT_STARTED,  /* a worker has the request */
    AVF_SLOT_POSTED,   /* the outcome waits to be drained */
    AVF_SLOT_ALIVE,    /* SPAWNED was drained */
    AVF_SLOT_HELD,     /* EXITED was drained, and said AVF_GROUP_LIVES */
    AVF_SLOT_CAPTURED, /* the collector has it: a child, pipes of one, or a copy */
    AVF_SLOT_DETACHED, /* a child whose port has closed */
    AVF_SLOT_ORPHANED, /* a killed child that the reaper waits for */
    AVF_SLOT_STATES
};

enum avf_outcome {
    AVF_OUTCOME_NONE,
    AVF_OUTCOME_CHILD,
    AVF_OUTCOME_FAILURE,
    AVF_OUTCOME_CAPTURE, /* a capture is over */
    AVF_OUTCOME_COPY     /* what was kept is where the loop wants it */
};

struct avf_slots {
    struct avf_slot *head, *tail;
};

/* guarded by lock, all of it */
struct avf_slot {
    uint64_t ticket;                  /* generation << 32 | index + 1; the generation is kept while free */
    struct avf_slots *list;           /* the one it is in, or NULL */
    struct avf_slot *previous, *next; /* there */
    struct avf_port *port;            /* NULL once the port closed */
    struct avf_request *request;      /* QUEUED, STARTED */
    avf_capture *capture;             /* whose it is, until its record was drained; NULL once it was freed */
    uint64_t parent;                  /* of a child: its worker's place in park.c */
    uint8_t state;                    /* enum avf_slot_state */
    uint8_t outcome;                  /* enum avf_outcome */
    uint8_t reaped_now;               /* a drain looks at the child without the lock: the pidfd stays open */
    uint8_t unwanted;                 /* it was disposed of while ALIVE: nobody will do that again */
    uint8_t lives_on;                 /* its port's end is not its own */
    uint8_t leads;                    /* of a child: it leads a process group of its own */
    uint8_t pin, group_dies;          /* of a child: AVF_PLAN_PIN, AVF_PLAN_GROUP_DIES */
    uint8_t is_over,
        is_unreaped;    /* of a child: its exit was seen; and it keeps its pid until the slot is let go */
    uint8_t unwatched;  /* of a child: the port's epoll could not take its pidfd */
    uint8_t captured;   /* it was submitted with a capture */
    uint8_t counted;    /* it is one of counters.alive */
    uint8_t bound;      /* of a child: its plan has a parent-death signal, so its worker must stay */
    int32_t pid, pidfd; /* of a child; else -1 */
    int32_t error, step, status, flags;
    int32_t parent_end[3];
    int32_t notes[AVF_NOTES]; /* of a child */
    int64_t queue_ns, clone_ns, exec_ns;
};

struct avf_state {
    int fork_is_watched; /* set when the extension is loaded */
    /* guarded by lock */
    struct avf_slot **chunks; /* of AVF_CHUNK slots, never freed */
    uint32_t chunk_count;
    struct avf_slots free, orphans;
    struct avf_slots adopted; /* DETACHED, to be reaped when they end by themselves */
    struct avf_port *ports;
    uint32_t waiting_ports; /* ports whose queue is not empty */
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
/* THREAD worker, under the lock, which it gives away while it waits. RETURNS 0 when `until` (CLOCK_MONOTONIC;
 * NULL is never) has passed. */
int avf_lock_wait(pthread_cond_t *condition, const struct timespec *until);

/* THREAD any. Not under the lock. Holds fork() off while this thread owns a descriptor that it has not noted. */
void avf_gate_enter(void);
void avf_gate_leave(void);

/* THREAD any. For fork.c: the gate as its only user, then the lock. */
void avf_state_before_fork(void);
void avf_state_after_fork(int in_child);
/* THREAD any, when the extension is loaded. What a forked child does first, called by whoever of us is called first. */
void avf_state_watch_forks(void (*in_child)(void));

/* THREAD any. Whether a fork() is under way, which holds the lock for as long as a large heap takes to copy. */
int avf_fork_is_under_way(void);

/* THREAD any, under the lock. */
void avf_slots_append(struct avf_slots *list, struct avf_slot *slot);
void avf_slots_remove(struct avf_slot *slot);

/* THREAD any, under the lock. RETURNS 0 or -ENOMEM; the slot is still FREE, but in no list. */
int avf_slot_take(struct avf_slot **ret_slot);

/* THREAD any, under the lock. The one place where a slot changes state: checks that the life cycle has that
 * step, takes the slot out of its list and into `list` (or none), and counts. */
void avf_slot_move(struct avf_slot *slot, enum avf_slot_state to, struct avf_slots *list);

/* THREAD any, under the lock. Counts a child that reached exec, and its times: once, where its record is made. */
void avf_slot_count_spawned(const struct avf_slot *slot);

/* THREAD any, under the lock. RETURNS NULL for a ticket that is over. */
struct avf_slot *avf_slot_find(uint64_t ticket);

#endif
