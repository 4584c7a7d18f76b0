/* DESIGN: how things end before their time.
 *
 * What: cancelling a spawn, signalling and giving up a child, closing a port.
 * Where: any thread, at any moment; nothing here blocks.
 * Order of a port's end: it takes itself out of the list, then ends the requests it still has, then
 *     gives its children up, then closes its descriptors; workers that still run find `closed` and
 *     clean up after themselves. A child that was given up stays a ticket that can be signalled, until
 *     somebody disposes of it. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "capturing.h"
#include "collector.h"
#include "group.h"
#include "port.h"
#include "reap.h"
#include "reaper.h"

/* THREAD any. */
int32_t avf_cancel(uint64_t ticket, int32_t reason)
{
    struct avf_request *finished = NULL;
    int32_t result = 0;
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->state == AVF_SLOT_QUEUED) {
        finished = slot->request;
        avf_port_post_failure(slot->port, slot, reason, AVF_STEP_NONE);
    } else if (slot && slot->state == AVF_SLOT_STARTED) {
        avf_request_cancel_started(slot->request, reason);
    } else {
        result = slot && slot->state == AVF_SLOT_POSTED ? -EALREADY : -ESRCH;
    }
    avf_unlock();
    if (finished)
        avf_reaper_finish(finished);
    avf_gate_leave();
    if (finished)
        avf_reaper_start();
    return result;
}

/* THREAD any. */
int32_t avf_pid(uint64_t ticket)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int32_t result = slot && slot->pidfd >= 0 && slot->pid > 0 ? slot->pid : -ESRCH;
    avf_unlock();
    return result;
}

/* THREAD any. */
int32_t avf_kill(uint64_t ticket, int32_t signal)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int32_t result = -ESRCH;
    if (slot && slot->pidfd >= 0 && !slot->is_over &&
        (slot->state == AVF_SLOT_ALIVE || slot->state == AVF_SLOT_CAPTURED ||
         slot->state == AVF_SLOT_POSTED || slot->state == AVF_SLOT_DETACHED))
        result = avf_signal(slot->pidfd, slot->pid, signal);
    avf_unlock();
    return result;
}

/* THREAD any. */
int32_t avf_let_live(uint64_t ticket)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int is_child = slot && (slot->state == AVF_SLOT_ALIVE || slot->state == AVF_SLOT_HELD);
    if (is_child) {
        slot->lives_on = 1;
        slot->group_dies = 0;
    }
    avf_unlock();
    return is_child ? 0 : -ESRCH;
}

/* THREAD any. */
int32_t avf_dispose(uint64_t ticket)
{
    int32_t result = avf_cancel(ticket, -ECANCELED);
    if (result == 0)
        return 0;
    avf_gate_enter(); /* for the pidfd of a ticket that is held */
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->state == AVF_SLOT_DETACHED) {
        avf_reaper_orphan(slot);
        result = 0;
    } else if (slot && slot->state == AVF_SLOT_HELD) {
        (void)avf_group_end(slot);
        close(avf_group_let_go(slot));
        result = 0;
    } else if (slot && slot->pidfd >= 0 && slot->state != AVF_SLOT_ORPHANED) {
        slot->unwanted = 1;
        result = avf_group_end(slot); /* drain will reap it */
    }
    avf_unlock();
    avf_gate_leave();
    avf_reaper_start();
    return result;
}

/* THREAD any, in the gate, under the lock, which it gives away meanwhile. Ends what nobody will hear of any more. */
static void ending_end_requests(struct avf_port *port)
{
    struct avf_slot *slot;
    while ((slot = port->queue.head) != NULL) {
        struct avf_request *request = slot->request;
        avf_state.counters.abandoned++;
        avf_port_move(port, slot, AVF_SLOT_FREE, NULL);
        avf_unlock();
        avf_reaper_finish(request);
        avf_lock();
    }
}

/* THREAD any, under the lock, in the gate. */
static void ending_end_posted(struct avf_port *port)
{
    struct avf_slot *slot;
    while ((slot = port->done.head) != NULL) {
        avf_close_all(slot->parent_end, 3);
        for (int i = 0; i < 3; i++)
            slot->parent_end[i] = -1;
        slot->capture = NULL;
        if (slot->is_over && slot->pidfd >= 0) {
            (void)avf_group_end(slot);
            close(avf_group_let_go(slot));
        } else if (slot->pidfd >= 0) {
            avf_reaper_orphan(slot);
        } else {
            avf_state.counters.abandoned++;
            avf_slot_move(slot, AVF_SLOT_FREE, NULL);
        }
    }
}

/* THREAD any, under the lock, in the gate. Workers clean up by themselves. Children stay, without a port, but for those
 * that were disposed of already: nobody will ask for that again. Nobody will release what is held. */
static void ending_give_up_children(struct avf_port *port)
{
    for (uint32_t c = 0; c < avf_state.chunk_count; c++)
        for (uint32_t i = 0; i < AVF_CHUNK; i++) {
            struct avf_slot *slot = &avf_state.chunks[c][i];
            if (slot->port != port)
                continue;
            if (slot->state == AVF_SLOT_STARTED)
                avf_request_cancel_started(slot->request, -ECANCELED);
            if (slot->state == AVF_SLOT_CAPTURED)
                avf_capturing_give_up(slot);
            if (slot->state == AVF_SLOT_ALIVE && slot->lives_on)
                avf_reaper_adopt(slot);
            else if (slot->state == AVF_SLOT_ALIVE)
                avf_slot_move(slot, AVF_SLOT_DETACHED, NULL);
            if (slot->state == AVF_SLOT_HELD) {
                (void)avf_group_end(slot);
                close(avf_group_let_go(slot));
            }
            slot->port = NULL;
            if (slot->state == AVF_SLOT_DETACHED && slot->unwanted)
                avf_reaper_orphan(slot);
        }
}

/* THREAD any, under the lock. */
static void ending_unlist(struct avf_port *port)
{
    port->closed = 1;
    if (port->previous)
        port->previous->next = port->next;
    else
        avf_state.ports = port->next;
    if (port->next)
        port->next->previous = port->previous;
}

/* THREAD any. */
void avf_port_close(avf_port *port)
{
    avf_gate_enter();
    avf_lock();
    if (!port->closed) {
        ending_unlist(port);
        ending_end_requests(port);
        ending_end_posted(port);
        ending_give_up_children(port);
        avf_port_close_fds(port);
        avf_collector_close();
    }
    avf_unlock();
    avf_gate_leave();
    avf_reaper_start();
}

/* THREAD any. */
void avf_port_free(avf_port *port)
{
    avf_port_close(port);
    avf_lock();
    avf_port_unreference(port);
    avf_unlock();
    avf_port_free_retired();
    avf_request_free_retired();
}
