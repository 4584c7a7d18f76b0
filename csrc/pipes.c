/* DESIGN: one turn at one pipe of a capture.
 *
 * What: reads into the capture's memory, or writes from the caller's, as much as there is, but no more than a turn: the
 *     others wait.
 * Where: the collector, which has made the capture busy. The pipes are non-blocking.
 * Deliberately absent: splice(2) and vmsplice(2). Output has to lie in memory of the process, where read(2) puts it. */
#include "pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
    PIPES_TURN = 1024 * 1024,
    PIPES_LARGE_PIPE = 1024 * 1024, /* what anybody may have: /proc/sys/fs/pipe-max-size */
    PIPES_USUAL_PIPE = 64 * 1024,
};

static char waste[64 * 1024]; /* for what nobody keeps */

/* THREAD collector. A pipe that is filled at once costs a switch between processes for every 64 KiB. What the user
 * may not have (pipe(7), pipe-user-pages-soft) is not worth an error; a size that somebody has set is kept. */
static void pipe_enlarge(struct avf_captured *c, int end, int fd)
{
    if (!c->large[end] && fcntl(fd, F_GETPIPE_SZ) == PIPES_USUAL_PIPE)
        (void)fcntl(fd, F_SETPIPE_SZ, PIPES_LARGE_PIPE);
    c->large[end] = 1;
}

/* THREAD collector. RETURNS an avf_pipe_result or -errno. */
int avf_pipe_write(struct avf_captured *c, int fd, int hangup)
{
    avf_capture *shown = &c->shown;
    while (shown->written < shown->input_size) {
        size_t left = (size_t)(shown->input_size - shown->written);
        if (left > PIPES_USUAL_PIPE)
            pipe_enlarge(c, 0, fd);
        if (left > PIPES_TURN)
            left = PIPES_TURN;
        ssize_t written = write(fd, shown->input + shown->written, left);
        if (written < 0 && errno == EINTR)
            continue;
        /* EPIPE, or a full terminal that nobody reads: a child that does not want its input is no error. */
        if (written < 0)
            return errno == EAGAIN && !hangup ? AVF_PIPE_GO_ON : AVF_PIPE_ENDED;
        shown->written += written;
        if ((size_t)written < left || left == PIPES_TURN)
            break;
    }
    return shown->written < shown->input_size ? AVF_PIPE_GO_ON : AVF_PIPE_ENDED;
}

/* THREAD collector. RETURNS an avf_pipe_result or -errno. */
int avf_pipe_read(struct avf_captured *c, int stream, int fd, int hangup)
{
    avf_capture *shown = &c->shown;
    for (size_t turn = 0; turn < PIPES_TURN;) {
        int64_t keep = shown->limit < 0 ? INT64_MAX : shown->limit - shown->length[stream];
        char *at = waste;
        size_t room = sizeof waste;
        if (keep > 0 && avf_capture_room(c, stream, &at, &room) < 0)
            return -ENOMEM;
        if (keep > 0 && (int64_t)room > keep)
            room = (size_t)keep;
        if (room > PIPES_TURN)
            room = PIPES_TURN;
        ssize_t size = read(fd, at, room);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 && errno == EAGAIN)
            return AVF_PIPE_GO_ON;
        if (size == 0 || (size < 0 && errno == EIO)) /* EIO: a terminal that nobody has open (tty_ioctl(4)) */
            return AVF_PIPE_ENDED;
        if (size < 0)
            return -errno;
        shown->total[stream] += size;
        if (keep > 0)
            avf_capture_added(c, stream, (size_t)size);
        else if (!shown->truncate)
            return AVF_PIPE_LIMITED;
        turn += (size_t)size;
        if (turn >= PIPES_USUAL_PIPE / 2)
            pipe_enlarge(c, 1 + stream, fd);
        if ((size_t)size < room && !hangup)
            return AVF_PIPE_GO_ON;
    }
    return AVF_PIPE_GO_ON;
}
