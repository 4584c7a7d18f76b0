/* DESIGN: draining a port.
 *
 * What: one call turns everything that has happened into a batch of records: what was posted, what
 *     has exited; and starts what waits for a place in the window.
 * Where: the loop's thread, without the GIL. Never blocks.
 * Invariants: a child's SPAWNED comes before its EXITED: its pidfd enters the epoll in the critical
 *     section that posts it, and drain looks at the epoll before it looks at what was posted. The
 *     eventfd and the timer are edge-triggered, so nobody reads them: looking at the epoll is enough.
 *     Pidfds are one-shot: one that is readable though waitid has nothing yet (a ptraced child) is
 *     re-armed by the timer, so it can never make the loop spin. Only drain reaps a living child of
 *     an open port, and closes its pidfd once the slot is free. */
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port.h"
#include "sys.h"
#include "worker.h"

enum { DRAIN_BATCH = 64 };

/* An exit on its way from the epoll to the events. */
struct drain_exit {
    struct avf_slot *slot;
    int pidfd;
    int reaped;
};

/* THREAD loop. Starts what waits, as far as the window has room. */
static void drain_start_queued(struct avf_port *port, int64_t now)
{
    struct avf_request *request;
    avf_lock();
    while ((request = avf_port_next(port, INT64_MAX, now)) != NULL) {
        avf_unlock();
        int error = avf_worker_start(request);
        avf_lock();
        if (error < 0) {
            avf_port_unseat(port, request->seat);
            avf_port_fail(port, request->slot, -error, AVF_STEP_THREAD);
            avf_unlock();
            avf_request_free(request);
            avf_lock();
        }
    }
    if (avf_state.counters.in_flight < avf_state.bound)
        avf_port_wake_waiting(port);
    avf_port_arm_timer(port);
    avf_unlock();
}

/* THREAD loop, under the lock. One posted outcome becomes an event. */
static void drain_deliver(struct avf_slot *slot, avf_event *event)
{
    avf_counters *counters = &avf_state.counters;
    *event = (avf_event){
        .ticket = slot->ticket,
        .kind = slot->pidfd >= 0 ? AVF_SPAWNED : AVF_FAILED,
        .pid = slot->pid,
        .pidfd = slot->pidfd,
        .error = slot->error,
        .step = slot->step,
        .status = slot->status,
        .flags = slot->flags,
        .queue_ns = slot->queue_ns,
        .clone_ns = slot->clone_ns,
        .exec_ns = slot->exec_ns,
    };
    memcpy(event->parent_end, slot->parent_end, sizeof event->parent_end);
    if (slot->pidfd < 0) {
        counters->failed++;
        avf_slot_release(slot);
        return;
    }
    slot->state = AVF_SLOT_ALIVE;
    counters->spawned++;
    if (++counters->alive > counters->alive_peak)
        counters->alive_peak = counters->alive;
}

/* THREAD loop, under the lock. A timer went off: arms the pidfds again that had nothing to reap. */
static void drain_rearm(struct avf_port *port)
{
    port->timer_armed = 0;
    for (struct avf_slot *slot; (slot = port->unreaped.head) != NULL;) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = slot->ticket};
        avf_slots_remove(&port->unreaped, slot);
        epoll_ctl(port->epoll_fd, EPOLL_CTL_MOD, slot->pidfd, &event);
    }
}

/* THREAD loop. Somebody else has reaped the child (waitpid(-1), SIGCHLD ignored): the kernel still
 * knows, since 6.15; before, asyncio's convention. RETURNS 0 while the other one is still about it. */
static int drain_recover_status(int pidfd, avf_event *event)
{
    struct sys_pidfd_info info = {.mask = AVF_PIDFD_INFO_EXIT};
    int gone = ioctl(pidfd, AVF_PIDFD_GET_INFO, &info) < 0;
    if (gone) { /* it may have looked for the exit just before it was noted, and for the task just after */
        info.mask = AVF_PIDFD_INFO_EXIT;
        gone = ioctl(pidfd, AVF_PIDFD_GET_INFO, &info) < 0;
    }
    if (!gone && !(info.mask & AVF_PIDFD_INFO_EXIT))
        return 0;
    event->status = gone ? 255 << 8 : info.exit_code;
    event->flags = gone ? AVF_STATUS_UNKNOWN : AVF_STATUS_RECOVERED;
    return 1;
}

