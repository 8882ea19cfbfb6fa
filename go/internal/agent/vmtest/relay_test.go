package vmtest

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"rekindle/internal/tunnel"
)

// relay plays the host's side of the out port: it dials nothing but its own little web server, and knows one name.
type relay struct {
	mu     sync.Mutex
	asked  []string // the authorities of all CONNECT requests
	web    *http.Server
	conns  chan net.Conn
	silent chan *tunnel.Conn // tunnels to port 7, where nothing is ever said
}

func newRelay() *relay {
	r := &relay{conns: make(chan net.Conn, 16), silent: make(chan *tunnel.Conn, 16)}
	r.web = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		io.WriteString(w, "outside of "+request.Host)
	})}
	go r.web.Serve(r)
	return r
}

func (r *relay) Accept() (net.Conn, error) { return <-r.conns, nil }
func (r *relay) Close() error              { return nil }
func (r *relay) Addr() net.Addr            { return &net.TCPAddr{} }

func (r *relay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	switch {
	case request.Method != http.MethodConnect:
		question, _ := io.ReadAll(request.Body)
		w.Write(answerDNS(question))
	case r.note(request.Host) && strings.HasPrefix(request.Host, "10."):
		tunnel.Refuse(w, tunnel.ReasonDenied)
	default:
		r.accept(w, request)
	}
}

func (r *relay) note(authority string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, authority)
	return true
}

func (r *relay) accept(w http.ResponseWriter, request *http.Request) {
	conn, err := tunnel.Accept(w, request)
	if err != nil {
		return
	}
	if strings.HasSuffix(request.Host, ":7") {
		r.silent <- conn
		io.Copy(io.Discard, conn)
		return
	}
	near, far := net.Pipe()
	r.conns <- far
	tunnel.Splice(conn, pipe{near})
}

// pipe is a net.Pipe that can be half-closed as far as an HTTP/1 answer needs it: not at all.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Conn.Close() }

// answerDNS knows that every name has the address 203.0.113.9, or, when it begins with "big", so many that no datagram holds them.
func answerDNS(question []byte) []byte {
	end := 12
	for question[end] != 0 {
		end += 1 + int(question[end])
	}
	end += 5
	answers := 1
	if string(question[13:16]) == "big" {
		answers = 100
	}
	if binary.BigEndian.Uint16(question[end-4:]) != 1 {
		answers = 0
	}
	out := append([]byte(nil), question[:end]...)
	binary.BigEndian.PutUint16(out[2:], 0x8180)
	binary.BigEndian.PutUint16(out[6:], uint16(answers))
	clear(out[8:12])
	for i := range answers {
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, byte(9+i))
	}
	return out
}
