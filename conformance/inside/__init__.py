"""What runs inside a test process. It has aiovfork, uvloop, and what its suite needs; not what we need."""
