// Package jail builds the walls around one process and becomes that process.
//
// Two stages, one binary. Start (outside) joins the cgroups, clones itself into new namespaces as a child of its own
// parent, writes the pid file and only then hands the specification over. Enter (inside) builds the root file system,
// drops everything and executes the program. A starter that dies at any point therefore leaves either no process or one
// that the pid file names.
package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Spec is what the controller asks for. Paths of sources are the host's, targets are the jail's.
type Spec struct {
	Argv    []string `json:"argv"`
	Env     []string `json:"env"`
	Tree    string   `json:"tree"`    // root of the toolbox tree; its /usr becomes the jail's, read-only
	Binds   []Bind   `json:"binds"`   // every other file that the program may reach
	UID     *int     `json:"uid"`     // root mode: the program's uid and gid; null: the caller's, in a user namespace
	Limits  Limits   `json:"limits"`  // resource limits
	Cgroups []string `json:"cgroups"` // cgroup.procs files to join
	PidFile string   `json:"pid_file"`
	FDs     []int    `json:"fds"`    // descriptors for the program, which finds them as 3, 4, ...
	Output  int      `json:"output"` // descriptor for its stdout and stderr; -1: none
}

// Bind is one file or device that the program sees.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable"`
	Device   bool   `json:"device"`
}

// Limits are rlimits; 0 leaves the caller's.
type Limits struct {
	AddressSpaceBytes uint64 `json:"address_space_bytes"`
	FileBytes         uint64 `json:"file_bytes"`
	OpenFiles         uint64 `json:"open_files"`
}

// Decode reads one specification. Unknown members are an error: a misspelt wall must not silently be missing.
func Decode(r io.Reader) (*Spec, error) {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	var spec Spec
	if err := decoder.Decode(&spec); err != nil {
		return nil, fmt.Errorf("specification: %w", err)
	}
	return &spec, spec.check()
}

func (s *Spec) check() error {
	if len(s.Argv) == 0 || !filepath.IsAbs(s.Argv[0]) {
		return errors.New("specification: argv[0] must be an absolute path in the jail")
	}
	if !filepath.IsAbs(s.Tree) {
		return errors.New("specification: tree must be an absolute path")
	}
	if s.UID != nil && *s.UID <= 0 {
		return errors.New("specification: uid must be above 0")
	}
	for _, bind := range s.Binds {
		if err := bind.check(); err != nil {
			return err
		}
	}
	return nil
}

func (b Bind) check() error {
	clean := filepath.Clean(b.Target)
	if !filepath.IsAbs(b.Source) || clean != b.Target || !filepath.IsAbs(clean) {
		return fmt.Errorf("specification: bind of %q on %q: both must be absolute, the target clean", b.Source, b.Target)
	}
	if clean == "/usr" || strings.HasPrefix(clean, "/usr/") {
		return fmt.Errorf("specification: bind target %q covers the tree", b.Target)
	}
	return nil
}
