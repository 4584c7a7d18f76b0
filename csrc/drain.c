/* DESIGN: draining a port.
 *
 * What: one call turns what has happened into a batch of records: what was posted, what has exited; and
 *     starts what waits for a place in the window.
 * Where: the loop's thread, without the GIL. Never blocks.
 * Invariants: a record stays in the batch until the receiver has acknowledged it; only then is the batch
 *     filled again.
 *     A child's SPAWNED comes before its EXITED: its pidfd enters the epoll in the critical
 *     section that posts it, and drain looks at the epoll before it looks at what was posted. The
 *     eventfd and the timer are edge-triggered, so nobody reads them: looking at the epoll is enough.
 *     Pidfds are one-shot: one that is readable though waitid has nothing yet (a ptraced child) is
 *     re-armed by the timer, so it can never make the loop spin. Only drain reaps a living child of
 *     an open port, and closes its pidfd once the slot is free. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "capturing.h"
#include "group.h"
#include "park.h"
#include "port.h"
#include "reap.h"
#include "reaper.h"
#include "worker.h"

/* At most so many exits at a time; the rest of the batch is for what was posted. */
enum { DRAIN_EXITS = AVF_BATCH / 2 };

/* An exit on its way from the epoll to the batch. */
struct drain_exit {
    struct avf_slot *slot;
    int pidfd, pid;
    int over, is_free;
    struct avf_exit exit;
};

/* THREAD loop. There is no worker for a request that has left the queue: the spawn fails. The port may have closed
 * meanwhile, in another thread. */
static void drain_fail_start(struct avf_port *port, struct avf_request *request, int error)
{
    avf_gate_enter();
    avf_lock();
    avf_port_unseat(port, request->seat);
    if (port->closed) {
        avf_state.counters.abandoned++;
        avf_slot_move(request->slot, AVF_SLOT_FREE, NULL);
    } else {
        avf_port_post_failure(port, request->slot, error, AVF_STEP_THREAD);
    }
    avf_unlock();
    avf_reaper_finish(request);
    avf_gate_leave();
}

/* THREAD loop. Starts what waits, as far as the window has room. */
static void drain_start_queued(struct avf_port *port, int64_t now)
{
    struct avf_request *request;
    avf_lock();
    while ((request = avf_port_next(port, INT64_MAX, now)) != NULL) {
        avf_unlock();
        int error = avf_worker_start(request);
        if (error < 0)
            drain_fail_start(port, request, error);
        avf_lock();
    }
    if (avf_window_has_room())
        avf_port_wake_waiting(port);
    avf_port_arm_timer(port);
    avf_unlock();
}

/* THREAD loop, under the lock. One posted outcome becomes a record. */
static void drain_deliver(struct avf_slot *slot, avf_event *event)
{
    static const int32_t kinds[] = {
        [AVF_OUTCOME_CHILD] = AVF_SPAWNED,
        [AVF_OUTCOME_FAILURE] = AVF_FAILED,
        [AVF_OUTCOME_CAPTURE] = AVF_CAPTURED,
        [AVF_OUTCOME_COPY] = AVF_COPIED,
    };
    *event = (avf_event){
        .ticket = slot->ticket,
        .kind = kinds[slot->outcome],
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
    memcpy(event->notes, slot->notes, sizeof event->notes);
    avf_capturing_record(slot, event);
    if (event->kind == AVF_SPAWNED)
        avf_slot_count_spawned(slot);
    avf_state.counters.failed += event->kind == AVF_FAILED;
    if (slot->pidfd < 0)
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    else
        avf_slot_move(slot, slot->is_over ? AVF_SLOT_HELD : AVF_SLOT_ALIVE,
                      slot->unwatched ? &slot->port->unreaped : NULL);
}

/* THREAD loop, under the lock. */
static void drain_arm(struct avf_port *port, struct avf_slot *slot)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = slot->ticket};
    int operation = slot->unwatched ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    slot->unwatched = epoll_ctl(port->epoll_fd, operation, slot->pidfd, &event) < 0 && slot->unwatched;
}

/* THREAD loop, under the lock. A timer went off: arms the pidfds again that had nothing to reap. */
static void drain_rearm(struct avf_port *port)
{
    port->timer_armed = 0;
    struct avf_slot *slot, *last = port->unreaped.tail;
    while ((slot = port->unreaped.head) != NULL) {
        avf_slots_remove(slot);
        drain_arm(port, slot);
        if (slot->unwatched) /* not yet: the next time */
            avf_slots_append(&port->unreaped, slot);
        if (slot == last)
            break;
    }
}

/* THREAD loop, under the lock. Finds the child that a readable pidfd belongs to. RETURNS whether it is to
 * be reaped now. */
static int drain_find_exit(struct avf_port *port, uint64_t ticket, struct drain_exit *ret_exit)
{
    struct avf_slot *slot = avf_slot_find(ticket);
    if (!slot || slot->port != port || slot->pidfd < 0)
        return 0;
    if (slot->state != AVF_SLOT_ALIVE) { /* posted, but the batch was full: come back to it */
        drain_arm(port, slot);
        return 0;
    }
    slot->reaped_now = 1;
    ret_exit->slot = slot;
    ret_exit->pidfd = slot->pidfd;
    ret_exit->pid = slot->pid;
    return 1;
}

