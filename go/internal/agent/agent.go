// Package agent is the guest's process 1: it serves the relay over the channel's in port, runs the application, and freezes and thaws.
package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/conns"
	"rekindle/internal/agent/container"
	"rekindle/internal/agent/hook"
	"rekindle/internal/agent/local"
	"rekindle/internal/agent/logring"
	"rekindle/internal/agent/reaper"
	"rekindle/internal/agent/trap"
	"rekindle/internal/channel"
)

// logBytes is how much of the application's output is kept.
const logBytes = 1 << 20

// Log writes a line for whoever debugs the guest.
type Log func(format string, args ...any)

// Agent is one booted guest.
type Agent struct {
	version string
	log     Log
	reaper  *reaper.Reaper
	trap    *trap.Trap
	uplink  *uplink
	desk    *local.Desk
	inbound *conns.Set
	own     boot.Listeners // what listens in the guest without an application
	// frozen is true from a freeze until the next thaw: nothing but that thaw is served
	frozen atomic.Bool
	// turning is held by a freeze or a thaw: the host asks for one at a time, but one that it has given up may still be under way
	turning sync.Mutex
	// held are the application's groups that a freeze has stopped; needs turning
	held []string
	// agreed is what the application answered to the hook of the last freeze, until it goes on; needs turning
	agreed *hook.Result
	// generation is what the application was told of its last thaw; needs turning
	generation container.Generation

	output     *logring.Ring
	outputPipe *os.File // the writing end that applications get

	mu  sync.Mutex // held while an application starts
	app *container.Container
}

// New starts everything that the machine needs before an application: the ways in and out are open when it returns.
func New(version string, log Log, out *channel.Port) (*Agent, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	agent := &Agent{
		version:    version,
		log:        log,
		reaper:     reaper.New(),
		uplink:     newUplink(out),
		desk:       local.New(),
		inbound:    conns.New(channel.MaxTunnels),
		output:     logring.New(logBytes),
		outputPipe: writer,
	}
	go collect(agent.output, reader)
	if agent.trap, err = trap.Start(agent.uplink, agent.desk, log); err != nil {
		return nil, err
	}
	if agent.own, err = boot.ReadListeners(); err != nil {
		return nil, err
	}
	return agent, nil
}

// collect reads an application's output for ever: the agent holds the writing end too, so it never ends.
func collect(ring *logring.Ring, output *os.File) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := output.Read(buffer)
		if err != nil {
			return // the pipe was closed
		}
		ring.Write(buffer[:n])
	}
}

// Serve serves both ports until one breaks, and says why.
func (a *Agent) Serve(in *channel.Port) error {
	broken := make(chan error, 2)
	go func() { broken <- a.uplink.run() }()
	go func() { broken <- a.server().Serve(sessions{in}) }()
	return <-broken
}

// sessionKey is where a request's context holds its session.
type sessionKey struct{}

func (a *Agent) server() *http.Server {
	server := channel.NewServer(a.handler())
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, sessionKey{}, conn)
	}
	return server
}

// sessions is a port whose breaking is the agent's end; net/http would go on after errors that it takes for passing.
type sessions struct{ *channel.Port }

func (s sessions) Accept() (net.Conn, error) {
	conn, err := s.Port.Accept()
	if err != nil {
		return nil, errors.Join(http.ErrServerClosed, err)
	}
	return conn, nil
}

func (a *Agent) powerOff() {
	if err := boot.PowerOff(); err != nil {
		a.log("power off: %v", err)
		os.Exit(1) // the kernel panics when its first process ends, and the machine stops
	}
}
