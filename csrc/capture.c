/* DESIGN: where output lies until it is a bytes object.
 *
 * What: a stream is a list of segments, mapped as it grows, each twice as large as the one before; what is smaller
 *     than a page lies in the capture itself. At the end it moves to one place, which the caller has allocated.
 * Where: the collector; and the loop's thread for what it adds or takes back.
 * Invariants: from the first byte that is not in the first page on, the place of a byte within its page is the same
 *     here as in a large bytes object of CPython over glibc's malloc. So whole pages need not be copied: mremap(2) lets
 *     the target have them. Where the target lies otherwise (another libc, a smaller object), they are copied. A slice
 *     is small enough for others to wait for: mremap holds the lock that every page fault of the process needs.
 * Deliberately absent: malloc. The collector's would have an arena of its own. */
#include "capture.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum {
    CAPTURE_PAGE = 4096, /* on a machine with larger ones mremap refuses, and all is copied */
    /* Where the data of a bytes object begin that malloc has mapped: behind malloc's header and CPython's. */
    CAPTURE_BYTES_AT = 48,
    CAPTURE_FIRST = 128 * 1024,
    CAPTURE_LARGEST = 32 * 1024 * 1024,
    /* From here on huge pages pay (madvise(2), MADV_HUGEPAGE), and a target is surely mapped (mallopt(3),
     * M_MMAP_THRESHOLD). */
    CAPTURE_HUGE = 4 * 1024 * 1024,
    CAPTURE_MOVE_FROM = 33 * 1024 * 1024,
    CAPTURE_COPY_SLICE = 512 * 1024,
    CAPTURE_MOVE_SLICE = 2 * 1024 * 1024,
    CAPTURE_RELEASE_SLICE = 4 * 1024 * 1024,
    /* MREMAP_DONTUNMAP, Linux 5.7: no hole is left in the segment, in which another thread's mapping could come to
     * lie before the segment is unmapped. */
    CAPTURE_DONTUNMAP = 4,
};

/* The header of a mapping, in a page of its own: the data go away page by page. */
struct avf_segment {
    struct avf_segment *next;
    size_t size;             /* of the mapping, this page included */
    char *taken, *put, *end; /* data: begin of what is left, end of what there is, end of the room */
};

/* THREAD any. */
static struct avf_segment *segment_map(const struct avf_segment *before)
{
    size_t size = before ? 2 * before->size : CAPTURE_FIRST;
    if (size > CAPTURE_LARGEST)
        size = CAPTURE_LARGEST;
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (size >= CAPTURE_HUGE)
        madvise(base, size, MADV_HUGEPAGE);
    struct avf_segment *segment = (struct avf_segment *)base;
    segment->size = size;
    segment->put = base + CAPTURE_PAGE + (before ? 0 : CAPTURE_BYTES_AT);
    segment->taken = segment->put;
    segment->end = base + size;
    return segment;
}

/* THREAD any. */
int avf_capture_room(struct avf_captured *c, int stream, char **ret_at, size_t *ret_size)
{
    struct avf_stream *s = &c->streams[stream];
    size_t length = (size_t)c->shown.length[stream];
    if (!s->last && length < AVF_CAPTURE_SMALL) {
        *ret_at = s->small + length;
        *ret_size = AVF_CAPTURE_SMALL - length;
        return 0;
    }
    if (!s->last || s->last->put == s->last->end) {
        struct avf_segment *segment = segment_map(s->last);
        if (!segment)
            return -ENOMEM;
        if (s->last) {
            s->last->next = segment;
        } else {
            memcpy(segment->put, s->small, length);
            segment->put += length;
            s->first = segment;
            c->shown.data[stream] = segment->taken;
        }
        s->last = segment;
    }
    *ret_at = s->last->put;
    *ret_size = (size_t)(s->last->end - s->last->put);
    return 0;
}

/* THREAD any. */
void avf_capture_added(struct avf_captured *c, int stream, size_t size)
{
    c->shown.length[stream] += (int64_t)size;
    if (c->streams[stream].last)
        c->streams[stream].last->put += size;
}

