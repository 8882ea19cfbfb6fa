package vm

import (
	"context"
	"sync"
	"time"

	"rekindle/internal/channel"
)

// How long a guest has to answer the sync frame before it is dialled again (docs/contracts.md §2). A guest that is being started may be
// paused or booting: dialling it again costs more than it brings.
const (
	patienceRunning  = 1 * time.Second
	patienceStarting = 5 * time.Second
	patienceMax      = 10 * time.Second
)

// link is one connected guest channel: both ports from `connect` until `disconnect` or until the peer is gone.
// Each port has a goroutine that greets the guest and then runs its session. It is used once.
type link struct {
	cancel context.CancelFunc
	ports  sync.WaitGroup
	// VM.mu guards these.
	lost  bool // the peer is gone
	ended bool // a guest has ended its session by itself, and no other follows
}

// port is one side of a link.
type port struct {
	vm   *VM
	link *link
	path string
	run  func(ctx context.Context, conn *peerConn) // returns when the session is over
}

// open dials the ports and starts them. It returns when connect() of all has succeeded.
func open(ctx context.Context, v *VM, route Route) (*link, error) {
	life, cancel := context.WithCancel(context.Background())
	l := &link{cancel: cancel}
	ports := []port{{v, l, route.In, v.runIn}}
	if route.Egress == EgressInternet {
		ports = append(ports, port{v, l, route.Out, v.runOut})
	}
	var conns []*peerConn
	for _, p := range ports {
		conn, err := dialPatiently(ctx, p.path)
		if err != nil {
			cancel()
			for _, opened := range conns {
				opened.Close()
			}
			return nil, err
		}
		conns = append(conns, conn)
	}
	for i, p := range ports {
		l.ports.Go(func() { p.keep(life, conns[i]) })
	}
	return l, nil
}

// shut closes both ports and returns when they are closed.
func (l *link) shut() {
	l.cancel()
	l.ports.Wait()
}

// keep greets the guest, runs a session, and does so again after a session that has ended by itself, until life ends or the peer is gone.
func (p *port) keep(life context.Context, conn *peerConn) {
	patience := p.vm.patience()
	for {
		err := greet(life, conn, patience)
		if err == nil {
			p.run(life, conn)
			patience = patienceRunning
		} else {
			patience = min(2*patience, patienceMax)
		}
		conn.Close() // nothing is lost: the session is over
		switch {
		case life.Err() != nil:
			return
		case conn.peerGone.Load():
			p.vm.lose(p.link)
			return
		case err == nil && !p.vm.restarts():
			p.vm.end(p.link) // the guest has frozen itself, and the next session is serve's to ask for
			return
		}
		if conn, err = dialUnix(life, p.path); err != nil {
			if life.Err() == nil {
				p.vm.lose(p.link)
			}
			return
		}
	}
}

func greet(life context.Context, conn *peerConn, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(life, patience)
	defer cancel()
	return channel.Greet(ctx, conn)
}

// runIn is a session in which the relay asks and the agent answers.
func (v *VM) runIn(life context.Context, conn *peerConn) {
	client, err := channel.NewClient(life, conn)
	if err != nil {
		return // the connection broke; keep finds out why
	}
	session := newSession(client, &v.Meter)
	v.setSession(session)
	select {
	case <-life.Done():
	case <-client.Done():
	}
	v.dropSession(session)
	session.close()
}

// runOut is a session in which the guest asks for connections.
func (v *VM) runOut(life context.Context, conn *peerConn) {
	defer context.AfterFunc(life, func() { conn.Close() })()
	channel.Serve(conn, v.outside) // how it ended is in conn
}
