/* The collector: one thread for the output and input of all captures. */
#ifndef AVF_COLLECTOR_H
#define AVF_COLLECTOR_H

#include "collection.h"

/* THREAD loop, in the gate, under the lock. Opens what the collector waits with, once for all ports. RETURNS 0 or
 * -errno. */
int avf_collector_open(void);
/* THREAD any, in the gate, under the lock. A port has closed: closes it where that was the last. */
void avf_collector_close(void);

/* THREAD loop. Not under the lock, nor in the gate. Announces one capture more: there will be a collector until it is
 * over. RETURNS 0 or -errno. */
int avf_collector_expect(struct avf_captured *c);

/* THREAD any, in the child of a fork. */
void avf_collector_after_fork(void);

#endif
