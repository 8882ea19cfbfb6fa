package vm

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"rekindle/internal/event"
)

// Why a request cannot be forwarded.
var (
	ErrGone     = errors.New("the microVM is gone")
	ErrAsleep   = errors.New("the microVM is suspended and does not resume by itself")
	ErrTooLong  = errors.New("the microVM was not ready in time")
	ErrCrowded  = errors.New("too many requests wait for the microVM")
	ErrNotReady = errors.New("no guest channel")
	ErrQuiet    = errors.New("the microVM is suspended, and this request does not wake it")
)

const (
	maxHeld   = 128
	wakeEvery = time.Second
)

// VM is one microVM's entry. It is safe for concurrent use.
type VM struct {
	ID      string
	Meter   Meter
	hub     *event.Hub
	outside http.Handler // answers the guest's *out* port
	held    atomic.Int64

	linking sync.Mutex // serialises Connect and Disconnect

	mu       sync.Mutex
	route    Route
	link     *link    // nil: not connected
	session  *Session // nil: the guest has not answered, or its session is over
	changed  chan struct{}
	lastWake time.Time
}

func newVM(id string, route Route, hub *event.Hub, outside func(*Meter) http.Handler) *VM {
	v := &VM{ID: id, hub: hub, route: route, changed: make(chan struct{})}
	v.outside = outside(&v.Meter)
	return v
}

// Route returns the route as it is now.
func (v *VM) Route() Route {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.route
}

// SetState changes what happens to requests, those that wait included.
func (v *VM) SetState(state State) {
	v.update(func() {
		v.route.State = state
		v.lastWake = time.Time{}
	})
}

// SetRoute replaces the route. The channel stays: it is Connect's and Disconnect's.
func (v *VM) SetRoute(route Route) {
	v.update(func() { v.route = route })
}

// update changes the VM and tells everybody who waits for a change.
func (v *VM) update(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Connect opens the guest channel unless it is open, and returns when connect() of its sockets has succeeded, or the failure when ctx
// ends first. The guest may answer later.
func (v *VM) Connect(ctx context.Context) error {
	v.linking.Lock()
	defer v.linking.Unlock()
	if v.Connected() {
		return nil
	}
	v.shutLink() // one whose sessions have ended
	v.hub.Forget(v.ID)
	opened, err := open(ctx, v, v.Route())
	if err != nil {
		return err
	}
	v.update(func() {
		if !opened.lost {
			v.link = opened
		}
	})
	return nil
}

// Disconnect closes the guest channel with everything in it and returns when it is closed. It can be repeated.
func (v *VM) Disconnect() {
	v.linking.Lock()
	defer v.linking.Unlock()
	v.shutLink()
}

// shutLink closes what there is of a link. The caller holds v.linking.
func (v *VM) shutLink() {
	v.mu.Lock()
	closing := v.link
	v.mu.Unlock()
	if closing != nil {
		closing.shut()
		v.update(func() { v.link = nil })
	}
}

// Connected tells whether the channel's sockets are connected, whether or not the guest has answered.
func (v *VM) Connected() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.link != nil && !v.link.ended
}

// lose is called by a port whose peer is gone: the other port ends too.
func (v *VM) lose(l *link) {
	l.cancel()
	first := false
	v.update(func() {
		first, l.lost = !l.lost, true
		if v.link == l {
			v.link = nil
		}
	})
	if first {
		v.hub.Emit(event.ChannelLost, v.ID)
	}
}

func (v *VM) end(l *link) { v.update(func() { l.ended = true }) }

func (v *VM) setSession(s *Session) { v.update(func() { v.session = s }) }

func (v *VM) dropSession(s *Session) {
	v.update(func() {
		if v.session == s {
			v.session = nil
		}
	})
}

// patience is how long the guest has for its first answer.
func (v *VM) patience() time.Duration {
	if v.Route().State == Running {
		return patienceRunning
	}
	return patienceStarting
}

// restarts tells whether a session that has ended by itself is followed by another: not while the VM may be frozen, or the
// channel would be open in its snapshot.
func (v *VM) restarts() bool { return v.Route().State == Running }

// AwaitSession returns the session with the guest's agent, whatever the VM's state. It returns ErrNotReady when ctx ends first.
func (v *VM) AwaitSession(ctx context.Context) (*Session, error) {
	return v.awaitSession(ctx, func() bool { return false })
}

// awaitSession also gives up when hopeless, called with v.mu held, says so.
func (v *VM) awaitSession(ctx context.Context, hopeless func() bool) (*Session, error) {
	for {
		v.mu.Lock()
		session, changed, over := v.session, v.changed, hopeless()
		v.mu.Unlock()
		if session != nil && !session.Over() {
			return session, nil
		}
		if over {
			return nil, ErrNotReady
		}
		select {
		case <-ctx.Done():
			return nil, ErrNotReady
		case <-changed:
		}
	}
}

// AwaitReady returns when the guest has answered. It fails when ctx ends first or the channel is lost.
func (v *VM) AwaitReady(ctx context.Context) error {
	_, err := v.awaitSession(ctx, func() bool { return v.link == nil })
	return err
}

// AwaitRunning returns the session when the VM's state lets requests through. While it sleeps it is woken, or without `wake` that is
// ErrQuiet. It waits for `hold` at most. Its errors are the Err values of this package, and ctx's.
func (v *VM) AwaitRunning(ctx context.Context, hold time.Duration, wake bool) (*Session, error) {
	session, _, err := v.look(wake)
	if session != nil || err != nil {
		return session, err
	}
	defer v.held.Add(-1)
	if v.held.Add(1) > maxHeld {
		return nil, ErrCrowded
	}
	over := time.NewTimer(hold)
	defer over.Stop()
	again := time.NewTicker(wakeEvery)
	defer again.Stop()
	for {
		session, changed, err := v.look(wake)
		if session != nil || err != nil {
			return session, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			return nil, ErrTooLong
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// AwaitAwake returns the session once the VM runs, without waking it and however long that takes. Its errors are ErrGone and ctx's.
func (v *VM) AwaitAwake(ctx context.Context) (*Session, error) {
	for {
		v.mu.Lock()
		state, session, changed := v.route.State, v.session, v.changed
		v.mu.Unlock()
		switch {
		case state == Gone:
			return nil, ErrGone
		case state == Running && session != nil && !session.Over():
			return session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look returns the session of a running VM, an error that is final, or what to wait for.
func (v *VM) look(wake bool) (*Session, <-chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch v.route.State {
	case Gone:
		return nil, nil, ErrGone
	case Suspended:
		if !v.route.AutoResume {
			return nil, nil, ErrAsleep
		}
		if !wake {
			return nil, nil, ErrQuiet
		}
		v.wake()
	case Running:
		if v.session != nil && !v.session.Over() {
			return v.session, nil, nil
		}
	}
	return nil, v.changed, nil
}

// wake tells serve that somebody waits, once a second. The caller holds v.mu.
func (v *VM) wake() {
	if now := time.Now(); now.Sub(v.lastWake) >= wakeEvery {
		v.lastWake = now
		v.hub.Emit(event.Wake, v.ID)
	}
}
