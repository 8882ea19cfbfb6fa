package container

// sysSetns is the number that package syscall has no constant for.
const sysSetns = 268
