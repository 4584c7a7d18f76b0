/* The flat description of one child: reading and checking it. The layout is in aiovfork.cdef. */
#ifndef AVF_PLAN_H
#define AVF_PLAN_H

#include "binding.h"

/* THREAD any. RETURNS 0, or -EINVAL if a plan of that size could make its reader leave the block. */
int avf_plan_check(const void *block, uint32_t size);

/* THREAD any. The declared steps. */
const avf_plan_step *avf_plan_steps(const avf_plan *plan);

/* THREAD any. pass_fds. */
const int32_t *avf_plan_fds(const avf_plan *plan);

/* THREAD any. Writes count pointers and a NULL. */
void avf_plan_split(const avf_plan *plan, uint32_t offset, uint32_t count, const char **ret_strings);

#endif
