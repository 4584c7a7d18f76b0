/* The process group that a child leads: signals to it, and its ticket after the child's own exit. */
#ifndef AVF_GROUP_H
#define AVF_GROUP_H

#include "reap.h"
#include "state.h"

/* THREAD worker, under the lock. Notes in a slot what its plan says of the child's group. */
void avf_group_describe(struct avf_slot *slot, const avf_plan *plan);

/* THREAD worker. As avf_kill_and_wait, and the group with it: nobody has ever heard of this child. */
int32_t avf_group_kill_and_wait(const avf_plan *plan, int pidfd, int32_t pid);

/* THREAD any, not under the lock; the slot says reaped_now. As avf_reap. If the flags of ret_exit have AVF_GROUP_LIVES,
 * the child may be unreaped: the slot is then for AVF_SLOT_HELD, or for avf_group_let_go. */
int avf_group_reap(const struct avf_slot *slot, int pidfd, int32_t pid, struct avf_exit *ret_exit);

/* THREAD any, under the lock. Kills a child that nobody has reaped, and the group that it leads if its plan says
 * AVF_PLAN_GROUP_DIES. RETURNS 0 or -errno. */
int avf_group_end(struct avf_slot *slot);

/* THREAD any, under the lock, in the gate. The exit was seen, and nobody needs the slot any more: reaps the child if
 * that was put off, and frees the slot. RETURNS the pidfd, which is the caller's to close. */
int avf_group_let_go(struct avf_slot *slot);

/* THREAD any, under the lock, in the gate. The same, but the slot stays: nobody finds the child by it any more. */
int avf_group_take_leader(struct avf_slot *slot);

#endif
