package boot

// sysFinitModule is the number that package syscall has no constant for.
const sysFinitModule = 313
