// Package container runs the application: its own namespaces, root file system, devices and privileges, as Docker would give them, and
// its command as process 1. The agent starts itself again as "agent container" (Run), which builds all this around itself and becomes the
// application by exec.
package container

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Spec says what to run and how.
type Spec struct {
	Argv         []string          `json:"argv"`
	Env          map[string]string `json:"env"`
	Workdir      string            `json:"workdir"`
	User         string            `json:"user"`
	Capabilities Capabilities      `json:"capabilities"`
	ShmMiB       int               `json:"shm_mib"`
	Hostname     string            `json:"hostname"`

	// Root is the file system of the application, and Files the folder with the files that cover some of it; the agent sets both.
	Root  string `json:"root"`
	Files string `json:"files"`
}

// Capabilities names a set of privileges.
type Capabilities string

// The sets that there are.
const (
	DefaultCapabilities Capabilities = "default" // Docker's default
	AllCapabilities     Capabilities = "all"     // and the devices and mounts that go with them
)

// bits is the capability mask; last is the highest capability that the kernel knows.
func (c Capabilities) bits(last int) uint64 {
	if c == AllCapabilities {
		return 1<<(last+1) - 1
	}
	return 0xa80425fb
}

const (
	defaultPath   = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultShmMiB = 64
)

// check fills in defaults and names what is wrong.
func (s *Spec) check() error {
	if s.Workdir == "" {
		s.Workdir = "/"
	}
	if s.ShmMiB == 0 {
		s.ShmMiB = defaultShmMiB
	}
	if s.Capabilities == "" {
		s.Capabilities = DefaultCapabilities
	}
	switch {
	case len(s.Argv) == 0 || s.Argv[0] == "":
		return errors.New("argv must name a program")
	case !strings.HasPrefix(s.Workdir, "/"):
		return fmt.Errorf("workdir %q must be an absolute path", s.Workdir)
	case s.Capabilities != DefaultCapabilities && s.Capabilities != AllCapabilities:
		return fmt.Errorf("capabilities must be %q or %q, not %q", DefaultCapabilities, AllCapabilities, s.Capabilities)
	case s.ShmMiB < 0:
		return fmt.Errorf("shm_mib must not be negative: %d", s.ShmMiB)
	}
	return nil
}

// environment is what exec wants: sorted, with PATH and HOME.
func (s *Spec) environment(home string) []string {
	env := []string{}
	for name, value := range s.Env {
		env = append(env, name+"="+value)
	}
	if s.Env["HOME"] == "" {
		env = append(env, "HOME="+home)
	}
	if _, given := s.Env["PATH"]; !given {
		env = append(env, "PATH="+defaultPath)
	}
	slices.Sort(env)
	return env
}

func (s *Spec) path() string {
	if path, given := s.Env["PATH"]; given {
		return path
	}
	return defaultPath
}
