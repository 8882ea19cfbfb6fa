package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"rekindle/internal/agent/reaper"
)

// cgroup is where the application runs; the name is the one that AWS's guests show.
const cgroup = "/sys/fs/cgroup/system.slice/app"

// Container is a started application.
type Container struct {
	pid   int
	ended chan struct{}
	exit  Exit // valid once ended is closed
	// hostNames and names are the namespaces of the agent's and the application's host name
	hostNames, names *os.File
}

// Exit is how the application ended.
type Exit struct {
	Code     int  `json:"exit_code"`
	Signal   *int `json:"signal"`
	OOMKills int  `json:"oom_kills"`
}

// ExecError says why the application could not be executed. It is the application's fault: a wrong command, user or folder.
type ExecError struct{ Reason string }

func (e *ExecError) Error() string { return e.Reason }

// Start runs an application with output as its stdout and stderr, and returns once its program has been executed. It fails with *ExecError
// when the specification or the image does not allow it.
func Start(spec Spec, reaper *reaper.Reaper, output *os.File) (*Container, error) {
	if err := spec.check(); err != nil {
		return nil, &ExecError{err.Error()}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	pipes, err := openPipes()
	if err != nil {
		return nil, err
	}
	defer pipes.close()
	pid, ended, err := reaper.Start(func() (int, error) { return fork(pipes, output) })
	if err != nil {
		return nil, fmt.Errorf("start the container: %w", err)
	}
	if err := converse(pipes, text); err != nil {
		<-ended
		return nil, err
	}
	return watch(pid, ended)
}

// pipes lead to the new process: one brings the specification, the other says what went wrong, or ends silently at exec.
type pipes struct{ specIn, specOut, failureIn, failureOut *os.File }

func openPipes() (*pipes, error) {
	var p pipes
	var err error
	if p.specOut, p.specIn, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.failureOut, p.failureIn, err = os.Pipe(); err != nil {
		p.close()
		return nil, err
	}
	return &p, nil
}

func (p *pipes) close() {
	for _, file := range []*os.File{p.specIn, p.specOut, p.failureIn, p.failureOut} {
		file.Close() // closing twice, or nothing, is harmless
	}
}

func fork(p *pipes, output *os.File) (int, error) {
	if err := makeCgroup(); err != nil {
		return 0, err
	}
	group, err := os.Open(cgroup)
	if err != nil {
		return 0, err
	}
	defer group.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec("/proc/self/exe", []string{"agent", "container"}, &syscall.ProcAttr{
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd(), p.specOut.Fd(), p.failureIn.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
			UseCgroupFD: true,
			CgroupFD:    int(group.Fd()),
		},
	})
}

// makeCgroup makes the application's group, with memory and process counts down to it.
func makeCgroup() error {
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"/sys/fs/cgroup", filepath.Dir(cgroup)} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +pids"), 0); err != nil {
			return err
		}
	}
	return nil
}

// converse sends the specification and waits for the exec.
func converse(p *pipes, text []byte) error {
	p.specOut.Close()
	p.failureIn.Close()
	_, writeErr := p.specIn.Write(text)
	p.specIn.Close()
	failure, err := io.ReadAll(p.failureOut)
	switch {
	case len(failure) > 0:
		return &ExecError{string(failure)}
	case writeErr != nil:
		return fmt.Errorf("the container died before it was set up: %w", writeErr)
	}
	return err
}

func watch(pid int, ended <-chan syscall.WaitStatus) (*Container, error) {
	container := &Container{pid: pid, ended: make(chan struct{})}
	go func() {
		container.exit = exitOf(<-ended)
		close(container.ended)
	}()
	var failed error
	container.hostNames, failed = os.Open("/proc/self/ns/uts")
	if failed != nil {
		return nil, failed
	}
	// An application that has ended already has no namespaces, and no host name to change.
	container.names, failed = os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if failed != nil && !errors.Is(failed, os.ErrNotExist) {
		return nil, failed
	}
	return container, nil
}

func exitOf(status syscall.WaitStatus) Exit {
	exit := Exit{Code: status.ExitStatus(), OOMKills: OOMKills()}
	if status.Signaled() {
		signal := int(status.Signal())
		exit.Signal, exit.Code = &signal, 128+signal
	}
	return exit
}

// OOMKills is how many of the application's processes the kernel has killed for want of memory.
func OOMKills() int {
	text, err := os.ReadFile(filepath.Join(cgroup, "memory.events"))
	if err != nil {
		return 0 // no application yet
	}
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "oom_kill "); found {
			n, _ := strconv.Atoi(strings.TrimSpace(count)) // the kernel writes numbers
			return n
		}
	}
	return 0
}

// Ended is closed when the application's main process has ended.
func (c *Container) Ended() <-chan struct{} { return c.ended }

// Exit tells how the application ended; only after Ended.
func (c *Container) Exit() Exit { return c.exit }