/* THREAD loop. RETURNS 1 and fills the event if the child of that pidfd has exited, else 0. */
static int drain_reap(int pidfd, avf_event *event)
{
    siginfo_t info = {0};
    struct rusage usage;
    *event = (avf_event){.kind = AVF_EXITED, .pidfd = -1, .parent_end = {-1, -1, -1}};
    memset(&usage, 0, sizeof usage);
    int error = sys_waitid_pidfd(pidfd, &info, WEXITED | WNOHANG | AVF_WALL, &usage);
    if (error == 0 && info.si_pid == 0)
        return 0;
    if (error < 0)
        return drain_recover_status(pidfd, event);
    if (info.si_code == CLD_EXITED)
        event->status = info.si_status << 8;
    else
        event->status = info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
    _Static_assert(sizeof usage == sizeof event->rusage, "struct rusage is 18 longs on 64-bit Linux");
    memcpy(event->rusage, &usage, sizeof usage);
    return 1;
}

/* THREAD loop, under the lock. Finds the child that a readable pidfd belongs to. RETURNS whether it is to
 * be reaped now. */
static int drain_find_exit(struct avf_port *port, uint64_t ticket, struct drain_exit *ret_exit)
{
    struct avf_slot *slot = avf_slot_find(ticket);
    if (!slot || slot->port != port || slot->pidfd < 0)
        return 0;
    if (slot->state != AVF_SLOT_ALIVE) { /* posted, but the buffer was full: come back to it */
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = ticket};
        epoll_ctl(port->epoll_fd, EPOLL_CTL_MOD, slot->pidfd, &event);
        return 0;
    }
    *ret_exit = (struct drain_exit){.slot = slot, .pidfd = slot->pidfd};
    return 1;
}

/* THREAD loop. Reaps what has exited, then frees all their slots at once. RETURNS the number of
 * events. */
static int32_t drain_collect_exits(struct avf_port *port, struct drain_exit *exits, int count,
                                   avf_event *events)
{
    int32_t filled = 0;
    for (int i = 0; i < count; i++)
        exits[i].reaped = drain_reap(exits[i].pidfd, &events[i]);
    avf_lock();
    for (int i = 0; i < count; i++) {
        struct avf_slot *slot = exits[i].slot;
        if (!exits[i].reaped) {
            avf_slots_append(&port->unreaped, slot);
            continue;
        }
        events[i].ticket = slot->ticket;
        events[i].pid = slot->pid;
        avf_state.counters.stolen += (events[i].flags & (AVF_STATUS_RECOVERED | AVF_STATUS_UNKNOWN)) != 0;
        avf_state.counters.exited++;
        avf_state.counters.alive--;
        avf_slot_release(slot);
        events[filled++] = events[i];
    }
    avf_port_arm_timer(port);
    avf_unlock();
    for (int i = 0; i < count; i++)
        if (exits[i].reaped)
            close(exits[i].pidfd);
    return filled;
}

/* THREAD loop. */
int32_t avf_port_drain(avf_port *port, avf_event *events, int32_t capacity)
{
    struct epoll_event ready[DRAIN_BATCH];
    struct drain_exit exits[DRAIN_BATCH];
    int most = capacity / 2 < DRAIN_BATCH ? capacity / 2 : DRAIN_BATCH;
    int32_t filled = 0;

    if (most < 1)
        return -EINVAL;
    if (port->closed)
        return 0;
    int ready_count = epoll_wait(port->epoll_fd, ready, most, 0);
    if (ready_count < 0)
        return errno == EINTR ? 0 : -errno;
    int64_t now = avf_now();
    avf_lock();
    while (port->done.head && filled < capacity - ready_count) {
        struct avf_slot *slot = port->done.head;
        avf_slots_remove(&port->done, slot);
        drain_deliver(slot, &events[filled++]);
    }
    port->signalled = 0;
    if (port->done.head)
        avf_port_signal(port);
    int exit_count = 0, waiting = port->queue.head != NULL;
    for (int i = 0; i < ready_count; i++) {
        if (ready[i].data.u64 == AVF_PORT_TIMER)
            drain_rearm(port);
        else if (ready[i].data.u64 != AVF_PORT_EVENT)
            exit_count += drain_find_exit(port, ready[i].data.u64, &exits[exit_count]);
    }
    avf_unlock();
    if (waiting)
        drain_start_queued(port, now);
    if (exit_count)
        filled += drain_collect_exits(port, exits, exit_count, events + filled);
    return filled;
}
