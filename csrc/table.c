/* DESIGN: the table of descriptors that a child starts with.
 *
 * What: clone copies the parent's table, or the child shares it and unshares a small part of it. Which of the two is
 *     decided anew for each attempt.
 * Where: the worker.
 * Invariants: the sources that a request holds stay as they are: what is sent instead is noted beside them, in `low`. */
#include "table.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "plan.h"
#include "sys.h"

/* THREAD worker. The child's descriptors come from a copy of the table, which clone makes. */
static void table_copy(const struct avf_request *r, struct avf_child *child)
{
    memcpy(child->stream_source, r->source, sizeof child->stream_source);
    child->source = r->source + 3;
    child->report_fd = r->report_pipe[1];
    child->launcher_fd = r->launch_fds[0];
    child->launch_fd = r->launch_fds[1];
    child->message[0] =
        (struct avf_child_message){.fd = r->files.message_fd, .count = r->files.message_count};
    child->message[1] = (struct avf_child_message){.fd = -1};
    child->unshare_from = 0;
}

/* THREAD worker. Whether the child can compare the parent's streams with their duplicates: container profiles refuse kcmp.
 * Else the duplicates themselves are sent. */
static int table_may_use_own(const struct avf_child *child, const int32_t *streams, int forgo)
{
    int are_low =
        streams[0] < AVF_UNSHARE_BELOW && streams[1] < AVF_UNSHARE_BELOW && streams[2] < AVF_UNSHARE_BELOW;
    if (are_low || forgo & AVF_FORGO_OWN_STREAMS)
        return 0;
    int same = sys_kcmp_file(child->parent_pid, child->parent_pid, 0, 0);
    return same >= 0 || same == -EBADF;
}

/* THREAD worker. The same from the shared table, which the child unshares at once: that costs nothing for the
 * descriptors that it drops, if all that it needs sits on low numbers, or is sent to one. */
static void table_prefer_unshare(const struct avf_request *r, struct avf_child *child, int forgo,
                                 struct avf_mail *mail)
{
    int32_t *low = r->low, same_as[3], highest = 2;
    uint32_t count = r->plan->fd_count, given = 3 + avf_plan_given_count(r->plan);
    struct rlimit limit;
    /* A number above a limit that was lowered since can be kept, but not made again (RLIMIT_NOFILE). */
    if (count &&
        (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)avf_plan_fds(r->plan)[count - 1] >= limit.rlim_cur))
        return;
    memcpy(low, r->source, given * sizeof *low);
    low[given] = child->report_fd;
    low[given + 1] = child->launcher_fd;
    low[given + 2] = child->launch_fd;
    avf_streams_prefer_own(r->plan, low, table_may_use_own(child, low, forgo) ? AVF_UNSHARE_BELOW : INT32_MAX,
                           same_as);
    if (avf_mailbox_post(&r->files, low, given + AVF_LAUNCH_SOURCES,
                         forgo & AVF_FORGO_MAILBOXES ? NULL : r->seat->report, mail) < 0)
        return;
    for (uint32_t i = 0; i < given + AVF_LAUNCH_SOURCES; i++)
        highest = low[i] > highest ? low[i] : highest;
    for (int i = 0; i < 2; i++)
        highest = mail->message[i].fd > highest ? mail->message[i].fd : highest;
    memcpy(child->stream_source, low, sizeof child->stream_source);
    memcpy(child->message, mail->message, sizeof child->message);
    memcpy(child->same_as, same_as, sizeof same_as);
    child->source = low + 3;
    child->report_fd = low[given];
    child->launcher_fd = low[given + 1];
    child->launch_fd = low[given + 2];
    child->unshare_from = (uint32_t)highest + 1;
}

/* THREAD worker. */
void avf_table_choose(const struct avf_request *r, struct avf_child *child, int forgo, struct avf_mail *mail)
{
    table_copy(r, child);
    if (!(forgo & AVF_FORGO_UNSHARE))
        table_prefer_unshare(r, child, forgo, mail);
}
