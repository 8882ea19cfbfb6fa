package jail

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

// Enter is the second stage: PID 1 of its namespaces. It returns only on failure, after reporting it.
func Enter() error {
	runtime.LockOSThread() // capabilities, no_new_privs and exec belong to one thread
	if len(os.Args) != 3 {
		return fmt.Errorf("%s takes the number of descriptors", InsideArg)
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	pipe := os.NewFile(uintptr(firstFD+count), "specification")
	out := os.NewFile(uintptr(firstFD+count+1), "report")
	syscall.CloseOnExec(int(pipe.Fd()))
	syscall.CloseOnExec(int(out.Fd()))
	spec, err := Decode(pipe)
	if err != nil {
		return err // the first stage died or gave up: nobody waits for this program
	}
	err = enter(spec)
	return fmt.Errorf("%w (reported: %v)", err, report(out, Report{Error: err.Error()}))
}

func enter(spec *Spec) error {
	if err := buildRoot(spec); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte("vmm")); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := dropPrivileges(spec.UID); err != nil {
		return err
	}
	syscall.Umask(0o077)
	// Last: Go's runtime reserves more address space than a small program may have, and dies of its next page then.
	if err := limit(spec.Limits); err != nil {
		return err
	}
	return fmt.Errorf("executing %s: %w", spec.Argv[0], syscall.Exec(spec.Argv[0], spec.Argv, spec.Env))
}

func limit(limits Limits) error {
	for _, one := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"address space", syscall.RLIMIT_AS, limits.AddressSpaceBytes},
		{"file size", syscall.RLIMIT_FSIZE, limits.FileBytes},
		{"open files", syscall.RLIMIT_NOFILE, limits.OpenFiles},
	} {
		if one.value == 0 {
			continue
		}
		if err := setLimit(one.resource, one.value); err != nil {
			return fmt.Errorf("limit of %s to %d: %w", one.name, one.value, err)
		}
	}
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

// setLimit never asks for more than the hard limit that is there: a lower one is a stronger wall.
func setLimit(resource int, value uint64) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(resource, &now); err != nil {
		return err
	}
	value = min(value, now.Max)
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value})
}
