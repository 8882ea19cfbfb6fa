// The guest of the driver's tests: PID 1 of a real machine that answers one line with one line on the port rekindle.in.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const pageBytes = 4096

var (
	memory  = map[string][]byte{}
	started = time.Now()
)

func main() {
	if err := boot(); err != nil {
		fmt.Println("test guest:", err)
		syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	}
	fmt.Println("test guest is up")
	serve()
}

func boot() error {
	for _, mount := range [][3]string{{"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}} {
		if err := os.MkdirAll(mount[1], 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(mount[0], mount[1], mount[2], 0, ""); err != nil && err != syscall.EBUSY {
			return fmt.Errorf("mount %s: %w", mount[1], err)
		}
	}
	order, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(order)), "\n") {
		name := strings.Fields(line)[0]
		if err := load(filepath.Join("/lib/modules", name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := mountBySerial("root", "/root", "erofs", syscall.MS_RDONLY); err != nil {
		return err
	}
	return mountBySerial("disk", "/disk", "ext4", 0)
}

func load(path string) error {
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	none := new(byte)
	_, _, errno := syscall.Syscall(syscall.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&image[0])), uintptr(len(image)),
		uintptr(unsafe.Pointer(none)))
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}

func mountBySerial(serial, target, kind string, flags uintptr) error {
	found, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		return err
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(text)) != serial {
			continue
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		device := "/dev/" + filepath.Base(filepath.Dir(path))
		if err := syscall.Mount(device, target, kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", device, target, err)
		}
		return nil
	}
	return fmt.Errorf("no disk with serial %q", serial)
}

// serve answers for ever. A port whose host is away reads EOF, so the guest looks again a little later.
func serve() {
	port, err := openPort("rekindle.in")
	if err != nil {
		fmt.Println("test guest:", err)
		return
	}
	for {
		lines := bufio.NewScanner(port)
		for lines.Scan() {
			io.WriteString(port, answer(strings.Fields(lines.Text()))+"\n")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openPort(wanted string) (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, path := range names {
		if name, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(name)) == wanted {
			fd, err := syscall.Open("/dev/"+filepath.Base(filepath.Dir(path)), syscall.O_RDWR, 0)
			return os.NewFile(uintptr(fd), wanted), err
		}
	}
	return nil, fmt.Errorf("no port %s among %v", wanted, names)
}

func answer(words []string) string {
	if len(words) == 0 {
		return "error: nothing asked"
	}
	text, err := command(words[0], words[1:])
	if err != nil {
		return "error: " + err.Error()
	}
	return text
}

func command(name string, args []string) (string, error) {
	switch {
	case name == "ping":
		return "pong", nil
	case name == "marker":
		text, err := os.ReadFile("/root/marker")
		return strings.TrimSpace(string(text)), err
	case name == "random":
		return random()
	case name == "uptime":
		return time.Since(started).String(), nil
	case name == "fill" && len(args) == 2:
		return fill(args[0], args[1])
	case name == "check" && len(args) == 1:
		return check(args[0])
	case name == "write" && len(args) == 2:
		return write(args[0], args[1])
	case name == "verify" && len(args) == 1:
		return verify(args[0])
	case name == "churn" && len(args) == 1:
		return churn(args[0])
	case name == "churned":
		return churned()
	case name == "df":
		var stat syscall.Statfs_t
		err := syscall.Statfs("/disk", &stat)
		return strconv.FormatUint(stat.Blocks*uint64(stat.Bsize)>>20, 10), err
	case name == "panic":
		os.Exit(1) // the kernel does not outlive its init
	case name == "poweroff":
		return "", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case name == "reboot":
		return "", syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	}
	return "", fmt.Errorf("no such command: %s %v", name, args)
}

func random() (string, error) {
	var bytes [16]byte
	_, _, errno := syscall.Syscall(318, uintptr(unsafe.Pointer(&bytes)), uintptr(len(bytes)), 0) // getrandom
	if errno != 0 {
		return "", errno
	}
	return hex.EncodeToString(bytes[:]), nil
}

// fill keeps so many MiB of memory in which every word depends on the key and its place; key "zero" gives zeros.
func fill(key, mib string) (string, error) {
	size, err := strconv.Atoi(mib)
	if err != nil {
		return "", err
	}
	block := memory[key]
	if len(block) != size<<20 {
		block = make([]byte, size<<20)
	}
	seed := seedOf(key)
	for at := 0; at < len(block); at += 8 {
		binary.LittleEndian.PutUint64(block[at:], word(seed, at))
	}
	memory[key] = block
	return "filled", nil
}

func check(key string) (string, error) {
	block, ok := memory[key]
	if !ok {
		return "absent", nil
	}
	seed := seedOf(key)
	for at := 0; at < len(block); at += 8 {
		if binary.LittleEndian.Uint64(block[at:]) != word(seed, at) {
			return "", fmt.Errorf("memory of %s is wrong in page %d", key, at/pageBytes)
		}
	}
	return fmt.Sprintf("right %d", len(block)>>20), nil
}

func seedOf(key string) uint64 {
	if key == "zero" {
		return 0
	}
	sum := sha256.Sum256([]byte(key))
	return binary.LittleEndian.Uint64(sum[:]) | 1
}

func word(seed uint64, at int) uint64 { return seed * uint64(at+1) }

// write makes a file of so many KiB that begins with the sum of the rest, and makes it durable.
func write(name, kib string) (string, error) {
	size, err := strconv.Atoi(kib)
	if err != nil {
		return "", err
	}
	body := make([]byte, size<<10)
	seed := seedOf(name)
	for at := 0; at+8 <= len(body); at += 8 {
		binary.LittleEndian.PutUint64(body[at:], word(seed, at))
	}
	sum := sha256.Sum256(body)
	file, err := os.Create(filepath.Join("/disk", name))
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := file.Write(append(sum[:], body...)); err != nil {
		return "", err
	}
	return "written", file.Sync()
}

// verify reads the file from the disk, not from the page cache.
func verify(name string) (string, error) {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return "", err
	}
	whole, err := os.ReadFile(filepath.Join("/disk", name))
	if os.IsNotExist(err) {
		return "absent", nil
	}
	if err != nil {
		return "", err
	}
	if len(whole) < sha256.Size {
		return "", fmt.Errorf("%s has %d bytes", name, len(whole))
	}
	if sum := sha256.Sum256(whole[sha256.Size:]); string(sum[:]) != string(whole[:sha256.Size]) {
		return "", fmt.Errorf("%s is not what was written", name)
	}
	return fmt.Sprintf("right %d", len(whole)>>10), nil
}
