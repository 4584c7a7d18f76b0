/* What this kernel and sandbox allow. */
#ifndef AVF_PROBE_H
#define AVF_PROBE_H

#include "binding.h"

/* THREAD worker|any. Finds out what this kernel allows, by a child of its own, in under a millisecond. What must hold
 * for every thread and for ever is kept; what a filter may have refused to this thread alone is not, and is
 * asked again. RETURNS 0, or -errno where no child could be started now. */
int avf_probe_facts(avf_facts *ret_facts);

/* THREAD any. The engine and report mode for the next spawn: AVF_ENGINE_CLONE3 | AVF_REPORT_PIPE, as
 * probed or as forced. */
int32_t avf_probe_engine(const avf_facts *facts);

/* THREAD worker. What a filter may refuse to the calling thread alone. Whether close_range may work; whether it
 * was wrong the child finds out. And 0 or -errno: whether this thread may signal, and wait, by pidfd. */
int avf_probe_close_range(const avf_facts *facts);
int avf_probe_pidfd_signal(void);
int avf_probe_pidfd_wait(void);

/* THREAD any. Whether an error says that the kernel lacks the call, for every thread and for ever. */
int avf_probe_is_lasting(int error);

#endif
