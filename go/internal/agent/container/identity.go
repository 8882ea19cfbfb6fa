package container

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"rekindle/internal/agent/trap"
)

// Identity is what tells one clone from another.
type Identity struct {
	Hostname  string
	MachineID string // 32 hexadecimal digits
}

// WriteFiles writes the files that cover the application's into a folder, in place: a running application sees the new content.
func WriteFiles(dir string, identity Identity) error {
	contents := map[string]string{
		HostsFile:    hosts(identity.Hostname),
		HostnameFile: identity.Hostname + "\n",
		ResolvFile:   "nameserver " + trap.Resolver + "\noptions timeout:3 attempts:2\n",
	}
	if identity.MachineID != "" {
		contents[MachineIDFile] = identity.MachineID + "\n"
	}
	for name, content := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func hosts(name string) string {
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	if name != "localhost" {
		text += "127.0.1.1\t" + name + "\n"
	}
	return text
}

// SetHostname names the application's machine, also while it runs.
func (c *Container) SetHostname(name string) error {
	if c.names == nil {
		return nil // it has ended
	}
	runtime.LockOSThread()
	if err := setNamespace(c.names); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err := syscall.Sethostname([]byte(name))
	if back := setNamespace(c.hostNames); back != nil {
		return back // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func setNamespace(file *os.File) error {
	if _, _, errno := syscall.Syscall(sysSetns, file.Fd(), syscall.CLONE_NEWUTS, 0); errno != 0 {
		return fmt.Errorf("enter %s: %w", file.Name(), errno)
	}
	return nil
}
