/* What must end, though nobody waits for it. */
#ifndef AVF_REAPER_H
#define AVF_REAPER_H

#include "request.h"

/* THREAD any, under the lock. Kills the child of a slot that nobody wants; somebody will reap it. */
void avf_reaper_orphan(struct avf_slot *slot);

/* THREAD any, under the lock. OWNS the request: to be closed where that may block. */
void avf_reaper_discard(struct avf_request *request);

/* THREAD loop. Not under the lock, nor in the gate. Sees to it that what is left is looked after. */
void avf_reaper_start(void);

/* THREAD any. Not under the lock, nor in the gate. Reaps orphans that are dead, as a courtesy of whoever comes
 * by: costs nothing where there are none. */
void avf_reaper_look(void);

/* THREAD worker. As avf_reaper_look; and closes what has been discarded. */
void avf_reaper_help(void);

/* THREAD any, in the child of a fork: closes and frees what has been discarded. */
void avf_reaper_after_fork(void);

#endif
