package boot

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
)

// Memory is the machine's, in KiB.
type Memory struct {
	TotalKiB     int `json:"total_kib"`
	AvailableKiB int `json:"available_kib"`
}

// ReadMemory asks the kernel.
func ReadMemory() (Memory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Memory{}, err
	}
	var memory Memory
	for name, field := range map[string]*int{"MemTotal:": &memory.TotalKiB, "MemAvailable:": &memory.AvailableKiB} {
		if *field, err = valueOf(text, name); err != nil {
			return Memory{}, err
		}
	}
	return memory, nil
}

func valueOf(meminfo []byte, name string) (int, error) {
	_, rest, found := bytes.Cut(meminfo, []byte(name))
	fields := bytes.Fields(rest)
	if !found || len(fields) == 0 {
		return 0, fmt.Errorf("/proc/meminfo has no %s", name)
	}
	return strconv.Atoi(string(fields[0]))
}

const (
	// chunkBytes is how much memory is taken at a time.
	chunkBytes = 4 << 20
	// spareKiB is how much stays available: below it the kernel would begin to kill.
	spareKiB = 24 << 10
)

// Trim makes the memory that a snapshot must hold as small as it gets: caches are dropped, and free memory is filled with zeros, which a snapshot
// leaves out.
func Trim() error {
	debug.FreeOSMemory()
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	return zeroFree()
}

// zeroFree takes nearly all free memory, which the kernel clears as it hands it out, and gives it back.
func zeroFree() error {
	var taken [][]byte
	defer func() {
		for _, chunk := range taken {
			syscall.Munmap(chunk) // it was mapped, so it can be unmapped
		}
	}()
	for {
		memory, err := ReadMemory()
		if err != nil {
			return err
		}
		if memory.AvailableKiB < spareKiB+chunkBytes>>10 {
			return nil
		}
		const flags = syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_POPULATE
		chunk, err := syscall.Mmap(-1, 0, chunkBytes, syscall.PROT_READ|syscall.PROT_WRITE, flags)
		if err != nil {
			return nil // no more to be had: that is all of it
		}
		taken = append(taken, chunk)
	}
}
