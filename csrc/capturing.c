/* DESIGN: a capture's life in the hands of the collector.
 *
 * What: how it begins, what becomes of it when an end of a pipe is over, a child exits or its port closes, and the one
 *     record that it leaves.
 * Where: under the lock; begun on a worker or the loop's thread, ended on the collector or whoever gives it up.
 * Invariants: an event names a ticket, so that what is over by then is not found. Only the collector closes an end of a
 *     capture that is busy. The exit of a captured child is noted in its slot, what is known of it in the capture. */
#include "capturing.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "group.h"
#include "park.h"
#include "pipes.h"
#include "reaper.h"

/* THREAD any, under the lock. */
void avf_capturing_let_go(struct avf_captured *c)
{
    struct avf_slot *slot = avf_capturing_slot(c);
    if (slot)
        slot->capture = NULL;
}

/* THREAD any, under the lock. The capture of a slot in the hands of the collector. */
struct avf_captured *avf_capturing_capture(const struct avf_slot *slot)
{
    return slot && slot->state == AVF_SLOT_CAPTURED ? (struct avf_captured *)slot->capture : NULL;
}

/* THREAD any, under the lock. Where a capture that is under way is noted; NULL for one that is not. */
struct avf_slot *avf_capturing_slot(struct avf_captured *c)
{
    struct avf_slot *slot = avf_slot_find(c->ticket);
    return slot && slot->capture == &c->shown ? slot : NULL;
}

/* THREAD any, under the lock. */
static int capturing_watch_all(uint64_t ticket, int pidfd, const int32_t ends[3])
{
    int error = 0;
    for (int i = 0; i < 3 && error == 0; i++)
        if (ends[i] >= 0)
            error = avf_collection_watch(ticket, i, ends[i], i ? EPOLLIN : EPOLLOUT, EPOLL_CTL_ADD);
    if (error == 0 && pidfd >= 0)
        error = avf_collection_watch(ticket, AVF_END_PIDFD, pidfd, EPOLLIN | EPOLLONESHOT, EPOLL_CTL_ADD);
    if (error < 0)
        for (int i = 0; i < 3; i++)
            avf_collection_unwatch(ends[i]);
    return error;
}

/* THREAD any, under the lock. */
static void capturing_begin(struct avf_captured *c, uint64_t ticket, const int32_t ends[3])
{
    c->ticket = ticket;
    c->flags = c->error = 0;
    if (ends)
        memcpy(c->ends, ends, sizeof c->ends);
    avf_counters *counters = &avf_state.counters;
    counters->captures++;
    if (++counters->capturing > counters->capturing_peak)
        counters->capturing_peak = counters->capturing;
    c->read_before = c->shown.total[0] + c->shown.total[1];
    c->written_before = c->shown.written;
}

/* THREAD loop, under the lock. */
void avf_capturing_hurry(struct avf_slot *slot, struct avf_captured *c, int64_t drain_ns)
{
    c->shown.drain_ns = drain_ns;
    if (slot->is_over) {
        avf_collection_time(c, drain_ns);
        avf_collection_signal();
    }
}

/* THREAD any, under the lock. Nothing is left to do for it. RETURNS its ends, for the caller to close. */
void avf_capturing_end(struct avf_captured *c, int32_t ret_ends[3])
{
    avf_collection_untime(c);
    for (int i = 0; i < 3; i++)
        avf_collection_unwatch(c->ends[i]);
    memcpy(ret_ends, c->ends, sizeof c->ends);
    memset(c->ends, -1, sizeof c->ends);
    avf_counters *counters = &avf_state.counters;
    counters->capturing--;
    counters->bytes_read += (uint64_t)(c->shown.total[0] + c->shown.total[1] - c->read_before);
    counters->bytes_written += (uint64_t)(c->shown.written - c->written_before);
}

/* THREAD worker|loop, under the lock. */
int avf_capturing_add(struct avf_slot *slot, int pidfd, const int32_t ends[3])
{
    struct avf_captured *c = (struct avf_captured *)slot->capture;
    int error = capturing_watch_all(slot->ticket, pidfd, ends);
    if (error == 0)
        capturing_begin(c, slot->ticket, ends);
    return error;
}

/* ---- one event ---- */

/* THREAD collector, under the lock, in the gate. The exit was seen. RETURNS the pidfd for the caller to close, or -1
 * if somebody may ask for the end of the group. */
static int capturing_end_child(struct avf_slot *slot, struct avf_captured *c)
{
    avf_park_forget_child(slot);
    if (c->exit.flags & AVF_GROUP_LIVES && slot->port && !slot->unwanted) {
        avf_collection_unwatch(slot->pidfd);
        return -1;
    }
    c->exit.flags &= ~AVF_GROUP_LIVES;
    return avf_group_take_leader(slot);
}

/* THREAD collector, under the lock. A child that lives becomes one of the port's; what its epoll does not take now, the
 * timer brings (drain.c). */
static void capturing_give_child(struct avf_slot *slot, struct avf_captured *c)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = slot->ticket};
    c->flags |= AVF_CHILD_LIVES;
    avf_collection_unwatch(slot->pidfd);
    slot->unwatched = epoll_ctl(slot->port->epoll_fd, EPOLL_CTL_ADD, slot->pidfd, &event) < 0;
}

