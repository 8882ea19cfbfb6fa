package ingress

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rekindle/internal/quiet"
	"rekindle/internal/vm"
)

// exchange is one request on its way to the app and the answer on its way back.
type exchange struct {
	w       http.ResponseWriter
	in      *http.Request
	vm      *vm.VM
	port    int
	id      string
	known   credentials
	hold    time.Duration
	settled time.Duration // Settings.Settled
	rule    *quiet.Rule   // nil: the request is activity
	session *vm.Session   // which the answer comes from
	sent    atomic.Bool   // something of the request may have reached the app
	body    *requestBody
}

// repeatable tells whether the app cannot have seen anything of the request.
func (e *exchange) repeatable() bool { return !e.sent.Load() && !e.body.used.Load() }

// quiet tells whether the request must not wake its VM.
func (e *exchange) quiet() bool { return e.rule != nil && e.rule.Effect == quiet.Ignore }

// parks tells whether the request opens a WebSocket that outlives sleep.
func (e *exchange) parks() bool { return e.rule != nil && e.rule.Effect.Parks() }

// touch notes activity: something of this exchange has passed.
func (e *exchange) touch() {
	if e.rule == nil {
		e.vm.Meter.Touch()
	}
}

func (e *exchange) run() {
	if e.in.ProtoMajor == 1 {
		// Apps may answer while they still read. Every ResponseWriter of net/http's HTTP/1 can do this.
		if err := http.NewResponseController(e.w).EnableFullDuplex(); err != nil {
			panic(err)
		}
	}
	response, err := e.forward()
	if err != nil {
		if e.in.Context().Err() == nil {
			e.answerFor(err).write(e.w, e.id)
		}
		return
	}
	defer response.Body.Close()
	e.touch()
	if response.StatusCode == http.StatusSwitchingProtocols {
		e.switchProtocols(response)
		return
	}
	e.reply(response)
}

// send sends the request over a session. It can be repeated while e.repeatable.
func (e *exchange) send(session *vm.Session) (*http.Response, error) {
	early := &earlyResponses{to: e.w, touch: e.touch}
	defer early.stop()
	trace := &httptrace.ClientTrace{Got1xxResponse: early.pass, WroteHeaders: e.wroteHeaders}
	if e.in.Header.Get("Expect") != "" {
		trace.GotFirstResponseByte, trace.Got100Continue = e.body.withhold, e.body.release
	}
	request := e.outgoing(httptrace.WithClientTrace(e.in.Context(), trace))
	if strings.EqualFold(e.in.Header.Get(headerForceH2), "true") {
		return session.AppH2C().RoundTrip(request)
	}
	return session.App().RoundTrip(request)
}

func (e *exchange) wroteHeaders() {
	e.sent.Store(true)
	e.touch()
}

func (e *exchange) outgoing(ctx context.Context) *http.Request {
	out := &http.Request{
		Method:        e.in.Method,
		ProtoMajor:    1, // else the transport does not wait for 100 Continue
		ProtoMinor:    1,
		URL:           appURL(e.in, e.port),
		Host:          e.in.Host,
		Header:        requestHeader(e.in.Header, e.id),
		ContentLength: e.in.ContentLength,
		Trailer:       e.in.Trailer, // the same map: the values come in with the end of the body
	}
	if e.in.ContentLength != 0 {
		out.Body = e.body
		out.GetBody = e.body.again
	}
	if e.known.marked {
		out.Header.Del(headerSubprotocol)
		if len(e.known.offered) > 0 {
			out.Header.Set(headerSubprotocol, strings.Join(e.known.offered, ", "))
		}
	}
	if e.parks() {
		out.Header.Del(headerExtensions) // their state would end with the app's side of the connection
	}
	return out.WithContext(ctx)
}

// appURL keeps path and query as the client has written them, byte for byte.
func appURL(in *http.Request, port int) *url.URL {
	made := &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(port)}
	path, query, hasQuery := strings.Cut(in.RequestURI, "?")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		made.Opaque, made.RawQuery, made.ForceQuery = path, query, hasQuery
		return made
	}
	// "*", "//path" and absolute forms: url.URL has no opaque spelling for them
	made.Path, made.RawPath, made.RawQuery, made.ForceQuery = in.URL.Path, in.URL.RawPath, in.URL.RawQuery, in.URL.ForceQuery
	return made
}

