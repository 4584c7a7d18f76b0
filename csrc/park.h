/* Workers that wait for the children that they have made. */
#ifndef AVF_PARK_H
#define AVF_PARK_H

#include "state.h"

/* THREAD worker. RETURNS the worker's place, or 0 where there is none; such a worker does not park. */
uint64_t avf_park_take_place(void);

/* THREAD loop. Before a request whose plan has a parent-death signal: its worker will find a place. RETURNS 0 or -ENOMEM. */
int avf_park_reserve(void);

/* THREAD any, under the lock. A child of that worker is posted. It is bound if its plan has a parent-death signal. */
void avf_park_add_child(uint64_t place, struct avf_slot *slot, int bound);

/* THREAD any, under the lock. For the worker the child of this slot is no more: it is over, or an orphan. */
void avf_park_forget_child(struct avf_slot *slot);

/* THREAD worker. OWNS the place. Waits until its children are over, as long as there is a reason. */
void avf_park_wait(uint64_t place);

/* THREAD any, in the child of a fork: the workers are not here. */
void avf_park_after_fork(void);

#endif
