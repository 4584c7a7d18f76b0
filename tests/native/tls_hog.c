/* A library with much static thread-local storage, which glibc carves out of every thread's stack. Size: -DHOG=bytes. */
static __thread char hog[HOG] __attribute__((tls_model("initial-exec")));

__attribute__((constructor)) static void touch(void)
{
    volatile char *bytes = hog;
    bytes[0] = 1;
    bytes[HOG - 1] = 1;
}
