/* DESIGN: what the application asks of captures.
 *
 * What: the calls of aiovfork.cdef. Each takes a capture away from the collector, or gives it to it.
 * Where: the loop's thread; avf_capture_free and avf_capture_take_back on any.
 * Invariants: whoever waits for the collector is neither under the lock nor in the gate. After avf_capture_free has
 *     returned, nothing of ours reads the input or writes to the target of a copy. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "capturing.h"
#include "collector.h"
#include "reaper.h"

/* More than this is given back by the collector: to unmap a touched gigabyte takes a tenth of a second. */
enum { CAPTURES_FREE_HERE = 1024 * 1024 };

/* THREAD loop. */
static void captures_free_retired(void)
{
    avf_lock();
    struct avf_captured *c = avf_collection_take_retired();
    avf_unlock();
    while (c) {
        struct avf_captured *next = c->next;
        free(c);
        c = next;
    }
}

/* THREAD loop. */
avf_capture *avf_capture_new(void)
{
    captures_free_retired();
    struct avf_captured *c = malloc(sizeof *c);
    if (!c)
        return NULL;
    memset(c, 0, offsetof(struct avf_captured, streams));
    memset(c->ends, -1, sizeof c->ends);
    c->shown.limit = c->shown.drain_ns = c->shown.terminal = -1;
    for (int i = 0; i < 2; i++) {
        struct avf_stream *s = &c->streams[i];
        s->first = s->last = NULL;
        s->copy_to = NULL;
        c->shown.data[i] = s->small;
    }
    return &c->shown;
}

/* THREAD any. OWNS a capture that is not under way. */
static void captures_give_back(struct avf_captured *c)
{
    int64_t kept = c->shown.length[0] + c->shown.length[1];
    if (kept > CAPTURES_FREE_HERE && avf_collector_expect(c) == 0) {
        avf_lock();
        avf_collection_discard(c);
        avf_unlock();
        return;
    }
    while (!avf_capture_release_slice(c))
        ;
    free(c);
}

/* THREAD any. */
void avf_capture_free(avf_capture *capture)
{
    struct avf_captured *c = (struct avf_captured *)capture;
    avf_collection_take_away(c);
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_capturing_slot(c);
    if (slot && slot->state == AVF_SLOT_CAPTURED)
        avf_capturing_abandon(slot, c);
    else if (slot)
        slot->capture = NULL; /* a worker that finds that kills its child */
    avf_collection_unexpect(c);
    avf_unlock();
    avf_gate_leave();
    avf_reaper_start();
    captures_give_back(c);
}

/* THREAD loop. */
int32_t avf_capture_feed(avf_capture *capture, int32_t stream, const char *data, int64_t size)
{
    struct avf_captured *c = (struct avf_captured *)capture;
    for (size_t room; size > 0; data += room, size -= (int64_t)room) {
        char *at;
        if (avf_capture_room(c, stream, &at, &room) < 0)
            return -ENOMEM;
        if ((int64_t)room > size)
            room = (size_t)size;
        memcpy(at, data, room);
        avf_capture_added(c, stream, room);
    }
    return 0;
}

/* THREAD loop. */
int64_t avf_capture_piece(avf_capture *capture, int32_t stream, int64_t offset, char **ret_at)
{
    return (int64_t)avf_capture_find((struct avf_captured *)capture, stream, (size_t)offset, ret_at);
}

/* THREAD loop, under the lock. A slot for the collector. RETURNS 0 or -errno. */
static int captures_take_slot(avf_port *port, avf_capture *capture, struct avf_slot **ret_slot)
{
    if (port->closed)
        return -EBADF;
    avf_capturing_let_go((struct avf_captured *)capture);
    int error = avf_slot_take(ret_slot);
    if (error == 0) {
        (*ret_slot)->port = port;
        (*ret_slot)->capture = capture;
    }
    return error;
}

