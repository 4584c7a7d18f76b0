/* What must end, though nobody waits for it. */
#ifndef AVF_REAPER_H
#define AVF_REAPER_H

#include "request.h"

/* THREAD any, under the lock. Kills the child of a slot that nobody wants; somebody will reap it. */
void avf_reaper_orphan(struct avf_slot *slot);

/* THREAD any, under the lock. The same for one that lives on: the slot is ALIVE, and its port closes. */
void avf_reaper_adopt(struct avf_slot *slot);

/* THREAD any, under the lock. An orphan in no list was looked at; the caller closes the pidfd of one that is over. */
void avf_reaper_settle(struct avf_slot *slot, int over);

/* THREAD any, in the gate. OWNS a request that no slot knows any more: closes it, or leaves that to the reaper where
 * it may block. */
void avf_reaper_finish(struct avf_request *request);

/* THREAD loop. Not under the lock, nor in the gate. Sees to it that what is left is looked after: reaps orphans that
 * are dead, and makes a reaper for the rest. */
void avf_reaper_start(void);

/* THREAD worker. Reaps orphans that are dead, and closes what has been discarded, as a courtesy of whoever comes by:
 * costs nothing where there are none. */
void avf_reaper_help(void);

/* THREAD any, in the child of a fork: closes and frees what has been discarded. */
void avf_reaper_after_fork(void);

#endif
