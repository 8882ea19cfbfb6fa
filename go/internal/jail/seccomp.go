package jail

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// A filter under QEMU's own: system calls that no VMM or disk tool needs and that reach deep into the host's kernel,
// above all new user namespaces, in which a process without privileges has all of them over new kernel objects.
// It holds from before the first instruction of the program, for the tools too, which have no filter of their own.

const (
	prSetSeccomp      = 22
	seccompModeFilter = 2

	retAllow = 0x7fff0000
	retErrno = 0x00050000
	retKill  = 0x80000000

	loadWord  = 0x20 // BPF_LD | BPF_W | BPF_ABS
	jumpEqual = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	jumpSet   = 0x45 // BPF_JMP | BPF_JSET | BPF_K
	giveBack  = 0x06 // BPF_RET | BPF_K

	offsetNumber   = 0 // of struct seccomp_data
	offsetArch     = 4
	offsetArgument = 16 // low half of the first one, little-endian

	x32Bit = 0x40000000

	newNamespaces = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
		syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | 0x02000000 // CLONE_NEWCGROUP
)

// Numbers that are the same on every architecture, because they came after 2018.
const (
	sysClone3     = 435
	sysIOUring    = 425
	sysFsopen     = 430
	sysFsmount    = 432
	sysPidfdGetfd = 438
)

var auditArch = map[string]uint32{"amd64": 0xc000003e, "arm64": 0xc00000b7}

func refused() []uint32 {
	return append([]uint32{
		syscall.SYS_UNSHARE, syscall.SYS_MOUNT, syscall.SYS_UMOUNT2, syscall.SYS_PIVOT_ROOT,
		syscall.SYS_CHROOT, syscall.SYS_PTRACE,
		syscall.SYS_ADD_KEY, syscall.SYS_REQUEST_KEY, syscall.SYS_KEYCTL, syscall.SYS_PERF_EVENT_OPEN,
		syscall.SYS_INIT_MODULE, syscall.SYS_DELETE_MODULE, syscall.SYS_KEXEC_LOAD, syscall.SYS_REBOOT,
		syscall.SYS_SWAPON, syscall.SYS_SWAPOFF, syscall.SYS_ACCT, syscall.SYS_QUOTACTL, syscall.SYS_PERSONALITY,
		sysOpenTree, sysMoveMount, sysMountSetattr, sysFsopen, sysFsmount, sysIOUring, sysPidfdGetfd,
	}, refusedHere...)
}

type instruction struct {
	code            uint16
	then, otherwise uint8
	value           uint32
}

// program allows all but the refused calls, and clone without new namespaces. clone3 hides its flags behind a pointer,
// so it does not exist (the C library then uses clone).
func program(arch uint32) []instruction {
	out := []instruction{
		{loadWord, 0, 0, offsetArch},
		{jumpEqual, 1, 0, arch},
		{giveBack, 0, 0, retKill},
		{loadWord, 0, 0, offsetNumber},
		{jumpSet, 0, 1, x32Bit},
		{giveBack, 0, 0, retErrno | uint32(syscall.ENOSYS)},
	}
	for _, number := range refused() {
		out = append(out, instruction{jumpEqual, 0, 1, number}, instruction{giveBack, 0, 0, retErrno | uint32(syscall.EPERM)})
	}
	return append(out,
		instruction{jumpEqual, 0, 1, sysClone3},
		instruction{giveBack, 0, 0, retErrno | uint32(syscall.ENOSYS)},
		instruction{jumpEqual, 0, 3, syscall.SYS_CLONE},
		instruction{loadWord, 0, 0, offsetArgument},
		instruction{jumpSet, 0, 1, newNamespaces},
		instruction{giveBack, 0, 0, retErrno | uint32(syscall.EPERM)},
		instruction{giveBack, 0, 0, retAllow},
	)
}

// filterCalls needs no_new_privs and holds for the calling thread and what it executes.
func filterCalls() error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	code := program(arch)
	filter := struct {
		length uint16
		code   *instruction
	}{uint16(len(code)), &code[0]}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetSeccomp, seccompModeFilter,
		uintptr(unsafe.Pointer(&filter)), 0, 0, 0)
	runtime.KeepAlive(code)
	if errno != 0 {
		return errno
	}
	return nil
}
