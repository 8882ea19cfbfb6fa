// Package tsc measures the rate of this machine's time stamp counter. A guest must be told it (its own calibration
// needs a timer that a busy host delays), and a snapshot is bound to it.
package tsc

import (
	"errors"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockMonotonicRaw = 4
	span              = 100 * time.Millisecond
	tries             = 16
)

// ErrNone says that this processor has no time stamp counter that we can read.
var ErrNone = errors.New("no time stamp counter on this architecture")

type sample struct{ ticks, nanoseconds uint64 }

// MeasureKHz takes 0.1 s and is right to a few parts per million, on a busy machine too.
func MeasureKHz() (uint64, error) {
	if !available {
		return 0, ErrNone
	}
	first := closest()
	time.Sleep(span)
	second := closest()
	return kHz(first, second), nil
}

func kHz(first, second sample) uint64 {
	ns := second.nanoseconds - first.nanoseconds
	return ((second.ticks-first.ticks)*1_000_000 + ns/2) / ns
}

// closest reads both clocks some times and keeps the pair that was least disturbed.
func closest() sample {
	var best sample
	least := ^uint64(0)
	for range tries {
		before := read()
		now := monotonicRaw()
		after := read()
		if after-before < least {
			least = after - before
			best = sample{before + (after-before)/2, now}
		}
	}
	return best
}

func monotonicRaw() uint64 {
	var at syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonicRaw, uintptr(unsafe.Pointer(&at)), 0)
	return uint64(at.Nano())
}
