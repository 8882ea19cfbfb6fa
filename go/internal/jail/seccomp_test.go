package jail

import (
	"syscall"
	"testing"
)

const testArch = 0xc000003e

// verdict runs the filter as the kernel would.
func verdict(t *testing.T, arch, number, argument uint32) uint32 {
	t.Helper()
	code := program(testArch)
	data := map[uint32]uint32{offsetNumber: number, offsetArch: arch, offsetArgument: argument}
	var word uint32
	for at := 0; at < len(code); at++ {
		one := code[at]
		switch one.code {
		case loadWord:
			word = data[one.value]
		case giveBack:
			return one.value
		case jumpEqual:
			at += int(pick(word == one.value, one.then, one.otherwise))
		case jumpSet:
			at += int(pick(word&one.value != 0, one.then, one.otherwise))
		}
	}
	t.Fatal("the program runs past its end")
	return 0
}

func pick(yes bool, then, otherwise uint8) uint8 {
	if yes {
		return then
	}
	return otherwise
}

func TestTheFilter(t *testing.T) {
	const refusal = retErrno | uint32(syscall.EPERM)
	const absent = retErrno | uint32(syscall.ENOSYS)
	const thread = syscall.CLONE_VM | syscall.CLONE_THREAD | syscall.CLONE_SIGHAND
	for name, c := range map[string]struct{ arch, number, argument, want uint32 }{
		"read":                        {testArch, syscall.SYS_READ, 0, retAllow},
		"execve":                      {testArch, syscall.SYS_EXECVE, 0, retAllow},
		"a thread":                    {testArch, syscall.SYS_CLONE, thread, retAllow},
		"a user namespace":            {testArch, syscall.SYS_CLONE, syscall.CLONE_NEWUSER, refusal},
		"a namespace beside a thread": {testArch, syscall.SYS_CLONE, thread | syscall.CLONE_NEWNET, refusal},
		"clone3":                      {testArch, sysClone3, 0, absent},
		"unshare":                     {testArch, syscall.SYS_UNSHARE, 0, refusal},
		"the last one of the list":    {testArch, refused()[len(refused())-1], 0, refusal},
		"a call of the x32 kind":      {testArch, syscall.SYS_READ | x32Bit, 0, absent},
		"another architecture":        {0x40000003, syscall.SYS_READ, 0, retKill},
	} {
		if got := verdict(t, c.arch, c.number, c.argument); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}

func TestEveryJumpStaysInReach(t *testing.T) {
	if length := len(program(testArch)); length > 4096 {
		t.Fatalf("%d instructions", length)
	}
}
