package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// Modules loads the kernel modules of the initramfs, in the order that the file beside them gives.
func Modules() error {
	text, err := os.ReadFile(order)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		name, options, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" {
			continue
		}
		if err := loadModule(moduleAt+"/"+name, options); err != nil {
			return err
		}
	}
	return nil
}

// loadModule loads one module file. One that is loaded already is fine.
func loadModule(path, options string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parameters, err := syscall.BytePtrFromString(options)
	if err != nil {
		return fmt.Errorf("options of %s: %w", path, err)
	}
	_, _, errno := syscall.Syscall(sysFinitModule, file.Fd(), uintptr(unsafe.Pointer(parameters)), 0)
	if errno != 0 && !errors.Is(errno, syscall.EEXIST) {
		return fmt.Errorf("load %s: %w", path, errno)
	}
	return nil
}
