package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// dropPrivileges makes this thread the application's user, with no more capabilities than its set. A user other than root has none in
// effect. It must be the thread that calls exec.
func dropPrivileges(spec *Spec, account account) error {
	last, err := lastCapability()
	if err != nil {
		return err
	}
	bits := spec.Capabilities.bits(last)
	if err := dropBounding(bits, last); err != nil {
		return err
	}
	if err := ownOutput(account.uid); err != nil {
		return err
	}
	if err := switchUser(account); err != nil {
		return err
	}
	if account.uid == 0 {
		if err := setCapabilities(bits); err != nil {
			return err
		}
	}
	const setNoNewPrivs = 38 // PR_SET_NO_NEW_PRIVS
	return prctl("no_new_privs", setNoNewPrivs, 1)
}

func lastCapability() (int, error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func dropBounding(bits uint64, last int) error {
	for capability := 0; capability <= last; capability++ {
		if bits>>capability&1 == 1 {
			continue
		}
		if err := prctl("drop a capability", syscall.PR_CAPBSET_DROP, uintptr(capability)); err != nil {
			return err
		}
	}
	return nil
}

func prctl(what string, option, argument uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, argument, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", what, os.NewSyscallError("prctl", errno))
	}
	return nil
}

// ownOutput lets a program open /dev/stdout and /dev/stderr by name, as many do.
func ownOutput(uid int) error {
	for _, fd := range []int{1, 2} {
		if err := syscall.Fchown(fd, uid, -1); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}

// switchUser uses raw calls: those of package syscall would change every thread, and only this one matters.
func switchUser(account account) error {
	groups := make([]uint32, len(account.groups)+1) // never empty, so that its address can be taken
	for i, gid := range account.groups {
		groups[i] = uint32(gid)
	}
	calls := []struct {
		name string
		trap uintptr
		a, b uintptr
	}{
		{"setgroups", syscall.SYS_SETGROUPS, uintptr(len(account.groups)), uintptr(unsafe.Pointer(&groups[0]))},
		{"setgid", syscall.SYS_SETGID, uintptr(account.gid), 0},
		{"setuid", syscall.SYS_SETUID, uintptr(account.uid), 0},
	}
	for _, call := range calls {
		if _, _, errno := syscall.RawSyscall(call.trap, call.a, call.b, 0); errno != 0 {
			return os.NewSyscallError(call.name, errno)
		}
	}
	return nil
}

func setCapabilities(bits uint64) error {
	const version3 = 0x20080522
	header := struct{ version, pid uint32 }{version: version3}
	type words struct{ effective, permitted, inheritable uint32 }
	low, high := uint32(bits), uint32(bits>>32)
	data := [2]words{{low, low, 0}, {high, high, 0}}
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}
