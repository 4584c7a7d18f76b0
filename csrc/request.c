/* DESIGN: snapshots.
 *
 * What: everything that a child takes from its caller is taken at the call: the plan is copied,
 *     descriptors are duplicated, the signal mask is read. What happens to the originals while the
 *     request is queued does not matter.
 * Where: created on the thread that asks, freed on the worker, or on whoever ended it first.
 * Invariants: one allocation; nothing in it is Python's; every descriptor in it is its own, CLOEXEC,
 *     but for the standard streams that it inherits (streams.c). */
#include "request.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"
#include "sys.h"

/* THREAD any. Closes count descriptors where there are any. */
static void close_all(const int32_t *fds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* THREAD loop. A queued request must not inherit a number that has been reused since. */
static int request_dup_fds(struct avf_request *r)
{
    int inherits = 0;
    for (int i = 0; i < 3; i++) {
        inherits |= r->plan->stdio[i] == AVF_STDIO_INHERIT;
        if (r->plan->stdio[i] < 0)
            continue;
        r->stdio_source[i] = fcntl(r->plan->stdio[i], F_DUPFD_CLOEXEC, 3);
        if (r->stdio_source[i] < 0)
            return -errno;
    }
    int error = inherits ? avf_streams_take(&r->streams) : 0;
    if (error < 0)
        return error;
    for (uint32_t i = 0; i < r->plan->fd_count; i++) {
        r->fd_source[i] = fcntl(avf_plan_fds(r->plan)[i], F_DUPFD_CLOEXEC, 3);
        if (r->fd_source[i] < 0)
            return -errno;
    }
    return 0;
}

/* THREAD loop. */
int avf_request_create(const void *plan, uint32_t size, struct avf_request **ret_request, int32_t *ret_step)
{
    avf_plan header;
    *ret_step = AVF_STEP_PLAN;
    if (size < sizeof header)
        return -EINVAL;
    memcpy(&header, plan, sizeof header);
    uint64_t counts = (uint64_t)header.argv_count + header.envp_count + header.fd_count;
    if (counts > size) /* each takes at least a byte */
        return -EINVAL;
    /* One block: request, argv, envp, the plan's copy, fd_source. */
    size_t pointers = ((size_t)header.argv_count + header.envp_count + 2) * sizeof(char *);
    size_t plan_size = ((size_t)size + 7) & ~(size_t)7;
    *ret_step = AVF_STEP_MEMORY;
    struct avf_request *r = malloc(sizeof *r + pointers + plan_size + header.fd_count * sizeof(int32_t));
    if (!r)
        return -ENOMEM;
    const char **argv = (const char **)(r + 1);
    char *copy = (char *)r + sizeof *r + pointers;
    memcpy(copy, plan, size);
    *r = (struct avf_request){
        .plan = (const avf_plan *)copy,
        .argv = argv,
        .envp = argv + header.argv_count + 1,
        .fd_source = (int32_t *)(copy + plan_size),
        .stdio_source = {-1, -1, -1},
        .child_end = {-1, -1, -1},
        .parent_end = {-1, -1, -1},
        .pidfd = -1,
        .submitted_ns = avf_now(),
    };
    *ret_step = AVF_STEP_PLAN;
    int error = avf_plan_check(copy, size);
    if (error < 0) {
        free(r);
        return error;
    }
    memset(r->fd_source, -1, header.fd_count * sizeof(int32_t));
    sys_sigmask(SIG_BLOCK, NULL, &r->sigmask);
    *ret_step = AVF_STEP_DUP_FDS;
    error = request_dup_fds(r);
    if (error < 0) {
        avf_request_free(r);
        return error;
    }
    *ret_request = r;
    return 0;
}

/* THREAD any. */
void avf_request_free(struct avf_request *r)
{
    if (r->streams)
        avf_streams_release(r->streams);
    close_all(r->stdio_source, 3);
    close_all(r->child_end, 3);
    close_all(r->parent_end, 3);
    close_all(r->fd_source, r->plan->fd_count);
    free(r);
}
