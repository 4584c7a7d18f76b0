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
#include <unistd.h>

#include "sys.h"

enum {
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
    CAPTURE_FIXED_NOREPLACE = 0x100000, /* MAP_FIXED_NOREPLACE, Linux 4.17 */
};

/* The header of a mapping, in a page of its own: the data go away page by page. What is ours of the mapping is the head,
 * and what begins with the page of `taken`: another thread's mapping may come to lie in between. The first page of data
 * belongs to the head where they do not begin with it. */
struct avf_segment {
    struct avf_segment *next;
    char *head_end;
    char *taken, *put, *end; /* data: begin of what is left, end of what there is, end of the room */
};

/* THREAD any. */
static size_t capture_page(void)
{
    static _Atomic size_t known;
    if (!known)
        known = (size_t)sysconf(_SC_PAGESIZE);
    return known;
}

/* THREAD any. */
static struct avf_segment *segment_map(const struct avf_segment *before)
{
    size_t size = before ? 2 * (size_t)(before->end - (const char *)before) : CAPTURE_FIRST;
    if (size > CAPTURE_LARGEST)
        size = CAPTURE_LARGEST;
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (size >= CAPTURE_HUGE)
        madvise(base, size, MADV_HUGEPAGE);
    struct avf_segment *segment = (struct avf_segment *)base;
    segment->put = base + capture_page() + (before ? 0 : CAPTURE_BYTES_AT);
    segment->taken = segment->put;
    segment->head_end = base + (before ? 1 : 2) * capture_page();
    segment->end = base + size;
    return segment;
}

/* THREAD any. Where the page of a byte begins, or the head ends. */
static char *segment_page(const struct avf_segment *segment, char *at)
{
    char *page = at - (uintptr_t)at % capture_page();
    return page > segment->head_end ? page : segment->head_end;
}

/* THREAD any. */
static void segment_give_back(char *begin, char *end)
{
    if (end > begin)
        munmap(begin, (size_t)(end - begin));
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

/* THREAD any. A segment of which nothing is left, or nothing wanted: the rest of it, then its head. */
static void segment_unmap(struct avf_stream *s)
{
    struct avf_segment *segment = s->first;
    s->first = segment->next;
    if (!s->first)
        s->last = NULL;
    segment_give_back(segment_page(segment, segment->taken), segment->end);
    segment_give_back((char *)segment, segment->head_end);
}

/* THREAD collector. Whole pages become the target's. RETURNS their size, or 0. */
static size_t segment_move(const struct avf_segment *segment, char *to)
{
    size_t left = (size_t)(segment->put - segment->taken), page = capture_page();
    size_t slice = left < CAPTURE_MOVE_SLICE ? left - left % page : CAPTURE_MOVE_SLICE;
    if (slice == 0 || (uintptr_t)segment->taken % page)
        return 0;
    if (mremap(segment->taken, slice, slice, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED)
        return slice;
    /* The kernel takes the target's old pages away before it finds that it has no memory for more (mremap_to in
     * mm/mremap.c). Where they are still there, EEXIST says so. */
    while (mmap(to, slice, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | CAPTURE_FIXED_NOREPLACE, -1,
                0) == MAP_FAILED &&
           errno != EEXIST)
        sys_nanosleep(1000000); /* for want of memory */
    return 0;
}

/* THREAD collector. RETURNS the size of what was copied. */
static size_t segment_copy(const struct avf_segment *segment, char *to, int may_move)
{
    size_t left = (size_t)(segment->put - segment->taken);
    size_t to_page = -(uintptr_t)segment->taken % capture_page();
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
    struct avf_segment *segment = s->first;
    char *from = segment->taken;
    int may_move =
        c->shown.length[stream] >= CAPTURE_MOVE_FROM && (uintptr_t)(s->copy_to - from) % capture_page() == 0;
    size_t size = may_move ? segment_move(segment, s->copy_to) : 0;
    int moved = size > 0;
    if (!moved)
        size = segment_copy(segment, s->copy_to, may_move);
    s->copy_to += size;
    segment->taken += size;
    if (!moved)
        segment_give_back(segment_page(segment, from), segment_page(segment, segment->taken));
    if (segment->taken == segment->put)
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

/* THREAD any. What was small is not worth it. */
void avf_capture_give_away(struct avf_captured *c, struct avf_captured *to)
{
    for (int i = 0; i < 2; i++) {
        to->streams[i].first = c->streams[i].first;
        to->streams[i].last = c->streams[i].last;
        to->shown.length[i] = c->shown.length[i];
        c->streams[i].first = c->streams[i].last = NULL;
        c->shown.data[i] = c->streams[i].small;
        c->shown.length[i] = 0;
    }
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
        if (segment->end - segment->taken > CAPTURE_RELEASE_SLICE) {
            segment->end -= CAPTURE_RELEASE_SLICE;
            munmap(segment->end, CAPTURE_RELEASE_SLICE);
        } else {
            segment_unmap(s);
        }
        return c->streams[0].first == NULL && c->streams[1].first == NULL;
    }
    return 1;
}
