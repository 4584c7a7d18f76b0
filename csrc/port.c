/* DESIGN: the completion port, through which one loop learns everything.
 *
 * What: one epoll instance per loop holds an eventfd (something was posted), a timer and the pidfd of
 *     every living child. The loop watches that one descriptor and drains it (drain.c).
 * Where: opened on the loop's thread, all else on any; workers post (worker.c).
 * Invariants: while something is posted and not drained, `signalled` is set and the port is readable;
 *     while something is queued, the timer is armed. A request enters the window only in the order of
 *     its port's queue. The memory lives until Python has freed the port and no worker refers to it, so that
 *     whoever still calls a closed one finds `closed`.
 * Deliberately absent: SIGCHLD, waitpid(-1), an ear for anything that is not ours. */
#include "port.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct avf_port *_Atomic retired; /* changed under the lock */

/* THREAD loop, in the gate. */
int avf_port_open_fds(struct avf_port *port)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = AVF_PORT_EVENT};
    struct epoll_event timer = {.events = EPOLLIN | EPOLLET, .data.u64 = AVF_PORT_TIMER};
    if ((port->epoll_fd = avf_fd_above_stdio(epoll_create1(EPOLL_CLOEXEC))) < 0)
        return port->epoll_fd;
    if ((port->event_fd = avf_fd_above_stdio(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))) < 0)
        return port->event_fd;
    port->timer_fd = avf_fd_above_stdio(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (port->timer_fd < 0)
        return port->timer_fd;
    if (epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->event_fd, &event) < 0 ||
        epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->timer_fd, &timer) < 0)
        return -errno;
    return 0;
}

/* THREAD any, under the lock, in the gate. */
void avf_port_close_fds(struct avf_port *port)
{
    if (port->draining)
        return;
    int32_t fds[3] = {port->epoll_fd, port->event_fd, port->timer_fd};
    avf_close_all(fds, 3);
    port->epoll_fd = port->event_fd = port->timer_fd = -1;
}

/* THREAD any. */
int32_t avf_port_fd(avf_port *port)
{
    return port->epoll_fd;
}

/* THREAD any. */
avf_batch *avf_port_batch(avf_port *port)
{
    return &port->batch;
}

/* THREAD any, under the lock. */
void avf_port_signal(struct avf_port *port)
{
    uint64_t one = 1;
    if (port->signalled)
        return;
    port->signalled = 1;
    (void)!write(port->event_fd, &one, sizeof one); /* cannot fail: 2^64 - 1 posts are far */
}

/* THREAD any, under the lock. Rotates, so that each gets its turn. */
void avf_port_wake_waiting(const struct avf_port *except)
{
    struct avf_port *first = avf_state.ports;
    if (avf_state.waiting_ports == 0)
        return;
    for (struct avf_port *port = first; port; port = port->next)
        if (port != except && port->queue.head) {
            avf_port_signal(port);
            if (port == first || !port->previous)
                return;
            port->previous->next = port->next;
            if (port->next)
                port->next->previous = port->previous;
            port->previous = NULL;
            port->next = first;
            first->previous = port;
            avf_state.ports = port;
            return;
        }
}

/* THREAD any, under the lock. A worker may not free (avf_request_retire says why): it leaves that to a loop. */
void avf_port_unreference(struct avf_port *port)
{
    if (--port->references > 0)
        return;
    port->next = retired;
    retired = port;
}

/* THREAD loop. */
void avf_port_free_retired(void)
{
    if (!retired)
        return;
    avf_lock();
    struct avf_port *port = retired;
    retired = NULL;
    avf_unlock();
    while (port) {
        struct avf_port *next = port->next;
        free(port);
        port = next;
    }
}

/* THREAD any, under the lock. */
void avf_port_arm_timer(struct avf_port *port)
{
    struct itimerspec once = {.it_value.tv_nsec = AVF_STUCK_NS};
    if (port->closed || port->timer_armed || !(port->queue.head || port->unreaped.head))
        return;
    port->timer_armed = 1;
    timerfd_settime(port->timer_fd, 0, &once, NULL);
}

/* THREAD any, under the lock. */
void avf_port_enqueue(struct avf_port *port, struct avf_slot *slot)
{
    if (!port->queue.head)
        avf_state.waiting_ports++;
    avf_slot_move(slot, AVF_SLOT_QUEUED, &port->queue);
}

/* THREAD any, under the lock. */
void avf_port_move(struct avf_port *port, struct avf_slot *slot, enum avf_slot_state to,
                   struct avf_slots *list)
{
    int waited = port->queue.head != NULL;
    avf_slot_move(slot, to, list);
    if (waited && !port->queue.head)
        avf_state.waiting_ports--;
}

/* THREAD any, under the lock. */
void avf_port_seat(struct avf_port *port, struct avf_slot *slot, int64_t now)
{
    slot->request->seat = avf_window_enter(now);
    port->in_flight++;
    port->references++;
}

/* THREAD any, under the lock. */
void avf_port_unseat(struct avf_port *port, struct avf_seat *seat)
{
    avf_window_leave(seat);
    port->in_flight--;
    avf_port_unreference(port);
}

/* THREAD any, under the lock. */
struct avf_request *avf_port_next(struct avf_port *port, int64_t before, int64_t now)
{
    struct avf_slot *slot = port->queue.head;
    if (port->closed || !slot || slot->request->submitted_ns >= before ||
        !avf_window_admits(port->in_flight, 1, now))
        return NULL;
    avf_port_move(port, slot, AVF_SLOT_STARTED, NULL);
    avf_port_seat(port, slot, now);
    return slot->request;
}

/* THREAD any, under the lock. */
void avf_port_post(struct avf_port *port, struct avf_slot *slot)
{
    slot->request = NULL;
    avf_port_move(port, slot, AVF_SLOT_POSTED, &port->done);
    avf_port_signal(port);
}

/* THREAD any, under the lock. */
void avf_port_post_failure(struct avf_port *port, struct avf_slot *slot, int32_t error, int32_t step)
{
    slot->outcome = AVF_OUTCOME_FAILURE;
    slot->error = error;
    slot->step = step;
    avf_port_post(port, slot);
}