// requestBody lets a request be sent again over another connection as long as nothing of its body was read. The server closes the body
// itself, after the handler.
type requestBody struct {
	body     io.Reader
	touch    func() // called when something of it has come
	used     atomic.Bool
	withheld atomic.Bool
	released chan struct{}   // closed when the app asks for the body after all
	over     <-chan struct{} // closed with the exchange
}

// withhold is called when the app begins to answer a client that waits for 100 Continue: unless that is the answer the body must not be
// read, for reading it asks the client to send it. The transport reads it all the same, to save its connection.
func (b *requestBody) withhold() { b.withheld.Store(true) }

func (b *requestBody) release() {
	if b.withheld.Swap(false) {
		close(b.released)
	}
}

func (b *requestBody) Read(data []byte) (int, error) {
	if b.withheld.Load() && !b.used.Load() {
		select {
		case <-b.released:
		case <-b.over: // failing before would make the transport drop the answer
			return 0, http.ErrBodyReadAfterClose
		}
	}
	b.used.Store(true)
	n, err := b.body.Read(data)
	if n > 0 {
		b.touch()
	}
	return n, err
}

func (b *requestBody) Close() error { return nil }

func (b *requestBody) again() (io.ReadCloser, error) {
	if b.used.Load() {
		return nil, http.ErrBodyReadAfterClose
	}
	return b, nil
}

// earlyResponses passes the app's 1xx answers on while the request is under way. The transport calls it from a goroutine of its own.
type earlyResponses struct {
	mu    sync.Mutex
	to    http.ResponseWriter
	touch func()
	over  bool
}

func (e *earlyResponses) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	// 100 Continue is the server's own to send: it does when the app has made the transport read the body.
	if e.over || code == http.StatusContinue {
		return nil
	}
	e.touch()
	maps.Copy(e.to.Header(), http.Header(header))
	e.to.WriteHeader(code)
	clear(e.to.Header())
	return nil
}

func (e *earlyResponses) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}

// smallAnswer is the length up to which an answer's head waits for its body, so that both leave in one packet.
const smallAnswer = 16 << 10

// reply passes the app's answer to the client as it comes in. An answer that is cut is cut for the client too; one that is cut before
// its body has begun, while its head still waits, is none.
func (e *exchange) reply(response *http.Response) {
	announced := len(response.Trailer)
	waits := response.ContentLength >= 0 && response.ContentLength <= smallAnswer && announced == 0
	body := bufio.NewReader(response.Body)
	if waits {
		if _, err := body.Peek(1); err != nil && err != io.EOF {
			if e.quiet() && endedWith(e.session, err) {
				err = vm.ErrQuiet
			}
			e.answerFor(err).write(e.w, e.id)
			return
		}
	}
	header := e.w.Header()
	copyResponseHeader(header, response.Header, e.id)
	if announced > 0 {
		delete(header, "Content-Length") // HTTP/2 has both, HTTP/1.1 trailers only without
		header["Trailer"] = []string{strings.Join(slices.Sorted(maps.Keys(response.Trailer)), ", ")}
	}
	e.w.WriteHeader(response.StatusCode)
	flusher := http.NewResponseController(e.w)
	if !waits {
		flusher.Flush() // its error comes back with the first write
	}
	if err := copyFlushing(e.w, flusher, body, e.touch); err != nil {
		panic(http.ErrAbortHandler)
	}
	e.writeTrailers(response.Trailer, announced)
}

// writeTrailers sends trailers; those that were not announced need net/http's prefix.
func (e *exchange) writeTrailers(trailers http.Header, announced int) {
	prefix := ""
	if len(trailers) != announced {
		prefix = http.TrailerPrefix
		http.NewResponseController(e.w).Flush() // trailers need a chunked answer; its error is the client's end
	}
	for name, values := range trailers {
		e.w.Header()[prefix+name] = values
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyFlushing copies until the end of from, and sends on at once whatever has come; touch is called with each piece.
func copyFlushing(to io.Writer, flusher *http.ResponseController, from io.Reader, touch func()) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			touch()
			if _, err := to.Write((*buffer)[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := flusher.Flush(); err != nil {
			return err
		}
	}
}