/* THREAD loop. */
int64_t avf_capture_start(avf_port *port, avf_capture *capture, const int32_t ends[3])
{
    struct avf_captured *c = (struct avf_captured *)capture;
    struct avf_slot *slot;
    int error = avf_collector_expect(c);
    if (error < 0)
        return error;
    avf_gate_enter();
    avf_lock();
    error = captures_take_slot(port, capture, &slot);
    if (error == 0) {
        c->leaving = 0;
        error = avf_capturing_add(slot, -1, ends);
        if (error == 0) {
            avf_slot_move(slot, AVF_SLOT_CAPTURED, NULL);
        } else {
            slot->capture = NULL;
            slot->port = NULL;
            avf_slots_append(&avf_state.free, slot);
        }
    }
    if (error < 0)
        avf_collection_unexpect(c);
    int64_t ticket = error < 0 ? error : (int64_t)slot->ticket;
    avf_unlock();
    avf_gate_leave();
    return ticket;
}

/* THREAD any. */
int32_t avf_capture_take_back(avf_capture *capture, int32_t ret_ends[3])
{
    struct avf_captured *c = (struct avf_captured *)capture;
    int32_t result = -ESRCH;
    avf_collection_take_away(c);
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_capturing_slot(c);
    if (slot && slot->state == AVF_SLOT_CAPTURED && slot->pid <= 0 && !c->copying) {
        avf_capturing_end(c, ret_ends);
        avf_collection_unexpect(c);
        slot->capture = NULL;
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
        result = 0;
    }
    c->leaving = 0;
    avf_unlock();
    avf_gate_leave();
    return result;
}

/* THREAD loop. */
int32_t avf_capture_hurry(avf_capture *capture, int64_t drain_ns)
{
    struct avf_captured *c = (struct avf_captured *)capture;
    int32_t result = -ESRCH;
    avf_lock();
    struct avf_slot *slot = avf_capturing_slot(c);
    if (slot && slot->state == AVF_SLOT_CAPTURED && slot->pid > 0) {
        avf_capturing_hurry(slot, c, drain_ns);
        result = 0;
    }
    avf_unlock();
    return result;
}

/* THREAD loop. */
int32_t avf_capture_detach(avf_capture *capture)
{
    struct avf_captured *c = (struct avf_captured *)capture;
    struct avf_captured *kept = (struct avf_captured *)avf_capture_new();
    int32_t result = -ESRCH, fd = -1;
    if (!kept)
        return -ENOMEM;
    avf_collection_take_away(c);
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_capturing_slot(c);
    if (slot && slot->state == AVF_SLOT_CAPTURED && slot->pid > 0) {
        fd = c->ends[0]; /* the input is the caller's */
        c->ends[0] = -1;
        c->detached = c->shown.truncate = 1;
        c->shown.limit = 0;
        c->flags = c->error = 0; /* found meanwhile, when it mattered */
        slot->port = NULL;
        avf_capture_give_away(c, kept);
        avf_capturing_hurry(slot, c, 0); /* the last event may have come while it had to be left alone */
        result = 0;
    }
    c->leaving = 0;
    avf_unlock();
    if (fd >= 0)
        avf_close_all(&fd, 1);
    avf_gate_leave();
    captures_give_back(kept);
    return result;
}

/* THREAD loop. */
int64_t avf_capture_copy(avf_port *port, avf_capture *capture, char *stdout_to, char *stderr_to)
{
    struct avf_captured *c = (struct avf_captured *)capture;
    struct avf_slot *slot;
    int error = avf_collector_expect(c);
    if (error < 0)
        return error;
    avf_lock();
    error = captures_take_slot(port, capture, &slot);
    if (error == 0) {
        c->ticket = slot->ticket;
        c->streams[0].copy_to = stdout_to;
        c->streams[1].copy_to = stderr_to;
        avf_slot_move(slot, AVF_SLOT_CAPTURED, NULL);
        avf_collection_add_copy(c);
        avf_collection_signal();
    } else {
        avf_collection_unexpect(c);
    }
    int64_t ticket = error < 0 ? error : (int64_t)slot->ticket;
    avf_unlock();
    return ticket;
}
