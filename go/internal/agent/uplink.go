package agent

import (
	"context"
	"errors"
	"sync"

	"rekindle/internal/channel"
)

// uplink keeps the session of the out port: whenever a relay is there, a client for it.
type uplink struct {
	port *channel.Port

	mu      sync.Mutex
	client  *channel.Client // nil without a session
	held    bool            // nobody gets the client
	changed chan struct{}   // closed at the next change of the two
}

func newUplink(port *channel.Port) *uplink {
	return &uplink{port: port, changed: make(chan struct{})}
}

// run takes one session after another, until the port breaks.
func (u *uplink) run() error {
	for {
		conn, err := u.port.Accept()
		if err != nil {
			return err
		}
		client, err := channel.NewClient(context.Background(), conn)
		if err != nil {
			continue // the session ended at once; the port is free again
		}
		u.set(client)
		<-client.Done()
		u.set(nil)
	}
}

func (u *uplink) set(client *channel.Client) {
	u.change(func() { u.client = client })
}

func (u *uplink) change(apply func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	apply()
	close(u.changed)
	u.changed = make(chan struct{})
}

var errNoUplink = errors.New("no relay on the out port")

// Client waits for a session that is not held back, until ctx ends.
func (u *uplink) Client(ctx context.Context) (*channel.Client, error) {
	for {
		u.mu.Lock()
		client, held, changed := u.client, u.held, u.changed
		u.mu.Unlock()
		if client != nil && !held {
			return client, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errNoUplink
		}
	}
}

// hold keeps every session back until release.
func (u *uplink) hold() {
	u.change(func() { u.held = true })
}

// drop ends the session. Like every end that a guest makes, the host does not see it.
func (u *uplink) drop() {
	u.mu.Lock()
	client := u.client
	u.mu.Unlock()
	if client != nil {
		client.Close() // whatever it says, the session is over
		<-client.Done()
	}
}

func (u *uplink) release() {
	u.change(func() { u.held = false })
}
