/* DESIGN: how things end before their time.
 *
 * What: cancelling a spawn, signalling and giving up a child, closing a port.
 * Where: any thread, at any moment; nothing here blocks.
 * Order of a port's end: it takes itself out of the list, then ends the requests it still has, then
 *     gives its children up, then closes its descriptors; workers that still run find `closed` and
 *     clean up after themselves. A child that was given up stays a ticket that can be signalled, until
 *     somebody disposes of it.
 * Deliberately absent: signals by pid. */
#include <signal.h>
#include <unistd.h>

#include "port.h"
#include "sys.h"
#include "thread.h"

/* THREAD any. */
int32_t avf_cancel(uint64_t ticket, int32_t reason)
{
    struct avf_request *finished = NULL;
    int32_t result = 0;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (!slot || slot->state == AVF_SLOT_ALIVE) {
        result = -ESRCH;
    } else if (slot->state == AVF_SLOT_QUEUED) {
        finished = slot->request;
        avf_port_dequeue(slot->port, slot);
        avf_port_fail(slot->port, slot, reason, AVF_STEP_NONE);
    } else if (slot->state == AVF_SLOT_STARTED) {
        slot->request->seat->report->cancel = reason; /* before the look at pidfd, see worker.c */
        if (slot->request->pidfd >= 0)
            sys_pidfd_send_signal(slot->request->pidfd, SIGKILL);
    } else {
        result = -EALREADY;
    }
    avf_unlock();
    if (finished)
        avf_request_free(finished);
    return result;
}

/* THREAD any. */
int32_t avf_kill(uint64_t ticket, int32_t signal)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int32_t result = -ESRCH;
    if (slot && slot->state == AVF_SLOT_ALIVE)
        result = sys_pidfd_send_signal(slot->pidfd, signal);
    avf_unlock();
    return result;
}

/* THREAD any. */
int32_t avf_dispose(uint64_t ticket)
{
    int orphan = -1;
    int32_t result = avf_cancel(ticket, ECANCELED);
    if (result == 0)
        return 0;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->pidfd >= 0) {
        result = 0;
        if (slot->port) {
            sys_pidfd_send_signal(slot->pidfd, SIGKILL); /* drain will reap it */
        } else {
            orphan = slot->pidfd;
            avf_state.counters.alive--;
            avf_state.counters.abandoned++;
            avf_slot_release(slot);
        }
    }
    avf_unlock();
    if (orphan >= 0)
        avf_kill_and_reap_elsewhere(orphan);
    return result;
}

/* THREAD any, under the lock. One step of closing: RETURNS 1 with what is to be cleaned up unlocked. */
static int ending_next(struct avf_port *port, struct avf_request **ret_request, struct avf_slot *ret_orphan)
{
    struct avf_slot *slot;
    *ret_request = NULL;
    ret_orphan->pidfd = -1;
    if ((slot = port->queue.head) != NULL) {
        *ret_request = slot->request;
        avf_port_dequeue(port, slot);
    } else if ((slot = port->done.head) != NULL) {
        *ret_orphan = *slot; /* SPAWNED, but nobody will hear of it */
        avf_slots_remove(&port->done, slot);
    } else {
        return 0;
    }
    slot->request = NULL;
    avf_state.counters.abandoned++;
    avf_slot_release(slot);
    return 1;
}

/* THREAD any, under the lock. Workers clean up by themselves; children stay, without a port. */
static void ending_give_up_children(struct avf_port *port)
{
    for (uint32_t c = 0; c < avf_state.chunk_count; c++)
        for (uint32_t i = 0; i < AVF_CHUNK; i++) {
            struct avf_slot *slot = &avf_state.chunks[c][i];
            if (slot->state == AVF_SLOT_FREE || slot->port != port)
                continue;
            if (slot->state == AVF_SLOT_STARTED) {
                slot->request->seat->report->cancel = ECANCELED;
                if (slot->request->pidfd >= 0)
                    sys_pidfd_send_signal(slot->request->pidfd, SIGKILL);
            }
            slot->port = NULL;
        }
}

/* THREAD any. */
void avf_port_close(avf_port *port)
{
    struct avf_request *request;
    struct avf_slot orphan;
    avf_lock();
    int was_open = !port->closed;
    if (was_open) {
        port->closed = 1;
        if (port->previous)
            port->previous->next = port->next;
        else
            avf_state.ports = port->next;
        if (port->next)
            port->next->previous = port->previous;
        while (ending_next(port, &request, &orphan)) {
            avf_unlock();
            if (request)
                avf_request_free(request);
            if (orphan.pidfd >= 0) {
                avf_kill_and_reap_elsewhere(orphan.pidfd);
                for (int i = 0; i < 3; i++)
                    if (orphan.parent_end[i] >= 0)
                        close(orphan.parent_end[i]);
            }
            avf_lock();
        }
        while (port->unreaped.head)
            avf_slots_remove(&port->unreaped, port->unreaped.head);
        ending_give_up_children(port);
        avf_port_close_fds(port);
    }
    avf_port_unreference(port);
    avf_unlock();
}
