package ingress

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rekindle/internal/quiet"
	"rekindle/internal/vm"
	"rekindle/internal/wsframe"
)

const (
	// maxParked bounds the parked connections of one VM: they count as open, and must leave room for requests.
	maxParked = 256
	// keepAliveEvery is what keeps the path to a parked client open, and finds one that is gone.
	keepAliveEvery = 30 * time.Second
	sayTime        = 5 * time.Second // for a client to take a control frame of ours
)

// Why a WebSocket cannot go on.
var (
	errNotParked = errors.New("the app's side of the WebSocket has ended")
	errRefused   = errors.New("the app does not take the WebSocket back")
)

// parking is a WebSocket whose client stays while its VM sleeps (docs/quiet.md). The app's side ends with the guest's sleep; when the
// VM runs again, for whatever reason, the handshake is repeated. A message of the client wakes the VM and waits for that.
type parking struct {
	e      *exchange
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	client net.Conn
	from   *wsframe.Reader // the client's frames, for one goroutine
	chosen string          // the subprotocol that the app has selected

	writing sync.Mutex // for whole frames to the client
	to      *bufio.Writer
	torn    bool // a frame to the client was cut

	spoken  atomic.Int64 // UnixNano of the last message's last piece, either way
	partial atomic.Bool  // a message of the client is not at its end
	closing atomic.Bool  // somebody has said goodbye
	ending  sync.Once

	mu      sync.Mutex
	app     *appSide // nil: there is none now
	changed chan struct{}
}

// appSide is the app's side of one session's time.
type appSide struct {
	session *vm.Session
	conn    duplex
	from    *wsframe.Reader
	to      *bufio.Writer
}

func newAppSide(session *vm.Session, conn duplex) *appSide {
	return &appSide{session, conn, wsframe.NewReader(bufio.NewReader(conn), false), bufio.NewWriter(conn)}
}

func newParking(e *exchange, conn net.Conn, buffered *bufio.Reader, chosen string) *parking {
	p := &parking{e: e, client: conn, from: wsframe.NewReader(buffered, true), to: bufio.NewWriter(conn), chosen: chosen, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// run returns when the connection has ended.
func (p *parking) run(conn duplex) {
	first := newAppSide(p.e.session, conn)
	p.put(first)
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.end(p.serveClient())
	}()
	p.end(p.serveApp(first))
	<-over
}

// end closes everything, with a word to the client when that is still possible. It can be repeated; the first reason is the one.
func (p *parking) end(err error) {
	p.ending.Do(func() {
		p.client.SetWriteDeadline(time.Now().Add(sayTime)) // fails only on a closed connection, as all here
		p.dropApp()                                        // whoever waits for it with p.writing held lets go
		if !p.closing.Load() {
			p.say(wsframe.CloseFrame(closeCode(err)))
		}
		p.cancel()
		p.dropApp()
		p.client.Close()
	})
}

func (p *parking) dropApp() {
	if app, _ := p.look(); app != nil {
		app.conn.Close()
	}
}

func closeCode(err error) uint16 {
	switch {
	case errors.Is(err, wsframe.ErrProtocol):
		return wsframe.ProtocolError
	case errors.Is(err, vm.ErrTooLong), errors.Is(err, vm.ErrCrowded), errors.Is(err, vm.ErrAsleep):
		return wsframe.TryAgainLater
	}
	return wsframe.ServiceRestart
}

// note says that a piece of a message has passed: that is activity.
func (p *parking) note() {
	p.spoken.Store(time.Now().UnixNano())
	p.e.vm.Meter.Touch()
}

// say writes whole frames to the client.
func (p *parking) say(frames []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.torn {
		return errNotParked
	}
	p.client.SetWriteDeadline(time.Now().Add(sayTime)) // fails only on a closed connection, as below
	p.to.Write(frames)                                 // its error stays for the flush
	err := p.to.Flush()
	p.client.SetWriteDeadline(time.Time{})
	return err
}

func (p *parking) put(app *appSide) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.app = app
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *parking) look() (*appSide, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.app, p.changed
}

// -- from the app ---------------------------------------------------------------------------------------------------------

// serveApp passes on what the app says, sleep after sleep. It returns why that is over.
func (p *parking) serveApp(app *appSide) error {
	for {
		err := p.passFrom(app)
		p.put(nil)
		app.conn.Close() // before mayPark: what the client says from here on fails or waits
		if !p.mayPark(app, err) {
			return err
		}
		if app, err = p.sleep(); err != nil {
			return err
		}
		p.put(app)
		if p.ctx.Err() != nil { // it came too late for end
			app.conn.Close()
			return errNotParked
		}
	}
}

// passFrom returns why the app's side has ended.
func (p *parking) passFrom(app *appSide) error {
	var frame wsframe.Frame
	for {
		if err := app.from.Next(&frame); err != nil {
			return err
		}
		touch := func() {}
		switch {
		case frame.Opcode == wsframe.Close:
			p.closing.Store(true)
		case !frame.Opcode.Control() && p.e.rule.Effect != quiet.Listen:
			touch = p.note
			touch() // a message may be empty
		}
		if err := p.passOne(app, &frame, touch); err != nil {
			return err
		}
	}
}

