package container

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	plain    = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	readOnly = syscall.MS_RDONLY
)

// enterRoot makes spec.Root the root of this process' mount namespace, with everything mounted that an application expects. It pivots
// first: from then on every path, symbolic links of the image included, stays inside.
func enterRoot(spec *Spec) error {
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	old, err := pivot(spec.Root)
	if err != nil {
		return err
	}
	defer old.Close()
	for _, step := range []func(*Spec) error{mountKernel, mountDevices, coverFiles} {
		if err := step(spec); err != nil {
			return err
		}
	}
	// coverFiles left the old root as the working directory.
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if spec.Capabilities == AllCapabilities {
		return nil
	}
	return hideKernel()
}

// pivot changes roots without a folder for the old one, which ends up as the working directory.
func pivot(root string) (*os.File, error) {
	old, err := os.Open("/")
	if err != nil {
		return nil, err
	}
	if err := os.Chdir(root); err != nil {
		return nil, err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return nil, fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := old.Chdir(); err != nil {
		return nil, err
	}
	return old, nil
}

func mountKernel(spec *Spec) error {
	sysfs := uintptr(plain | readOnly)
	if spec.Capabilities == AllCapabilities {
		sysfs = plain
	}
	if err := mountAt("proc", "/proc", "proc", plain, ""); err != nil {
		return err
	}
	if err := mountAt("sysfs", "/sys", "sysfs", sysfs, ""); err != nil {
		return err
	}
	if spec.Capabilities != AllCapabilities {
		return nil
	}
	return mount("cgroup", "/sys/fs/cgroup", "cgroup2", plain, "")
}

// mountAt mounts on a folder that it makes when it is missing.
func mountAt(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return mount(source, target, kind, flags, options)
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source+kind, target, err)
	}
	return nil
}

// Names of the files in Spec.Files, and what they cover. Their content belongs to the agent, which rewrites them in place.
const (
	HostsFile     = "hosts"
	HostnameFile  = "hostname"
	ResolvFile    = "resolv.conf"
	MachineIDFile = "machine-id"
	BootIDFile    = "boot_id"
)

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// coverFiles binds the agent's files over the image's. It is called with the old root as working directory.
func coverFiles(spec *Spec) error {
	covers := map[string]string{
		"/etc/hosts": HostsFile, "/etc/hostname": HostnameFile, "/etc/resolv.conf": ResolvFile, "/etc/machine-id": MachineIDFile,
		bootIDPath: BootIDFile,
	}
	if info, err := os.Lstat("/var/lib/dbus/machine-id"); err == nil && info.Mode().IsRegular() {
		covers["/var/lib/dbus/machine-id"] = MachineIDFile
	}
	for target, name := range covers {
		if err := makeTarget(target); err != nil {
			return err
		}
		source := filepath.Join(".", spec.Files, name)
		if err := mount(source, target, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := mount("", bootIDPath, "", syscall.MS_BIND|syscall.MS_REMOUNT|plain|readOnly, ""); err != nil {
		return err
	}
	return showNews(spec)
}

// showNews mounts the folder with the generation file, which only the agent writes.
func showNews(spec *Spec) error {
	if err := mountAt(filepath.Join(".", spec.Files, NewsDir), NewsPath, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if spec.Capabilities == AllCapabilities {
		// Containers of users in the container may mount a /proc only where a whole one is in sight, and a file covers some of the other.
		if err := mount("proc", NewsPath+"/"+wholeProcDir, "proc", plain, ""); err != nil {
			return err
		}
	}
	return mount("", NewsPath, "", syscall.MS_BIND|syscall.MS_REMOUNT|plain|readOnly, "")
}

// makeTarget makes sure that a path is a plain file; a symbolic link there would lead the mount astray.
func makeTarget(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		return nil
	}
	if err == nil {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// Docker's lists: what a container must not see, and what it must not write.
var (
	hidden = []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	fixed = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func hideKernel() error {
	for _, path := range hidden {
		if err := hide(path); err != nil {
			return err
		}
	}
	for _, path := range fixed {
		if _, err := os.Lstat(path); err != nil {
			continue // this kernel has no such thing
		}
		if err := mount(path, path, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil { // with the boot_id that covers the kernel's
			return err
		}
		if err := mount("", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|plain|readOnly, ""); err != nil {
			return err
		}
	}
	return nil
}

func hide(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil // this kernel has no such thing
	case info.IsDir():
		return mount("tmpfs", path, "tmpfs", readOnly, "size=0k")
	default:
		return mount("/dev/null", path, "", syscall.MS_BIND, "")
	}
}
