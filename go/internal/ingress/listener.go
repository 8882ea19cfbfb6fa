package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rekindle/internal/vm"
)

// Limits towards clients. Bodies and streams have none: an answer may take hours.
const (
	headTimeout      = 15 * time.Second // TLS handshake, and the head of a request
	idleTimeout      = 10 * time.Minute
	maxHeadBytes     = 64 << 10
	maxConnections   = 1024 // of one endpoint
	maxClientStreams = 256
	uploadWindow     = 1 << 20
)

// ErrPortInUse says that an endpoint's port belongs to another VM or another program.
var ErrPortInUse = errors.New("port in use")

// Endpoints owns the TLS listeners. In port mode each VM has one; in host mode VMs share ports and are told apart by name.
type Endpoints struct {
	proxy       *Proxy
	certificate atomic.Pointer[tls.Certificate]
	mu          sync.Mutex
	host        string
	byPort      map[int]*endpoint
}

// NewEndpoints makes an owner of no listeners.
func NewEndpoints(proxy *Proxy) *Endpoints {
	return &Endpoints{proxy: proxy, byPort: map[int]*endpoint{}}
}

// Configure sets the certificate of all listeners and the address of those that are opened later.
func (e *Endpoints) Configure(certificate tls.Certificate, host string) {
	e.certificate.Store(&certificate)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.host = host
}

// endpoint is one port.
type endpoint struct {
	proxy  *Proxy
	ports  []net.Listener
	server *http.Server
	mu     sync.RWMutex
	byHost map[string]*vm.VM
}

// close frees the port and ends all connections; when it returns the port can be opened again.
func (p *endpoint) close() {
	for _, port := range p.ports {
		port.Close() // the server does so too, but not before it has begun to accept
	}
	p.server.Close() // its error is of a listener that is closed already
}

// Open makes target answer at its route's port; it can be repeated. shared allows other VMs with other host names on the same port.
// Port 0 opens nothing. It fails with ErrPortInUse.
func (e *Endpoints) Open(target *vm.VM, port int, hostname string, shared bool) error {
	if port == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if open := e.byPort[port]; open != nil {
		return open.add(target, hostname, shared)
	}
	listeners, err := listen(e.host, port)
	if err != nil {
		return err
	}
	opened := &endpoint{proxy: e.proxy, ports: listeners, byHost: map[string]*vm.VM{hostname: target}}
	opened.serve(listeners, e.getCertificate)
	e.byPort[port] = opened
	return nil
}

// Close ends target's part in a port, and the listener with all its connections when nobody else is on it.
func (e *Endpoints) Close(target *vm.VM, port int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	open := e.byPort[port]
	if open == nil || !open.remove(target) {
		return
	}
	delete(e.byPort, port)
	open.close()
}

// CloseAll ends every listener and connection.
func (e *Endpoints) CloseAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for port, open := range e.byPort {
		delete(e.byPort, port)
		open.close()
	}
}

func (e *Endpoints) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return e.certificate.Load(), nil
}

// listen opens a port on host, and on the other loopback family too: `localhost` may be either.
func listen(host string, port int) ([]net.Listener, error) {
	first, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, portError(err)
	}
	if host != "127.0.0.1" {
		return []net.Listener{first}, nil
	}
	second, err := net.Listen("tcp", net.JoinHostPort("::1", strconv.Itoa(port)))
	switch {
	case err == nil:
		return []net.Listener{first, second}, nil
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return []net.Listener{first}, nil // a machine without IPv6
	}
	first.Close()
	return nil, portError(err)
}

func portError(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: %w", ErrPortInUse, err)
	}
	return err
}

func (p *endpoint) add(target *vm.VM, hostname string, shared bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, other := range p.byHost {
		if other != target && (!shared || name == hostname) {
			return fmt.Errorf("%w: by %s", ErrPortInUse, other.ID)
		}
	}
	p.drop(target)
	p.byHost[hostname] = target
	return nil
}

// remove tells whether nobody is left.
func (p *endpoint) remove(target *vm.VM) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(target)
	return len(p.byHost) == 0
}

func (p *endpoint) drop(target *vm.VM) {
	for name, other := range p.byHost {
		if other == target {
			delete(p.byHost, name)
		}
	}
}

// find returns the VM that a Host header names, or nil. In port mode the port says it all.
func (p *endpoint) find(host, domain string) *vm.VM {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if domain == "" {
		for _, only := range p.byHost {
			return only
		}
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	label, parent, _ := strings.Cut(strings.ToLower(host), ".")
	if parent != domain && parent != "localhost" {
		return nil
	}
	return p.byHost[label]
}

func (p *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.proxy.serve(w, r, p.find(r.Host, p.proxy.settings.Load().Domain))
}

func (p *endpoint) serve(listeners []net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	p.server = &http.Server{
		Handler:                      p,
		Protocols:                    &protocols,
		TLSConfig:                    &tls.Config{GetCertificate: certificate, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout:            headTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeadBytes,
		DisableGeneralOptionsHandler: true, // `OPTIONS *` is the app's
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxClientStreams,
			MaxReceiveBufferPerConnection: uploadWindow,
			MaxReceiveBufferPerStream:     uploadWindow / 4,
		},
		// What strangers do wrong in a handshake is not logged: they could fill the disk with it.
		ErrorLog:    log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return context.Background() },
	}
	slots := make(chan struct{}, maxConnections)
	for _, listener := range listeners {
		go p.server.ServeTLS(&limited{listener, slots}, "", "") // returns when the server is closed
	}
}

// limited accepts no more connections than there are slots; the rest waits in the kernel.
type limited struct {
	net.Listener
	slots chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotConn{Conn: conn, slots: l.slots}, nil
}

type slotConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (c *slotConn) Close() error {
	c.once.Do(func() { <-c.slots })
	return c.Conn.Close()
}