/* THREAD loop, under the lock, in the gate. One exit becomes a record. The slot is held for a receiver who may ask for
 * the end of the child's group: none if the port has closed, or the child was disposed of. */
static void drain_deliver_exit(struct drain_exit *found, avf_event *event)
{
    struct avf_slot *slot = found->slot;
    int holds = found->exit.flags & AVF_GROUP_LIVES && slot->state == AVF_SLOT_ALIVE && !slot->unwanted;
    *event = (avf_event){
        .ticket = slot->ticket,
        .kind = AVF_EXITED,
        .pid = slot->pid,
        .pidfd = -1,
        .status = found->exit.status,
        .flags = found->exit.flags & (holds ? ~0 : ~AVF_GROUP_LIVES),
        .parent_end = {-1, -1, -1},
    };
    _Static_assert(sizeof event->rusage == sizeof found->exit.rusage, "the kernel's struct rusage");
    memcpy(event->rusage, &found->exit.rusage, sizeof event->rusage);
    avf_state.counters.stolen += (found->exit.flags & (AVF_STATUS_RECOVERED | AVF_STATUS_UNKNOWN)) != 0;
    avf_state.counters.exited++;
    avf_park_forget_child(slot);
    if (holds)
        avf_slot_move(slot, AVF_SLOT_HELD, NULL);
    else
        (void)avf_group_let_go(slot); /* the pidfd is closed with the others */
}

/* THREAD loop, under the lock. The child was looked at, and its port may have closed meanwhile, in another thread. */
static void drain_settle(struct avf_port *port, struct drain_exit *found)
{
    struct avf_slot *slot = found->slot;
    slot->reaped_now = 0;
    slot->is_over = (uint8_t)found->over;
    slot->is_unreaped = found->over && found->exit.is_unreaped;
    if (slot->state == AVF_SLOT_ORPHANED)
        avf_reaper_settle(slot, found->over && !slot->is_unreaped);
    else if (found->over)
        drain_deliver_exit(found, &port->batch.events[port->batch.filled++]);
    else if (slot->state == AVF_SLOT_ALIVE)
        avf_slots_append(&port->unreaped, slot);
    found->is_free = slot->state == AVF_SLOT_FREE;
}

/* THREAD loop. Reaps what has exited, then frees all their slots at once. */
static void drain_collect_exits(struct avf_port *port, struct drain_exit *exits, int count)
{
    for (int i = 0; i < count; i++)
        exits[i].over = avf_group_reap(exits[i].slot, exits[i].pidfd, exits[i].pid, &exits[i].exit);
    avf_gate_enter();
    avf_lock();
    for (int i = 0; i < count; i++)
        drain_settle(port, &exits[i]);
    avf_port_arm_timer(port);
    avf_unlock();
    for (int i = 0; i < count; i++)
        if (exits[i].is_free)
            close(exits[i].pidfd);
    avf_gate_leave();
}

/* THREAD loop. Fills the batch. The port is open, and stays so meanwhile. RETURNS 0 or -errno. */
static int32_t drain_fill(struct avf_port *port)
{
    struct epoll_event ready[DRAIN_EXITS];
    struct drain_exit exits[DRAIN_EXITS];
    avf_batch *batch = &port->batch;
    int exit_count = 0;

    batch->filled = batch->taken = 0;
    int ready_count = epoll_wait(port->epoll_fd, ready, DRAIN_EXITS, 0);
    if (ready_count < 0)
        return errno == EINTR ? 0 : -errno;
    int64_t now = avf_now();
    avf_lock();
    while (port->done.head && batch->filled < AVF_BATCH - ready_count)
        drain_deliver(port->done.head, &batch->events[batch->filled++]);
    port->signalled = 0;
    if (port->done.head)
        avf_port_signal(port);
    avf_port_arm_timer(port); /* for children that the epoll could not take */
    int waiting = port->queue.head != NULL;
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
        drain_collect_exits(port, exits, exit_count);
    return 0;
}

/* THREAD loop. Another thread may have closed the port meanwhile. */
static void drain_end(struct avf_port *port)
{
    avf_lock();
    port->draining = 0;
    int closed = port->closed;
    avf_unlock();
    if (closed)
        avf_gate_enter();
    avf_lock();
    if (closed)
        avf_port_close_fds(port);
    avf_port_unreference(port);
    avf_unlock();
    if (closed)
        avf_gate_leave();
}

/* THREAD loop. */
int32_t avf_port_drain(avf_port *port)
{
    avf_batch *batch = &port->batch;
    if (batch->taken < batch->filled)
        return batch->filled - batch->taken;
    if (avf_fork_is_under_way()) /* the port stays readable, the loop does not stand */
        return 0;
    avf_lock();
    int open = !port->closed && !port->draining;
    if (open) {
        port->draining = 1;
        port->references++;
    }
    avf_unlock();
    if (!open)
        return 0;
    int32_t error = drain_fill(port);
    drain_end(port);
    avf_reaper_start();
    avf_request_free_retired();
    return error < 0 ? error : batch->filled;
}
