package ingress

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"rekindle/internal/token"
	"rekindle/internal/tunnel"
	"rekindle/internal/vm"
	"rekindle/internal/wall"
)

// maxOpen bounds the requests of one VM that are under way: below what one guest channel carries (channel.MaxStreams).
const maxOpen = 896

// Settings is what all endpoints share. It is immutable.
type Settings struct {
	Keys   *token.Keys
	Hold   time.Duration // how long a request is held while its VM starts or wakes
	Domain string        // host mode: `<uuid>.<domain>`; "": port mode
	// Settled is how long both sides of a WebSocket must have been silent for it to outlive sleep: what is said in the instant in which
	// a guest is frozen may be lost, and then the client must know it.
	Settled time.Duration
}

// Proxy answers the requests of all endpoints.
type Proxy struct {
	settings atomic.Pointer[Settings]
}

// Set replaces the settings for every request that comes later.
func (p *Proxy) Set(settings *Settings) { p.settings.Store(settings) }

// serve answers one request that has come in at the endpoint of target; nil when no VM has this endpoint.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, target *vm.VM) {
	requestID := newRequestID()
	defer recoverAs500(w, requestID)
	settings := p.settings.Load()
	known := readCredentials(r)
	port, refusal := authorise(settings.Keys, known, target, wall.Now())
	if refusal != nil {
		refusal.write(w, requestID)
		return
	}
	if r.Method == http.MethodConnect {
		notForwarded.write(w, requestID) // this is no proxy for other hosts
		return
	}
	rule := target.Route().Quiet.Find(r, isWebSocket(r.Header))
	e := &exchange{w: w, in: r, vm: target, port: port, id: requestID, known: known, hold: settings.Hold, settled: settings.Settled, rule: rule}
	e.touch()
	defer target.Meter.Open.Add(-1)
	if target.Meter.Open.Add(1) > maxOpen {
		tooMany.write(w, requestID)
		return
	}
	e.body = &requestBody{body: r.Body, touch: e.touch, released: make(chan struct{}), over: r.Context().Done()}
	e.run()
}

// recoverAs500 keeps a mistake of ours from ending more than one request.
func recoverAs500(w http.ResponseWriter, requestID string) {
	failure := recover()
	if failure == nil {
		return
	}
	if failure == http.ErrAbortHandler {
		panic(failure) // how a handler says that the answer is cut
	}
	slog.Error("request failed", "request_id", requestID, "panic", failure, "stack", string(debug.Stack()))
	internalFailure.write(w, requestID)
	panic(http.ErrAbortHandler) // if the answer had begun already, its end must not look whole
}

// forward finds a session and sends the request to the app. A session that ends before the request was sent is like a VM that
// was asleep from the start: the request is held again.
func (e *exchange) forward() (*http.Response, error) {
	deadline := time.Now().Add(e.hold)
	for {
		session, err := e.vm.AwaitRunning(e.in.Context(), time.Until(deadline), !e.quiet())
		if err != nil {
			return nil, err
		}
		response, err := e.send(session)
		if err == nil {
			e.session = session
			return response, nil
		}
		if !endedWith(session, err) {
			return nil, err
		}
		if e.quiet() {
			return nil, vm.ErrQuiet // the VM goes to sleep: nobody need know how far it came
		}
		if e.parks() {
			deadline = time.Now().Add(e.hold) // a handshake may be repeated, as it is after each sleep
		} else if !e.repeatable() {
			return nil, err
		}
	}
}

// endingTimeout is how long a session that takes no requests any more may need to end.
const endingTimeout = 250 * time.Millisecond

// endedWith tells whether it was the end of the session that a request has failed with.
func endedWith(session *vm.Session, err error) bool {
	var refused *tunnel.Refused
	if errors.As(err, &refused) || errors.Is(err, context.Canceled) {
		return false
	}
	select {
	case <-session.Done():
		return true
	case <-time.After(endingTimeout):
		return false
	}
}
