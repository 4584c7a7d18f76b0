/* DESIGN: groups of processes.
 *
 * What: a child whose plan says setsid, or setpgid of 0, leads a process group of its own, and its descendants are in
 *     it unless they leave. The group can outlive its leader. As long as it has a member, nobody else gets its number:
 *     the kernel's struct pid of the leader stays, and the pidfd refers to that. So from Linux 6.9 on a pidfd that is
 *     kept open signals the group, and nothing else, whoever has been reaped. Before, only a number can be signalled,
 *     and a number is the group's for sure while its leader is unreaped: the leader's reaping is put off (WNOWAIT).
 * Where: drain and collector look at exits; whoever signals does it under the lock.
 * Invariants: a slot is HELD as long as its receiver wants, and keeps the pidfd, or the zombie and the pidfd. It has its
 *     port until that closes; who closes the port lets it go.
 *     SIGKILL to a group spares nobody who is in it: a fork() under way there fails (copy_process in kernel/fork.c).
 * Deliberately absent: those who have left the group (setsid, setpgid). A cgroup has them. */
#include "group.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "plan.h"

/* THREAD any. */
static int group_is_led(const avf_plan *plan)
{
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const avf_plan_step *step = &avf_plan_steps(plan)[i];
        if (step->step == AVF_STEP_SETSID || (step->step == AVF_STEP_SETPGID && step->value == 0))
            return 1;
    }
    return 0;
}

/* THREAD worker, under the lock. */
void avf_group_describe(struct avf_slot *slot, const avf_plan *plan)
{
    slot->leads = (uint8_t)group_is_led(plan);
    slot->pin = (plan->flags & AVF_PLAN_PIN) != 0;
    slot->group_dies = (plan->flags & AVF_PLAN_GROUP_DIES) != 0;
}

/* THREAD worker. */
int32_t avf_group_kill_and_wait(const avf_plan *plan, int pidfd, int32_t pid)
{
    if (group_is_led(plan))
        (void)avf_signal_group(pidfd, pid, SIGKILL);
    return avf_kill_and_wait(pidfd, pid);
}

/* THREAD any. Members with other credentials are members, and zombies are: those wait for their parents. */
static int group_has_members(int pidfd)
{
    int error = avf_signal_group(pidfd, -1, 0);
    return error == 0 || error == -EPERM;
}

/* THREAD any. An unreaped leader is a member itself, so nobody can tell then whether there are others. */
int avf_group_reap(const struct avf_slot *slot, int pidfd, int32_t pid, struct avf_exit *ret_exit)
{
    int over;
    if (slot->pin || (slot->leads && avf_signal_group_by_pidfd() < 0)) {
        over = avf_reap_peek(pidfd, pid, ret_exit);
        if (over && ret_exit->is_unreaped)
            ret_exit->flags |= AVF_GROUP_LIVES;
    } else {
        over = avf_reap(pidfd, pid, ret_exit);
    }
    if (over && slot->leads && !ret_exit->is_unreaped && group_has_members(pidfd))
        ret_exit->flags |= AVF_GROUP_LIVES;
    return over;
}

/* THREAD any, under the lock. The number of a group for as long as nobody else can get it; else -1. While an exit is
 * looked at it may cease to be the group's. */
static int32_t group_number(const struct avf_slot *slot)
{
    return slot->reaped_now || (slot->is_over && !slot->is_unreaped) ? -1 : slot->pid;
}

/* THREAD any, under the lock. */
int avf_group_end(struct avf_slot *slot)
{
    if (slot->leads && slot->group_dies)
        (void)avf_signal_group(slot->pidfd, group_number(slot), SIGKILL);
    return slot->is_over ? 0 : avf_signal(slot->pidfd, slot->pid, SIGKILL);
}

/* THREAD any, under the lock, in the gate. */
int avf_group_take_leader(struct avf_slot *slot)
{
    struct avf_exit exit;
    int pidfd = slot->pidfd;
    if (slot->is_unreaped)
        (void)avf_reap(pidfd, slot->pid, &exit);
    slot->pidfd = -1;
    slot->is_unreaped = 0;
    return pidfd;
}

/* THREAD any, under the lock, in the gate. */
int avf_group_let_go(struct avf_slot *slot)
{
    int pidfd = avf_group_take_leader(slot);
    avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    return pidfd;
}

/* THREAD any. */
int32_t avf_kill_group(uint64_t ticket, int32_t signal)
{
    int32_t result = -ESRCH;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->leads && slot->pidfd >= 0 &&
        (slot->state == AVF_SLOT_ALIVE || slot->state == AVF_SLOT_CAPTURED ||
         slot->state == AVF_SLOT_DETACHED || slot->state == AVF_SLOT_POSTED || slot->state == AVF_SLOT_HELD))
        result = avf_signal_group(slot->pidfd, group_number(slot), signal);
    avf_unlock();
    return result;
}

/* THREAD any. */
int32_t avf_pin(uint64_t ticket)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int is_child =
        slot && slot->pid > 0 &&
        (slot->state == AVF_SLOT_ALIVE || slot->state == AVF_SLOT_CAPTURED || slot->state == AVF_SLOT_POSTED);
    if (is_child && !slot->is_over)
        slot->pin = 1; /* if its exit is looked at just now it is too late, and the record will say so */
    avf_unlock();
    return is_child ? 0 : -ESRCH;
}

/* THREAD any. */
int32_t avf_release(uint64_t ticket)
{
    int pidfd = -1;
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->state == AVF_SLOT_HELD)
        pidfd = avf_group_let_go(slot);
    avf_unlock();
    if (pidfd >= 0)
        close(pidfd);
    avf_gate_leave();
    return pidfd < 0 ? -ESRCH : 0;
}
