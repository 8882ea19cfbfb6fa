package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Descriptors that Start hands to the new process.
const (
	specFD    = 3
	failureFD = 4
)

// Run is the new process: it builds the container around itself and becomes the application. It returns only when that failed, with the
// reason on the failure pipe.
func Run() int {
	runtime.LockOSThread() // credentials belong to a thread, and this one will call exec
	syscall.CloseOnExec(specFD)
	syscall.CloseOnExec(failureFD)
	failure := os.NewFile(failureFD, "failure")
	if err := become(os.NewFile(specFD, "spec")); err != nil {
		io.WriteString(failure, err.Error()) // if the agent is gone, so is everything
	}
	return 127
}

func become(input io.Reader) error {
	var spec Spec
	if err := json.NewDecoder(input).Decode(&spec); err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	if err := enterRoot(&spec); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	account, err := resolveUser(spec.User, "/etc/passwd", "/etc/group")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(spec.Workdir, 0o755); err != nil {
		return fmt.Errorf("make the working directory: %w", err)
	}
	if err := setLimits(); err != nil {
		return err
	}
	if err := dropPrivileges(&spec, account); err != nil {
		return err
	}
	return execute(&spec, account)
}

const maxOpenFiles = 1024

func setLimits() error {
	limit := syscall.Rlimit{Cur: maxOpenFiles, Max: maxOpenFiles}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("setrlimit", err)
	}
	// The agent itself is never killed for want of memory; the application may be.
	return os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
}

func execute(spec *Spec, account account) error {
	if err := os.Chdir(spec.Workdir); err != nil {
		return err
	}
	program, err := findProgram(spec.Argv[0], spec.path())
	if err != nil {
		return err
	}
	err = syscall.Exec(program, spec.Argv, spec.environment(account.home))
	return &os.PathError{Op: "exec", Path: program, Err: err}
}

// findProgram looks a command up as execvp does, with Docker's words for what goes wrong.
func findProgram(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		if err := isProgram(name); err != nil {
			return "", &exec.Error{Name: name, Err: err}
		}
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		program := filepath.Join("/", dir, name)
		if dir != "" && isProgram(program) == nil {
			return program, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

func isProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return errors.Unwrap(err)
	case info.IsDir():
		return syscall.EISDIR
	case info.Mode()&0o111 == 0:
		return syscall.EACCES
	}
	return nil
}
