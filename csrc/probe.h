/* What this kernel and sandbox allow, found once. */
#ifndef AVF_PROBE_H
#define AVF_PROBE_H

#include "binding.h"

/* THREAD worker|any. Starts a child of its own, in under a millisecond, until that has worked once; then
 * the same facts for ever. RETURNS 0, or -errno where no child could be started now. */
int avf_probe_once(const avf_facts **ret_facts);

/* THREAD any. The engine and report mode for the next spawn: AVF_ENGINE_CLONE3 | AVF_REPORT_PIPE, as
 * probed or as forced. */
int32_t avf_probe_engine(const avf_facts *facts);

#endif
