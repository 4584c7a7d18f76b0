/* The contract of aiovfork.cdef for the C compiler. */
#ifndef AVF_BINDING_H
#define AVF_BINDING_H

#include <stdint.h>

#include "aiovfork.cdef"

#endif
