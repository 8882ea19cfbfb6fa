package container

import (
	"fmt"
	"os"
	"syscall"
)

type node struct {
	path         string
	major, minor int
	mode         uint32
}

var nodes = []node{
	{"/dev/null", 1, 3, 0o666}, {"/dev/zero", 1, 5, 0o666}, {"/dev/full", 1, 7, 0o666},
	{"/dev/random", 1, 8, 0o666}, {"/dev/urandom", 1, 9, 0o666}, {"/dev/tty", 5, 0, 0o666},
}

var fuse = node{"/dev/fuse", 10, 229, 0o666}

var links = map[string]string{
	"/dev/ptmx": "pts/ptmx", "/dev/fd": "/proc/self/fd",
	"/dev/sysgenid": NewsPath + "/" + counterFile, // where AWS-LC looks
	"/dev/stdin":    "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
}

// mountDevices gives the application a /dev of its own, with Docker's nodes: none of the machine's disks and channels.
func mountDevices(spec *Spec) error {
	if err := mountAt("tmpfs", "/dev", "tmpfs", syscall.MS_NOSUID|syscall.MS_STRICTATIME, "mode=755,size=65536k"); err != nil {
		return err
	}
	wanted := nodes
	if spec.Capabilities == AllCapabilities {
		wanted = append(wanted[:len(wanted):len(wanted)], fuse)
	}
	for _, node := range wanted {
		if err := node.make(); err != nil {
			return err
		}
	}
	for path, target := range links {
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	shm := fmt.Sprintf("mode=1777,size=%dm", spec.ShmMiB)
	const noExec = syscall.MS_NOSUID | syscall.MS_NOEXEC
	if err := mountAt("devpts", "/dev/pts", "devpts", noExec, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
		return err
	}
	if err := mountAt("shm", "/dev/shm", "tmpfs", plain, shm); err != nil {
		return err
	}
	return mountAt("mqueue", "/dev/mqueue", "mqueue", plain, "")
}

func (n node) make() error {
	if err := syscall.Mknod(n.path, syscall.S_IFCHR|n.mode, n.major<<8|n.minor); err != nil {
		return fmt.Errorf("make %s: %w", n.path, err)
	}
	return os.Chmod(n.path, os.FileMode(n.mode)) // whatever the umask is
}
