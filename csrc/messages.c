/* DESIGN: files in flight.
 *
 * What: a message with SCM_RIGHTS (unix(7)) that waits in a pair of sockets. The kernel holds the files; this process
 *     has no number for them, so nobody closes one here, and no record lock is dropped (fcntl(2)). The child
 *     looks at the message (MSG_PEEK) and gets numbers in its own table. When it has, the pair is closed.
 * Where: sent on the loop's thread, discarded by whoever is done with the request.
 * Invariants: a pair is made for one request and serves no other. A process that was forked meanwhile, without our
 *     handlers, holds the pair too: it could look at the files of later requests, or send others in their place.
 * Deliberately absent: receiving in this process. */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGES = 64 }; /* at a time */

static uint32_t in_flight; /* guarded by lock */

/* THREAD loop, in the gate. */
int avf_messages_have_room(void)
{
    avf_lock();
    int room = in_flight < MESSAGES;
    avf_unlock();
    return room;
}

/* THREAD loop, in the gate. */
int avf_message_send(const int32_t *numbers, uint32_t count, struct avf_message *ret_message)
{
    int pair[2];
    struct iovec data = {"", 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(AVF_MESSAGE_FILES * sizeof(int))];
    } control;
    size_t size = count * sizeof(int);
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = CMSG_SPACE(size);
    memset(&control, 0, CMSG_SPACE(size));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(&control.header), numbers, size);
    if (recvmsg(-1, &message, 0) < 0 && errno != EBADF) /* a filter, which the child would meet */
        return -errno;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    struct avf_message made = {.in = avf_fd_above_stdio(pair[0]), .out = avf_fd_above_stdio(pair[1])};
    int error = made.in < 0 ? made.in : made.out < 0 ? made.out : 0;
    if (error == 0 && sendmsg(made.in, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
        error = -errno;
    avf_lock();
    in_flight++;
    avf_unlock();
    if (error < 0)
        avf_message_discard(&made);
    else
        *ret_message = made;
    return error;
}

/* THREAD any, in the gate. */
void avf_message_discard(struct avf_message *message)
{
    avf_lock();
    struct avf_message taken = *message;
    *message = (struct avf_message){-1, -1};
    in_flight--;
    avf_unlock();
    if (taken.in >= 0)
        close(taken.in);
    if (taken.out >= 0)
        close(taken.out);
}

/* THREAD any, in the child of a fork. */
void avf_messages_after_fork(void)
{
    in_flight = 0;
}
