/* One request, from submit to post: everything that is needed to start a child. */
#ifndef AVF_REQUEST_H
#define AVF_REQUEST_H

#include "streams.h"
#include "window.h"

enum { AVF_LAUNCH_SOURCES = 3 }; /* the report's pipe, the launcher and the memfd that it reads */

struct avf_request {
    /* immutable after submit */
    const avf_plan *plan;
    struct avf_slot *slot;
    struct avf_port *port;
    int64_t submitted_ns;
    uint64_t sigmask;          /* the caller's */
    const char **argv, **envp; /* filled by the worker */
    char *listen_pid;          /* a string of envp that the child completes, or NULL */
    int32_t *source;           /* of the three streams, then of all that the plan gives */
    int32_t *low;          /* the same, and what launches; sent where it sat high (mailbox.c); worker only */
    int32_t *scratch;      /* the child's; nobody else reads it */
    struct avf_seat *seat; /* once the worker runs */
    /* descriptors, noted here for whoever ends the request, and for fork.c */
    struct avf_files files;
    struct avf_pipes pipes;
    int32_t report_pipe[2]; /* guarded by lock */
    int32_t cgroup_fd;      /* guarded by lock; a duplicate of the plan's, or -1 */
    int32_t launch_fds[2];  /* guarded by lock; the launcher and the memfd that it reads, or -1 */
    /* written by the kernel in the middle of clone: valid once the report's started_ns is set, and until the
     * worker takes it back under the lock */
    _Atomic int32_t pidfd;
    _Atomic int32_t pid;      /* once clone has let the worker go on */
    struct avf_request *next; /* in a list of those that are over; guarded by lock */
};

/* THREAD loop, in the gate. Copies and checks the plan, holds the caller's files, takes the caller's signal mask.
 * RETURNS 0 or -errno with the failing step; in either case ret_request is set if there is something to close. */
int avf_request_create(const void *plan, uint32_t size, struct avf_request **ret_request, int32_t *ret_step);

/* THREAD any, in the gate. Closes what a child needs of it, or all that it still owns; but for what could block,
 * which is avf_files_close_late's, outside of the gate. */
void avf_request_close_child_side(struct avf_request *request);
void avf_request_close(struct avf_request *request);

/* THREAD any, under the lock. OWNS the request, closed: its memory goes back on a thread that may free. No
 * worker may: malloc would make an arena of 64 MiB of address space for each (malloc(3), M_ARENA_MAX). */
void avf_request_retire(struct avf_request *request);
/* THREAD loop. Frees what has been retired. */
void avf_request_free_retired(void);

/* THREAD any, under the lock. The request holds a seat: ends it, wherever its child is. reason is -errno. */
void avf_request_cancel_started(struct avf_request *request, int32_t reason);

#endif
