/* DESIGN: one reaper with a list.
 *
 * What: children that were killed because nobody wants them any more, and cancelled requests whose files may
 *     take their time to close. Both wait in a list. The reaper empties it: a thread that lives as long as
 *     there is something in it. So does every worker, drain and close that comes by: where no thread can be
 *     had (RLIMIT_NPROC, pids cgroup), the zombies go with the next of those.
 *     A child that lives on without a port is in a list of its own: no thread waits for it, who comes by reaps it.
 * Where: anybody fills the lists; the reaper's thread, workers and drains empty them.
 * Invariants: at most one reaper. An orphan that somebody looks at just now is in no list; its slot still says
 *     ORPHANED, which is enough for fork.c. */
#include "reaper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "group.h"
#include "park.h"
#include "reap.h"
#include "thread.h"

enum {
    REAPER_POLLED = 64, /* orphans that it waits for at a time; the others follow */
    REAPER_LOOK_AGAIN_MS = 20,
    REAPER_LOOKS = 16, /* of one who comes by */
};

static struct avf_request *discarded; /* guarded by lock */
static int reaping;                   /* guarded by lock: there is a reaper */
static _Atomic uint32_t left;         /* orphans and discarded requests */
static _Atomic uint32_t adopted;      /* those in avf_state.adopted */

/* THREAD any, under the lock. */
void avf_reaper_orphan(struct avf_slot *slot)
{
    avf_park_forget_child(slot);
    avf_slot_move(slot, AVF_SLOT_ORPHANED, slot->reaped_now ? NULL : &avf_state.orphans);
    slot->port = NULL;
    (void)avf_group_end(slot);
    avf_state.counters.abandoned++;
    left++;
}

/* THREAD any, under the lock. */
void avf_reaper_adopt(struct avf_slot *slot)
{
    avf_slot_move(slot, AVF_SLOT_DETACHED, &avf_state.adopted);
    slot->port = NULL;
    adopted++;
}

/* THREAD any. Looks at the oldest of them; it is the youngest then. */
static void reaper_look_at_adopted(void)
{
    struct avf_exit exit;
    int pidfd = -1;
    if (!adopted)
        return;
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_state.adopted.head;
    if (!slot) { /* they were disposed of */
        adopted = 0;
    } else if (!slot->reaped_now && avf_reap(slot->pidfd, slot->pid, &exit)) {
        pidfd = slot->pidfd;
        avf_park_forget_child(slot);
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    } else {
        avf_slots_remove(slot);
        avf_slots_append(&avf_state.adopted, slot);
    }
    avf_unlock();
    if (pidfd >= 0)
        close(pidfd);
    avf_gate_leave();
}

/* THREAD any, under the lock. */
void avf_reaper_settle(struct avf_slot *slot, int over)
{
    if (over) {
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
        left--;
    } else {
        avf_slots_append(&avf_state.orphans, slot);
    }
}

/* THREAD any, in the gate: so fork.c never misses a request that has left its slot and is not yet listed here. */
void avf_reaper_finish(struct avf_request *request)
{
    if (!avf_files_may_block(&request->files))
        avf_request_close(request);
    avf_lock();
    if (request->files.message_fd >= 0 || request->files.shared_count > 0) {
        request->next = discarded;
        discarded = request;
        left++;
    } else {
        avf_request_retire(request);
    }
    avf_unlock();
}

/* THREAD any. Looks at the oldest orphan. */
static void reaper_look_at(struct avf_slot *slot)
{
    struct avf_exit exit;
    int over = avf_reap(slot->pidfd, slot->pid, &exit);
    avf_gate_enter();
    avf_lock();
    int pidfd = slot->pidfd;
    avf_reaper_settle(slot, over);
    avf_unlock();
    if (over)
        close(pidfd);
    avf_gate_leave();
}

/* THREAD any. Looks at so many orphans, the oldest first, each once. */
static void reaper_look(uint32_t looks)
{
    for (looks = left < looks ? left : looks; looks > 0; looks--) {
        avf_lock();
        struct avf_slot *slot = avf_state.orphans.head;
        if (slot)
            avf_slots_remove(slot);
        avf_unlock();
        if (!slot)
            break;
        reaper_look_at(slot);
    }
}

/* THREAD worker|reaper. */
static void reaper_close_discarded(void)
{
    for (;;) {
        avf_gate_enter(); /* before the request leaves the list, see avf_reaper_finish */
        avf_lock();
        struct avf_request *request = discarded;
        if (request)
            discarded = request->next;
        avf_unlock();
        if (request)
            avf_request_close(request);
        avf_gate_leave();
        if (!request)
            return;
        avf_files_close_late(&request->files);
        avf_lock();
        avf_request_retire(request);
        left--;
        avf_unlock();
    }
}

/* THREAD worker. */
void avf_reaper_help(void)
{
    reaper_look_at_adopted();
    if (!left)
        return;
    reaper_look(REAPER_LOOKS);
    reaper_close_discarded();
}

/* THREAD reaper. Waits until one of the first orphans is over, or for a while. RETURNS 0 if nothing is left. */
static int reaper_wait(void)
{
    struct pollfd wanted[REAPER_POLLED];
    nfds_t count = 0;
    avf_lock();
    for (struct avf_slot *slot = avf_state.orphans.head; slot && count < REAPER_POLLED; slot = slot->next)
        wanted[count++] = (struct pollfd){.fd = slot->pidfd, .events = POLLIN};
    int more = left > 0;
    reaping = more;
    avf_unlock();
    /* Somebody who comes by may reap and close one of them meanwhile: the look that follows is what counts. What is
     * left may be in no list, while somebody looks at it. And a traced orphan stays readable. */
    if (more && (count == 0 || poll(wanted, count, REAPER_LOOK_AGAIN_MS) > 0))
        sys_nanosleep(1000000);
    return more;
}

/* THREAD reaper. */
static void *reaper_main(void *arg)
{
    prctl(PR_SET_NAME, "aiovfork-reaper");
    do {
        reaper_look(REAPER_POLLED);
        reaper_close_discarded();
    } while (reaper_wait());
    return arg;
}

/* THREAD loop. */
void avf_reaper_start(void)
{
    reaper_look_at_adopted();
    if (!left)
        return;
    reaper_look(REAPER_LOOKS); /* most are dead by now */
    avf_lock();
    int start = left > 0 && !reaping;
    if (start)
        reaping = 1;
    avf_unlock();
    if (start && avf_thread_start(reaper_main, NULL) < 0) {
        avf_lock();
        reaping = 0;
        avf_unlock();
    }
}

/* THREAD any, in the child of a fork. The orphans are slots, which fork.c empties. */
void avf_reaper_after_fork(void)
{
    for (struct avf_request *request = discarded; request;) {
        struct avf_request *next = request->next;
        avf_files_forget_shared(&request->files);
        avf_request_close(request);
        avf_request_retire(request);
        request = next;
    }
    discarded = NULL;
    reaping = 0;
    left = adopted = 0;
}
