/* DESIGN: fork() in the application.
 *
 * What: the forked child has no workers, no children and no ports of ours. It closes every descriptor that it has
 *     inherited from its parent's core, forgets the parent's tickets, and starts anew at its next spawn.
 * Where: the handlers of pthread_atfork(3), on whatever thread forks. This file knows every owner of descriptors
 *     and memory, and is the only one that does.
 * Invariants: fork() waits until nobody is in the gate (state.h), so what the owners have noted is what there is.
 *     An epoll instance is shared with the parent: it is closed, never changed.
 *     Workers that start a child go on while fork() copies; so a pidfd can appear in the middle, which the kernel
 *     has put down in its request. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capturing.h"
#include "collector.h"
#include "mailbox.h"
#include "park.h"
#include "port.h"
#include "reaper.h"
#include "sys.h"

/* THREAD any. */
static void fork_prepare(void)
{
    avf_state_before_fork();
}

/* THREAD any. */
static void fork_parent(void)
{
    avf_state_after_fork(0);
}

/* THREAD any, in the child. The number that clone is about to use, or has used, may have come too late for
 * this process' table, and be a descriptor of somebody else's here. Only a pidfd can be waited for; this one's
 * process is no child of ours. */
static void fork_close_pidfd(struct avf_request *request)
{
    siginfo_t info;
    int pidfd = request->pidfd;
    request->pidfd = -1;
    if (pidfd >= 0 && sys_waitid_pidfd(pidfd, &info, WEXITED | WNOHANG | WNOWAIT, NULL) == -ECHILD)
        close(pidfd);
}

/* THREAD any, in the child. */
static void fork_empty_slot(struct avf_slot *slot)
{
    struct avf_request *request = slot->request;
    if (request) {
        fork_close_pidfd(request);
        avf_files_forget_shared(&request->files);
        avf_request_close(request);
        avf_request_retire(request);
    }
    avf_capturing_forget(slot);
    if (slot->state == AVF_SLOT_POSTED)
        avf_close_all(slot->parent_end, 3);
    avf_close_all(&slot->pidfd, 1);
    slot->parent = 0; /* the workers are not here */
    slot->state = AVF_SLOT_FREE;
    slot->port = NULL;
    slot->request = NULL;
    slot->pid = slot->pidfd = -1;
}

/* THREAD any, in the child. */
static void fork_empty_slots(void)
{
    avf_state.free = avf_state.orphans = avf_state.adopted = (struct avf_slots){0};
    for (uint32_t c = 0; c < avf_state.chunk_count; c++)
        for (uint32_t i = 0; i < AVF_CHUNK; i++) {
            if (avf_state.chunks[c][i].state != AVF_SLOT_FREE)
                fork_empty_slot(&avf_state.chunks[c][i]);
            avf_slots_append(&avf_state.free, &avf_state.chunks[c][i]);
        }
}

/* THREAD any, in the child. Python still refers to its ports, and finds them closed. */
static void fork_close_ports(void)
{
    for (struct avf_port *port = avf_state.ports, *next; port; port = next) {
        next = port->next;
        port->closed = 1;
        port->draining = 0;
        avf_port_close_fds(port);
        port->references = 1;
        port->in_flight = 0;
        port->queue = port->done = port->unreaped = (struct avf_slots){0};
        port->batch.filled = port->batch.taken = 0;
        port->previous = port->next = NULL;
    }
    avf_state.ports = NULL;
    avf_state.waiting_ports = 0;
}

/* THREAD any (the only one there is in the child of a fork). */
static void fork_child(void)
{
    if (!avf_fork_is_under_way()) /* another library's handler came first, and called us */
        return;
    avf_state_after_fork(1);
    fork_empty_slots();
    fork_close_ports();
    avf_collector_after_fork();
    avf_reaper_after_fork();
    avf_files_after_fork();
    avf_mailbox_after_fork();
    avf_park_after_fork();
    avf_window_after_fork();
    memset(&avf_state.counters, 0, sizeof avf_state.counters);
}

/* THREAD any, when the extension is loaded, before any lock can be held: a fork() that runs while the
 * first port is opened must already know of the lock. Where it fails (ENOMEM), no port opens. */
__attribute__((constructor)) static void fork_watch(void)
{
    avf_state_watch_forks(fork_child);
    avf_state.fork_is_watched = pthread_atfork(fork_prepare, fork_parent, fork_child) == 0;
}
