package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// InsideArg is the argument of the second stage; nobody else passes it.
const InsideArg = "inside"

// firstFD is where the program's own descriptors begin; the second stage has them in their final places already.
const firstFD = 3

// Report is one line of JSON to the controller. The end of the stream without an error means: the program runs.
type Report struct {
	PID          int    `json:"pid,omitempty"`
	StartedTicks uint64 `json:"started_ticks,omitempty"`
	Error        string `json:"error,omitempty"`
}

func report(w io.Writer, r Report) error { return json.NewEncoder(w).Encode(r) }

// Start is the first stage: it reads the specification from in and reports on out. It returns when the second stage has
// taken over; whether the program could be executed, that stage says itself.
func Start(in io.Reader, out *os.File) error {
	spec, err := Decode(in)
	pid := 0
	if err == nil {
		pid, err = start(spec, out)
	}
	if err != nil {
		return errors.Join(err, report(out, Report{PID: pid, Error: err.Error()}))
	}
	return nil
}

// start returns the second stage's pid, also with an error: whoever is its parent must reap it.
func start(spec *Spec, out *os.File) (int, error) {
	for _, procs := range spec.Cgroups {
		if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
			return 0, fmt.Errorf("joining a cgroup: %w", err)
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer writer.Close()
	child, err := cloneSelf(spec, out, reader)
	reader.Close()
	if err != nil {
		return 0, fmt.Errorf("creating the namespaces: %w", err)
	}
	if err := announce(spec, child.Pid, out); err != nil {
		return child.Pid, err // the specification is never written: the second stage ends by itself
	}
	return child.Pid, json.NewEncoder(writer).Encode(spec)
}

// announce writes the pid file, then tells the controller.
func announce(spec *Spec, pid int, out io.Writer) error {
	ticks, err := startedTicks(pid)
	if err != nil {
		return err
	}
	if spec.PidFile != "" {
		if err := replaceFile(spec.PidFile, fmt.Sprintf("%d %d\n", pid, ticks)); err != nil {
			return fmt.Errorf("pid file: %w", err)
		}
	}
	return report(out, Report{PID: pid, StartedTicks: ticks})
}

func replaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// cloneSelf starts the second stage as a sibling (CLONE_PARENT): the controller is the parent of the program, reaps it
// and knows how it ended, and the first stage need not stay.
func cloneSelf(spec *Spec, out, specPipe *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	output := null
	if spec.Output >= 0 {
		output = os.NewFile(uintptr(spec.Output), "output")
	}
	files := []*os.File{null, output, output}
	for _, fd := range spec.FDs {
		files = append(files, os.NewFile(uintptr(fd), "handed over"))
	}
	files = append(files, specPipe, out)
	return os.StartProcess("/proc/self/exe", []string{"rekindle-jail", InsideArg, strconv.Itoa(len(spec.FDs))},
		&os.ProcAttr{Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: files, Sys: namespaces(spec)})
}

func namespaces(spec *Spec) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setsid: true, // a signal to the service's terminal is not for the VMM
		Cloneflags: syscall.CLONE_PARENT | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if spec.UID == nil {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// startedTicks is field 22 of /proc/<pid>/stat: with the pid it names a process for good.
func startedTicks(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStartedTicks(string(text))
}

func parseStartedTicks(stat string) (uint64, error) {
	end := strings.LastIndexByte(stat, ')') // the name may hold anything, blanks and brackets too
	fields := strings.Fields(stat[end+1:])
	const started = 22 - 3 // fields after the name begin at number 3
	if end < 0 || len(fields) <= started {
		return 0, fmt.Errorf("not a stat line: %q", stat)
	}
	return strconv.ParseUint(fields[started], 10, 64)
}
