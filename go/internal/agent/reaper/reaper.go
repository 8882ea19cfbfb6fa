// Package reaper owns wait4. Process 1 inherits every orphan, so only one place may wait for children, and whoever starts a process
// gets its exit from there.
package reaper

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper collects every child that ends.
type Reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

// New starts the one reaper of this process.
func New() *Reaper {
	reaper := &Reaper{waiting: map[int]chan syscall.WaitStatus{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go reaper.run(ended)
	return reaper
}

func (r *Reaper) run(ended <-chan os.Signal) {
	for range ended { // one signal may stand for several children
		r.collect()
	}
}

func (r *Reaper) collect() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid <= 0: // no children, or none that has ended
			return
		default:
			r.deliver(pid, status)
		}
	}
}

func (r *Reaper) deliver(pid int, status syscall.WaitStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if channel, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		channel <- status
	}
}

// Start runs fork, which returns the pid of a new child, and returns the channel on which that child's end will be told, once. A child that
// ends at once is not missed: nothing is delivered while fork runs.
func (r *Reaper) Start(fork func() (int, error)) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	channel := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = channel
	return pid, channel, nil
}
