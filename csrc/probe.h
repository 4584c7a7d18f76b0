/* What this kernel and sandbox allow, found once. */
#ifndef AVF_PROBE_H
#define AVF_PROBE_H

#include "binding.h"

/* THREAD worker|any. Starts one child of its own the first time, in under a millisecond; later calls
 * return the same facts. */
const avf_facts *avf_probe_once(void);

/* THREAD any. The engine and report mode for the next spawn: AVF_ENGINE_CLONE3 | AVF_REPORT_PIPE, as
 * probed or as forced. */
int32_t avf_probe_engine(void);

#endif