func (p *parking) passOne(app *appSide, frame *wsframe.Frame, touch func()) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	err := app.from.Pass(frame, p.to, touch)
	p.torn = err != nil
	return err
}

// mayPark tells whether the app's side has ended because the VM goes to sleep, and nothing that was said can be lost by that.
func (p *parking) mayPark(app *appSide, err error) bool {
	var unwritable *wsframe.WriteError
	if p.ctx.Err() != nil || p.closing.Load() || errors.As(err, &unwritable) || errors.Is(err, wsframe.ErrProtocol) {
		return false
	}
	if !app.from.Whole() || p.partial.Load() || time.Since(time.Unix(0, p.spoken.Load())) < p.e.settled {
		return false
	}
	// A VM whose channel is lost while it runs has died: what it remembers may be older than what its client knows.
	state := p.e.vm.Route().State
	return state == vm.Held || state == vm.Suspended
}

// sleep returns the app's next side, once the VM runs again.
func (p *parking) sleep() (*appSide, error) {
	meter := &p.e.vm.Meter
	defer meter.Parked.Add(-1)
	if meter.Parked.Add(1) > maxParked {
		return nil, vm.ErrCrowded
	}
	awake, stop := context.WithCancel(p.ctx)
	defer stop()
	go p.keepAlive(awake)
	for {
		session, err := p.e.vm.AwaitAwake(p.ctx)
		if err != nil {
			return nil, err
		}
		conn, err := p.handshake(session)
		if err == nil {
			return newAppSide(session, conn), nil
		}
		if errors.Is(err, errRefused) || !endedWith(session, err) {
			return nil, err
		}
	}
}

func (p *parking) keepAlive(ctx context.Context) {
	every := time.NewTicker(keepAliveEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if p.say(wsframe.Control(wsframe.Ping, nil)) != nil {
			p.cancel()
			p.client.Close() // ends serveClient too
			return
		}
	}
}

// handshake does again what the client did, with its own headers: the app decides anew.
func (p *parking) handshake(session *vm.Session) (duplex, error) {
	response, err := session.App().RoundTrip(p.e.outgoing(p.ctx))
	if err != nil {
		return nil, err
	}
	conn, ok := response.Body.(duplex)
	same := ok && response.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(upgradeType(response.Header), "websocket") &&
		response.Header.Get(headerSubprotocol) == p.chosen && response.Header.Get(headerExtensions) == ""
	if !same {
		response.Body.Close()
		return nil, errRefused
	}
	return conn, nil
}

// -- from the client ------------------------------------------------------------------------------------------------------

// serveClient passes on what the client says. It returns why that is over.
func (p *parking) serveClient() error {
	var frame wsframe.Frame
	for {
		err := p.from.Next(&frame)
		switch {
		case err != nil:
		case frame.Opcode.Control():
			err = p.control(&frame)
		default:
			err = p.message(&frame)
		}
		if err != nil {
			return err
		}
	}
}

// control passes a ping, pong or goodbye on, or answers it in the stead of an app that sleeps. None of them wakes.
func (p *parking) control(frame *wsframe.Frame) error {
	raw, payload, err := p.from.Control(frame)
	if err != nil {
		return err
	}
	if frame.Opcode == wsframe.Close {
		p.closing.Store(true)
	}
	if app, _ := p.look(); app != nil {
		app.to.Write(raw)
		if app.to.Flush() == nil {
			return nil
		}
	}
	switch frame.Opcode {
	case wsframe.Ping:
		return p.say(wsframe.Control(wsframe.Pong, payload))
	case wsframe.Close:
		p.say(wsframe.Control(wsframe.Close, payload)) // the client does not wait for more
		return errNotParked
	}
	return nil
}

// message passes a frame of a message on, when the VM runs.
func (p *parking) message(frame *wsframe.Frame) error {
	p.e.vm.Meter.Touch()
	app, err := p.awake()
	if err != nil {
		return err
	}
	p.partial.Store(true)
	p.note()
	if err := p.from.Pass(frame, app.to, p.note); err != nil {
		return err
	}
	p.partial.Store(!p.from.Whole())
	return nil
}

// awake wakes the VM and returns the app's side once there is one, within the time for which requests are held.
func (p *parking) awake() (*appSide, error) {
	over := time.NewTimer(p.e.hold)
	defer over.Stop()
	deadline := time.Now().Add(p.e.hold)
	for {
		session, err := p.e.vm.AwaitRunning(p.ctx, time.Until(deadline), true)
		if err != nil {
			return nil, err
		}
		app, changed := p.look()
		if app != nil && app.session == session {
			return app, nil
		}
		select {
		case <-changed:
		case <-over.C:
			return nil, vm.ErrTooLong
		case <-p.ctx.Done():
			return nil, p.ctx.Err()
		}
	}
}
