/* What the collector has to do. */
#ifndef AVF_COLLECTION_H
#define AVF_COLLECTION_H

#include "capture.h"
#include "state.h"

/* guarded by lock, but for the descriptors, which are open while there is a collector */
struct avf_collection {
    int epoll_fd, event_fd;
    int running, starting; /* the collector */
    uint32_t expected, waiters;
    uint32_t generation; /* a forked process is the next one: what its parent expected counts no more */
    struct avf_captured *copies, *discarded, *timed, *retired;
    int64_t next_deadline;  /* of those that are timed, or 0 */
    pthread_cond_t changed; /* some capture is not busy any more, or a collector has started, or could not */
};

extern struct avf_collection avf_collection;

/* The ends of a capture: stdin, stdout, stderr, and its child. */
enum { AVF_END_PIDFD = 3 };

enum { AVF_LOOK_AGAIN_NS = 20 * 1000 * 1000 };

/* THREAD any, under the lock. As epoll_ctl: events name a ticket and an end. RETURNS 0 or -errno. */
int avf_collection_watch(uint64_t ticket, int end, int fd, uint32_t events, int operation);
void avf_collection_unwatch(int fd);
/* THREAD any, under the lock. Has the collector look at its lists. */
void avf_collection_signal(void);

/* THREAD any, under the lock. The capture needs a collector; and it needs none any more. Idempotent. */
void avf_collection_expect(struct avf_captured *c);
void avf_collection_unexpect(struct avf_captured *c);

/* THREAD any, under the lock. The capture comes up after a time; never more than once. */
void avf_collection_time(struct avf_captured *c, int64_t after_ns);
void avf_collection_untime(struct avf_captured *c);
/* THREAD collector, under the lock. The first one whose time has come, out of the list; NULL if there is none. */
struct avf_captured *avf_collection_take_due(int64_t now);

/* THREAD any, under the lock. A copy whose places are set waits for its turn, or its next; and it ends. */
void avf_collection_add_copy(struct avf_captured *c);
void avf_collection_end_copy(struct avf_captured *c);
/* THREAD collector, under the lock. The first one that nobody takes away, busy; NULL if there is none. */
struct avf_captured *avf_collection_take_copy(void);
/* THREAD any, under the lock. OWNS it: gives back what was mapped, slice by slice, then retires it. */
void avf_collection_discard(struct avf_captured *c);
/* THREAD loop, under the lock. RETURNS the list of those that only free(3) is missing. */
struct avf_captured *avf_collection_take_retired(void);

/* THREAD any. Not under the lock, nor in the gate. The collector works on it no more, until `leaving` is 0: waits for
 * less than a millisecond. */
void avf_collection_take_away(struct avf_captured *c);
/* THREAD collector, under the lock. It is not busy any more. */
void avf_collection_leave_alone(struct avf_captured *c);

/* THREAD any, in the child of a fork. */
void avf_collection_after_fork(void);

#endif
