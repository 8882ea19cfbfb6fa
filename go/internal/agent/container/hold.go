package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// holdTimeout bounds the wait for processes that sleep in the kernel. Those run no instruction of their own before they are let go, either.
const holdTimeout = time.Second

// Hold stops every process of the application where it is, and returns those groups that it has stopped. A group that the application had
// stopped itself is not among them.
func Hold() ([]string, error) {
	groups, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.freeze") // an application with all capabilities may have made more
	if err != nil {
		return nil, err
	}
	var held []string
	for _, file := range groups {
		if state, err := os.ReadFile(file); err != nil || string(state) != "0\n" {
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return held, errors.Join(err, LetGo(held))
		}
		held = append(held, filepath.Dir(file))
	}
	for until := time.Now().Add(holdTimeout); !allStand(held) && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	return held, nil
}

func allStand(groups []string) bool {
	for _, group := range groups {
		events, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
		if err == nil && !strings.Contains(string(events), "frozen 1") {
			return false
		}
	}
	return true
}

// AreHeld tells whether every group, as far as it is still there, is stopped.
func AreHeld(groups []string) bool {
	for _, group := range groups {
		state, err := os.ReadFile(filepath.Join(group, "cgroup.freeze"))
		if err == nil && string(state) != "1\n" {
			return false
		}
	}
	return true
}

// LetGo lets the processes of groups go on.
func LetGo(groups []string) error {
	var failed error
	for _, group := range groups {
		err := os.WriteFile(filepath.Join(group, "cgroup.freeze"), []byte("0"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