/* THREAD any. */
size_t avf_capture_find(struct avf_captured *c, int stream, size_t offset, char **ret_at)
{
    struct avf_stream *s = &c->streams[stream];
    size_t length = (size_t)c->shown.length[stream];
    if (!s->first && c->shown.data[stream] == s->small) {
        *ret_at = s->small + offset;
        return offset < length ? length - offset : 0;
    }
    for (struct avf_segment *segment = s->first; segment; segment = segment->next) {
        size_t size = (size_t)(segment->put - segment->taken);
        *ret_at = segment->taken + offset;
        if (offset < size)
            return size - offset;
        offset -= size;
    }
    return 0;
}

/* THREAD any. The mapping of a segment of which nothing is left, or nothing wanted. */
static void segment_unmap(struct avf_stream *s)
{
    struct avf_segment *segment = s->first;
    s->first = segment->next;
    if (!s->first)
        s->last = NULL;
    munmap(segment, segment->size);
}

/* THREAD collector. Puts a part of a segment where it shall be. RETURNS its size. */
static size_t segment_move(struct avf_segment *segment, char *to, int may_move)
{
    size_t left = (size_t)(segment->put - segment->taken);
    size_t to_page = -(uintptr_t)segment->taken % CAPTURE_PAGE;
    if (may_move && to_page == 0 && left >= CAPTURE_PAGE) {
        size_t slice = left < CAPTURE_MOVE_SLICE ? left & ~(size_t)(CAPTURE_PAGE - 1) : CAPTURE_MOVE_SLICE;
        if (mremap(segment->taken, slice, slice, MREMAP_MAYMOVE | MREMAP_FIXED | CAPTURE_DONTUNMAP, to) !=
            MAP_FAILED)
            return slice;
    }
    size_t slice = left < CAPTURE_COPY_SLICE ? left : CAPTURE_COPY_SLICE;
    if (may_move && to_page && slice > to_page)
        slice = to_page;
    memcpy(to, segment->taken, slice);
    return slice;
}

/* THREAD collector. */
static int stream_copy_slice(struct avf_captured *c, int stream)
{
    struct avf_stream *s = &c->streams[stream];
    int may_move = c->shown.length[stream] >= CAPTURE_MOVE_FROM &&
                   (uintptr_t)(s->copy_to - s->first->taken) % CAPTURE_PAGE == 0;
    size_t moved = segment_move(s->first, s->copy_to, may_move);
    s->copy_to += moved;
    s->first->taken += moved;
    if (s->first->taken == s->first->put)
        segment_unmap(s);
    return s->first == NULL;
}

/* THREAD collector. */
int avf_capture_copy_slice(struct avf_captured *c)
{
    for (int i = 0; i < 2; i++) {
        struct avf_stream *s = &c->streams[i];
        if (!s->copy_to)
            continue;
        c->shown.data[i] = NULL;
        if (!s->first)
            memcpy(s->copy_to, s->small, (size_t)c->shown.length[i]);
        else if (!stream_copy_slice(c, i))
            return 0;
        s->copy_to = NULL;
    }
    return !c->streams[0].copy_to && !c->streams[1].copy_to;
}

/* THREAD any. The pages of a segment go from its end on. */
int avf_capture_release_slice(struct avf_captured *c)
{
    for (int i = 0; i < 2; i++) {
        struct avf_stream *s = &c->streams[i];
        if (!s->first)
            continue;
        c->shown.data[i] = NULL;
        struct avf_segment *segment = s->first;
        if (segment->size > CAPTURE_RELEASE_SLICE) {
            segment->size -= CAPTURE_RELEASE_SLICE;
            munmap((char *)segment + segment->size, CAPTURE_RELEASE_SLICE);
        } else {
            segment_unmap(s);
        }
        return c->streams[0].first == NULL && c->streams[1].first == NULL;
    }
    return 1;
}
