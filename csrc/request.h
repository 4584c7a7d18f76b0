/* One request, from submit to post: everything that is needed to start a child. */
#ifndef AVF_REQUEST_H
#define AVF_REQUEST_H

#include "state.h"
#include "streams.h"

struct avf_request {
    /* immutable after submit */
    const avf_plan *plan;
    struct avf_slot *slot;
    struct avf_port *port;
    int64_t submitted_ns;
    uint64_t sigmask; /* the caller's */
    /* immutable once the worker runs */
    struct avf_seat *seat;
    const char **argv, **envp;   /* filled by the worker */
    int32_t *fd_source;          /* duplicates of the plan's pass_fds */
    struct avf_streams *streams; /* what 0, 1 and 2 were; NULL if none of them is inherited */
    int32_t stdio_source[3];     /* duplicates of the plan's own descriptors for stdio, or -1 */
    /* owned; guarded by lock */
    int32_t child_end[3], parent_end[3];
    /* written by the kernel in the middle of clone, taken back under the lock */
    _Atomic int32_t pidfd;
};

/* THREAD loop. Copies and checks the plan, duplicates the caller's descriptors, takes the caller's
 * signal mask. RETURNS 0 or -errno with the failing step. */
int avf_request_create(const void *plan, uint32_t size, struct avf_request **ret_request, int32_t *ret_step);

/* THREAD any. Closes what the request still owns. Not under the lock if a worker has run. */
void avf_request_free(struct avf_request *request);

#endif
