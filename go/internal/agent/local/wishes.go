// Package local is what the application may say to Rekindle about its own machine: that it is busy, and that it may go to sleep. It is an
// HTTP API at a link-local address that exists only inside the guest (docs/guest-api.md); the host asks for what was said by Wishes.
package local

import (
	"encoding/json"
	"sync"
	"time"
)

// About is what the host has told of the machine at its thaw.
type About struct {
	MicrovmID string          `json:"microvm_id"`
	Revision  int64           `json:"revision"` // grows from thaw to thaw
	Idle      json.RawMessage `json:"idle"`
	LeaseMaxS int             `json:"lease_max_seconds"`
	EndsAtMS  int64           `json:"ends_at_ms"`
}

// Wishes is what the host is told. It trusts none of it.
type Wishes struct {
	News    int64  `json:"news"` // how often something was said since the thaw that the host must hear at once
	Suspend bool   `json:"suspend"`
	Lease   *Lease `json:"lease"`
}

// Lease is a promise of work that goes on.
type Lease struct {
	LeftMS int64  `json:"left_ms"`
	Name   string `json:"name"`
}

// Desk keeps what was said. A lease's time stands still while the machine is frozen.
type Desk struct {
	mu      sync.Mutex
	about   *About // nil in a machine that is only being baked
	news    int64
	changed chan struct{} // closed at the next news
	suspend bool
	ends    time.Time // of the lease; zero without one
	name    string
	left    time.Duration // of the lease while the machine is frozen
	now     func() time.Time
}

// New makes a desk at which nothing was said.
func New() *Desk { return &Desk{changed: make(chan struct{}), now: time.Now} }

// Thawed begins a stretch of running: an earlier wish to sleep was followed, and the first thaw of a clone forgets what its original said.
func (d *Desk) Thawed(first bool, about *About) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.about, d.news, d.suspend = about, 0, false
	if first {
		d.ends, d.left = time.Time{}, 0
	}
}

// Following says that the host goes about the suspend, so the wish for it is no news any more.
func (d *Desk) Following() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.suspend = false
}

// Hold stops the lease's time, and Release lets it go on. A freeze may be repeated before a thaw.
func (d *Desk) Hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ends.IsZero() {
		d.left, d.ends = d.leaseLeft(), time.Time{}
	}
}

// Release undoes Hold.
func (d *Desk) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left > 0 {
		d.ends, d.left = d.now().Add(d.left), 0
	}
}

// Wishes tells what was said.
func (d *Desk) Wishes() Wishes {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Wishes{News: d.news, Suspend: d.suspend, Lease: d.lease()}
}

// After is closed when the news are others than those that somebody has heard.
func (d *Desk) After(heard int64) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.news != heard {
		over := make(chan struct{})
		close(over)
		return over
	}
	return d.changed
}

func (d *Desk) tell() {
	d.news++
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *Desk) leaseLeft() time.Duration {
	if d.ends.IsZero() {
		return 0
	}
	return max(0, d.ends.Sub(d.now()))
}

func (d *Desk) lease() *Lease {
	left := d.leaseLeft()
	if left == 0 {
		return nil
	}
	return &Lease{LeftMS: left.Milliseconds(), Name: d.name}
}

// take sets the lease. One that ends sooner than the last is news: the host counts with the longer one.
func (d *Desk) take(seconds int, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ends := d.now().Add(time.Duration(seconds) * time.Second)
	sooner := ends.Before(d.ends)
	d.ends, d.name = ends, name
	if sooner {
		d.tell()
	}
}

func (d *Desk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaseLeft() > 0 {
		d.ends = time.Time{}
		d.tell()
	}
}

func (d *Desk) askForSleep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.suspend {
		d.suspend = true
		d.tell()
	}
}
