"""Where the core runs beyond this machine's compiler and libc: builds and a smoke program without Python."""
