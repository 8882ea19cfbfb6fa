package jail

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"
)

const (
	prCapBsetDrop     = 24
	prSetNoNewPrivs   = 38
	prSetTHPDisable   = 41
	prCapAmbient      = 47
	prAmbientClearAll = 4
	prSetPtracer      = 0x59616d61
	capVersion3       = 0x20080522
)

// dropPrivileges leaves the calling thread with no capability, none to regain, the uid given, and a filter. The order matters:
// the bounding set needs CAP_SETPCAP, the ids need CAP_SETUID and CAP_SETGID.
func dropPrivileges(uid *int) error {
	if err := emptyBoundingSet(); err != nil {
		return fmt.Errorf("bounding set: %w", err)
	}
	if uid != nil {
		if err := becomeUser(*uid); err != nil {
			return fmt.Errorf("becoming uid %d: %w", *uid, err)
		}
	}
	if err := prctl(prCapAmbient, prAmbientClearAll); err != nil {
		return fmt.Errorf("ambient set: %w", err)
	}
	if err := emptyCapabilities(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	// The service reads the guest's private pages with process_vm_readv, also after a restart, when it is no longer an
	// ancestor: Yama (where present; EINVAL without it) must allow any process of the same user.
	if err := prctl(prSetPtracer, ^uintptr(0)); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("ptracer: %w", err)
	}
	// QEMU asks for huge pages for translated code: 2 MiB steps, in every VMM anew (27 MiB of 47 in a fresh clone).
	if err := prctl(prSetTHPDisable, 1); err != nil {
		return fmt.Errorf("huge pages off: %w", err)
	}
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := filterCalls(); err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	return nil
}

func becomeUser(id int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(id, id, id); err != nil {
		return err
	}
	return syscall.Setresuid(id, id, id)
}

func emptyBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		err := prctl(prCapBsetDrop, capability)
		if errors.Is(err, syscall.EINVAL) && capability > 0 {
			return nil // past the last one that this kernel knows
		}
		if err != nil {
			return err
		}
	}
}

func emptyCapabilities() error {
	header := struct {
		version uint32
		pid     int32
	}{version: capVersion3}
	var none [2]struct{ effective, permitted, inheritable uint32 }
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func prctl(option int, argument uintptr) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, uintptr(option), argument, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
