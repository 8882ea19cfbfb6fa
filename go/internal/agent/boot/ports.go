package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// portTimeout is how long the kernel may take to find the channel's ports: it asks the machine for them in the background.
const portTimeout = 10 * time.Second

// FindPorts returns the device files of the virtio-serial ports with the given names, waiting for them when it must.
func FindPorts(names ...string) ([]string, error) {
	events, err := listenForEvents()
	if err != nil {
		return nil, err
	}
	defer syscall.Close(events)
	deadline := time.Now().Add(portTimeout)
	for {
		found, missing := scanPorts(names)
		if missing == "" {
			return found, nil
		}
		if err := waitForEvent(events, time.Until(deadline)); err != nil {
			return nil, fmt.Errorf("no virtio-serial port is named %q: %w", missing, err)
		}
	}
}

// scanPorts returns the device files in the order of names, or a name that no port has yet.
func scanPorts(names []string) (found []string, missing string) {
	const dir = "/sys/class/virtio-ports/"
	devices := map[string]string{}
	ports, err := os.ReadDir(dir)
	if err != nil {
		return nil, names[0]
	}
	for _, port := range ports {
		if text, err := os.ReadFile(dir + port.Name() + "/name"); err == nil {
			devices[strings.TrimSpace(string(text))] = "/dev/" + port.Name()
		}
	}
	for _, name := range names {
		if devices[name] == "" {
			return nil, name
		}
		found = append(found, devices[name])
	}
	return found, ""
}

// listenForEvents opens a socket on which the kernel tells of devices that come and change.
func listenForEvents() (int, error) {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return 0, os.NewSyscallError("uevent socket", err)
	}
	if err := syscall.Bind(socket, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: 1}); err != nil {
		syscall.Close(socket)
		return 0, os.NewSyscallError("uevent bind", err)
	}
	return socket, nil
}

func waitForEvent(socket int, limit time.Duration) error {
	if limit <= 0 {
		return os.ErrDeadlineExceeded
	}
	timeout := syscall.NsecToTimeval(int64(limit))
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		return os.NewSyscallError("uevent setsockopt", err)
	}
	_, _, err := syscall.Recvfrom(socket, make([]byte, 8<<10), 0)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return os.ErrDeadlineExceeded
	case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOBUFS): // look again: an event may have been lost
		return nil
	}
	return err
}
