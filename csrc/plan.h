/* The flat description of one child: reading and checking it. The layout is in aiovfork.cdef.
 *
 * The readers are freestanding: the child uses them too, and so can whatever reads the same block in another
 * address space. They trust the block, which avf_plan_check has checked. */
#ifndef AVF_PLAN_H
#define AVF_PLAN_H

#include <stddef.h>

#include "binding.h"
#include "sys.h"

/* THREAD any|child. The declared steps. */
AVF_INLINE const avf_plan_step *avf_plan_steps(const avf_plan *plan)
{
    return (const avf_plan_step *)(plan + 1);
}

/* THREAD any|child. pass_fds, ascending. */
AVF_INLINE const int32_t *avf_plan_fds(const avf_plan *plan)
{
    return (const int32_t *)(avf_plan_steps(plan) + plan->step_count);
}

/* THREAD any|child. The string behind this one in a string list. */
AVF_INLINE const char *avf_plan_next_string(const char *string)
{
    while (*string++)
        ;
    return string;
}

/* THREAD any|child. Writes count pointers and a NULL. */
AVF_INLINE void avf_plan_split(const avf_plan *plan, uint32_t offset, uint32_t count,
                               const char **ret_strings)
{
    const char *string = (const char *)plan + offset;
    for (uint32_t i = 0; i < count; i++) {
        ret_strings[i] = string;
        string = avf_plan_next_string(string);
    }
    ret_strings[count] = NULL;
}

/* THREAD any. RETURNS 0, or -EINVAL if a plan of that size could make its reader leave the block. */
int avf_plan_check(const void *block, uint32_t size);

#endif
