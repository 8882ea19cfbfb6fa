package reaper

import (
	"strconv"
	"sync"
	"syscall"
	"testing"
)

func TestEveryStarterGetsItsOwnExit(t *testing.T) {
	reaper := New()
	var all sync.WaitGroup
	for code := range 30 {
		all.Go(func() {
			_, ended, err := reaper.Start(func() (int, error) {
				return syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit " + strconv.Itoa(code)}, nil)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if status := <-ended; status.ExitStatus() != code {
				t.Errorf("exit %d, not %d", status.ExitStatus(), code)
			}
		})
	}
	all.Wait()
}

func TestAFailedStartLeavesNothingWaiting(t *testing.T) {
	reaper := New()
	_, _, err := reaper.Start(func() (int, error) { return syscall.ForkExec("/no/such/file", nil, nil) })
	if err == nil || len(reaper.waiting) != 0 {
		t.Fatalf("%v, %d waiting", err, len(reaper.waiting))
	}
}
