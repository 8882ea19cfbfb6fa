package thaw

import (
	"errors"
	"syscall"
	"testing"
)

// Here only that the calls reach the kernel; what they do is tested in a VM, and this machine's clock is not for a test to set.
func TestReseedReachesTheKernel(t *testing.T) {
	err := Reseed(make([]byte, 64))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("may not reseed this machine's random number generator")
	}
	if err != nil {
		t.Fatal(err)
	}
}
