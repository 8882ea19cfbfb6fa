// Package thaw makes a restored guest a machine of its own: every clone of a snapshot wakes up with the same random numbers, the same
// names and a clock that stood still.
package thaw

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Reseed gives the kernel's random number generator entropy and makes it use that at once. Until it has returned nil, clones of one
// snapshot return identical bytes.
func Reseed(entropy []byte) error {
	const (
		addEntropy = 0x40085203 // RNDADDENTROPY
		reseedCRNG = 0x5207     // RNDRESEEDCRNG
	)
	random, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	pool := make([]byte, 8, 8+len(entropy)) // struct rand_pool_info: bits, bytes, then the bytes
	binary.NativeEndian.PutUint32(pool, uint32(8*len(entropy)))
	binary.NativeEndian.PutUint32(pool[4:], uint32(len(entropy)))
	pool = append(pool, entropy...)
	if err := ioctl(random, addEntropy, uintptr(unsafe.Pointer(&pool[0]))); err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	if err := ioctl(random, reseedCRNG, 0); err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	return nil
}

func ioctl(file *os.File, request, argument uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, argument); errno != 0 {
		return errno
	}
	return nil
}

const clockRealtime = 0

// StepClock sets the wall clock to a time that was right when received was taken, and returns how far it moved.
func StepClock(now time.Time, received time.Time) (time.Duration, error) {
	target := now.Add(time.Since(received)) // by the monotonic clock
	step := time.Duration(target.UnixNano() - time.Now().UnixNano())
	spec := syscall.NsecToTimespec(target.UnixNano())
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, clockRealtime, uintptr(unsafe.Pointer(&spec)), 0); errno != 0 {
		return 0, os.NewSyscallError("clock_settime", errno)
	}
	return step, nil
}
