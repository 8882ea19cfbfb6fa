// Package guesttest is a guest for tests: it speaks the agent's side of both ports over unix sockets, as QEMU offers them, with the real
// channel and tunnel packages. Its "apps" are servers on the loopback of the test.
package guesttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

// Guest is one fake guest.
type Guest struct {
	In, Out string // the sockets' paths
	Agent   *http.ServeMux
	Deaf    atomic.Int64 // so many next connections of *in* are not answered

	mu       sync.Mutex
	awake    chan struct{} // closed while the guest runs
	ports    []net.Listener
	conns    map[net.Conn]bool
	out      *channel.Client // the session of the *out* port, nil without one
	came     sync.Cond       // out has changed
	sessions []*session      // of *in*
	done     sync.WaitGroup
}

// Start makes a guest whose sockets listen in folder; it is paused: nothing is answered before Run.
func Start(t testing.TB, folder string) *Guest {
	t.Helper()
	g := &Guest{In: filepath.Join(folder, "in"), Out: filepath.Join(folder, "out"), Agent: http.NewServeMux()}
	g.awake, g.conns, g.came.L = make(chan struct{}), map[net.Conn]bool{}, &g.mu
	g.Agent.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"booted":true}`) })
	for path, serve := range map[string]func(net.Conn){g.In: g.serveIn, g.Out: g.serveOut} {
		listener, err := listenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		g.ports = append(g.ports, listener)
		g.done.Go(func() { g.accept(listener, serve) })
	}
	t.Cleanup(g.Kill)
	return g
}

// listenUnix binds a path of any length.
func listenUnix(path string) (net.Listener, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)))
}

// Run lets the guest answer.
func (g *Guest) Run() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.awake)
}

// Kill ends the guest as SIGKILL ends a VMM: sockets and connections are closed. It can be repeated.
func (g *Guest) Kill() {
	g.mu.Lock()
	for _, port := range g.ports {
		port.(*net.UnixListener).SetUnlinkOnClose(false)
		port.Close()
	}
	for conn := range g.conns {
		conn.Close()
	}
	select {
	case <-g.awake:
	default:
		close(g.awake)
	}
	g.mu.Unlock()
	g.done.Wait()
}

func (g *Guest) accept(port net.Listener, serve func(net.Conn)) {
	for {
		conn, err := port.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.conns[conn] = true
		g.mu.Unlock()
		g.done.Go(func() {
			serve(conn)
			conn.Close()
			g.mu.Lock()
			delete(g.conns, conn)
			g.mu.Unlock()
		})
	}
}

// Connections is how many connections the host has to the guest's ports now.
func (g *Guest) Connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

func (g *Guest) serveIn(conn net.Conn) {
	<-g.awake
	if g.Deaf.Add(-1) >= 0 {
		io.Copy(io.Discard, conn) // until the host gives up
		return
	}
	if channel.Answer(conn) != nil {
		return
	}
	session := newSession(conn)
	session.begun = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.sessions = append(g.sessions, session)
	}
	channel.NewServer(http.HandlerFunc(g.answer)).Serve(session)
	conn.SetReadDeadline(time.Time{})
	io.Copy(io.Discard, conn) // the port stays open until the host closes it
}

// EndSession ends the session of *in* in good order and leaves the socket open. There must be one, or one that is about to begin.
func (g *Guest) EndSession() {
	for !g.inSession() { // the host sees the answer to its sync before the guest goes on
		time.Sleep(time.Millisecond)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, session := range g.sessions {
		session.SayGoodbye()
	}
	g.sessions = nil
}

func (g *Guest) inSession() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions) > 0
}

func (g *Guest) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		g.Agent.ServeHTTP(w, r)
		return
	}
	app, err := new(net.Dialer).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		reason := tunnel.ReasonUnreachable
		if errors.Is(err, syscall.ECONNREFUSED) {
			reason = tunnel.ReasonRefused
		}
		tunnel.Refuse(w, reason)
		return
	}
	through, err := tunnel.Accept(w, r)
	if err != nil {
		app.Close()
		return
	}
	tunnel.Splice(through, app.(*net.TCPConn))
}

func (g *Guest) serveOut(conn net.Conn) {
	<-g.awake
	if channel.Answer(conn) != nil {
		return
	}
	client, err := channel.NewClient(context.Background(), conn)
	if err != nil {
		return
	}
	g.setOut(client)
	<-client.Done()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out == client {
		g.out = nil
	}
}

func (g *Guest) setOut(client *channel.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out = client
	g.came.Broadcast()
}

// Outside returns the current session of the *out* port.
func (g *Guest) Outside(t testing.TB) *channel.Client {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.out == nil {
		g.came.Wait()
	}
	return g.out
}

// Dial asks the relay for a connection to outside, as the egress trap does.
func (g *Guest) Dial(t testing.TB, target string) (*tunnel.Conn, error) {
	t.Helper()
	return tunnel.Dial(t.Context(), g.Outside(t), target)
}

// Resolve sends a DNS message to the relay.
func (g *Guest) Resolve(t testing.TB, query []byte) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://relay/v1/dns", bytes.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.Outside(t).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}
