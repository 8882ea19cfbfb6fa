package tsc

const available = true

// read is RDTSC, ordered after the loads before it.
func read() uint64