/* THREAD collector, under the lock, in the gate. The capture is over: its record goes to the port. */
static void capturing_post(struct avf_slot *slot, struct avf_captured *c)
{
    int32_t fds[4];
    avf_capturing_end(c, fds);
    fds[3] = slot->is_over ? capturing_end_child(slot, c) : -1;
    avf_close_all(fds, 4);
    avf_collection_unexpect(c);
    if (slot->port) {
        slot->outcome = AVF_OUTCOME_CAPTURE;
        if (slot->pidfd >= 0 && !slot->is_over)
            capturing_give_child(slot, c);
        avf_port_post(slot->port, slot); /* last: the loop is awake now, and wants the lock */
        return;
    }
    slot->capture = NULL;
    avf_slot_move(slot, AVF_SLOT_FREE, NULL); /* it was detached: it ends with its child */
    avf_collection_discard(c);
}

/* THREAD any, under the lock, in the gate. What remains to be done for it once its port has closed: nothing. */
void avf_capturing_abandon(struct avf_slot *slot, struct avf_captured *c)
{
    int32_t ends[3] = {-1, -1, -1};
    int with_child = slot->pid > 0;
    if (c->copying)
        avf_collection_end_copy(c);
    else
        avf_capturing_end(c, ends);
    avf_collection_unexpect(c);
    slot->capture = NULL;
    avf_close_all(ends, 3);
    if (with_child && !slot->is_over) {
        avf_collection_unwatch(slot->pidfd);
        avf_reaper_orphan(slot);
    } else if (with_child) {
        avf_park_forget_child(slot);
        (void)avf_group_end(slot);
        close(avf_group_let_go(slot));
    } else {
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    }
}

/* THREAD any, in the gate, under the lock. */
void avf_capturing_give_up(struct avf_slot *slot)
{
    struct avf_captured *c = avf_capturing_capture(slot);
    slot->port = NULL;
    if (c && !c->busy) /* else the collector finds that out */
        avf_capturing_abandon(slot, c);
}

/* THREAD collector, under the lock, in the gate. Looks at what has happened to a capture. */
void avf_capturing_settle(struct avf_slot *slot, struct avf_captured *c)
{
    int open = c->ends[0] >= 0 || c->ends[1] >= 0 || c->ends[2] >= 0, waits = slot->pid > 0 && !slot->is_over;
    if (!slot->port && !c->detached)
        avf_capturing_abandon(slot, c);
    else if (c->error || c->flags || !(open || waits))
        capturing_post(slot, c);
    else if (open && !waits && slot->pid > 0 && c->shown.drain_ns >= 0 && !c->timed)
        avf_collection_time(c, c->shown.drain_ns);
}

/* THREAD collector, under the lock, in the gate. What was found of one end. */
void avf_capturing_note(struct avf_captured *c, int which, int result)
{
    if (result < 0 && !c->detached)
        c->error = result;
    if (result == AVF_PIPE_LIMITED)
        c->flags |= AVF_CAPTURE_LIMITED;
    if (result == AVF_PIPE_ENDED || result < 0) {
        int32_t fd = c->ends[which];
        c->ends[which] = -1;
        avf_collection_unwatch(fd); /* a process that has just been forked may hold the same open file */
        avf_close_all(&fd, 1);
    }
}

/* THREAD collector, under the lock. The child was looked at; it may have been orphaned meanwhile. */
void avf_capturing_note_exit(struct avf_slot *slot, struct avf_captured *c, int over)
{
    slot->reaped_now = 0;
    slot->is_over = (uint8_t)over;
    slot->is_unreaped = over && c->exit.is_unreaped;
    if (slot->state == AVF_SLOT_ORPHANED) {
        int32_t pidfd = over && !slot->is_unreaped ? slot->pidfd : -1;
        avf_reaper_settle(slot, pidfd >= 0);
        avf_close_all(&pidfd, 1);
    } else if (!over) { /* a tracer has it: the pidfd is readable, and there is nothing to reap */
        avf_collection_time(c, AVF_LOOK_AGAIN_NS);
    }
}

/* THREAD loop, under the lock. */
void avf_capturing_record(struct avf_slot *slot, avf_event *event)
{
    struct avf_captured *c = (struct avf_captured *)slot->capture;
    if (!c)
        return;
    slot->capture = NULL;
    avf_collection_unexpect(c); /* of a spawn that failed */
    if (slot->outcome != AVF_OUTCOME_CAPTURE)
        return;
    event->error = c->error;
    event->flags |= c->flags;
    if (!slot->is_over)
        return;
    event->status = c->exit.status;
    event->flags |= c->exit.flags;
    avf_state.counters.exited++;
    avf_state.counters.stolen += (c->exit.flags & (AVF_STATUS_RECOVERED | AVF_STATUS_UNKNOWN)) != 0;
    _Static_assert(sizeof event->rusage == sizeof c->exit.rusage, "the kernel's struct rusage");
    memcpy(event->rusage, &c->exit.rusage, sizeof event->rusage);
}

/* THREAD any, in the child of a fork. The memory is Python's still. */
void avf_capturing_forget(struct avf_slot *slot)
{
    struct avf_captured *c = (struct avf_captured *)slot->capture;
    slot->capture = NULL;
    if (!c)
        return;
    avf_close_all(c->ends, 3);
    memset(c->ends, -1, sizeof c->ends);
    c->busy = c->expected = c->timed = c->copying = 0;
}
