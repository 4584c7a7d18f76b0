/* DESIGN: files in flight.
 *
 * What: a message with SCM_RIGHTS (unix(7)) that waits on a wire, a pair of sockets. The kernel holds the files; this
 *     process has no number for them, so nobody closes one here, and no record lock is dropped (fcntl(2)).
 *     The child looks at the message (MSG_PEEK) and gets numbers in its own table. When it has, the message is
 *     discarded: it is read without room for the files.
 * Where: sent on the loop's thread, discarded by whoever is done with the request.
 * Invariants: a wire holds at most one message. While a port is open an idle wire is kept, and in a burst of
 *     spawns a few: to make one costs 8 us, to use one 2.
 * Deliberately absent: receiving in this process. */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MESSAGES = 64, /* at a time */
    MESSAGES_IDLE = 4,
};

/* guarded by lock */
static struct avf_wire wires[MESSAGES];
static struct avf_wire *idle, *closed; /* open, and not; both unused */
static uint32_t idle_count, used_count;
static int prepared;

/* THREAD any, under the lock. */
static void wires_reset(void)
{
    idle = closed = NULL;
    idle_count = used_count = 0;
    for (int i = 0; i < MESSAGES; i++) {
        wires[i] = (struct avf_wire){.next = closed, .in = -1, .out = -1};
        closed = &wires[i];
    }
    prepared = 1;
}

/* THREAD loop, in the gate, under the lock. */
static int wire_open(struct avf_wire *wire)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    wire->in = avf_fd_above_stdio(pair[0]);
    wire->out = avf_fd_above_stdio(pair[1]);
    if (wire->in >= 0 && wire->out >= 0)
        return 0;
    int error = wire->in < 0 ? wire->in : wire->out;
    if (wire->in >= 0)
        close(wire->in);
    if (wire->out >= 0)
        close(wire->out);
    wire->in = wire->out = -1;
    return error;
}

/* THREAD any, in the gate, under the lock. */
static void wire_close(struct avf_wire *wire)
{
    close(wire->in);
    close(wire->out);
    wire->in = wire->out = -1;
    wire->next = closed;
    closed = wire;
}

/* THREAD any, in the gate, under the lock. OWNS a wire without a message. */
static void wire_rest(struct avf_wire *wire)
{
    used_count--;
    wire->next = idle;
    idle = wire;
    idle_count++;
    uint32_t keep = !avf_state.ports ? 0 : used_count ? MESSAGES_IDLE : 1;
    while (idle_count > keep) {
        struct avf_wire *spare = idle;
        idle = spare->next;
        idle_count--;
        wire_close(spare);
    }
}

/* THREAD loop, in the gate, under the lock. RETURNS 0 or -errno. */
static int wire_take(struct avf_wire **ret_wire)
{
    struct avf_wire *wire = idle;
    if (wire) {
        idle = wire->next;
        idle_count--;
    } else if ((wire = closed) != NULL) {
        closed = wire->next;
        int error = wire_open(wire);
        if (error < 0) {
            wire->next = closed;
            closed = wire;
            return error;
        }
    }
    *ret_wire = wire;
    used_count += wire != NULL;
    return wire ? 0 : -ENOBUFS;
}

/* THREAD loop, in the gate, under the lock. */
void avf_messages_prepare(void)
{
    struct avf_wire *wire;
    if (!prepared)
        wires_reset();
    if (!idle && wire_take(&wire) == 0)
        wire_rest(wire);
}

/* THREAD any, in the gate, under the lock. */
void avf_messages_close_idle(void)
{
    while (idle) {
        struct avf_wire *wire = idle;
        idle = wire->next;
        idle_count--;
        wire_close(wire);
    }
}

/* THREAD loop, in the gate. */
int avf_messages_have_room(void)
{
    avf_lock();
    int room = idle || closed;
    avf_unlock();
    return room;
}

/* THREAD loop, in the gate. */
int avf_message_send(const int32_t *numbers, uint32_t count, struct avf_wire **ret_wire)
{
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
    struct avf_wire *wire;
    avf_lock();
    int error = wire_take(&wire);
    avf_unlock();
    if (error < 0)
        return error;
    if (sendmsg(wire->in, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) {
        *ret_wire = wire;
        return 0;
    }
    error = -errno;
    avf_lock();
    wire_rest(wire);
    avf_unlock();
    return error;
}

/* THREAD any, in the gate. */
void avf_message_discard(struct avf_wire *wire)
{
    char byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    int empty = recvmsg(wire->out, &message, MSG_DONTWAIT) == 1;
    avf_lock();
    if (empty) {
        wire_rest(wire);
    } else {
        used_count--;
        wire_close(wire);
    }
    avf_unlock();
}

/* THREAD any, under the lock. */
int avf_messages_own(int fd)
{
    for (int i = 0; prepared && i < MESSAGES; i++)
        if (wires[i].in == fd || wires[i].out == fd)
            return 1;
    return 0;
}

/* THREAD any, in the child of a fork. Nothing is read: the queue is shared with the parent. */
void avf_messages_after_fork(void)
{
    for (int i = 0; prepared && i < MESSAGES; i++)
        if (wires[i].in >= 0)
            wire_close(&wires[i]);
    prepared = 0;
}
