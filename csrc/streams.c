/* DESIGN: kinds of standard streams.
 *
 * What: a stream is a given descriptor, the caller's own (inherited), a pipe, /dev/null, or for stderr what
 *     stdout is. Each becomes a source, of which the child makes its number 0, 1 or 2. The four functions here are
 *     the four moments: at the call, on the worker, before clone, and for a table that the child unshares.
 * Where: the loop's thread at the call; then the worker.
 * Invariants: the child's end of a pipe is blocking, the parent's is not; both are CLOEXEC from birth. */
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

/* THREAD any. */
void avf_close_all(const int32_t *fds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* THREAD loop. Whether a child would find something there after exec. A descriptor of ours may have got
 * such a number (a daemon that closed 0 to 2); as any other it is CLOEXEC, and nobody's to inherit. */
static int stream_is_inheritable(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

/* THREAD loop. */
static int streams_check(const avf_plan *plan)
{
    for (int i = 0; i < 3; i++)
        if (plan->stdio[i] >= 0 && fcntl(plan->stdio[i], F_GETFD) < 0)
            return -errno;
    for (uint32_t i = 0; i < avf_plan_given_count(plan); i++)
        if (fcntl(avf_plan_given(plan)[i], F_GETFD) < 0)
            return -errno;
    return 0;
}

/* THREAD loop, in the gate. */
int avf_streams_hold(const avf_plan *plan, struct avf_files *files, int32_t *numbers, int32_t *ret_sources)
{
    int error = streams_check(plan);
    for (int i = 0; i < 3 && error == 0; i++) {
        int kind = plan->stdio[i];
        ret_sources[i] = kind == AVF_STDIO_DEVNULL ? AVF_SOURCE_DEVNULL : AVF_SOURCE_CLOSED;
        if (kind >= 0)
            error = avf_files_hold(files, kind, numbers, &ret_sources[i]);
        else if (kind == AVF_STDIO_INHERIT && stream_is_inheritable(i))
            error = avf_files_hold_inherited(files, i, numbers, &ret_sources[i]);
    }
    return error;
}

/* THREAD loop, in the gate. */
int avf_streams_hold_terminal(const avf_plan *plan, int master, int has_input, struct avf_pipes *pipes)
{
    if (plan->stdio[0] == AVF_STDIO_PIPE || plan->stdio[1] == AVF_STDIO_PIPE)
        return -EINVAL;
    for (int i = has_input ? 0 : 1; i < 2; i++) {
        pipes->parent_end[i] = fcntl(master, F_DUPFD_CLOEXEC, 3);
        if (pipes->parent_end[i] < 0)
            return -errno;
    }
    return 0;
}

/* THREAD worker, in the gate. */
static int stream_make_pipe(int i, int pipesize, struct avf_pipes *pipes, int32_t *ret_step)
{
    int ends[2];
    *ret_step = AVF_STEP_PIPE;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    pipes->child_end[i] = ends[i != 0];
    int parent_end = avf_fd_above_stdio(ends[i == 0]);
    if (parent_end < 0)
        return parent_end;
    pipes->parent_end[i] = parent_end;
    if (fcntl(parent_end, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    *ret_step = AVF_STEP_PIPESIZE;
    return pipesize > 0 && fcntl(parent_end, F_SETPIPE_SZ, pipesize) < 0 ? -errno : 0;
}

/* THREAD worker. */
int avf_streams_make_pipes(const avf_plan *plan, struct avf_pipes *pipes, int32_t *ret_step)
{
    int error = 0, wanted = 0;
    for (int i = 0; i < 3; i++)
        wanted |= plan->stdio[i] == AVF_STDIO_PIPE;
    if (!wanted)
        return 0;
    struct avf_pipes made = *pipes;
    avf_gate_enter();
    for (int i = 0; i < 3 && error == 0; i++)
        if (plan->stdio[i] == AVF_STDIO_PIPE)
            error = stream_make_pipe(i, plan->pipesize, &made, ret_step);
    avf_lock();
    *pipes = made;
    avf_unlock();
    avf_gate_leave();
    return error;
}

/* THREAD worker. */
void avf_streams_add_pipes(const avf_plan *plan, const struct avf_pipes *pipes, int32_t *sources)
{
    for (int i = 0; i < 3; i++) {
        if (plan->stdio[i] == AVF_STDIO_PIPE)
            sources[i] = pipes->child_end[i];
        else if (plan->stdio[i] == AVF_STDIO_STDOUT)
            sources[i] = sources[1];
    }
}

/* THREAD worker. */
void avf_streams_prefer_own(const avf_plan *plan, int32_t *sources, int32_t above, int32_t *ret_same_as)
{
    for (int i = 0; i < 3; i++) {
        ret_same_as[i] = -1;
        if (plan->stdio[i] == AVF_STDIO_INHERIT && sources[i] >= above) {
            ret_same_as[i] = sources[i];
            sources[i] = i;
        } else if (plan->stdio[i] == AVF_STDIO_STDOUT) {
            sources[i] = sources[1];
        }
    }
}
