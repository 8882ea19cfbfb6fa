package container

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"rekindle/internal/agent/trap"
)

// Identity is what tells one clone from another.
type Identity struct {
	Hostname  string
	MachineID string // 32 hexadecimal digits
	BootID    string // a UUID
}

// NewIdentity is a machine's identity for its whole life. The boot id follows from the machine id: the kernel's own is the same in every
// clone, once anything has read it before the snapshot, and cannot be set.
func NewIdentity(hostname, machineID string) Identity {
	id := sha256.Sum256([]byte("rekindle boot " + machineID))
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // version 4, as the kernel's
	return Identity{hostname, machineID, fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])}
}

// WriteFiles writes the files that cover the application's into a folder, in place: a running application sees the new content.
func WriteFiles(dir string, identity Identity) error {
	contents := map[string]string{
		HostsFile:     hosts(identity.Hostname),
		HostnameFile:  identity.Hostname + "\n",
		ResolvFile:    "nameserver " + trap.Resolver + "\noptions timeout:3 attempts:2\n",
		MachineIDFile: identity.MachineID + "\n",
		BootIDFile:    identity.BootID + "\n",
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

// ReadFiles reads back what a running application sees.
func ReadFiles(dir string) (Identity, error) {
	var identity Identity
	for name, into := range map[string]*string{
		HostnameFile: &identity.Hostname, MachineIDFile: &identity.MachineID, BootIDFile: &identity.BootID,
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return identity, err
		}
		*into = strings.TrimSuffix(string(text), "\n")
	}
	return identity, nil
}

// SetHostname names the application's machine, also while it runs, and returns the name that the kernel then gives to the application.
func (c *Container) SetHostname(name string) (string, error) {
	if c.names == nil {
		return name, nil // it has ended
	}
	runtime.LockOSThread()
	if err := setNamespace(c.names); err != nil {
		runtime.UnlockOSThread()
		return "", err
	}
	err := syscall.Sethostname([]byte(name))
	var system syscall.Utsname
	if err == nil {
		err = syscall.Uname(&system)
	}
	if back := setNamespace(c.hostNames); back != nil {
		return "", back // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return nodename(&system), err
}

func nodename(system *syscall.Utsname) string {
	name := make([]byte, 0, len(system.Nodename))
	for _, char := range system.Nodename {
		if char == 0 {
			break
		}
		name = append(name, byte(char))
	}
	return string(name)
}

func setNamespace(file *os.File) error {
	if _, _, errno := syscall.Syscall(sysSetns, file.Fd(), syscall.CLONE_NEWUTS, 0); errno != 0 {
		return fmt.Errorf("enter %s: %w", file.Name(), errno)
	}
	return nil
}
