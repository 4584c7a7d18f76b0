/* DESIGN: one set of duplicates for many requests.
 *
 * What: a request that inherits descriptors 0, 1 and 2 must get what they were at its call, so they
 *     are duplicated. As a burst of spawns would need three descriptors for each that is queued, the
 *     set is shared by all that find the same open files: kcmp(2) tells, exactly.
 * Where: taken on the loop's thread, released by whoever frees the request.
 * Invariants: a set lives as long as a request refers to it; an idle process holds none.
 * Deliberately absent: a guess. Where kcmp is refused (CONFIG_KCMP, seccomp), each request has a set
 *     of its own. */
#include "streams.h"

#include <stdlib.h>
#include <unistd.h>

#include "state.h"
#include "sys.h"

/* THREAD any. */
static void streams_close(struct avf_streams *streams)
{
    for (int i = 0; i < 3; i++)
        if (streams->fd[i] >= 0)
            close(streams->fd[i]);
    free(streams);
}

/* THREAD loop. Whether a child would find something there after exec. A descriptor of ours may have got
 * such a number (a daemon that closed 0 to 2); as any other it is CLOEXEC, and nobody's to inherit. */
static int stream_is_inheritable(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

/* THREAD loop. Whether 0, 1 and 2 are still the open files that they were. */
static int streams_are_current(const struct avf_streams *streams)
{
    pid_t self = getpid();
    for (int i = 0; i < 3; i++) {
        if (stream_is_inheritable(i) != (streams->fd[i] >= 0))
            return 0;
        if (streams->fd[i] >= 0 && AVF_SYS6(SYS_kcmp, self, self, AVF_KCMP_FILE, i, streams->fd[i], 0) != 0)
            return 0;
    }
    return 1;
}

/* THREAD loop. */
int avf_streams_take(struct avf_streams **ret_streams)
{
    avf_lock();
    struct avf_streams *streams = avf_state.streams;
    if (streams)
        streams->references++;
    avf_unlock();
    if (streams && streams_are_current(streams)) {
        *ret_streams = streams;
        return 0;
    }
    if (streams)
        avf_streams_release(streams);

    streams = malloc(sizeof *streams);
    if (!streams)
        return -ENOMEM;
    *streams = (struct avf_streams){.references = 1, .fd = {-1, -1, -1}};
    for (int i = 0; i < 3; i++) {
        if (!stream_is_inheritable(i))
            continue;
        streams->fd[i] = fcntl(i, F_DUPFD_CLOEXEC, 3);
        if (streams->fd[i] < 0 && errno != EBADF) {
            int error = -errno;
            streams_close(streams);
            return error;
        }
    }
    avf_lock();
    avf_state.streams = streams;
    avf_unlock();
    *ret_streams = streams;
    return 0;
}

/* THREAD any. */
void avf_streams_release(struct avf_streams *streams)
{
    avf_lock();
    int last = --streams->references == 0;
    if (last && avf_state.streams == streams)
        avf_state.streams = NULL;
    avf_unlock();
    if (last)
        streams_close(streams);
}
