// Package trap is the guest's way out. A microVM has no network card: the guest's kernel redirects every TCP connection and every DNS
// question that would leave to listeners of the agent, which asks the relay over the channel's out port to dial or to answer.
package trap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"rekindle/internal/agent/conns"
	"rekindle/internal/agent/local"
	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

const (
	// dialTimeout is longer than the relay's own.
	dialTimeout = 35 * time.Second
	// uplinkTimeout is how long a connection waits for the relay after a boot or a thaw.
	uplinkTimeout = 2 * time.Second
)

// Uplink is where the session of the out port is found.
type Uplink interface {
	// Client waits for a session and fails when there is none before ctx ends.
	Client(ctx context.Context) (*channel.Client, error)
}

// Inside serves one connection to local.Address, which never leaves the guest, and closes it.
type Inside interface {
	Serve(conn net.Conn)
}

// Trap owns the listeners and every connection that a program of the guest has opened to the outside.
type Trap struct {
	uplink Uplink
	inside Inside
	log    func(format string, args ...any)

	open *conns.Set
	// questions bounds how many DNS questions are under way
	questions chan struct{}
}

// Start raises the loopback interface, makes the outer interface and the rules, and opens the listeners.
func Start(uplink Uplink, inside Inside, log func(format string, args ...any)) (*Trap, error) {
	trap := newTrap(uplink, inside, log)
	for _, step := range []func() error{raiseLoopback, makeLink, trap.listen, loadRules} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return trap, nil
}

func newTrap(uplink Uplink, inside Inside, log func(format string, args ...any)) *Trap {
	return &Trap{
		uplink: uplink, inside: inside, log: log,
		open: conns.New(channel.MaxTunnels), questions: make(chan struct{}, maxQuestions),
	}
}

func (t *Trap) listen() error {
	for _, network := range []string{"tcp4", "tcp6"} {
		listener, err := net.Listen(network, fmt.Sprintf(":%d", tcpPort))
		if err != nil {
			return err
		}
		go t.acceptAll(listener, t.serveTrapped)
	}
	listener, err := net.Listen("tcp4", net.JoinHostPort(Resolver, "53"))
	if err != nil {
		return err
	}
	go t.acceptAll(listener, t.serveDNS)
	return t.listenDNS()
}

// acceptAll serves a listener's connections until it is closed. Running out of descriptors is no reason to stop.
func (t *Trap) acceptAll(listener net.Listener, serve func(*net.TCPConn)) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.log("trap: accept: %v", err)
			continue
		}
		tcp := conn.(*net.TCPConn)
		if !t.open.Add(tcp) {
			tunnel.Reset(tcp)
			continue
		}
		go func() {
			defer t.open.Remove(tcp)
			serve(tcp)
		}()
	}
}

// Reset breaks every connection to the outside and returns when none is left: the programs see a reset.
func (t *Trap) Reset() { t.open.Reset() }

// serveTrapped asks the relay for the destination that the program meant. A refusal is a reset, as from a host that refuses.
func (t *Trap) serveTrapped(conn *net.TCPConn) {
	target, err := originalDestination(conn)
	if err != nil {
		t.log("trap: %v", err)
		tunnel.Reset(conn)
		return
	}
	if target == local.Address {
		t.inside.Serve(conn)
		return
	}
	if target.Port() == 53 {
		t.serveDNS(conn)
		return
	}
	if isLocal(target.Addr()) {
		joinLocal(conn, target)
		return
	}
	out, err := t.dial(target.String())
	if err != nil {
		t.log("trap: %s: %v", target, err)
		tunnel.Reset(conn)
		return
	}
	tunnel.Splice(out, conn)
}

func (t *Trap) dial(target string) (*tunnel.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	client, err := t.client(ctx)
	if err != nil {
		return nil, err
	}
	return tunnel.Dial(ctx, client, target)
}

func (t *Trap) client(ctx context.Context) (*channel.Client, error) {
	wait, cancel := context.WithTimeout(ctx, uplinkTimeout)
	defer cancel()
	return t.uplink.Client(wait)
}
