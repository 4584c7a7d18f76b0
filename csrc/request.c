/* DESIGN: snapshots.
 *
 * What: everything that a child takes from its caller is taken at the call: the plan is copied, files are
 *     held, the signal mask is read. What happens to the originals while the request is queued does not
 *     matter.
 * Where: created on the thread that asks, closed on the worker, or by whoever ended it first, and freed on
 *     a thread of the application.
 * Invariants: one allocation; nothing in it is Python's; every descriptor in it is its own, CLOEXEC. */
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"
#include "reap.h"
#include "sys.h"

static struct avf_request *_Atomic retired; /* changed under the lock */

/* THREAD loop, in the gate. */
static int request_hold_files(struct avf_request *r)
{
    int32_t numbers[AVF_MESSAGE_FILES];
    uint32_t count = avf_plan_given_count(r->plan);
    int error = avf_streams_hold(r->plan, &r->files, numbers, r->source);
    for (uint32_t i = 0; i < count && error == 0; i++)
        error = avf_files_hold(&r->files, avf_plan_given(r->plan)[i], numbers, &r->source[3 + i]);
    return error < 0 ? error : avf_files_send(&r->files, numbers, r->source, 3 + count);
}

/* THREAD loop, in the gate. Nobody locks records of a cgroup's directory, so a duplicate does no harm (files.h). */
static int request_hold_cgroup(struct avf_request *r)
{
    if (r->plan->cgroup_fd < 0)
        return 0;
    r->cgroup_fd = fcntl(r->plan->cgroup_fd, F_DUPFD_CLOEXEC, 3);
    return r->cgroup_fd < 0 ? -errno : 0;
}

/* THREAD loop. One block: request, argv, envp, shared files, the plan's copy, source, low, scratch, LISTEN_PID. */
static struct avf_request *request_allocate(const void *plan, const avf_plan *header)
{
    size_t sources = 3 + (size_t)header->fd_count + header->held_count;
    size_t pointers = (size_t)header->argv_count + header->envp_count + 2;
    size_t plan_size = ((size_t)header->size + 7) & ~(size_t)7;
    size_t low = sources + AVF_LAUNCH_SOURCES,
           numbers = 2 * (sources + low); /* each is received once at most */
    struct avf_request *r =
        malloc(sizeof *r + (pointers + sources) * sizeof(void *) + plan_size + numbers * sizeof(int32_t) +
               (header->flags & AVF_PLAN_LISTEN ? AVF_LISTEN_PID : 0));
    if (!r)
        return NULL;
    const char **argv = (const char **)(r + 1);
    struct avf_file **shared = (struct avf_file **)(argv + pointers);
    char *copy = (char *)(shared + sources);
    memcpy(copy, plan, header->size);
    *r = (struct avf_request){
        .plan = (const avf_plan *)copy,
        .argv = argv,
        .envp = argv + header->argv_count + 1,
        .source = (int32_t *)(copy + plan_size),
        .low = (int32_t *)(copy + plan_size) + sources,
        .scratch = (int32_t *)(copy + plan_size) + sources + low,
        .files = {.shared = shared, .message = {-1, -1}, .message_fd = -1},
        .pipes = {.child_end = {-1, -1, -1}, .parent_end = {-1, -1, -1}},
        .report_pipe = {-1, -1},
        .cgroup_fd = -1,
        .launch_fds = {-1, -1},
        .pidfd = -1,
        .pid = -1,
        .submitted_ns = avf_now(),
    };
    if (header->flags & AVF_PLAN_LISTEN) {
        r->listen_pid = (char *)(r->source + numbers);
        strcpy(r->listen_pid, "LISTEN_PID=");
    }
    return r;
}

/* THREAD loop, in the gate. */
int avf_request_create(const void *plan, uint32_t size, struct avf_request **ret_request, int32_t *ret_step)
{
    avf_plan header;
    *ret_step = AVF_STEP_PLAN;
    if (size < sizeof header)
        return -EINVAL;
    memcpy(&header, plan, sizeof header);
    uint64_t counts = (uint64_t)header.argv_count + header.envp_count + header.fd_count + header.held_count;
    if (header.size != size || counts > size) /* each takes at least a byte */
        return -EINVAL;
    *ret_step = AVF_STEP_MEMORY;
    struct avf_request *r = request_allocate(plan, &header);
    if (!r)
        return -ENOMEM;
    *ret_step = AVF_STEP_PLAN;
    int error = avf_plan_check(r->plan, size);
    if (error == 0) {
        sys_sigmask(SIG_BLOCK, NULL, &r->sigmask);
        *ret_step = AVF_STEP_DUP_FDS;
        error = request_hold_files(r);
    }
    if (error == 0) {
        *ret_step = AVF_STEP_CGROUP;
        error = request_hold_cgroup(r);
    }
    *ret_request = r;
    return error;
}

/* THREAD any, in the gate. */
void avf_request_close_child_side(struct avf_request *r)
{
    int32_t fds[8];
    avf_files_release(&r->files);
    avf_lock();
    memcpy(fds, r->pipes.child_end, 3 * sizeof *fds);
    memcpy(fds + 3, r->report_pipe, 2 * sizeof *fds);
    memset(r->pipes.child_end, -1, sizeof r->pipes.child_end);
    memset(r->report_pipe, -1, sizeof r->report_pipe);
    fds[5] = r->cgroup_fd;
    r->cgroup_fd = -1;
    memcpy(fds + 6, r->launch_fds, sizeof r->launch_fds);
    memset(r->launch_fds, -1, sizeof r->launch_fds);
    avf_unlock();
    avf_close_all(fds, 8);
}

/* THREAD any, in the gate. */
void avf_request_close(struct avf_request *r)
{
    int32_t fds[4];
    avf_request_close_child_side(r);
    avf_lock();
    memcpy(fds, r->pipes.parent_end, 3 * sizeof *fds);
    fds[3] = r->pidfd;
    memset(r->pipes.parent_end, -1, sizeof r->pipes.parent_end);
    r->pidfd = -1;
    avf_unlock();
    avf_close_all(fds, 4);
}

/* THREAD any, under the lock. */
void avf_request_retire(struct avf_request *r)
{
    r->next = retired;
    retired = r;
}

/* THREAD loop. */
void avf_request_free_retired(void)
{
    if (!retired)
        return;
    avf_lock();
    struct avf_request *r = retired;
    retired = NULL;
    avf_unlock();
    while (r) {
        struct avf_request *next = r->next;
        free(r);
        r = next;
    }
}

/* THREAD any, under the lock. The child looks at `cancel` first of all, after it has set started_ns; this side
 * sets `cancel` before it looks at started_ns. So one of the two always bites. Before that mark the pidfd is
 * only a number that the kernel has written down: clone may still fail, and the number be somebody else's. */
void avf_request_cancel_started(struct avf_request *r, int32_t reason)
{
    struct avf_report *report = r->seat->report;
    report->cancel = reason;
    if (report->started_ns && r->pidfd >= 0)
        (void)avf_signal(r->pidfd, r->pid, SIGKILL);
}
