/* DESIGN: the completion port, through which one loop learns everything.
 *
 * What: one epoll instance per loop holds an eventfd (something was posted), a timer and the pidfd of
 *     every living child. The loop watches that one descriptor and drains it (drain.c).
 * Where: open and spawn on the loop's thread, all else on any; workers post (worker.c).
 * Invariants: while something is posted and not drained, `signalled` is set and the port is readable;
 *     while something is queued, the timer is armed. A request enters the window only in the order of
 *     its port's queue.
 * Deliberately absent: SIGCHLD, waitpid(-1), an ear for anything that is not ours. */
#include "port.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "sys.h"
#include "worker.h"

/* THREAD loop. */
static int port_open_fds(struct avf_port *port)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = AVF_PORT_EVENT};
    struct epoll_event timer = {.events = EPOLLIN | EPOLLET, .data.u64 = AVF_PORT_TIMER};
    if ((port->epoll_fd = avf_fd_above_stdio(epoll_create1(EPOLL_CLOEXEC))) < 0)
        return port->epoll_fd;
    if ((port->event_fd = avf_fd_above_stdio(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))) < 0)
        return port->event_fd;
    if ((port->timer_fd = avf_fd_above_stdio(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK))) <
        0)
        return port->timer_fd;
    if (epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->event_fd, &event) < 0 ||
        epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->timer_fd, &timer) < 0)
        return -errno;
    return 0;
}

/* THREAD any. */
void avf_port_close_fds(const struct avf_port *port)
{
    if (port->epoll_fd >= 0)
        close(port->epoll_fd);
    if (port->event_fd >= 0)
        close(port->event_fd);
    if (port->timer_fd >= 0)
        close(port->timer_fd);
}

/* THREAD loop. */
int32_t avf_port_open(avf_port **ret_port)
{
    struct avf_port *port = malloc(sizeof *port);
    if (!port)
        return -ENOMEM;
    *port = (struct avf_port){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1, .references = 1};
    int error = port_open_fds(port);
    if (error == 0) {
        avf_lock();
        error = avf_state_ready();
        if (error == 0) {
            port->next = avf_state.ports;
            if (port->next)
                port->next->previous = port;
            avf_state.ports = port;
        }
        avf_unlock();
    }
    if (error < 0) {
        avf_port_close_fds(port);
        free(port);
        return error;
    }
    *ret_port = port;
    return 0;
}

/* THREAD any. */
int32_t avf_port_fd(avf_port *port)
{
    return port->epoll_fd;
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

/* THREAD any, under the lock. */
void avf_port_unreference(struct avf_port *port)
{
    if (--port->references == 0)
        free(port);
}

/* THREAD any, under the lock. */
void avf_port_arm_timer(struct avf_port *port)
{
    struct itimerspec once = {.it_value.tv_nsec = AVF_STUCK_NS};
    if (port->timer_armed || !(port->queue.head || port->unreaped.head))
        return;
    port->timer_armed = 1;
    timerfd_settime(port->timer_fd, 0, &once, NULL);
}

/* THREAD any, under the lock. */
void avf_port_enqueue(struct avf_port *port, struct avf_slot *slot)
{
    if (!port->queue.head)
        avf_state.waiting_ports++;
    avf_slots_append(&port->queue, slot);
    if (++avf_state.counters.queued > avf_state.counters.queued_peak)
        avf_state.counters.queued_peak = avf_state.counters.queued;
}

/* THREAD any, under the lock. */
void avf_port_dequeue(struct avf_port *port, struct avf_slot *slot)
{
    avf_slots_remove(&port->queue, slot);
    if (!port->queue.head)
        avf_state.waiting_ports--;
    avf_state.counters.queued--;
}

/* THREAD any, under the lock. The slot's request gets a place in the window. */
static void port_seat(struct avf_port *port, struct avf_slot *slot, int64_t now)
{
    slot->state = AVF_SLOT_STARTED;
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
    avf_port_dequeue(port, slot);
    port_seat(port, slot, now);
    return slot->request;
}

/* THREAD any, under the lock. */
void avf_port_fail(struct avf_port *port, struct avf_slot *slot, int32_t error, int32_t step)
{
    slot->request = NULL;
    slot->state = AVF_SLOT_POSTED;
    slot->error = error;
    slot->step = step;
    avf_slots_append(&port->done, slot);
    avf_port_signal(port);
}

/* THREAD loop. */
static void port_count_failure(void)
{
    avf_lock();
    avf_state.counters.failed++;
    avf_unlock();
}

/* THREAD loop. */
int64_t avf_spawn(avf_port *port, const char *plan, uint32_t size, int32_t *ret_step)
{
    struct avf_request *request;
    struct avf_slot *slot = NULL;
    int start = 0, error = avf_request_create(plan, size, &request, ret_step);
    if (error < 0) {
        port_count_failure();
        return error;
    }
    *ret_step = AVF_STEP_MEMORY;
    avf_lock();
    error = port->closed ? -EBADF : avf_slot_take(&slot);
    if (error == 0) {
        request->slot = slot;
        request->port = slot->port = port;
        slot->request = request;
        start = !port->queue.head && avf_window_admits(port->in_flight, 0, request->submitted_ns);
        if (start)
            port_seat(port, slot, request->submitted_ns);
        else
            avf_port_enqueue(port, slot);
        avf_port_arm_timer(port);
    }
    avf_unlock();
    int64_t ticket = slot ? (int64_t)slot->ticket : 0;
    if (start && (error = avf_worker_start(request)) < 0) {
        *ret_step = AVF_STEP_THREAD;
        avf_lock();
        avf_port_unseat(port, request->seat);
        avf_slot_release(slot);
        avf_unlock();
    }
    if (error < 0) {
        avf_request_free(request);
        port_count_failure();
    }
    return error < 0 ? error : ticket;
}
